"""What a sweep tries next. optuna searches; a grid needs no search."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rlcore.analysis.sweep.space import Dimension
from rlcore.errors import RecipeError

SEARCHES = ("grid", "random", "tpe", "gp")
Tell = Callable[[float | None, bool], None]
"""Takes the value of the metric of what was proposed, None where the run failed, and whether it was stopped early."""
Proposal = tuple[dict[str, Any], Tell]


def proposals(
    space: Sequence[Dimension], search: str, *, maximise: bool, seed: int
) -> Iterator[Proposal]:
    """Values by key, one proposal after the other, without end but for a grid.

    The same values told give the same proposals: a sweep that goes on is asked the same again.
    Raises `RecipeError`.
    """
    if search == "grid":
        return _grid(space)
    return _searched(space, search, maximise=maximise, seed=seed)


def _grid(space: Sequence[Dimension]) -> Iterator[Proposal]:
    for dimension in space:
        if dimension.kind != "choice":
            raise RecipeError(
                f"a grid needs a list of values for {dimension.key}: write one, or use --search tpe"
            )
    keys = [dimension.key for dimension in space]
    combinations = itertools.product(*(dimension.values for dimension in space))
    return (
        (dict(zip(keys, values, strict=True)), lambda value, stopped: None)
        for values in combinations
    )


def _searched(
    space: Sequence[Dimension], search: str, *, maximise: bool, seed: int
) -> Iterator[Proposal]:
    try:
        import optuna
    except ImportError:
        raise RecipeError(
            f"--search {search} needs the package optuna, which is not installed: pip install 'rlcore[sweep]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    samplers = {
        "random": optuna.samplers.RandomSampler,
        "tpe": optuna.samplers.TPESampler,
        "gp": optuna.samplers.GPSampler,
    }
    study = optuna.create_study(
        direction="maximize" if maximise else "minimize",
        sampler=samplers[search](seed=seed),
    )
    while True:
        trial = study.ask()
        proposed = {dimension.key: dimension.suggest(trial) for dimension in space}

        def tell(value: float | None, stopped: bool, trial: Any = trial) -> None:
            states = optuna.trial.TrialState
            without = states.PRUNED if stopped else states.FAIL
            study.tell(trial, value, state=without if value is None else None)

        yield proposed, tell
