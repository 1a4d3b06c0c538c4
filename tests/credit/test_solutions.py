"""MLE-Aug, MML and beta-MML: weights and gradients against the losses by autograd, what enters the buffer, whole runs."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rlcore.credit.demonstrations import demonstration_sample
from rlcore.credit.solutions import Solutions, weights
from rlcore.objective import Counts, Tokens, objective
from rlcore.recipe.credit_sections import CreditSection, SolutionsSection
from rlcore.run.folder import read_rows
from rlcore.types import Group, Rollout, Sample, Task, Verdict
from tests.run.whole import finish, kill_when, run_folder, start, story, untimed, write_recipe


def group(*answers: tuple[str, float], name: str = "t", demonstration: str | None = None, finish: str = "stop") -> Group:
    rollouts = [
        Rollout.from_tokens(
            id=f"{name}#{i}", task_id=name, token_ids=[1, *text.encode()], mask=[False] + [True] * len(text),
            logprobs=[0.0] * (1 + len(text)), text=text, finish=finish, version=0,
        )  # fmt: skip
        for i, (text, _) in enumerate(answers)
    ]
    task = Task(id=name, prompt="?", demonstration=demonstration)
    return Group(task=task, rollouts=rollouts, verdicts=[Verdict(value=value) for _, value in answers])


def demonstrate(task: Task) -> Sample:
    return demonstration_sample(f"{task.id}#d", [1], list(task.demonstration.encode()))


def texts(samples: list[Sample]) -> list[str]:
    return [bytes(sample.token_ids[1:]).decode() for sample in samples]


def solutions(**keys: object) -> Solutions:
    section = SolutionsSection(**{"beta": None, **keys})
    return Solutions(section, logprobs=lambda samples: [0.0] * len(samples), demonstrate=demonstrate)


@pytest.mark.parametrize(
    ("beta", "wanted"),
    [(1.0, (0.6, 0.3, 0.1)), (0.25, (0.403, 0.339, 0.258)), (1e-9, (1 / 3, 1 / 3, 1 / 3)), (None, (1, 1, 1))],
)
def test_weights(beta: float | None, wanted: tuple[float, ...]) -> None:
    found = weights([math.log(p) - 500 for p in (0.6, 0.3, 0.1)], beta)
    assert found == pytest.approx(wanted, abs=6e-4)
    assert weights([], beta) == []


@pytest.mark.parametrize("beta", [1.0, 0.25, None])
def test_the_gradient_is_that_of_the_loss(beta: float | None) -> None:
    """Two tasks of three and one solutions, by autograd of the paper's losses over all sequences."""
    generator = torch.Generator().manual_seed(0)
    lengths = [3, 5, 2, 4]
    logp = -torch.rand(sum(lengths), generator=generator, dtype=torch.float64)
    totals = [piece.sum().item() for piece in logp.split(lengths)]
    given = [*weights(totals[:3], beta), *weights(totals[3:], beta)]
    row = torch.repeat_interleave(torch.arange(4), torch.tensor(lengths))
    live = logp.clone().requires_grad_()
    one = torch.ones_like(logp)
    advantage = torch.tensor(given, dtype=torch.float64)[row]
    tokens = Tokens(live, logp, logp, None, one, advantage, one, row, 4)
    [term] = objective("rloo").terms
    got = torch.autograd.grad(term(tokens, Counts(sum(lengths), 4)), live)[0]

    by_hand = logp.clone().requires_grad_()
    sums = torch.stack([piece.sum() for piece in by_hand.split(lengths)])
    tasks = (sums[:3], sums[3:])
    if beta is None:
        loss = -sum(of_task.sum() for of_task in tasks)
    else:
        loss = -sum(torch.logsumexp(beta * of_task, 0) / beta for of_task in tasks)
    wanted = torch.autograd.grad(loss / 4, by_hand)[0]
    assert torch.allclose(got, wanted, rtol=0, atol=1e-15)
    # with one solution all losses are -l
    assert torch.allclose(wanted[-4:], torch.full((4,), -0.25, dtype=torch.float64))


def test_what_enters_the_buffer() -> None:
    credit = solutions()
    first = group(("a = 1", 1), ("a  =\n1", 1), ("b", 0), ("c", 1), demonstration="gold")
    [samples] = credit([first])
    assert texts(samples) == ["gold", "a = 1", "c"]
    assert all(s.logprobs is None and s.stream == "policy" and not s.mask[0] for s in samples)
    [again] = credit([group(("b", 0), ("d", 1), ("gold", 1), demonstration="gold")])
    assert texts(again) == ["gold", "a = 1", "c", "d"]  # a wrong group learns what was found before
    [other] = credit([group(("x", 0), name="u")])
    assert other == []
    [cut] = credit([group(("y", 1), name="v", finish="length")])
    assert cut == []


def test_size_and_length_bound_it() -> None:
    answers = [(letter * 4, 1.0) for letter in "abcdef"]
    assert texts(solutions(size=3)([group(*answers)])[0]) == ["aaaa", "bbbb", "cccc"]
    long = group(("abcd", 1), ("abcdef", 1), ("abcdefg", 1))
    assert texts(solutions(longest=1.5)([long])[0]) == ["abcd", "abcdef"]


def test_weights_are_those_of_the_present_policy_within_each_task() -> None:
    by_text = {"a": math.log(0.6), "b": math.log(0.3), "c": math.log(0.1), "z": -7.0}
    credit = Solutions(
        SolutionsSection(beta=1.0), logprobs=lambda samples: [by_text[text] for text in texts(list(samples))]
    )
    first, second = credit([group(("a", 1), ("b", 1), ("c", 1)), group(("z", 1), name="u")])
    assert [s.advantages for s in first] == [[0.0, pytest.approx(w)] for w in (0.6, 0.3, 0.1)]
    assert [s.advantages for s in second] == [[0.0, 1.0]]


def test_processes_know_what_each_of_them_found() -> None:
    mine, other = group(("a", 1)), ("t", "b", [1, 98], [False, True])
    credit = Solutions(SolutionsSection(beta=None), logprobs=list, gather=lambda items: [*items, other])
    assert texts(credit([mine])[0]) == ["a", "b"]
    copy = Solutions(SolutionsSection(beta=None), logprobs=list)
    copy.load_state_dict(credit.state_dict())
    assert texts(copy([replace(mine, rollouts=[], verdicts=[])])[0]) == ["a", "b"]


def test_keys_that_have_no_effect_beside_it_are_refused() -> None:
    for keys in ({"demonstrations": "gated"}, {"steps": {}}, {"exponential": 1.0}):
        with pytest.raises(ValueError, match="solutions"):
            CreditSection(solutions={}, **keys)


SHORT = (
    "stages.sft.steps=40", "tasks.demonstrations.size=8", "stages.before.limit=1",
    "stages.after.limit=1", "run.checkpoint_every=1", "stages.rl.method=mml",
    "stages.rl.groups_per_step=8", "stages.rl.group_size=2", "stages.rl.steps=4",
)  # fmt: skip


def rl(folder: Path) -> list[dict]:
    path = folder / "metrics.jsonl"
    rows = untimed(read_rows(path)) if path.is_file() else []
    return [row for row in rows if row["stage"] == "rl"]


def test_a_killed_run_goes_on_with_the_same_solutions(tmp_path: Path) -> None:
    recipes = []
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        recipe = write_recipe(tmp_path / name)
        reward = recipe.parent / "reward.py"
        reward.write_text("from rlcore import reward\n\n@reward\ndef any(completion):\n    return 1.0\n")
        text = recipe.read_text()
        written = "rewards: *length, sampling: *short, optim"
        assert written in text
        recipe.write_text(text.replace(written, written.replace("*length", '[{use: "reward.py:any"}]')))
        recipes.append(recipe)
    whole, killed = map(run_folder, recipes)
    finish(start("train", recipes[0], *SHORT))
    process = start("train", recipes[1], *SHORT)
    kill_when(process, lambda: len(rl(killed)) >= 2)
    finish(start("train", recipes[1], *SHORT, "--resume"))
    assert story(whole) == story(killed)
    assert len(rl(whole)) == 4
    tokens = [row["tokens/trained"] for row in rl(whole)]
    assert tokens == sorted(set(tokens))  # each step knows more solutions of the same eight tasks
