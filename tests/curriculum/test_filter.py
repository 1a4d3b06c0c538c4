"""Filters and resamples with a scripted sampler: what enters the batch, what it costs, and what happens when there is not enough."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from rlcore.credit.group import group_samples
from rlcore.curriculum.filter import FILTERS, Filter, zero_variance
from rlcore.curriculum.rank_draws import Draw, RankDraws
from rlcore.curriculum.uniform import Uniform
from rlcore.errors import RecipeError, RewardError
from rlcore.plugin import build
from rlcore.recipe.build import build_filter
from rlcore.rollout.collector import CollectedBatch, Collector, Resample
from rlcore.rollout.generator import Generator
from rlcore.rollout.open_group import TaskDraw
from rlcore.rollout.prompt import PromptEncoder
from rlcore.rollout.scripted import ScriptedEngine
from rlcore.run.metrics import Effort, effort_metrics, tokens_reaching_a_gradient
from rlcore.stages.rl import RlStage
from rlcore.tokenizer import byte_tokenizer
from rlcore.types import Group, Request, Rollout, Sampling, Task, Verdict

RATES = {"solved": 1.0, "mixed": 0.5, "impossible": 0.0}
TASKS = [
    Task(id=f"{category}/{i}", prompt="?", category=category)
    for i in range(40)
    for category in RATES
]
SIZE, ANSWERS = 12, 4
ENCODER = PromptEncoder(byte_tokenizer())


def script(request: Request) -> list[int]:
    """Right with the category's pass rate; wrong answers are longer, and all lengths differ."""
    rng = random.Random(request.seed)
    right = rng.random() < RATES[request.id.split("/")[0]]
    return ENCODER.tokenizer("y" if right else "n" * rng.randint(2, 9)).input_ids + [
        ENCODER.tokenizer.eos_token_id
    ]


class RightScorer:
    """Accuracy, plus a reward on length: the shaped value differs within groups that are all wrong."""

    def __init__(self) -> None:
        self._ready: list[tuple[str, list[Verdict]]] = []

    def submit(self, key: str, task: Task, rollouts: Sequence[Rollout]) -> None:
        self._ready.append((key, [self._verdict(rollout) for rollout in rollouts]))

    def check_progress(self) -> None:
        pass

    def poll(self, timeout_s: float) -> list[tuple[str, list[Verdict]]]:
        ready, self._ready = self._ready, []
        return ready

    @staticmethod
    def _verdict(rollout: Rollout) -> Verdict:
        if rollout.finish == "aborted":
            return Verdict(value=None, status="unscorable")
        right, brief = float(rollout.text == "y"), 1 / len(rollout.text)
        return Verdict(value=right + 0.1 * brief, parts={"right": right, "brief": brief})


class Taken:
    """Draws of one rank, and the positions it was given."""

    def __init__(self, draws: RankDraws) -> None:
        self.draws = draws
        self.taken: list[int] = []

    def draw_batch(self, n: int) -> list[TaskDraw]:
        return self._tasks(self.draws.draw_batch(n))

    def draw_replacements(self, n: int) -> list[TaskDraw]:
        return self._tasks(self.draws.draw_replacements(n))

    def _tasks(self, draws: Sequence[Draw]) -> list[TaskDraw]:
        self.taken += [draw.task_index for draw in draws]
        return [
            TaskDraw(
                task=TASKS[draw.task_index],
                task_index=draw.task_index,
                order=draw.order,
                occurrence=draw.occurrence,
            )
            for draw in draws
        ]


def gathered(
    filter: Filter | None,
    draws: Taken,
    *,
    delay: dict[str, int] | None = None,
    deadline_s: float = 30.0,
    answers: int = ANSWERS,
    streaming: bool = False,
    probe: int | None = None,
    **how,
) -> CollectedBatch:
    resample = filter and Resample(
        accepts=lambda group: filter(group, 0),
        draw_replacements=draws.draw_replacements,
        **how,
    )
    generator = Generator(
        engine=ScriptedEngine(script, delay=delay, deterministic=not streaming),
        encoder=ENCODER,
        scorer=RightScorer(),
        sampling=Sampling(max_tokens=20),
        group_size=answers,
        seed_of_batch=lambda batch: 3,
        deadline_s=deadline_s,
        max_length=64,
        probe=probe,
    )
    collector = Collector(generator, streaming=streaming)
    collector.start(0, draws.draw_batch(SIZE), resample)
    return collector.wait(0)


def shares(seed: int = 0) -> Taken:
    return Taken(RankDraws(Uniform(TASKS, seed=seed), TASKS))


def waste(found: CollectedBatch) -> float:
    samples = [
        group_samples(group) if len({v.parts["right"] for v in group.verdicts}) > 1 else []
        for group in found.groups
    ]
    effort = Effort(wanted=SIZE, tried=found.tried, accepted=len(found.groups), generated=found.completion_tokens,
                    used=tokens_reaching_a_gradient(found.groups, samples), resamples=0)  # fmt: skip
    return effort_metrics([effort])["tokens/frac_wasted"]


def right(group: Group) -> list[float]:
    return [verdict.parts["right"] for verdict in group.verdicts]


@pytest.mark.parametrize("streaming", [False, True])
def test_the_batch_is_full_of_mixed_groups(streaming: bool) -> None:
    given = shares()
    found = gathered(zero_variance(), given, streaming=streaming)
    assert len(found.groups) == SIZE and all(
        0 < sum(right(group)) < ANSWERS for group in found.groups
    )
    assert all(len(set(right(group))) == 1 for group in found.rejected)
    assert found.tried == len(found.groups) + len(found.rejected) == len(given.taken) > SIZE
    pairs = zip(found.draws + found.rejected_draws, found.groups + found.rejected, strict=True)
    in_order = sorted(pairs, key=lambda pair: pair[0].order)
    assert [group.task.id for _, group in in_order] == [TASKS[i].id for i in given.taken]
    assert found.completion_tokens == sum(
        sum(r.mask) for g in found.groups + found.rejected for r in g.rollouts
    )


@pytest.mark.parametrize("probe", [None, 2])
def test_rounds_do_not_depend_on_the_clock(probe: int | None) -> None:
    ids = [f"{task.id}#0.{a}" for task in TASKS for a in range(ANSWERS)]
    delays = [{id: random.Random(f"{k}/{id}").randint(0, 5) for id in ids} for k in range(3)]
    runs = [gathered(zero_variance(), shares(), delay=delay, probe=probe) for delay in delays]
    assert all(
        (run.groups, run.rejected, [d.order for d in run.draws])
        == (runs[0].groups, runs[0].rejected, [d.order for d in runs[0].draws])
        for run in runs
    )


def test_a_filter_on_the_shaped_reward_lets_hopeless_groups_through() -> None:
    """The planted mistake: `parts` decides, the value would not."""
    found = gathered(lambda group, version: len({v.value for v in group.verdicts}) > 1, shares())
    assert any(sum(right(group)) == 0 for group in found.groups)
    by_name = gathered(zero_variance(part="brief"), shares())
    assert any(sum(right(group)) == 0 for group in by_name.groups)


def test_the_gate_halves_the_waste_where_choosing_well_is_possible() -> None:
    """At the same batch size, with solved and impossible categories: a curriculum that sees the rejected groups avoids them."""
    from rlcore.credit.group import outcome
    from rlcore.curriculum.bandit import Sec

    def run(filter: Filter | None, seed: int) -> float:
        curriculum = Sec(TASKS, temperature=0.05, seed=seed)
        given, wasted = Taken(RankDraws(curriculum, TASKS)), []
        for _ in range(12):
            found = gathered(filter, given)
            wasted.append(waste(found))
            places, groups = found.draws + found.rejected_draws, found.groups + found.rejected
            pairs = zip(places, map(accuracies, groups), strict=True)
            credited = [
                outcome(draw.task_index, group, group_samples(group)) for draw, group in pairs
            ]
            given.draws.end_batch([given.draws.resamples])
            curriculum.observe(credited)
        return sum(wasted) / len(wasted)

    plain = sum(waste(gathered(None, shares(seed))) for seed in range(20)) / 20
    gated = sum(run(zero_variance(), seed) for seed in range(3)) / 3
    print(f"waste: uniform without a filter {plain:.3f}, bandit with filter {gated:.3f}")
    assert gated <= 0.5 * plain


@pytest.mark.parametrize("streaming", [False, True])
def test_a_probe_writes_the_rest_only_of_groups_that_look_mixed(streaming: bool) -> None:
    answers, probe = 16, 4
    given = shares()
    found = gathered(zero_variance(), given, answers=answers, probe=probe, streaming=streaming)
    assert len(found.groups) == SIZE and found.tried == len(given.taken) == SIZE + len(
        found.rejected
    )
    for group in found.groups:
        assert len(group.rollouts) == answers == len({rollout.id for rollout in group.rollouts})
        assert len(set(right(group)[:probe])) == 2, (
            "an accepted group was mixed in its first answers"
        )
        assert [v.parts["right"] for v in group.verdicts] == [
            float(r.text == "y") for r in group.rollouts
        ]
    assert all(
        len(group.rollouts) == probe and len(set(right(group))) == 1 for group in found.rejected
    )
    assert found.completion_tokens == sum(
        sum(r.mask) for g in found.groups + found.rejected for r in g.rollouts
    )
    whole = gathered(
        zero_variance(), shares(), answers=answers
    )  # the same seeds: the same first answers
    first = {group.task.id: right(group)[:probe] for group in whole.groups + whole.rejected}
    assert all(
        right(g)[:probe] == first[g.task.id]
        for g in found.groups + found.rejected
        if g.task.id in first
    )


def test_a_probe_lowers_the_waste_of_a_gate_alone() -> None:
    """Uniform over a solved, a half-solved and an impossible category: of a group that is rejected a quarter is written."""

    def mean(filter: Filter | None, **how) -> float:
        return (
            sum(waste(gathered(filter, shares(seed), answers=16, **how)) for seed in range(10)) / 10
        )

    plain, gated, probed = mean(None), mean(zero_variance()), mean(zero_variance(), probe=4)
    print(
        f"waste: no filter {plain:.3f}, filter {gated:.3f}, filter with a probe of 4 of 16 {probed:.3f}"
    )
    assert gated == pytest.approx(plain, abs=0.1) and probed <= 0.55 * plain


def test_a_probed_group_that_is_not_completed_in_time_is_turned_away() -> None:
    slow = {f"{task.id}#0.{a}": 10**6 for task in TASKS for a in range(2, ANSWERS)}
    found = gathered(zero_variance(), shares(), delay=slow, probe=2, deadline_s=0.3)
    assert all(len(group.rollouts) == ANSWERS for group in found.groups)
    assert all(r.finish == "aborted" for group in found.groups for r in group.rollouts[2:])


def accuracies(group: Group) -> Group:
    return Group(task=group.task, rollouts=group.rollouts,
                 verdicts=[Verdict(value=v.parts["right"], parts=v.parts) for v in group.verdicts])  # fmt: skip


def test_oversubmitting_aborts_what_is_not_needed() -> None:
    slow = {
        f"{task.id}#0.{a}": 10**6
        for task in TASKS
        if task.category != "mixed"
        for a in range(ANSWERS)
    }
    found = gathered(zero_variance(), shares(), delay=slow, streaming=True, oversubmit=4.0)
    assert len(found.groups) == SIZE and all(
        group.task.category == "mixed" for group in found.groups
    )
    assert found.tried > len(found.groups) + len(found.rejected)  # dropped half written
    assert all(r.finish == "stop" for g in found.groups for r in g.rollouts)
    calm = gathered(zero_variance(), shares(), oversubmit=2.0)
    assert len(calm.groups) == SIZE and calm.tried == len(calm.groups) + len(calm.rejected)
    assert [d.order for d in calm.draws] == sorted(d.order for d in calm.draws)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_batch_that_cannot_be_filled_ends(streaming: bool) -> None:
    found = gathered(lambda group, version: False, shares(), streaming=streaming, max_gen_batches=3)
    assert (len(found.groups), found.tried, len(found.rejected)) == (0, 3 * SIZE, 3 * SIZE)
    stuck = {f"{task.id}#0.0": 10**6 for task in TASKS}
    late = gathered(zero_variance(), shares(), delay=stuck, streaming=streaming, deadline_s=0.3)
    assert late.tried == SIZE and all(
        g.rollouts[0].finish == "aborted" for g in late.groups + late.rejected
    )


def test_without_a_gate_nothing_is_turned_away() -> None:
    found = gathered(None, shares())
    assert (
        [d.order for d in found.draws] == list(range(SIZE))
        and found.rejected == []
        and found.tried == SIZE
    )
    assert 0.4 < waste(found) < 1


def group(*values: float | None, versions: Sequence[int] = (3,)) -> Group:
    task = Task(id="t", prompt="?")
    rollouts = [
        Rollout.from_tokens(id=f"t#{i}", task_id="t", token_ids=[1, 2], mask=[False, True], logprobs=[0.0, -1.0], text="", finish="stop",
                version=versions[i % len(versions)])
        for i in range(len(values))
    ]  # fmt: skip
    verdicts = [
        Verdict(value=None, status="crashed") if v is None else Verdict(value=v, parts={"right": v}) for v in values
    ]  # fmt: skip
    return Group(task=task, rollouts=rollouts, verdicts=verdicts)


@pytest.mark.parametrize(
    ("filter", "given", "accepted"),
    [
        ("zero_variance", group(1, 1, None), False),
        ("zero_variance", group(1, 0, None), True),
        ("zero_variance", group(None, None), False),
        ({"use": "pass_rate", "low": 0.25, "high": 0.75}, group(1, 0, 0, 0), False),
        ({"use": "pass_rate", "low": 0.25, "high": 0.75}, group(1, 1, 0, 0, None), True),
        ({"use": "pass_rate", "low": 0.25, "high": 0.75}, group(None), False),
        ({"use": "staleness", "at_most": 1}, group(1, 1, versions=(4, 3)), False),
        ({"use": "staleness", "at_most": 2}, group(1, 1, versions=(4, 3)), True),
        ("unscorable", group(1, None), False),
        ("unscorable", group(1, 1, None), True),
        ({"use": "unscorable", "at_least": 3}, group(1, 1, None), False),
    ],
)
def test_each_gate_by_hand(filter: str | dict, given: Group, accepted: bool) -> None:
    assert build(filter, FILTERS, what="filter")(given, 5) is accepted


def test_gates_in_a_recipe(tmp_path) -> None:
    def stage(filter) -> RlStage:
        return RlStage(kind="rl", tasks="t", steps=1, rewards=[{"use": "exact"}], filter=filter)

    both = build_filter(stage(["unscorable", {"use": "pass_rate", "low": 0.4}]))
    assert (
        both(group(1, 1), 5) is False
        and both(group(1, 0), 5) is True
        and both(group(1, None), 5) is False
    )
    assert build_filter(stage(None)) is None
    with pytest.raises(
        ValueError, match="probe is 4, which needs a filter and a group_size above it"
    ):
        RlStage(kind="rl", tasks="t", steps=1, rewards=[{"use": "exact"}], resample={"probe": 4})
    with pytest.raises(RecipeError, match="did you mean 'zero_variance'"):
        build_filter(stage("zero_varianc"))
    with pytest.raises(
        RecipeError, match="looks at the reward 'exat', but the stage's rewards are: exact"
    ):
        build_filter(stage({"use": "zero_variance", "part": "exat"}))
    (tmp_path / "numpy_bool.py").write_text(
        "import numpy\ndef own(): return lambda group, version: numpy.bool_(True)\n"
    )
    assert build_filter(stage(f"{tmp_path}/numpy_bool.py:own"))(group(1, 0), 5) is True
    for own, said in (
        (
            "lambda: lambda group, version: None",
            r"must give a function \(group, version\) -> bool; what it gave returned None",
        ),
        ("lambda: lambda group: True", r"-> bool; what it gave: too many positional arguments"),
        (
            "lambda: lambda group, version: group.reward",
            r"raised AttributeError: .* no attribute 'reward' \(mine.py:1\)",
        ),
        ("lambda: True", r"must give a function \(group, version\) -> bool, not a bool"),
    ):
        (tmp_path / "mine.py").write_text(f"own = {own}\n")
        with pytest.raises(RecipeError, match=said):
            build_filter(stage(f"{tmp_path}/mine.py:own"))(group(1, 0), 5)
    with pytest.raises(RecipeError, match="low must be smaller"):
        build_filter(stage({"use": "pass_rate", "low": 0.9, "high": 0.1}))
    with pytest.raises(RewardError, match="looks at the reward 'style', but there are: right"):
        zero_variance(part="style")(group(1, 0), 5)


def test_the_gate_of_the_docs(tmp_path) -> None:
    text = (Path(__file__).parents[2] / "docs/curricula.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(# my_filters.py.*?)```", text, flags=re.DOTALL)
    (tmp_path / "my_filters.py").write_text(code)
    brief = build({"use": f"{tmp_path}/my_filters.py:brief", "tokens": 1}, FILTERS, what="filter")
    assert brief(group(1, 0), 5) is True and brief(group(0, 0), 5) is False
    assert (
        build({"use": f"{tmp_path}/my_filters.py:brief", "tokens": 0}, FILTERS, what="filter")(
            group(1, 0), 5
        )
        is False
    )


def test_the_binomial_share_of_mixed_groups() -> None:
    """What the test world should give, by enumeration: a half-right category is mixed in 1 - 2 / 2^4 of its groups."""
    found = [gathered(None, shares(seed)) for seed in range(30)]
    mixed = [len(set(right(g))) > 1 for f in found for g in f.groups if g.task.category == "mixed"]
    assert sum(mixed) / len(mixed) == pytest.approx(
        1 - 2 / 2**ANSWERS, abs=3 * math.sqrt(0.11 / len(mixed))
    )
