"""One step's tasks, from the curriculum's draw to scored groups, and back: what the curriculum learns of what came of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import zip_longest

from rlcore.credit.group import group_samples, outcome
from rlcore.curriculum.length_budget import state_budget
from rlcore.curriculum.rank_draws import Shares
from rlcore.curriculum.task_sampler import TaskSampler
from rlcore.recipe.build import build_budget, build_filter, build_sampling, build_second_round
from rlcore.recipe.schema import RlStage
from rlcore.rollout.collect import Collected, Resample, Scorer, collect
from rlcore.run.folder import read_rows
from rlcore.run.metrics import Effort, effort_metrics, tokens_reaching_a_gradient
from rlcore.run.seeds import derive
from rlcore.run.session import Run
from rlcore.types import Group, Outcome, Sample, Task

Score = Callable[[Sequence[Group]], list[Group]]


class Intake:
    """This rank's share of the stage's tasks. Every rank calls the same methods in the same order."""

    def __init__(
        self, run: Run, stage: RlStage, tasks: Sequence[Task], curriculum: TaskSampler, *, seed: int
    ) -> None:
        self._run, self._stage, self._tasks, self._curriculum, self._seed = (
            run,
            stage,
            tasks,
            curriculum,
            seed,
        )
        self._shares = Shares(
            curriculum,
            len(tasks),
            rank=run.accelerator.process_index,
            ranks=run.accelerator.num_processes,
        )
        self._filter, self._budget = build_filter(stage), build_budget(stage)
        self._second_round = build_second_round(stage.second_round)
        self._sampling = build_sampling(stage.sampling, keep_support=True)
        written = read_rows(run.folder.metrics)[
            run.cursor.step - run.cursor.stage_step :
        ]  # of this stage, before it was killed
        self._written = run.gather(
            [sum(row["tokens/completion"] + row.get("credit/tokens", 0) for row in written)]
        )[0]

    @property
    def exhausted(self) -> bool:
        """Whether the stage has written all the answer tokens it may."""
        return (
            self._stage.stop_after_tokens is not None
            and self._written >= self._stage.stop_after_tokens
        )

    def collect(self, scorer: Scorer, score: Score, *, version: int) -> Collected:
        """This rank's groups of the step, scored and accepted, and those the filter rejected.

        A second round's groups come after those of the first. `score` adds the rewards that the learner computes.
        """
        first = self._answer(
            self._made(self._shares.first(self._stage.groups_per_step)),
            scorer,
            self._resample(version),
        )
        groups, tokens = first.groups, first.completion_tokens
        if self._second_round:

            def answer(made: Sequence[Task]) -> list[Group]:
                nonlocal tokens
                second = self._answer(made, scorer)
                tokens += second.completion_tokens
                return second.groups

            groups = self._second_round(groups, answer)
        return replace(first, groups=score(groups), completion_tokens=tokens)

    def report(
        self, collected: Collected, samples: Sequence[Sequence[Sample]], *, continued: int = 0
    ) -> dict[str, float]:
        """End the step: the curriculum observes the groups of all ranks. Returns its metrics, the filter's and the budget's.

        continued: tokens this rank wrote to value steps; they count in what the stage may write, and in nothing else here.
        """
        run, taken = self._run, self._shares.taken
        part = len(run.my_share(range(self._stage.groups_per_step)))
        efforts = run.gather(
            [
                Effort(
                    wanted=part,
                    tried=collected.tried,
                    accepted=len(collected.places),
                    generated=collected.completion_tokens,
                    used=tokens_reaching_a_gradient(collected.groups, samples),
                    resamples=self._shares.resamples,
                )
            ]
        )
        self._written += sum(effort.generated for effort in efforts) + sum(run.gather([continued]))
        outcomes = run.gather(_outcomes(collected, samples, taken))
        self._shares.settle([effort.resamples for effort in efforts])
        self._curriculum.observe(sorted(outcomes, key=lambda item: item.index))
        budget = {"budget": self._budget(run.cursor.stage_step)} if self._budget else {}
        return effort_metrics(efforts) | self._curriculum.metrics() | budget

    def everything(self, collected: Collected) -> Iterator[tuple[int | None, Group, bool]]:
        """(position in the task set, group, whether it was accepted). To be asked before `report`.

        Tasks of a second round have no position.
        """
        taken = self._shares.taken
        for places, groups, accepted in (
            (collected.places, collected.groups, True),
            (collected.rejected_places, collected.rejected, False),
        ):
            for place, group in zip_longest(places, groups):
                yield None if place is None else taken[place], group, accepted

    def _answer(
        self, tasks: Sequence[Task], scorer: Scorer, resample: Resample | None = None
    ) -> Collected:
        run, stage = self._run, self._stage
        return collect(
            tasks,
            engine=run.engine(),
            encoder=run.encoder,
            scorer=scorer,
            sampling=self._sampling,
            group_size=stage.group_size,
            seed=derive(self._seed, run.cursor.stage_step),
            deadline_s=run.recipe.engine.deadline_s,
            max_length=run.max_length,
            resample=resample,
        )

    def _resample(self, version: int) -> Resample | None:
        if self._filter is None:
            return None
        return Resample(
            accepts=partial(self._filter, version=version),
            more=lambda n: self._made(self._shares.more(n)),
            streaming=self._run.recipe.engine.kind
            != "hf",  # which is exact for a fixed set of requests
            **self._stage.resample.model_dump(),
        )

    def _made(self, positions: Sequence[int]) -> list[Task]:
        tasks = [self._tasks[position] for position in positions]
        if self._budget is None:
            return tasks
        tokens = self._budget(self._run.cursor.stage_step)
        return [state_budget(task, tokens, self._stage.budget_text) for task in tasks]


def _outcomes(
    collected: Collected, samples: Sequence[Sequence[Sample]], taken: Sequence[int]
) -> list[Outcome]:
    """Of all groups but a second round's. Credit is not asked about those rejected: theirs are group-normalised advantages."""
    accepted = zip(collected.places, collected.groups, samples, strict=False)
    return [outcome(taken[place], group, made) for place, group, made in accepted] + [
        replace(
            outcome(taken[place], group, group_samples(group)), accepted=place in collected.spare
        )
        for place, group in zip(collected.rejected_places, collected.rejected, strict=True)
    ]
