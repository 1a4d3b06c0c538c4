"""What a sweep varies: values of a key of a recipe, as `--over` names them.

stages.rl.optim.lr=[1e-4, 3e-4]                        one of these
stages.rl.optim.lr={log: [1e-5, 1e-3]}                 a number between, even on a logarithmic scale
stages.rl.sampling.temperature={uniform: [0.6, 1.2]}   a number between
stages.rl.group_size={int: [4, 16]}                    a whole number, both ends among them
stages.sft.curriculum.weights={simplex: [web, math]}   shares by name that sum to 1
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import yaml

from rlcore.errors import RecipeError
from rlcore.recipe.yaml_text import parse_yaml

KINDS = ("log", "uniform", "int", "simplex")


class Ask(Protocol):
    """The part of `optuna.Trial` that is used."""

    def suggest_float(
        self, name: str, low: float, high: float, *, log: bool = False
    ) -> float: ...

    def suggest_int(self, name: str, low: int, high: int) -> int: ...

    def suggest_categorical(self, name: str, choices: Sequence[int]) -> int: ...


@dataclass(frozen=True)
class Dimension:
    """The values of one key."""

    key: str
    kind: str
    """choice, or one of `KINDS`."""
    values: tuple[Any, ...]
    """The choices, the two bounds, or the names of a simplex."""

    @classmethod
    def parse(cls, text: str) -> Dimension:
        """Raises `RecipeError`."""
        key, equals, written = text.partition("=")
        try:
            value = parse_yaml(written)
        except yaml.YAMLError as error:
            raise RecipeError(f"--over {text!r} cannot be read: {error}") from None
        if not equals or not key.strip():
            raise RecipeError(f"--over {text!r}: write key=[value, value]")
        if isinstance(value, list) and value:
            twice = [one for i, one in enumerate(value) if one in value[:i]]
            if twice:
                raise RecipeError(f"--over {text!r}: {twice[0]!r} stands there twice")
            return cls(key, "choice", tuple(value))
        if isinstance(value, Mapping) and len(value) == 1 and next(iter(value)) in KINDS:
            kind, of_kind = next(iter(value.items()))
            _check(text, kind, of_kind)
            return cls(key, kind, tuple(of_kind))
        raise RecipeError(
            f"--over {text!r}: after = stands a list of values, or one of {{log: [low, high]}}, {{uniform: [low, high]}}, "
            "{int: [low, high]}, {simplex: [name, name]}"
        )

    def suggest(self, trial: Ask) -> Any:
        """A value of the key, as the search proposes it."""
        if self.kind == "choice":
            # by number: optuna's choices are plain values, a recipe's may be mappings
            place = trial.suggest_categorical(self.key, range(len(self.values)))
            return self.values[place]
        if self.kind == "int":
            return trial.suggest_int(self.key, *self.values)
        if self.kind == "simplex":
            return self._shares(trial)
        number = trial.suggest_float(self.key, *self.values, log=self.kind == "log")
        return float(f"{number:.6g}")

    def _shares(self, trial: Ask) -> dict[str, float]:
        """Even over the simplex: each name but the last takes a part of what is left, Beta(1, names after it)."""
        shares = []
        left = 1.0
        for after, name in zip(range(len(self.values) - 1, 0, -1), self.values, strict=False):
            number = trial.suggest_float(f"{self.key}.{name}", 0, 1)
            shares.append(round(left * (1 - number ** (1 / after)), 6))
            left = max(0.0, left - shares[-1])
        shares.append(round(left, 6))
        return dict(zip(self.values, shares, strict=True))


def _check(text: str, kind: str, value: Any) -> None:
    if kind == "simplex":
        names = isinstance(value, list) and len(set(map(str, value))) == len(value) > 1
        if not names or not all(isinstance(name, str) for name in value):
            raise RecipeError(f"--over {text!r}: a simplex has two names or more")
        return
    numbers = isinstance(value, list) and len(value) == 2
    numbers = numbers and all(
        isinstance(bound, int | float) and not isinstance(bound, bool) for bound in value
    )
    if not numbers or not value[0] < value[1]:
        raise RecipeError(f"--over {text!r}: {kind} needs two numbers, the smaller one first")
    if kind == "log" and value[0] <= 0:
        raise RecipeError(f"--over {text!r}: on a logarithmic scale both numbers are above 0")
    if kind == "int" and not all(isinstance(bound, int) for bound in value):
        raise RecipeError(f"--over {text!r}: int needs two whole numbers")


def override(key: str, value: Any) -> str:
    """The override of a recipe that sets a key to a value."""
    return f"{key}={json.dumps(value, ensure_ascii=False)}"
