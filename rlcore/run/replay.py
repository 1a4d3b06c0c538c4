"""Replay: stored groups of earlier steps join the updates of a step.

A stored group is what credit made of it in its own step: its advantages were normalised among its own
completions, and its samples keep the log-probabilities and the version of the policy that wrote them.
To the updates it is a stale group like any other (`rlcore.learner.updates`): the ratio is taken to
`old_logprobs`, and what `trainer` leaves out is the objective's `correction`.

Each rank stores its own groups. What is drawn and what is dropped is decided over the groups of all
ranks in one order, by the stage's seed and the step, so neither depends on the number of ranks.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from rlcore.recipe.replay_section import ReplaySection
from rlcore.types import Sample, TeacherScores

if TYPE_CHECKING:
    from rlcore.run.session import Run
    from rlcore.stages.rl import RlStage

Key = tuple[int, int, str]
"""Of a group in its step, see `RolloutBatch.keyed`."""
KeyedGroup = tuple[Key, list[Sample]]

_REPLAYED = 3
"""First number of a stored group's key in an update: after those of the step's own groups and texts."""


class ReplayBuffer:
    """This rank's stored groups. Every rank calls the same methods in the same order."""

    def __init__(
        self,
        section: ReplaySection | None,
        *,
        groups_per_step: int,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
        gather: Callable[[Iterable[Any]], list[Any]] = list,
    ) -> None:
        """section: None for a stage without replay, where `join` adds nothing. gather: joins the items of all ranks."""
        self._section = section
        self._per_step = 0 if section is None else section.groups(groups_per_step)
        self._seed = seed
        self._rank, self._ranks = rank, ranks
        self._gather = gather
        self._stored: dict[tuple[int, *Key], list[Sample]] = {}
        self._metrics: dict[str, float] = {}

    def join(self, step: int, fresh: Sequence[KeyedGroup]) -> list[KeyedGroup]:
        """`fresh`, this rank's groups of the step, and its stored ones that join them; then `fresh` is stored for later steps.

        Collective. Groups of a step never join that same step. Demonstrations and texts are not stored.
        """
        if self._section is None:
            return list(fresh)
        oldest = step - self._section.max_age
        self._stored = {key: kept for key, kept in self._stored.items() if key[0] >= oldest}
        stored = sorted(self._gather(self._stored))
        rng = random.Random(f"replay of {self._seed}, step {step}")
        drawn = sorted(rng.sample(stored, min(self._per_step, len(stored))))
        ages = [step - key[0] for key in drawn]
        self._metrics = {"replay/groups": len(drawn), "replay/stored": len(stored)}
        if ages:
            self._metrics["replay/age/mean"] = sum(ages) / len(ages)
        joined = [
            (_key_in_update(key), self._stored[key]) for key in drawn if key in self._stored
        ]
        self._store(step, fresh)
        return [*fresh, *joined]

    def metrics(self) -> dict[str, float]:
        """Of the last step, over all ranks."""
        return self._metrics

    def _store(self, step: int, fresh: Sequence[KeyedGroup]) -> None:
        for key, samples in fresh:
            written = [sample for sample in samples if sample.logprobs is not None]
            if any(any(sample.mask) for sample in written):
                self._stored[(step, *key)] = written
        newest = sorted(self._gather(self._stored))[-self._section.size :]
        kept = set(newest)
        self._stored = {key: group for key, group in self._stored.items() if key in kept}

    def state_dict(self) -> list[dict[str, Any]]:
        """This rank's groups as plain values and tensors."""
        state = []
        for key, samples in sorted(self._stored.items()):
            state.append({"key": list(key), "samples": [asdict(sample) for sample in samples]})
        return state

    def load_state_dict(self, states: Sequence[list[dict[str, Any]]]) -> None:
        """Continue where `state_dict` was taken. states: one of each rank there was then, which may be another number."""
        if len(states) == self._ranks:
            mine = states[self._rank]
        else:
            groups = sorted(
                (group for state in states for group in state), key=lambda group: group["key"]
            )
            mine = groups[self._rank :: self._ranks]
        self._stored = {
            tuple(group["key"]): [_load_sample(sample) for sample in group["samples"]]
            for group in mine
        }


def build_replay(run: Run, stage: RlStage, *, seed: int) -> ReplayBuffer:
    """The stage's buffer on this rank, empty."""
    return ReplayBuffer(
        stage.replay,
        groups_per_step=stage.groups_per_step,
        seed=seed,
        rank=run.accelerator.process_index,
        ranks=run.accelerator.num_processes,
        gather=run.gather,
    )


def _key_in_update(key: tuple[int, *Key]) -> Key:
    step, kind, order, name = key
    return (_REPLAYED, step, f"{kind}/{order:09d}/{name}")


def _load_sample(state: dict[str, Any]) -> Sample:
    scores = state["teacher"]
    sample = Sample(**{**state, "teacher": None})
    return sample if scores is None else replace(sample, teacher=TeacherScores(**scores))
