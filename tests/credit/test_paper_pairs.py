"""Pairs of papers: Delta Learning's two generators, RISE's planted errors, best against worst."""

from __future__ import annotations

import math
import random
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import pytest
import torch

from rlcore.credit.delta_pairs import delta_pairs
from rlcore.credit.pairs import Pair, best_worst_pairs
from rlcore.credit.rise_pairs import (
    ANNOUNCES,
    change_number,
    change_sign,
    drop_term,
    rise_pairs,
)
from rlcore.errors import RecipeError
from rlcore.recipe.optim_sections import UpdateSection
from rlcore.stages.prefer import PreferStage
from rlcore.stages.prefer_trl import pair_trainer, plain, train_pairs
from rlcore.types import Group, Rollout, Task, Verdict
from tests.credit.test_pairs import group, texts
from tests.run.table import table

END = 258
PROMPT = list(b"12+5+3=?")


def encode(text: str) -> list[int]:
    return list(text.encode())


def decode(ids: list[int]) -> str:
    return bytes(id for id in ids if id < 256).decode()


def solved(*answers: tuple[str, float], finish: str = "stop") -> Group:
    rollouts = [
        Rollout.from_tokens(
            id=f"t#{i}", task_id="t", token_ids=[*PROMPT, *encode(text), END], mask=[False] * len(PROMPT) + [True] * (len(encode(text)) + 1),
            logprobs=[0.0] * (len(PROMPT) + len(encode(text)) + 1), text=text, finish=finish, version=0,
        )
        for i, (text, _) in enumerate(answers)
    ]  # fmt: skip
    verdicts = [Verdict(value=value) for _, value in answers]
    return Group(task=Task(id="t", prompt="12+5+3=?"), rollouts=rollouts, verdicts=verdicts)


def rise(of: Group, seed: int = 0, **keys: Any) -> list[Pair]:
    return list(rise_pairs(of, draw=random.Random(seed), encode=encode, decode=decode, **keys))


RIGHT = "12+5=17\n17+3=20\nSo the answer is 20"


def test_best_against_worst_by_the_total_reward() -> None:
    answers = group(a=("ab", 0.2), b=("cd", 0.9), c=("ef", -1.5), d=("gh", None), e=("ij", 0.9))
    [pair] = best_worst_pairs(answers)
    assert (bytes(pair.chosen_ids), bytes(pair.rejected_ids)) == (b"cd", b"ef")
    assert pair.margin == pytest.approx(2.4)
    assert not list(best_worst_pairs(answers, min_gap=2.5))
    assert not list(best_worst_pairs(group(a=("ab", 0.5), b=("cd", 0.5))))
    assert not list(best_worst_pairs(group(a=("ab", None))))


def test_delta_pairs_take_the_order_of_the_generators_as_the_label() -> None:
    strong = group(a=("ab", 0), b=("cd", 1), c=("ef", 0))
    weak = group(a=("uv", 1), b=("cd", 1))
    pairs = delta_pairs(strong, weaker="weak", groups_of=lambda name: {"t": weak})
    # scores say nothing; the equal texts of b make no pair
    assert texts(pairs) == [("ab", "uv"), ("ef", "uv")]
    swapped = delta_pairs(weak, weaker="strong", groups_of=lambda name: {"t": strong})
    assert texts(swapped) == [("uv", "ab")]
    assert not list(delta_pairs(strong, weaker="weak", groups_of=lambda name: {}))


def test_generators_of_other_prompts_are_refused() -> None:
    strong, weak = group(a=("ab", 0)), solved(("uv", 0.0))
    with pytest.raises(RecipeError, match="have another prompt"):
        list(delta_pairs(strong, weaker="weak", groups_of=lambda name: {"t": weak}))


def delta_loss(gain: float, tokens: int, tmp_path: Path) -> tuple[float, float]:
    """TRL's length-normalised DPO at beta 5, through the stage, with the chosen side `gain` nats above the reference."""
    keys = {"pairs": "given", "steps": 1, "batch_size": 1, "loss_type": "sigmoid_norm", "beta": 5.0}
    stage = PreferStage(kind="prefer", data="-", **keys)
    row = {"prompt_ids": [1], "chosen_ids": [2] * tokens, "rejected_ids": [3] * tokens}
    policy = table()
    with plain(policy):
        trainer = pair_trainer(policy, [row], stage, scratch=str(tmp_path))
        [batch] = trainer.get_train_dataloader()
        start = trainer.compute_ref_log_probs(trainer.ref_model, batch)
        trainer.precompute_ref_logps = True
        batch["ref_chosen_logps"], batch["ref_rejected_logps"] = start[0] - gain, start[1]
        loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
        gradient = max(p.grad.abs().max().item() for p in policy.model.parameters() if p.grad is not None)
    return loss.item(), gradient


def test_the_loss_of_delta_learning_normalises_by_length(tmp_path: Path) -> None:
    for gain, tokens, expected in ((0.0, 9, math.log(2)), (2.0, 20, 0.474), (2.0, 200, 0.668)):
        loss, _ = delta_loss(gain, tokens, tmp_path)
        assert loss == pytest.approx(expected, abs=1e-3), (gain, tokens)


def count(policy: Any, letter: str) -> float:
    """Probability that the letter follows itself in the table's policy: how often it is repeated."""
    ids = torch.tensor([[ord(letter)]])
    with torch.no_grad():
        return policy.model(ids, use_cache=False).logits[0, 0].softmax(-1)[ord(letter)].item()


def toy(policy: Any, chosen: str, rejected: str, *, loss_type: Any = "sigmoid_norm") -> float:
    """How likely a mark is repeated after preference training on the pair; three marks are P = 2/3 a repeat, two 1/2."""
    row = {"prompt_ids": [ord("?")], "chosen_ids": list(chosen.encode()), "rejected_ids": list(rejected.encode())}
    optim = UpdateSection(use="adamw", lr=0.01)
    stage = PreferStage(
        kind="prefer", data="-", pairs="given", steps=60, batch_size=1, loss_type=loss_type, beta=5.0, optim=optim
    )
    with plain(policy):
        before = count(policy, "*")
    train_pairs(policy, [row], stage, seed=0, processes=1, log=lambda metrics: None)
    with plain(policy):
        return count(policy, "*") - before


def test_the_difference_is_learned_and_not_the_level() -> None:
    """The paper's toy: pairs of three marks over two. Imitation of the chosen text stops at its rate of repeats, 2/3; preference
    training goes past it, and with the sides swapped the other way.
    """
    imitated = toy(table(), "***.", "**..", loss_type="sft")
    preferred, swapped = toy(table(), "***.", "**.."), toy(table(), "**..", "***.")
    assert 0.55 < imitated < 0.7
    assert preferred > 0.75
    assert swapped < 0


def test_edited_pairs_cover_one_step_behind_the_right_ones_before_it() -> None:
    pairs = rise(solved((RIGHT, 1.0), ("12+5=16", 0.0)))
    edited, full = pairs[:-1], pairs[-1]
    assert 1 <= len(edited) <= 3
    for pair in edited:
        written = decode(pair.prompt_ids[len(PROMPT) :])
        assert pair.prompt_ids[: len(PROMPT)] == PROMPT
        assert (written + decode(pair.chosen_ids)) == RIGHT[: len(written + decode(pair.chosen_ids))]
        assert pair.chosen_ids != pair.rejected_ids
        ratio = SequenceMatcher(None, decode(pair.chosen_ids), decode(pair.rejected_ids)).ratio()
        assert ratio >= 0.5
        assert (END in pair.chosen_ids) == (END in pair.rejected_ids), "the last step ends, the others do not"
    assert decode(full.chosen_ids) == RIGHT and decode(full.rejected_ids) == "12+5=16"


def test_equal_seeds_plant_equal_errors() -> None:
    of = solved((RIGHT, 1.0))
    assert rise(of, 4) == rise(of, 4) and rise(of, 4) != rise(of, 5)
    assert len(rise(of, max_steps=1)) == 1 and not rise(of, max_steps=1, min_similarity=1.0)


@pytest.mark.parametrize(
    "of",
    [
        solved((RIGHT, 0.0)),
        solved(("Wait, 12+5=17\n17+3=20", 1.0)),
        solved((RIGHT, 1.0), finish="length"),
        solved(("no number here", 1.0)),
    ],
    ids=["wrong", "corrects itself", "cut", "nothing to edit"],
)
def test_no_pair_is_made_of(of: Group) -> None:
    assert rise(of) == []


def test_edits_that_give_themselves_away_or_change_nothing_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "my_edits.py"
    path.write_text(
        "def same(text, draw):\n    return text\n"
        "def tells(text, draw):\n    return text.replace('1', '2') + ' (a mistake)'\n"
        "def boxes(text, draw):\n    return text.replace('17', '\\\\boxed{18}')\n"
        "def number(text, draw):\n    return 3\n"
    )
    of = solved((RIGHT, 1.0))
    assert rise(of, edit=f"{path}:same") == rise(of, edit=f"{path}:tells") == []
    assert all(not ANNOUNCES.search(decode(pair.rejected_ids)) for pair in rise(of))
    boxed = [decode(pair.rejected_ids) for pair in rise(of, edit=f"{path}:boxes")]
    assert "12+5=18\n" in boxed and not any("boxed" in text for text in boxed)
    with pytest.raises(RecipeError, match="must give a text or None"):
        rise(of, edit=f"{path}:number")
    with pytest.raises(RecipeError, match="did you mean 'change_sign'"):
        rise(of, edit="change_sing")


def test_steps_whose_tokens_depend_on_their_neighbours_are_left_out() -> None:
    def drops_a_space(text: str) -> list[int]:
        return encode(text.removeprefix(" "))

    of = solved(("12+5=17; 17+3=20", 1.0))
    split = {"use": "delimiter", "at": ";"}
    both = rise(of, split=split)
    fewer = list(rise_pairs(of, draw=random.Random(0), encode=drops_a_space, decode=decode, split=split))
    assert len(both) == 2 and len(fewer) == 1


def test_the_rules_that_plant_errors() -> None:
    rng = random.Random(0)
    changed = {change_number("7+15=22", rng) for _ in range(200)}
    assert "7+15=22" not in changed and {"8+15=22", "7+5=22", "7+15=32"} <= changed
    assert {change_sign("7+15=22", rng) for _ in range(20)} == {"7-15=22"}
    assert {drop_term("7+15+2=24", rng) for _ in range(40)} == {"7+2=24", "7+15=24"}
    assert change_number("none", rng) is change_sign("none", rng) is drop_term("7*3", rng) is None


def test_imitating_the_chosen_text_holds_it_up() -> None:
    """Without the NLL term the margin may rise while the chosen text loses probability; with it, it does not (RISE's third term)."""
    rows = [{"prompt_ids": [ord("?")], "chosen_ids": list(b"ab"), "rejected_ids": list(b"ac")}]
    rows.append({"prompt_ids": [ord("?")], "chosen_ids": list(b"xb"), "rejected_ids": list(b"ab")})

    def chosen_change(loss_type: dict[str, float]) -> tuple[float, float]:
        policy = table()
        logged: list[dict[str, float]] = []
        optim = UpdateSection(use="adamw", lr=0.02)
        stage = PreferStage(
            kind="prefer", data="-", pairs="given", steps=40, batch_size=2, loss_type=loss_type, beta=0.4, optim=optim
        )
        before = sum(policy.score([list(b"?ab")])[0])
        train_pairs(policy, rows, stage, seed=0, processes=1, log=logged.append)
        return sum(policy.score([list(b"?ab")])[0]) - before, logged[-1]["margin"]

    without, margin = chosen_change({"sigmoid": 1.0})
    with_nll, margin_with = chosen_change({"sigmoid": 1.0, "sft": 0.2})
    assert margin > 0 and margin_with > 0 and with_nll > without
