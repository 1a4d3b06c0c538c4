from __future__ import annotations

import pytest

from rlcore.errors import TaskError
from rlcore.tasks.arithmetic import arithmetic, is_held_out


def _numbers(prompt: str) -> tuple[int, ...]:
    return tuple(sorted(map(int, prompt.removesuffix("=?").split("+"))))


def test_splits_never_meet_whatever_seed_and_size():
    train = {_numbers(task.prompt) for seed in (0, 1) for task in arithmetic(size=4_000, seed=seed)}
    held = {
        _numbers(task.prompt)
        for seed in (0, 7)
        for task in arithmetic(split="heldout", size=2_000, seed=seed)
    }
    assert len(train) > 1_000 and len(held) > 100
    assert not train & held  # even up to the order of the numbers
    assert 1 / 10 < len(held) / (len(held) + len(train)) < 1 / 6


def test_the_split_rule_is_frozen():
    # A changed hash would silently train on what older runs held out.
    assert [n for n in range(1, 40) if is_held_out([n, 5, 11])] == [8, 14]
    assert is_held_out([11, 8, 5])


def test_a_task_depends_on_seed_split_and_index_only():
    short, long = arithmetic(size=10, seed=3), arithmetic(size=1_000, seed=3)
    assert list(short) == long[:10] and long[-1] == long[999] and len(long) == 1_000
    assert short[0] != arithmetic(size=10, seed=4)[0]
    assert short[2].id == "arithmetic/train/3/2"
    assert (
        len(
            {task.id for split in ("train", "heldout") for task in arithmetic(split=split, size=50)}
        )
        == 100
    )
    with pytest.raises(IndexError):
        short[10]


def test_right_demonstrations_end_in_the_answer():
    for task in arithmetic(size=2_000, terms=(2, 3, 5), max_number=99):
        assert int(task.answer) == sum(_numbers(task.prompt)) and task.demonstration.endswith(
            f"={task.answer}"
        )
        assert task.category == f"{len(_numbers(task.prompt))}-terms"
        assert all(eval(step.replace("=", "==")) for step in task.demonstration.split(";"))
    assert {task.category for task in arithmetic(size=100, terms=(2, 3))} == {"2-terms", "3-terms"}


def test_the_share_of_mistakes_is_as_stated():
    tasks = [task for task in arithmetic(size=5_000, mistakes=0.6) if int(task.answer) >= 10]
    finals = [(int(task.answer), int(task.demonstration.rpartition("=")[2])) for task in tasks]
    assert {right - written for right, written in finals} == {0, 10}  # one consistent mistake
    share = sum(right != written for right, written in finals) / len(finals)
    assert abs(share - 0.6) < 0.03  # four standard errors
    small = [task for task in arithmetic(size=5_000, mistakes=1.0) if int(task.answer) < 10]
    assert small and all(task.demonstration.endswith(f"={task.answer}") for task in small)


def test_a_mistake_in_any_step_is_the_only_one_and_spoils_the_rest():
    tasks = arithmetic(size=3_000, terms=(4,), mistakes=1.0, mistaken_step="any")
    wrong = [
        [not eval(step.replace("=", "==")) for step in task.demonstration.split(";")]
        for task in tasks
    ]
    assert {sum(steps) for steps in wrong} == {0, 1}
    places = [sum(steps[at] for steps in wrong) / 3_000 for at in range(3)]
    assert (
        all(place > 0.15 for place in places) and sum(places) < 1
    )  # a step without a carry cannot go wrong
    for task, steps in zip(tasks, wrong, strict=True):
        assert int(task.demonstration.rpartition("=")[2]) == int(task.answer) - 10 * any(steps)


def test_each_step_may_be_mistaken_by_itself():
    tasks = arithmetic(size=2_000, terms=(4,), mistakes=0.5, mistaken_step="each")
    pairs = [[step.split("=") for step in task.demonstration.split(";")] for task in tasks]
    shown = [[(eval(left), int(result)) for left, result in steps] for steps in pairs]
    wrong = [right != written for steps in shown for right, written in steps if right >= 10]
    assert abs(sum(wrong) / len(wrong) - 0.5) < 0.03  # four standard errors
    assert {sum(right != written for right, written in steps) for steps in shown} == {0, 1, 2, 3}


def test_mistakes_change_no_problem():
    assert [t.prompt for t in arithmetic(size=50)] == [
        t.prompt for t in arithmetic(size=50, mistakes=0.5)
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {"split": "test"},
        {"size": 0},
        {"terms": ()},
        {"terms": (1,)},
        {"mistakes": 1.5},
        {"mistaken_step": "first"},
        {"max_number": 1, "terms": (2,), "split": "heldout"},
        {"size": 1_000_000, "terms": (2, 3)},
        {"size": 100_000, "terms": (1000,)},
    ],
)
def test_bad_settings_are_met_with_a_sentence(settings):
    with pytest.raises(TaskError, match="arithmetic|no sum"):
        arithmetic(**settings)


@pytest.mark.parametrize("terms", [(4,), (2, 3, 5)])
def test_categories_are_known_without_the_tasks(terms):
    tasks = arithmetic(size=300, terms=terms, split="heldout", mistakes=0.5)
    assert tasks.column("category") == [task.category for task in tasks]
    assert tasks.column("level") == [task.columns["level"] for task in tasks]
    assert tasks.column("answer") is None


def test_letters_come_before_each_step_and_change_nothing_else() -> None:
    settings = {"terms": [6], "max_number": 9, "mistakes": 0.3, "mistaken_step": "each", "size": 50}
    for plain, wordy in zip(arithmetic(**settings), arithmetic(**settings, letters=2), strict=True):
        steps = [step.split(":") for step in wordy.demonstration.split(";")]
        assert all(len(word) == 2 and word.isalpha() for word, _ in steps)
        assert (
            ";".join(step for _, step in steps) == plain.demonstration
            and wordy.prompt == plain.prompt
        )
