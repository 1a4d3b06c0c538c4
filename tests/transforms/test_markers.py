"""Treasure Hunt's markers: what is written, what is dropped, and what rewards see."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from rlcore.errors import RecipeError, TaskError
from rlcore.rollout.prompt import PromptEncoder
from rlcore.tokenizer import load_tokenizer
from rlcore.transforms.markers import markers, parse, render
from rlcore.transforms.transform import Draw, Transforms
from rlcore.types import Task

TOKENIZER = load_tokenizer("bytes")
HIDE = r"<MARKER_LIST>.*?</MARKER_LIST>\s*"


def draw(number: int = 0, **columns: object) -> Draw:
    task = Task(id="t", prompt="Say it.", demonstration="Bonjour!", columns=columns)
    return Draw(task=task, step=0, steps=10, seed=str(number), tokenizer=TOKENIZER)


def marked(number: int = 0, **parameters: object) -> Task:
    at = draw(number, language="French", quality=3, nothing=None)
    columns = ["language", "quality", "nothing"]
    return markers(at.task, at, columns=columns, **parameters)


def test_a_list_is_written_as_in_the_paper() -> None:
    text = "<MARKER_LIST> <length_tokens> 199 </length_tokens> <language> French </language> </MARKER_LIST>"
    assert render({"length_tokens": 199, "language": "French"}) == text


def test_parsing_a_rendered_list_gives_its_markers() -> None:
    """Also where values hold tags, entities, line breaks and spaces, and with text around the list."""
    rng = random.Random(0)
    pieces = ["a", "<b>", "</MARKER_LIST>", "&amp;", " ", "\n", ">", "</x> ", "<MARKER_LIST>", "\u00e9"]
    for _ in range(300):
        values = {name: "".join(rng.choices(pieces, k=rng.randrange(6))) for name in ("x", "b", "y2")}
        assert parse(f"before {render(values)} after {render({'x': 1})}") == values
    assert parse("no list") == parse(render({})) == {}


def test_all_markers_are_in_the_completion_and_some_in_the_prompt() -> None:
    everything = {"language": "French", "quality": "3", "length_tokens": "8"}
    task = marked(drop_all=0.0, drop_each=0.0)
    assert task.prompt == f"Say it.\n{render(everything)}"
    assert task.demonstration == f"{render(everything)}\nBonjour!"
    bare = marked(drop_all=1.0)
    assert bare.prompt == marked(drop_all=0.0, drop_each=1.0).prompt == "Say it."
    assert bare.demonstration == task.demonstration


def test_dropout_has_the_shares_that_are_set_and_spares_the_completion() -> None:
    """A list is there with 0.6 (1 - 0.3^3) and each marker of it with 0.6 x 0.7, for drop_all 0.4 and drop_each 0.3."""
    tasks = [marked(number, drop_all=0.4, drop_each=0.3) for number in range(4000)]
    assert len({task.demonstration for task in tasks}) == 1
    lists = [parse(task.prompt) for task in tasks]
    assert abs(sum(map(bool, lists)) / 4000 - 0.6 * (1 - 0.3**3)) < 0.03
    for name in ("language", "quality", "length_tokens"):
        assert abs(sum(name in one for one in lists) / 4000 - 0.42) < 0.03
    assert marked(5, drop_all=0.4).prompt == marked(5, drop_all=0.4).prompt


def test_a_chat_has_them_in_its_last_message() -> None:
    at = draw(language="French")
    said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say it."}]
    task = markers(replace(at.task, prompt=said), at, columns=["language"], drop_all=0.0, drop_each=0.0, length=False)
    assert task.prompt == [said[0], {"role": "user", "content": f"Say it.\n{render({'language': 'French'})}"}]


@pytest.mark.parametrize(
    ("parameters", "demonstration", "error", "said"),
    [
        ({"length": False}, "a", RecipeError, "columns is empty and length is off"),
        ({"columns": ["a b"]}, "a", RecipeError, "'a b' cannot be a tag"),
        ({}, [{"role": "assistant", "content": "a"}], TaskError, "a list of messages"),
    ],
)
def test_what_cannot_be_marked(parameters: dict, demonstration: object, error: type, said: str) -> None:
    at = draw()
    with pytest.raises(error, match=said):
        Transforms({"use": "markers", **parameters}).apply(
            replace(at, task=replace(at.task, demonstration=demonstration)), lambda task: None
        )


def test_rewards_see_a_completion_without_what_is_hidden() -> None:
    ids = TOKENIZER(render({"length_tokens": 3, "x": "two\nlines"}) + "\nBonjour!").input_ids
    plain, hiding = PromptEncoder(TOKENIZER), PromptEncoder(TOKENIZER, hide=HIDE)
    assert plain.completion_text([65], ids).startswith("<MARKER_LIST>")
    assert hiding.completion_text([65], [*ids, TOKENIZER.eos_token_id]) == "Bonjour!"
    assert hiding.decode(ids) == plain.decode(ids), "steps and tokens are counted in what was written"
