"""What a run saves and when it waits for it: a checkpoint from the live state, or from a copy."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import Accelerator

from rlcore.errors import RunError
from rlcore.learner.optim import Average
from rlcore.learner.policy import Policy
from rlcore.learner.policy_files import write_policy
from rlcore.run import checkpoint
from rlcore.run.folder import RunFolder
from rlcore.run.snapshot import Writer, copied

if TYPE_CHECKING:
    from rlcore.recipe.schema import RunSection


class Saver:
    """Saves the checkpoints of one run. Every rank has one and calls it; the first one writes."""

    def __init__(
        self, section: RunSection, folder: RunFolder, policy: Policy, accelerator: Accelerator
    ) -> None:
        if section.checkpoint_async and accelerator.num_processes > 1:
            raise RunError(
                f"run.checkpoint_async was not tried with several processes, and there are {accelerator.num_processes}: "
                "leave it out"
            )
        self.writer = Writer()
        self._section = section
        self._folder = folder
        self.policy = policy
        self._accelerator = accelerator
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
        self.writer.wait()
        if wait or not self._section.checkpoint_async:
            self._write(cursor, state, _Live(self.policy, average))
        else:
            model = _Copy(self.policy, average, self._tokenizer)
            if self._accelerator.is_main_process:
                write = partial(self._write, copy.deepcopy(cursor), copied(state), model)
                self.writer.start(write)
        self._accelerator.wait_for_everyone()

    def _write(
        self, cursor: checkpoint.Cursor, state: dict[str, Any], model: _Live | _Copy
    ) -> None:
        checkpoint.save(
            self._folder.checkpoints,
            cursor,
            save_model=model.save,
            state=state,
            keep=self._section.keep_checkpoints,
            main=self._accelerator.is_main_process,
        )
        self._folder.note_saved(cursor.step)


class _Live:
    """The policy as it is, and its average."""

    def __init__(self, policy: Policy, average: Average | None) -> None:
        self._policy, self._average = policy, average

    def save(self, folder: Path) -> None:
        self._policy.save(folder)
        if self._average is not None:
            with self._average.applied():
                self._policy.save(folder / "ema")


class _Copy:
    """The same, copied when it is built; `save` calls no collective and may run in a thread."""

    def __init__(self, policy: Policy, average: Average | None, tokenizer: Any) -> None:
        self._policy, self._tokenizer = policy, tokenizer
        self._weights: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {}
        for name, weights in ("", nullcontext()), ("ema", average and average.applied()):
            if weights is not None:
                with weights:
                    adapter = policy.adapter.saved_state(copied) if policy.adapter else None
                    self._weights[name] = copied(policy.saved_state()), adapter

    def save(self, folder: Path) -> None:
        for name, (state, adapter) in self._weights.items():
            write_policy(
                self._policy,
                folder / name,
                state,
                adapter=adapter,
                tokenizer=self._tokenizer,
            )
