"""The keys of task sets."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt

from rlcore.recipe.section import Section


class DatasetTasks(Section):
    kind: Literal["dataset"]
    path: str | list[str] = Field(
        description="jsonl, json or parquet file, or a hub name; of a list, the first that exists here"
    )
    subset: str | None = Field(None, description="configuration name of a hub data set")
    split: str = Field("train", description="split of a hub data set")
    columns: dict[Literal["id", "prompt", "answer", "category", "demonstration"], str] = Field(
        default_factory=dict,
        description="task field -> column name, or a template such as '{Body} {Question}'",
    )
    answer_after: str | None = Field(
        None, description="the answer is the column's text after the last such marker"
    )
    limit: PositiveInt | None = Field(None, description="use the first so many rows")
    shuffle_seed: int | None = Field(None, description="shuffle the rows once with this seed")


class ArithmeticTasks(Section):
    kind: Literal["arithmetic"]
    split: Literal["train", "heldout"] = Field(
        "train", description="disjoint halves of the problem space, by construction"
    )
    size: PositiveInt = Field(100_000, description="problems in the set")
    seed: int = Field(0, description="which problems")
    terms: list[Annotated[int, Field(ge=2, le=12)]] = Field(
        default_factory=lambda: [3], min_length=1, description="numbers in a sum: one category each"
    )
    max_number: PositiveInt = Field(19, description="largest number in a sum")
    mistakes: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="share of demonstrations that forget a carry"
    )
    mistaken_step: Literal["last", "any", "each"] = Field(
        "last",
        description="in which step they forget it; any: one drawn evenly; each: every step by itself with that share",
    )
    order: Literal["given", "any"] = Field(
        "given", description="in which order demonstrations add the numbers"
    )
    letters: Annotated[int, Field(ge=0)] = Field(
        0,
        description="letters that a step of a demonstration begins with, drawn freely: words that change nothing",
    )


class CountdownTasks(Section):
    kind: Literal["countdown"]
    split: Literal["train", "heldout"] = Field(
        "train", description="disjoint halves of the problem space, by construction"
    )
    size: PositiveInt = Field(100_000, description="problems in the set")
    seed: int = Field(0, description="which problems")
    numbers: list[Annotated[int, Field(ge=2, le=8)]] = Field(
        default_factory=lambda: [3, 4],
        min_length=1,
        description="how many numbers a problem gives: one category each",
    )
    max_number: PositiveInt = Field(20, description="largest number given")
    max_target: PositiveInt = Field(
        100, description="largest number to be made, also on the way of the worked answer"
    )
    operators: str = Field("+-*/", description="operations of the worked answer")
    mistakes: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="share of demonstrations that join the numbers anyhow, whatever comes out"
    )


class GymTasks(Section):
    kind: Literal["gym"]
    name: str = Field(description="a reasoning-gym data set")
    size: PositiveInt = Field(1000, description="problems in the set")
    seed: int = Field(0, description="which problems")
    params: dict[str, Any] = Field(default_factory=dict, description="settings of the data set")


class FunctionTasks(Section):
    kind: Literal["function"]
    use: str = Field(
        description="package.module:function or file.py:function, which gives a sequence of tasks"
    )
    params: dict[str, Any] = Field(default_factory=dict, description="its keyword arguments")


class KeepSection(Section):
    min_chars: PositiveInt = Field(200, description="shorter documents are dropped")
    quality: bool = Field(
        True, description="drop tables, menus, lists and documents of odd words, by Gopher's rules"
    )
    max_chars: PositiveInt = Field(30_000, description="longer ones are cut at paragraph breaks")
    min_segments: PositiveInt = Field(3, description="documents of fewer segments are dropped")
    target_chars: PositiveInt = Field(
        20, description="shorter segments are read, but never asked for"
    )
    longest_target: PositiveInt = Field(1000, description="nor are longer ones")
    capacity: Annotated[int, Field(ge=0)] = Field(
        1_000_000,
        description="documents the filter of near-duplicates is made for, 58 bytes each; 0 keeps duplicates",
    )
    against: list[str] = Field(
        default_factory=list,
        description="evaluation files; documents that share an n-gram are dropped",
    )
    ngram: Annotated[int, Field(ge=5)] = Field(13, description="words of such an n-gram")
    documents: PositiveInt | None = Field(None, description="read the first so many rows")


class CorpusTasks(Section):
    kind: Literal["corpus"]
    path: str | list[str] = Field(
        description="txt, jsonl or parquet file, folder, hub name or package.module:function; of a list, the first here"
    )
    column: str = Field("text", description="where the text is")
    subset: str | None = Field(None, description="configuration name of a hub data set")
    split: str = Field("train", description="split of a hub data set")
    part: Literal["all", "train", "heldout"] = Field(
        "all", description="heldout: one document in 16, train: the others"
    )
    form: str | dict[str, Any] = Field(
        "segments",
        description="tasks made of it: segments, positions, spans, paragraphs, text, or {use: name, parameter: value}",
    )
    unit: Literal["sentence", "paragraph", "tokens"] = Field(
        "sentence", description="what a segment is"
    )
    unit_tokens: PositiveInt = Field(32, description="unit tokens: length of a segment")
    tokenizer: str | None = Field(
        None, description="hub name, folder or 'bytes', for tokens and positions"
    )
    entropy_model: str | None = Field(
        None, description="hub name or folder of the model whose entropy bins positions"
    )
    keep: KeepSection = Field(default_factory=KeepSection)


Tasks = Annotated[
    DatasetTasks | ArithmeticTasks | CountdownTasks | GymTasks | CorpusTasks | FunctionTasks,
    Field(discriminator="kind"),
]
