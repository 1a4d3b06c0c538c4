"""What the stages of one run share: the model, the engine that serves it, and where the run stands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from rlcore.curriculum.task_sampler import TaskSampler
from rlcore.learner.optim import Average
from rlcore.learner.policy import Policy
from rlcore.learner.sharding import shard
from rlcore.learner.update import Learner
from rlcore.objective.term import Objective
from rlcore.recipe.build_learner import build_encoder, build_engine, build_learner
from rlcore.recipe.continued import planned_updates
from rlcore.recipe.schema import Recipe
from rlcore.rollout.collector import Collector
from rlcore.rollout.engine import Engine
from rlcore.rollout.episodes import Episodes
from rlcore.rollout.generator import Generator
from rlcore.rollout.publish import PublishReport, first_canary, longest_texts, publish
from rlcore.rollout.scorer import Scorer
from rlcore.run import checkpoint
from rlcore.run.allocator import give_back_freed_memory
from rlcore.run.batches import BatchSource
from rlcore.run.continued import continue_optimiser
from rlcore.run.disk import remove
from rlcore.run.ending import TermRequest
from rlcore.run.folder import RunFolder
from rlcore.run.frozen import with_frozen_models
from rlcore.run.memory import memory_metrics
from rlcore.run.reference import stage_reference
from rlcore.run.sampled import SampledTasks
from rlcore.run.saver import Saver
from rlcore.run.tracking import Tracker
from rlcore.run.usable import usable_in
from rlcore.types import Rollout, Sampling, Task

if TYPE_CHECKING:
    from rlcore.stages.base import Stage

IN_FLIGHT = 4
"""Requests handed to the engine at a time, in multiples of what it decodes together."""


class Stateful(Protocol):
    """What can be saved and continued. Collective; what is sharded is full on the first rank."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Run:
    """One process's view of a run. Ranks hold equal policies and cursors, and their own engine and share of the tasks."""

    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        *,
        accelerator: Accelerator,
        policy: Policy,
        tracker: Tracker,
        cursor: checkpoint.Cursor,
        saved: Mapping[str, Any] | None,
        tasks: Mapping[str, Sequence[Task]],
    ) -> None:
        self.recipe = recipe
        self.folder = folder
        self.accelerator = accelerator
        shard(policy.module, accelerator)
        self.policy = policy
        self.tracker = tracker
        self.cursor = cursor
        self.saved = saved
        """Trainer state of the stage the run was killed in, until that stage takes it back."""
        self.parts: dict[str, Stateful] = {}
        """What the running stage trains or fills beside its learner, by name: checkpoints hold it too."""
        self._average: Average | None = None
        if saved and "average" in saved:  # of a finished stage
            self._average = Average(policy.module, saved["average"]["decay"])
            self._average.load_state_dict(saved["average"])
        self.encoder = build_encoder(recipe, policy.tokenizer)
        self._tasks = usable_in(self, tasks)
        tracker.ending = self.encoder.ending(policy.end_ids)
        self.saver = Saver(recipe.run, folder, policy, accelerator)
        self.term = TermRequest(recipe.run.save_on_term_s)
        self._engine: Engine | None = None
        self._canary: list[list[int]] | None = None

    @property
    def max_length(self) -> int:
        """Longest prompt + answer: the recipe's, or the model's where that is shorter."""
        return min(self.recipe.engine.max_length, self.policy.max_length)

    @property
    def _apart(self) -> bool:
        """Whether the engine is given the adapter by itself."""
        return self.recipe.engine.sync == "adapter"

    def tasks(self, name: str) -> Sequence[Task]:
        """Of a set that is made of completions, once their stage has written them. Collective."""
        tasks = self._tasks[name]
        if isinstance(tasks, SampledTasks):
            self._tasks |= usable_in(self, {name: tasks.read(self)})
        return self._tasks[name]

    def stored(self, data: str) -> Path:
        """Where the rows are that a stage calls `data`: those of a sample stage of this run, or what the name says."""
        own = {stage.label for stage in self.recipe.stages if stage.writes_samples}
        return self.folder.samples / data if data in own else Path(data)

    def engine(self) -> Engine:
        """The engine of this process, started when a stage first needs one and kept for the stages after it."""
        if self._engine is None:
            # what a back end reads its architecture and tokenizer from
            folder = self.folder.served_model
            with self.folder.writing("the model that the engine reads"):
                self.policy.save(folder, base=self._apart)
            self.accelerator.wait_for_everyone()
            section = with_frozen_models(self, self.recipe.engine)
            self._engine = build_engine(
                section.model_copy(update={"max_length": self.max_length}),
                folder,
                dtype=self.recipe.model.dtype,
                device=str(self.accelerator.device),
                adapter_rank=self.policy.adapter.rank
                if self._apart and self.policy.adapter
                else None,
            )
            self.accelerator.wait_for_everyone()
            # servers that die are started again from it
            if self.accelerator.is_main_process and not self._engine.shared:
                remove(folder, inside=self.folder.path)
            give_back_freed_memory()
        return self._engine

    def sleep_engine(self, generator: Generator | None = None) -> None:
        """With `engine.sleep`, leave the engine's GPU memory to the learner until the engine is next used. generator: what has requests in it."""
        if self._engine is None or not self.recipe.engine.sleeps:
            return
        if generator is not None:
            generator.drain()
        self._engine.sleep()

    def learner(self, stage: Stage, objective: Objective) -> Learner:
        """A learner of the run's policy for one stage, with a new optimiser unless the stage continues one."""
        learner = build_learner(
            self.policy,
            stage,
            objective,
            accelerator=self.accelerator,
            version=self.cursor.step,
            total_updates=planned_updates(self.recipe.stages, self.cursor.stage),
            reference=stage_reference(self) if objective.needs_reference else None,
        )
        self._average = learner.average
        continue_optimiser(self, stage, learner)
        return learner

    def replace_policy(self, policy: Policy) -> None:
        """Go on with another model; averaged weights were those of the one before."""
        shard(policy.module, self.accelerator)
        self.policy = policy
        self.saver.policy = policy
        self.forget_average()

    def forget_average(self) -> None:
        """For a training stage without a learner: the averaged weights of an earlier one are not its."""
        self._average = None

    def holding(self, weights: Literal["policy", "ema"]) -> AbstractContextManager[None]:
        """Context in which the policy has its own weights, or the averaged ones of the last training stage."""
        return self._average.applied() if weights == "ema" and self._average else nullcontext()

    def publish(
        self,
        version: int,
        generator: Generator | None = None,
        rollouts: Sequence[Rollout] = (),
    ) -> PublishReport:
        """Serve the policy's present weights as `version`, with proof. Raises `PublishError`.

        generator: what may have requests in flight; they are taken back before and go on afterwards. rollouts: written in
        this run; the longest of them are the canary from now on. Before there are any it is the prompt of the first task.
        """
        if generator is not None:
            generator.drain()
        if rollouts:
            self._canary = longest_texts(rollouts, self.max_length - 1)
        elif self._canary is None:
            there = (
                each for each in self._tasks.values() if not isinstance(each, SampledTasks)
            )
            first = first_canary(self.encoder, next(there)[0])
            self._canary = [first[: self.max_length - 1]]
        # the activations of the update that was before this
        give_back_freed_memory()
        widened = self.policy.arithmetic.itemsize < torch.float32.itemsize
        return publish(
            partial(self.policy.weights, apart=self._apart),
            self.engine(),
            version,
            canary=self._canary,
            score=self.policy.score,
            score_float32=self.policy.score_float32 if widened else None,
            served_dtype=self.recipe.model.dtype,
            tolerance=self.recipe.engine.sync_tolerance,
            # Servers go on while the proof is made; what they generate is trained only if it holds.
            on_loaded=generator.submit_waiting if generator and self.engine().shared else None,
        )

    def collector(
        self,
        scorer: Scorer,
        sampling: Sampling,
        *,
        group_size: int,
        seed_of_batch: Callable[[int], int],
        probe: int | None = None,
        episodes: Episodes | None = None,
    ) -> Collector:
        """What samples and scores groups of tasks with the run's engine. episodes: of the
        stage's environment."""
        engine = self.engine()
        generator = Generator(
            engine=engine,
            encoder=self.encoder,
            scorer=scorer,
            sampling=sampling,
            group_size=group_size,
            seed_of_batch=seed_of_batch,
            max_length=self.max_length,
            deadline_s=self.recipe.engine.deadline_s,
            max_requests=IN_FLIGHT * self.recipe.engine.max_sequences,
            probe=probe,
            episodes=episodes,
        )
        return Collector(generator, streaming=not engine.deterministic)

    def my_share(self, items: Sequence[Any]) -> list[Any]:
        """This rank's part of a list that all ranks hold."""
        return list(items[self.accelerator.process_index :: self.accelerator.num_processes])

    def gather(self, items: Iterable[Any]) -> list[Any]:
        """The items of all ranks, in rank order, on every rank."""
        return (
            list(items) if self.accelerator.num_processes == 1 else gather_object(list(items))
        )

    def resume_stage(
        self, learner: Learner, curriculum: TaskSampler, batches: BatchSource | None = None
    ) -> None:
        """Give a stage back what it had when the run was killed, if it was killed in this stage."""
        if self.saved is not None and "learner" in self.saved:
            learner.load_state_dict(self.saved["learner"])
            curriculum.load_state_dict(self.cursor.curriculum)
            if batches is not None:
                batches.load_state_dict(self.saved.get("batches", []))
            for name, part in self.parts.items():
                part.load_state_dict(self.saved["parts"][name])
            torch.set_rng_state(self.saved["rng"])
            self.saved = None

    def end_step(
        self,
        metrics: Mapping[str, Any],
        learner: Learner | None = None,
        curriculum: TaskSampler | None = None,
        batches: BatchSource | None = None,
    ) -> None:
        """Log the step, move the cursor, and write a checkpoint when one is due (`end_stage` saves the stage's last step).

        In this order: a checkpoint never knows more than the files beside it.
        """
        self.saver.check()
        self.log_step(metrics)
        done = self.cursor.stage_step
        stage = self.recipe.stages[self.cursor.stage]
        stage.after_step(self, learner, batches)
        leaving = self._is_leaving()
        due = done % self.recipe.run.checkpoint_every == 0 or leaving
        # a stage of a user's own may count its steps by another key.
        if due and done != getattr(stage, "steps", None):
            self.cursor.curriculum = curriculum.state_dict() if curriculum else {}
            state = self._state(learner)
            if batches is not None:
                state["batches"] = self.gather([batches.state_dict()])
            self.saver.save(self.cursor, state, self._average, wait=leaving)
            if leaving:
                raise KeyboardInterrupt

    def log_step(self, metrics: Mapping[str, Any]) -> None:
        """Log an optimiser step and move the cursor past it."""
        self.cursor.step += 1
        self.cursor.stage_step += 1
        self.tracker.step(self.cursor.step, {**metrics, **memory_metrics()})

    def end_stage(
        self,
        learner: Learner | None = None,
        curriculum: TaskSampler | None = None,
        *,
        trained: bool = True,
    ) -> None:
        """Move the cursor to the next stage; what a training stage made is saved, so that it can be given more steps later."""
        state = self._state(learner)
        self.parts = {}
        self.sleep_engine()
        give_back_freed_memory()
        self.accelerator.free_memory()  # else the next stage's learner would share the parameters with this one's wrapper
        cursor = self.cursor
        cursor.ended_after = cursor.stage_step
        cursor.curriculum = curriculum.state_dict() if curriculum else {}
        cursor.stage, cursor.stage_step = cursor.stage + 1, 0
        if trained:  # the stages after it may read it
            self.saver.save(cursor, state, self._average, wait=True)
        cursor.ended_after, cursor.curriculum = None, {}
        if cursor.stage < len(self.recipe.stages) and self._is_leaving():
            raise KeyboardInterrupt

    def _is_leaving(self) -> bool:
        """Whether any rank was told to end by a signal, and `run.save_on_term_s` says to save first."""
        if self.term.grace_s is None:
            return False
        return any(self.gather([self.term.received]))

    def _state(self, learner: Learner | None) -> dict[str, Any]:
        """What a checkpoint keeps beside the model."""
        if learner:
            parts = {name: part.state_dict() for name, part in self.parts.items()}
            state = {"learner": learner.state_dict(), "rng": torch.get_rng_state()}
            return state | ({"parts": parts} if parts else {})
        return {"average": self._average.state_dict()} if self._average else {}

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None
            if self.accelerator.is_main_process:
                remove(self.folder.served_model, inside=self.folder.path)
