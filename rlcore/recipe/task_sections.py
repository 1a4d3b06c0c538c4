"""The keys of task sets: the name of a function that makes them, with its parameters, or a corpus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt, SerializeAsAny

from rlcore.recipe.section import PartSection, Section


class TaskSection(PartSection):
    """A function that makes tasks: arithmetic, countdown, dataset, gym, or one of a file."""


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
    use: Literal["corpus"]
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


def _validated_tasks(value: Any) -> Any:
    if isinstance(value, Mapping) and value.get("use") == "corpus":
        return CorpusTasks.model_validate(value)
    return value if isinstance(value, Section) else TaskSection.model_validate(value)


Tasks = Annotated[SerializeAsAny[Section], BeforeValidator(_validated_tasks)]
