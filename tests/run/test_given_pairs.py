"""Preference files of elsewhere, in TRL's and UltraFeedback's formats, and builders by place: what becomes of each row."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlcore.errors import RecipeError, RlcoreError, RunError
from rlcore.rollout.prompt import PromptEncoder
from rlcore.run.folder import RunFolder, read_rows
from rlcore.stages.given_pairs import given_rows
from rlcore.stages.pair_keys import pair_rows
from rlcore.stages.prefer import PreferStage
from rlcore.stages.prefer_trl import labelled
from rlcore.stages.reward_model import RewardModelStage, run_reward_model
from rlcore.tokenizer import byte_tokenizer

CHAT = PromptEncoder(byte_tokenizer(), format="chat")
PLAIN = PromptEncoder(byte_tokenizer(), format="plain")
QUESTION = [{"role": "user", "content": "2+2=?"}]
USER, ASSISTANT, EOS = 260, 261, 258


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


ROWS: list[dict[str, Any]] = [
    {"prompt": "2+2=?", "chosen": "4", "rejected": "5"},
    {"prompt": QUESTION, "chosen": [said("4")], "rejected": [said("5")]},
    {"chosen": [*QUESTION, said("4")], "rejected": [*QUESTION, said("5")]},
    {"prompt": "2+2=?", "prompt_id": "x", "chosen": [*QUESTION, said("4")], "rejected": [*QUESTION, said("5")],
     "score_chosen": 8.5, "score_rejected": 6.0},
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=["texts", "messages", "implicit prompt", "ultrafeedback binarized"])
def test_each_format_gives_the_same_tokens(row: dict[str, Any]) -> None:
    [pair] = given_rows(CHAT, row)
    rendered = byte_tokenizer().apply_chat_template([*QUESTION, said("4")], tokenize=False)
    whole = byte_tokenizer()(rendered, add_special_tokens=False).input_ids
    assert pair["prompt_ids"] == [USER, *b"2+2=?", ASSISTANT]
    assert pair["prompt_ids"] + pair["chosen_ids"] == whole
    assert pair["rejected_ids"] == [*b"5", EOS]
    assert pair.get("margin") == (2.5 if "score_chosen" in row else None)
    [plain] = given_rows(PLAIN, row)
    assert plain["prompt_ids"] == [*b"2+2=?"] and plain["chosen_ids"] == [*b"4", EOS]


def test_several_turns_are_the_prompt_of_both_sides() -> None:
    turns = [*QUESTION, said("4"), {"role": "user", "content": "sure?"}]
    [pair] = given_rows(CHAT, {"chosen": [*turns, said("yes")], "rejected": [*turns, said("no")]})
    assert pair["prompt_ids"] == [USER, *b"2+2=?", ASSISTANT, *b"4", EOS, USER, *b"sure?", ASSISTANT]
    assert pair["chosen_ids"] == [*b"yes", EOS]


def test_rated_completions_make_pairs_of_the_best_against_each_lower_one() -> None:
    completions = [
        {"response": "a", "overall_score": 9.0, "fine-grained_score": 4.0},
        {"response": "b", "overall_score": 9.5, "fine-grained_score": 3.5},
        {"response": "c", "overall_score": 3.0, "fine-grained_score": 1.25},
        {"response": "d", "overall_score": 9.0, "fine-grained_score": 4.0},
    ]
    row = {"instruction": "2+2=?", "completions": completions}
    pairs = list(given_rows(CHAT, row))
    assert [(p["chosen"], p["rejected"], p["margin"]) for p in pairs] == [
        ("a", "b", 0.5),
        ("a", "c", 2.75),
    ]
    completions[1].pop("fine-grained_score")  # ratings of two scales are never compared
    assert [p["chosen"] for p in given_rows(CHAT, row)] == ["b"] * 3


def test_rows_with_tokens_are_taken_as_they_are() -> None:
    row = {"prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [3], "margin": 0.5, "more": "kept"}
    assert list(given_rows(CHAT, row)) == [row]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "x", "chosen": "4"},
        {"chosen": "4", "rejected": "5"},
        {"prompt": "x", "chosen": ["4"], "rejected": ["5"]},
        {"prompt": "x", "chosen": 4, "rejected": 5},
        {"chosen": [*QUESTION, said("4")], "rejected": [{"role": "user", "content": "3+3=?"}, said("5")]},
        {"instruction": "x", "completions": [{"response": "4"}]},
        {"prompt": "x", "chosen": "a", "rejected": "b", "margin": "large"},
    ],
)  # fmt: skip
def test_a_row_in_no_format_is_one_sentence(row: dict[str, Any]) -> None:
    with pytest.raises(RunError, match="write each pair as {prompt, chosen, rejected}"):
        list(given_rows(CHAT, row))


def test_single_completions_with_a_label_are_for_kto(tmp_path: Path) -> None:
    rows = [
        {"prompt": QUESTION, "completion": [said("4")], "label": True},
        {"prompt": "2+2=?", "completion": "5", "label": False},
    ]
    data = write(tmp_path / "labelled.jsonl", [*rows, ROWS[0]])
    read = pair_rows(run_of(tmp_path), stage(data, pairs="given", method="kto"), seed=0)
    assert [row.get("completion_ids") for row in read] == [[*b"4", EOS], [*b"5", EOS], None]
    examples = labelled(read, 8, seed=0)  # the pair's sides are the same two completions
    assert sorted((tuple(row["completion_ids"]), row["label"]) for row in examples) == [
        ((*b"4", EOS), True),
        ((*b"5", EOS), False),
    ]
    with pytest.raises(RunError, match="for stage prefer with method: kto"):
        pair_rows(run_of(tmp_path), stage(data, pairs="given"), seed=0)
    with pytest.raises(RunError, match="a labelled completion is"):
        list(given_rows(CHAT, {**rows[1], "label": "bad"}))


def run_of(folder: Path, *, max_length: int = 64) -> Any:
    """The little of a run that making pairs takes."""
    run_folder = RunFolder(folder)
    return SimpleNamespace(
        encoder=PLAIN,
        folder=run_folder,
        stored=lambda data: Path(data),
        policy=SimpleNamespace(max_length=max_length),
        accelerator=SimpleNamespace(is_main_process=True),
        tracker=SimpleNamespace(say=lambda sentence: None),
        recipe=SimpleNamespace(seed=0),
        cursor=SimpleNamespace(stage=0),
    )


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def stage(data: str, **keys: Any) -> PreferStage:
    return PreferStage(kind="prefer", data=data, **{"steps": 1, **keys})


def test_a_file_of_mixed_formats_is_read_and_overlong_pairs_are_left_out(tmp_path: Path) -> None:
    long = {"prompt": "2+2=?", "chosen": "4", "rejected": "5" * 80}
    data = write(tmp_path / "given.jsonl", [*ROWS, long])
    run = run_of(tmp_path)
    rows = pair_rows(run, stage(data, pairs="given"), seed=0)
    assert len(rows) == 4 and read_rows(tmp_path / "pairs/prefer.jsonl") == rows
    with pytest.raises(RunError, match="all 5 pairs have more than 3 tokens"):
        pair_rows(run_of(tmp_path, max_length=3), stage(data, pairs="given"), seed=0)


def test_margins_must_be_there_where_they_are_asked_for(tmp_path: Path) -> None:
    data = write(tmp_path / "given.jsonl", ROWS)
    keys = {"data": data, "pairs": "given", "steps": 1, "margin": True}
    with pytest.raises(RunError, match="a pair of .* has none: give each row margin"):
        run_reward_model(run_of(tmp_path), RewardModelStage(kind="reward_model", **keys))


BUILDERS = """
from rlcore.credit.pairs import Pair

def shortest(group, *, most: int = 99, draw, decode):
    rollouts = sorted(group.rollouts, key=lambda rollout: len(rollout.completion_ids))
    draw.random()
    if len(decode(rollouts[0].completion_ids)) <= most:
        first, last = rollouts[0], rollouts[-1]
        yield Pair(task_id=group.task.id, prompt_ids=first.prompt_ids, chosen_ids=first.completion_ids, rejected_ids=last.completion_ids)

def texts(group):
    return [("a", "b")]

def broken(group):
    return group.nothing
"""


def stored(folder: Path) -> str:
    rows = [
        {"task": task, "prompt": task, "text": text, "value": 0.0, "token_ids": [*task.encode(), *text.encode()],
         "mask": [0] * len(task) + [1] * len(text), "logprobs": None}
        for task in ("one", "two") for text in ("abc", "a", "ab")
    ]  # fmt: skip
    return write(folder / "stored.jsonl", rows)


def test_a_builder_by_place(tmp_path: Path) -> None:
    (tmp_path / "my_pairs.py").write_text(BUILDERS)
    place, data = str(tmp_path / "my_pairs.py"), stored(tmp_path)
    rows = pair_rows(run_of(tmp_path), stage(data, pairs=f"{place}:shortest"), seed=0)
    assert [(row["task"], row["chosen"], row["rejected"]) for row in rows] == [
        ("one", "a", "abc"),
        ("two", "a", "abc"),
    ]
    with pytest.raises(RunError, match="gives no pairs of kind"):
        pair_rows(run_of(tmp_path), stage(data, pairs={"use": f"{place}:shortest", "most": 0}), seed=0)
    for pairs, sentence in (
        (f"{place}:texts", "must give rlcore.credit.pairs.Pair"),
        (f"{place}:broken", "raised AttributeError"),
        ({"use": f"{place}:shortest", "least": 1}, "no parameter 'least'"),
        ("answerss", "did you mean 'answers'"),
    ):
        with pytest.raises((RecipeError, RlcoreError), match=sentence):
            pair_rows(run_of(tmp_path), stage(data, pairs=pairs), seed=0)
