"""What a run saves and when it waits for it: a checkpoint from the live state, or from a copy."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from accelerate import Accelerator

from rlcore.learner.optim import Average
from rlcore.learner.policy import Policy
from rlcore.learner.policy_files import exhaust, write_policy
from rlcore.learner.shard_files import Shards, split
from rlcore.run import checkpoint
from rlcore.run.folder import RunFolder
from rlcore.run.processes import on_main
from rlcore.run.shards import wait_for_shards, write_shards
from rlcore.run.snapshot import HostMemory, Writer

if TYPE_CHECKING:
    from rlcore.recipe.schema import RunSection


class Model(NamedTuple):
    """One model of a checkpoint."""

    folder: str
    """Inside the checkpoint."""
    state: dict[str, Any] | Iterator[tuple[str, Any]]
    """As `Policy.saved_state` gives it."""
    adapter: dict[str, Any] | None


class Saver:
    """Saves the checkpoints of one run. Every rank has one and calls it; the first one writes, and each its own shards.

    All that it does is collective. What a write fails with is raised on every rank, from a thread
    at the next step or checkpoint. As a context it waits at the end for what is being written.
    """

    def __init__(
        self, section: RunSection, folder: RunFolder, policy: Policy, accelerator: Accelerator
    ) -> None:
        self._section = section
        self._folder = folder
        self.policy = policy
        self._accelerator = accelerator
        self._writer = Writer()
        self._memory = HostMemory()
        # Its own: a fast tokenizer raises where one thread sets its padding and another saves it.
        self._tokenizer = copy.deepcopy(policy.tokenizer) if section.checkpoint_async else None

    def save(
        self,
        cursor: checkpoint.Cursor,
        state: dict[str, Any],
        average: Average | None,
        *,
        wait: bool,
    ) -> None:
        """Save a checkpoint. With `wait`, or without `run.checkpoint_async`, it is on disk afterwards."""
        self.settle()
        begin = partial(checkpoint.begin, self._folder.checkpoints, cursor)
        on_main(self._accelerator, begin, all_say=True)
        state, shards = split(state)
        if self._section.checkpoint_async and not wait:
            self._start_thread(cursor, state, shards, average)
            return
        models = self._models(average)
        if not self._accelerator.is_main_process:
            _exhaust(models)
            with suppress(Exception):  # the first rank is told of it, and all raise it below
                self._write_shards(cursor, shards)
        write = partial(self._write, cursor, state, shards, models)
        on_main(self._accelerator, write, all_say=True)

    def _start_thread(
        self,
        cursor: checkpoint.Cursor,
        state: dict[str, Any],
        shards: Shards,
        average: Average | None,
    ) -> None:
        """Copy what this rank is to write, and let a thread write the copies."""
        self._memory.recycle()
        shards = Shards(self._memory.copied(shards.tensors), shards.starts)
        if not self._accelerator.is_main_process:
            _exhaust(self._models(average))
            self._writer.start(partial(self._write_shards, cursor, shards))
            return
        models = list(self._models(average, self._memory.copied))
        state = self._memory.copied(state)
        cursor = replace(cursor, curriculum=self._memory.copied(cursor.curriculum))
        self._writer.start(partial(self._write, cursor, state, shards, models))

    def check(self) -> None:
        """Raise what a write has failed with; does not wait."""
        if self._section.checkpoint_async:
            on_main(self._accelerator, self._writer.check, all_say=True)

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.settle()
        else:  # the other ranks may be elsewhere
            self._writer.join()

    def settle(self) -> None:
        """Wait until nothing is being written, and raise what the write has failed with."""
        self._writer.join()
        self.check()

    def _models(
        self, average: Average | None, copied: Callable[[Any], Any] | None = None
    ) -> Iterator[Model]:
        """The policy, and its average while its weights are in place.

        Live tensors, unless `copied` makes copies: they are those of the model until the next one
        is asked for.
        """
        for folder, weights in ("", nullcontext()), ("ema", average and average.applied()):
            if weights is None:
                continue
            with weights:
                adapter = self.policy.adapter
                adapter_state = adapter.saved_state(copied) if adapter else None
                state = self.policy.saved_state()
                yield Model(folder, _copied(state, copied) if copied else state, adapter_state)

    def _write_shards(self, cursor: checkpoint.Cursor, shards: Shards) -> None:
        if shards.tensors:
            folder = checkpoint.shards_of(self._folder.checkpoints, cursor)
            write_shards(shards, folder, self._accelerator.process_index)

    def _write(
        self,
        cursor: checkpoint.Cursor,
        state: dict[str, Any],
        shards: Shards,
        models: Iterable[Model],
    ) -> None:
        """On the first rank; in a thread, `models` is a list of copies, and nothing is collective."""

        def save_models(path: Path) -> None:
            for model in models:
                write_policy(
                    self.policy,
                    path / model.folder,
                    model.state,
                    adapter=model.adapter,
                    tokenizer=self._tokenizer,
                )

        def write_and_wait(folder: Path) -> dict[str, str]:
            self._write_shards(cursor, shards)
            ranks = self._accelerator.num_processes
            return wait_for_shards(folder, ranks, self._section.timeout_s)

        try:
            checkpoint.finish(
                self._folder.checkpoints,
                cursor,
                save_model=save_models,
                state=state,
                keep=self._section.keep_checkpoints,
                shards=write_and_wait if shards.tensors else None,
            )
        finally:
            # Where a write failed, the other ranks still gather the next model.
            _exhaust(models)
        self._folder.note_saved(cursor.step)


def _copied(
    state: dict[str, Any] | Iterator[tuple[str, Any]], copied: Callable[[Any], Any]
) -> dict[str, Any] | Iterator[tuple[str, Any]]:
    if isinstance(state, dict):
        return copied(state)
    return iter([(name, copied(tensor)) for name, tensor in state])


def _exhaust(models: Iterable[Model]) -> None:
    for model in models:
        exhaust(model.state)
