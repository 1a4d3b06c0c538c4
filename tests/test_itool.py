"""iTool's parts: the tree, its rewards and pairs, the choice of hard requests, and a round through the real driver."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from rlcore.plugin import import_file
from rlcore.recipe.load import load
from rlcore.run.driver import train
from rlcore.run.folder import read_rows

FOLDER = Path(__file__).parents[1] / "recipes/papers/itool"
calls = import_file(FOLDER / "calls.py")
tree = import_file(FOLDER / "step_tree.py")


def child(parent, prior: float, visits: int, total: float):
    node = tree.Node(step_ids=[len(parent.children) + 1], prior=prior, parent=parent)
    node.visits, node.total = visits, total
    parent.children.append(node)
    return node


def test_a_node_never_expanded_is_chosen_before_equal_siblings() -> None:
    root = tree.Node(visits=3)
    child(root, 0.5, 2, 0.0)
    fresh = child(root, 0.5, 0, 0.0)
    child(root, 0.5, 1, 0.0)
    assert tree.next_child(root, 1.0) is fresh


def test_the_rule_that_chooses_a_child() -> None:
    """value / (visits + 1) + c p sqrt(ln N / (n + 1)), by hand."""
    root = tree.Node(visits=6)
    rows = [(0.9, 4, 1.0), (0.2, 1, 0.9), (0.6, 1, 0.1)]
    children = [child(root, *row) for row in rows]
    for c in (0.0, 1.0, 3.0):
        bounds = [w / (n + 1) + c * p * math.sqrt(math.log(6) / (n + 1)) for p, n, w in rows]
        assert tree.next_child(root, c) is children[bounds.index(max(bounds))]
    assert tree.next_child(root, 0.0) is children[1]
    assert tree.next_child(root, 3.0) is children[0]


def test_a_reward_counts_on_the_whole_path() -> None:
    root = tree.Node()
    node = child(child(root, 1.0, 0, 0.0), 1.0, 0, 0.0)
    other = child(root, 1.0, 0, 0.0)
    tree.back_up(node, 0.4)
    tree.back_up(other, -0.2)
    assert (root.visits, node.parent.visits, node.visits, other.visits) == (2, 1, 1, 1)
    assert root.value == pytest.approx(0.1)
    assert node.value == 0.4


def test_prior_and_path_of_a_child() -> None:
    root = tree.Node()
    root.add([5, 6], [math.log(0.5), math.log(0.125)], ended=False)
    root.add([5, 6], [math.log(0.5), math.log(0.125)], ended=False)
    root.add([], [], ended=True)
    (first,) = root.children
    assert first.prior == pytest.approx(0.25)
    first.add([7], [0.0], ended=True)
    assert first.children[0].path_ids == [5, 6, 7]
    assert first.children[0].depth == 2


@pytest.mark.parametrize(
    ("logprobs", "reward"),
    [
        ([0.0, -1e9, -1e9, -1e9], 0.25),
        ([-1e9, -1e9, -1e9, 0.0], -0.5),
        ([-9.0, -9.0, -9.0, -9.0], (1 + 0.1 - 1 - 2) / 16),
    ],
)
def test_grades_of_the_judge(logprobs: list[float], reward: float) -> None:
    assert tree.judged(logprobs) == pytest.approx(reward)


def test_agreement_with_the_reference() -> None:
    reference = "ka(p=3, q=5)"
    assert tree.agreement(reference, reference, ended=True) == pytest.approx(0.6)
    assert tree.agreement("ka(p=3, ", reference, ended=False) == pytest.approx(0.6)
    assert tree.agreement("ka(p=3)", reference, ended=True) < tree.agreement(
        "ka(p=3, q=4)", reference, ended=True
    )
    assert tree.agreement("xyz", "none", ended=True) == pytest.approx(-0.4)


def test_pairs_share_the_prefix_and_pass_the_three_limits() -> None:
    root = tree.Node()
    first, second, third = (child(root, 1.0, 1, value) for value in (0.5, 0.1, -0.2))
    left, right = child(first, 1.0, 1, -0.4), child(first, 1.0, 1, -0.9)
    child(first, 1.0, 0, 5.0)  # never visited, so it has no value
    texts = {first: "ab", second: "cd", third: "ef", left: "gh", right: "ij"}

    def pairs(**limits: float):
        usual = {"min_gap": 0.1, "max_overlap": 0.95, "min_value": -0.3}
        return list(
            tree.step_pairs(
                root,
                task_id="t",
                prompt_ids=[9, 9],
                text_of=texts.__getitem__,
                **usual | limits,
            )
        )

    (pair,) = pairs()  # the children of `first` are both too bad
    assert (pair.prompt_ids, pair.chosen_ids, pair.rejected_ids) == ([9, 9], [1], [3])
    assert pair.margin == pytest.approx(0.7)
    deeper = {tuple(pair.prompt_ids) for pair in pairs(min_value=-1.0)}
    assert deeper == {(9, 9), (9, 9, 1)}
    assert pairs(min_gap=math.inf) == []
    texts[third] = "ab"
    assert pairs() == []


def test_requests_and_their_replies() -> None:
    tasks = calls.requests(size=300, split="train", seed=3)
    for task in tasks:
        listed, asked = task.prompt.rstrip(">").split("|")
        name, *values = asked.split()
        signature = next((tool for tool in listed.split() if tool.startswith(name)), None)
        if signature is None:
            assert (task.answer, task.category, task.columns["level"]) == ("none", "no call", 0)
            continue
        letters = signature[len(name) + 1 : -1].split(",")
        expected = ", ".join(
            f"{letter}={value}" for letter, value in zip(letters, values, strict=True)
        )
        assert task.answer == f"{name}({expected})"
        assert not calls.is_held_out(task.prompt)
    assert len({task.category for task in tasks}) == 2
    held = calls.requests(size=50, split="heldout", seed=3)
    assert all(calls.is_held_out(task.prompt) for task in held)


SMALL = (
    "engine={use: hf, max_length: 96}",
    "model.config.hidden_size=32",
    "model.config.intermediate_size=32",
    "stages.imitation.steps=2",
    "stages.imitation.batch_size=4",
    "tasks.demonstrations.size=32",
    "tasks.round_1.size=20",
    "tasks.round_2.size=20",
    "tasks.eval_set.size=4",
    "stages.search_1.min_gap=1e-9",
    "stages.search_1.min_value=-9",
    "stages.prefer_1.steps=2",
    "stages.prefer_1.batch_size=2",
)


def test_two_rounds_of_which_one_finds_no_pairs(tmp_path: Path) -> None:
    recipe = load(
        str(FOLDER / "itool.yaml"),
        [*SMALL, f"run.folder={tmp_path}", "stages.search_2.min_gap=1e9"],
    )
    console = Console(record=True, width=200)
    summary = train(recipe, console=console)
    run = Path(summary.run)
    rows = read_rows(run / "samples/search_1/rank0.jsonl")
    assert rows
    summary_1 = json.loads((run / "samples/search_1/summary.json").read_text())
    tasks = recipe_tasks(recipe)
    searched = {"call": 0, "no call": 0}
    for category in searched:
        searched[category] = math.ceil(0.3 * sum(t.category == category for t in tasks))
    assert summary_1["tasks"] == sum(searched.values())
    prompts = {task.id: task.prompt for task in tasks}
    for row in rows:
        letters = bytes(token for token in row["prompt_ids"] if token < 256).decode("latin-1")
        assert letters.startswith(prompts[row["task_id"]])
    assert read_rows(run / "samples/search_2/rank0.jsonl") == []
    assert "prefer_2: search_2 gives no pairs, so the stage is skipped" in console.export_text()
    steps = [row["stage"] for row in read_rows(run / "metrics.jsonl")]
    assert steps.count("prefer_1") == 2
    assert "prefer_2" not in steps


def recipe_tasks(recipe):
    from rlcore.recipe.build import build_tasks

    return build_tasks(recipe.tasks["round_1"])
