"""Several processes of one run: how long one waits for another, and what it says when that ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import (
    DistributedType,
    InitProcessGroupKwargs,
    broadcast_object_list,
    disable_fsdp_ram_efficient_loading,
    gather_object,
)

from rlcore.errors import RlcoreError, RunError, first_line
from rlcore.run.ending import resume_command
from rlcore.run.rendezvous import init_method

if TYPE_CHECKING:
    from rlcore.recipe.schema import Recipe

T = TypeVar("T")


def group_settings(timeout_s: float) -> InitProcessGroupKwargs:
    """For `Accelerator(kwargs_handlers=[...])`: where the processes meet, and the longest wait in a collective operation."""
    return InitProcessGroupKwargs(
        init_method=init_method(), timeout=timedelta(seconds=timeout_s)
    )


_kept: list[object] = []
"""Groups of processes that this one has been in, see `keep_group`."""


def keep_group() -> None:
    """Hold the group of this run's processes, where there is one, until this process ends.

    Without it a learner that is let go after a failure is the last to hold the group. Gloo then waits for its own
    threads, with Python's lock held, and a thread that frees the tensors of the last broadcast waits for that lock:
    the process never ends. At its end no broadcast is under way.
    """
    if dist.is_available() and dist.is_initialized():
        _kept.append(dist.group.WORLD)


_WITHOUT_CODE = (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM, DistributedType.XLA)
_DIMENSIONS = {
    "tp_size": "tensor parallelism",
    "cp_size": "context parallelism",
    "sp_size": "sequence parallelism",
    "dp_replicate_size": "replicated shards (HSDP)",
}
"""Of accelerate's `ParallelismConfig`, and what they stand for."""


_FOLLOWED = "use DDP (accelerate's default) or FSDP2 (--use_fsdp --fsdp_version 2)"


@contextmanager
def layout_named() -> Iterator[None]:
    """Inside, what accelerate says of a configuration that it cannot start is raised as a `RunError`."""
    try:
        yield
    except (ImportError, ValueError) as error:
        raise RunError(
            f"accelerate cannot start as it is configured: {first_line(error)}; {_FOLLOWED}"
        ) from error


def refuse_other_layouts(accelerator: Accelerator) -> None:
    """Raise `RunError` where accelerate was told to spread the learner in a way that rlcore does not follow.

    It follows one process, DDP and FSDP2. Under any other layout weights would be published and saved in pieces.
    """
    kind = accelerator.distributed_type
    if kind in _WITHOUT_CODE:
        raise RunError(
            f"accelerate is set to {kind.value}, which rlcore has no code for: {_FOLLOWED}"
        )
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if kind == DistributedType.FSDP and plugin is not None and plugin.fsdp_version == 1:
        raise RunError(f"accelerate is set to the first version of FSDP: {_FOLLOWED}")
    if kind == DistributedType.FSDP and plugin is not None and plugin.activation_checkpointing:
        raise RunError(
            "accelerate is set to activation checkpointing, which rlcore does itself: set model.gradient_checkpointing in the "
            "recipe, and leave fsdp_activation_checkpointing out"
        )
    layout = getattr(accelerator, "parallelism_config", None)
    for name, meaning in _DIMENSIONS.items():
        if layout is not None and (getattr(layout, name, None) or 1) > 1:
            raise RunError(
                f"accelerate is set to {meaning} ({name}={getattr(layout, name)}), which the learner does not have: {_FOLLOWED}"
            )


def load_in_every_process(accelerator: Accelerator) -> None:
    """Have transformers read the weights in every process, whatever accelerate is set to.

    `accelerate launch --use_fsdp` sets it to read them in one. All others then have zeros until accelerate shards the model
    with its own means, which rlcore does not use.
    """
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is not None:
        plugin.cpu_ram_efficient_loading = False
        disable_fsdp_ram_efficient_loading()


def refuse_sleep_without_gpu(recipe: Recipe, accelerator: Accelerator) -> None:
    """Raise `RunError` where `vllm_local` is to give memory of a GPU back and there is none."""
    engine = recipe.engine
    if engine.use == "vllm_local" and engine.sleeps and accelerator.device.type != "cuda":
        raise RunError(
            "engine.sleep leaves the engine's GPU memory to the learner, and this run has no GPU: leave it out"
        )


def on_main(
    accelerator: Accelerator, action: Callable[[], None], *, all_say: bool = False
) -> None:
    """Run `action` on the main process while the others wait. Where it raises, all of them end.

    The others end without a word, or with `all_say` by a `RunError` of the same sentence: what a
    person reads of another machine may be the output of its own processes.
    """
    refusal: BaseException | None = None
    if accelerator.is_main_process:
        try:
            action()
        except Exception as error:
            refusal = error
    outcome = [_sentence(refusal)]
    broadcast_object_list(outcome)
    if refusal is not None:
        raise refusal
    if outcome[0] is not None:
        raise RunError(outcome[0]) if all_say else SystemExit(2)


def on_all(accelerator: Accelerator, action: Callable[[], T]) -> T:
    """Run `action` on every process. Where it raises on one, all raise: the others a `RunError` of the same sentence."""
    result: T | None = None
    refusal: BaseException | None = None
    try:
        result = action()
    except Exception as error:
        refusal = error
    name = f"process {accelerator.process_index}"
    outcomes = [_sentence(refusal, name)]
    if accelerator.num_processes > 1:
        outcomes = gather_object(outcomes)
    if refusal is not None:
        raise refusal
    for sentence in outcomes:
        if sentence is not None:
            raise RunError(sentence)
    return result


def _sentence(error: BaseException | None, name: str = "the main process") -> str | None:
    if error is None or isinstance(error, RlcoreError):
        return error and str(error)
    return f"{name} has failed with {type(error).__name__}: {first_line(error)}"


@contextmanager
def lost_process_named(timeout_s: float, folder: Path) -> Iterator[None]:
    """Inside, the failure of a collective operation is raised as a `RunError`."""
    try:
        yield
    except RuntimeError as error:
        # gloo raises plain RuntimeErrors that name its source files.
        if not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        raise RunError(
            "another process of this run has ended, or has not answered within run.timeout_s="
            f"{timeout_s:g} seconds: read the output of the other processes, then go on with: "
            f"{resume_command(folder)} ({first_line(error)})"
        ) from error
