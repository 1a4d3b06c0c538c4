"""Credit for turns, against sums written out; and several training sequences of one rollout."""

from __future__ import annotations

import random
import statistics
from dataclasses import replace
from functools import partial

import pytest

from rlcore.credit.group import group_credit, group_samples, outcome
from rlcore.credit.turns import gigpo, returns
from rlcore.errors import RecipeError
from rlcore.run.episode_metrics import episode_facts, episode_metrics
from rlcore.types import Episode, Group, Rollout, Task, Turn, Verdict

TASK = Task(id="t", prompt="p")


def rollout_of(
    name: str, rewards: list[float], states: list[str | None], *, cut_at: int | None = None
) -> Rollout:
    """Turns of two tokens, replies of one; `cut_at`: the turn before which a prompt begins a further sequence."""
    turns = [Turn(role="prompt", token_ids=[1, 2])]
    for number in range(len(rewards)):
        if number:
            role = "prompt" if number == cut_at else "observation"
            turns.append(Turn(role=role, token_ids=[3]))
        turns.append(
            Turn(
                role="completion",
                token_ids=[10 + number, 20 + number],
                logprobs=[-0.1, -0.2],
                versions=[0, 0],
                finish="stop",
            )
        )
    episode = Episode(
        messages=[], prompt_messages=0, rewards=rewards, states=states, ending="done"
    )
    return Rollout(id=name, task_id="t", turns=tuple(turns), text="", episode=episode)


def a_group(seed: int, extra: float = 0.0) -> Group:
    rng = random.Random(seed)
    rollouts, verdicts = [], []
    for number in range(5):
        turns = rng.randint(1, 4)
        rewards = [rng.choice([0.0, 0.5, 1.0]) for _ in range(turns)]
        states = [rng.choice(["a", "b", None]) for _ in range(turns)]
        rollouts.append(rollout_of(f"r{number}", rewards, states))
        verdicts.append(Verdict(value=sum(rewards) + extra * number))
    rollouts.append(rollout_of("lost", [0.0], ["a"]))
    verdicts.append(Verdict(value=None, status="crashed"))
    return Group(task=TASK, rollouts=rollouts, verdicts=verdicts)


def brute_returns(group: Group, gamma: float) -> dict[tuple[str, int], float]:
    values = {}
    for rollout, verdict in zip(group.rollouts, group.verdicts, strict=True):
        if verdict.value is None:
            continue
        rewards = list(rollout.episode.rewards)
        rewards[-1] += verdict.value - sum(rewards)
        for t in range(len(rewards)):
            values[rollout.id, t] = sum(
                gamma ** (k - t) * rewards[k] for k in range(t, len(rewards))
            )
    return values


def by_turn(group: Group, samples: list) -> dict[tuple[str, int], float]:
    """Advantage of each turn; all its tokens have the same."""
    result = {}
    rollouts = {rollout.id: rollout for rollout in group.rollouts}
    for sample in samples:
        for turn, span in enumerate(rollouts[sample.id].completions):
            (value,) = set(sample.advantages[span.start : span.end])
            result[sample.id, turn] = value
        outside = [
            a for a, on in zip(sample.advantages, sample.mask, strict=True) if not on
        ]
        assert set(outside) == {0.0}
    return result


CREDIT = partial(group_credit, baseline="mean", zero_variance="keep")


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("gamma", [1.0, 0.9])
@pytest.mark.parametrize("across", ["turn", "group"])
def test_returns_are_the_sums_written_out(seed: int, gamma: float, across: str) -> None:
    group = a_group(seed, extra=0.3)
    values = brute_returns(group, gamma)
    ((samples),) = returns(CREDIT(), gamma=gamma, normalise="mean", across=across)([group])
    got = by_turn(group, samples)
    assert got.keys() == values.keys()
    for (name, turn), value in values.items():
        others = [v for (_, t), v in values.items() if across == "group" or t == turn]
        assert got[name, turn] == pytest.approx(value - statistics.fmean(others))


@pytest.mark.parametrize("seed", range(5))
def test_gigpo_is_the_papers_sum(seed: int) -> None:
    """A = A_episode + omega A_state: arXiv 2505.10978, equations 3, 6 and 7, with the mean alone as normalisation."""
    group = a_group(seed)
    values = brute_returns(group, 0.95)
    scored = [v.value for v in group.verdicts if v.value is not None]
    ((samples),) = gigpo(CREDIT(), weight=0.5)([group])
    got = by_turn(group, samples)
    states = {
        (rollout.id, t): state
        for rollout in group.rollouts
        for t, state in enumerate(rollout.episode.states)
    }
    totals = {r.id: v.value for r, v in zip(group.rollouts, group.verdicts, strict=True)}
    for key, value in values.items():
        same = [v for k, v in values.items() if states[k] == states[key] is not None]
        of_state = value - statistics.fmean(same) if same else 0.0
        of_episode = totals[key[0]] - statistics.fmean(scored)
        assert got[key] == pytest.approx(of_episode + 0.5 * of_state)


def test_a_state_that_one_turn_had_says_nothing() -> None:
    group = Group(
        task=TASK,
        rollouts=[rollout_of("a", [0.0, 1.0], ["s", "x"]), rollout_of("b", [0.0, 0.0], ["s", "y"])],
        verdicts=[Verdict(value=1.0), Verdict(value=0.0)],
    )
    ((samples),) = gigpo(CREDIT(), gamma=1.0)([group])
    assert by_turn(group, samples) == {
        ("a", 0): 1.0, ("a", 1): 0.5, ("b", 0): -1.0, ("b", 1): -0.5
    }  # fmt: skip


def test_gigpo_needs_states() -> None:
    rollouts = [rollout_of(name, [0.0, 1.0], [None, None]) for name in "ab"]
    group = Group(task=TASK, rollouts=rollouts, verdicts=[Verdict(value=1.0), Verdict(value=0.0)])
    with pytest.raises(RecipeError, match="Observation.state"):
        gigpo(CREDIT())([group])


def test_turns_need_an_environment() -> None:
    single = Rollout.from_tokens(
        id="x", task_id="t", token_ids=[1, 2], mask=[False, True], logprobs=[0.0, -1.0]
    )
    group = Group(task=TASK, rollouts=[single] * 2, verdicts=[Verdict(value=1.0), Verdict(value=0.0)])
    with pytest.raises(RecipeError, match="environment"):
        returns(CREDIT())([group])
    with pytest.raises(RecipeError, match="gamma"):
        gigpo(CREDIT(), gamma=1.5)


def test_sequences_share_one_verdict_and_their_weights_add_up_to_one() -> None:
    whole = rollout_of("whole", [0.0, 1.0], [None, None])
    cut = rollout_of("cut", [0.0, 0.0, 0.0], [None] * 3, cut_at=1)
    group = Group(task=TASK, rollouts=[whole, cut], verdicts=[Verdict(value=1.0), Verdict(value=0.0)])
    samples = group_samples(group)
    assert [(sample.id, sample.part, sample.weight) for sample in samples] == [
        ("whole", 0, 1.0), ("cut", 0, 0.5), ("cut", 1, 0.5)
    ]  # fmt: skip
    assert samples[1].token_ids == [1, 2, 10, 20] and samples[2].token_ids[0] == 3
    assert sum(sum(sample.mask) for sample in samples) == sum(map(sum, (whole.mask, cut.mask)))
    # One place in the statistics: the advantages are those of two rollouts, not of three samples.
    alone = replace(group, rollouts=[whole, replace(cut, turns=rollout_of("cut", [0.0], [None]).turns)])
    assert {s.id: max(s.advantages, key=abs) for s in samples} == {
        s.id: max(s.advantages, key=abs) for s in group_samples(alone)
    }
    assert outcome(0, group, samples).abs_advantage == pytest.approx(
        outcome(0, alone, group_samples(alone)).abs_advantage
    )


def test_turns_of_a_further_sequence_keep_their_numbers() -> None:
    cut = rollout_of("cut", [1.0, 2.0, 4.0], [None] * 3, cut_at=1)
    other = rollout_of("other", [0.0, 0.0, 0.0], [None] * 3)
    group = Group(task=TASK, rollouts=[cut, other], verdicts=[Verdict(value=7.0), Verdict(value=0.0)])
    ((samples),) = returns(CREDIT(), normalise="mean")([group])
    first, second, _ = samples
    assert set(first.advantages) == {0.0, 3.5}
    assert second.advantages == [0.0, 3.0, 3.0, 0.0, 2.0, 2.0]


def test_the_fraction_of_turns_that_have_something_to_be_compared_with() -> None:
    """Counted pair by pair; equal states of two tasks are not compared."""
    facts, pairs = [], []
    for seed in range(20):
        rollouts = a_group(seed).rollouts
        facts += episode_facts(rollouts)
        states = [(r.id, i, s) for r in rollouts for i, s in enumerate(r.episode.states) if s]
        pairs += [any(a[2] == b[2] and a != b for b in states) for a in states]
    expected = sum(pairs) / len(pairs)
    assert 0 < expected < 1
    assert episode_metrics(facts)["env/frac_equal_state"] == pytest.approx(expected)
    nameless = episode_facts([rollout_of("r", [0.0], [None])])
    assert "env/frac_equal_state" not in episode_metrics(nameless)
