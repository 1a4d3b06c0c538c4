"""The reward `reward_model`: scores of a sequence classifier, in batches, in the process of the
learner.

`rewards.reward_model:RewardModel`, named by its place, is the same model in the reward workers:
there it overlaps with generation and a filter may read it, at the price of one copy for each
worker.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rewards.reward_model import RewardModel
from rlcore.errors import RewardError
from rlcore.types import Group, Rollout, Verdict

if TYPE_CHECKING:
    from rlcore.learner.policy import Policy

TRAINED = "reward_model.json"
"""File beside a model that a reward_model stage trained: what it reads, and how it did on what
was held out.
"""


class Score(NamedTuple):
    value: float | None
    """None where the rollout is longer than the model reads, or its category has no experts."""
    parts: Mapping[str, float] = {}
    """Of a model with several heads, the score of each."""


class ModelReward:
    """The score that a reward model gives to prompt and completion.

    A model that a reward_model stage trained reads the rollout's own tokens; any other reads
    prompt and completion as text, in its own chat template where it has one. A model with several heads gives their mean, and
    each of them as a part `name/head`. A mixture of experts has a score for the categories that it was trained for.
    model: name of a reward_model stage before this one, or a folder or hub name. dtype: what it
    computes in; auto is the checkpoint's.
    format: of a model of elsewhere: chat, plain, or auto. label: of a classifier with several
    labels, the one whose probability is the score. sigmoid: squash the score to 0 .. 1.
    batch_size: rollouts in one forward. max_length: longer rollouts have no score.
    """

    def __init__(
        self,
        policy: Policy | None,
        *,
        model: str,
        dtype: str = "auto",
        format: str = "auto",
        batch_size: int = 16,
        max_length: int = 4096,
        label: str | int | None = None,
        sigmoid: bool = False,
        folder_of: Callable[[str], str] = str,
    ) -> None:
        """policy: None where a recipe is only checked. folder_of: from a stage's name to its
        model.
        """
        if policy is None:
            return
        folder = folder_of(model)
        self._reads_tokens = reads_tokens(folder)
        self._batch_size, self._max_length, self._sigmoid = batch_size, max_length, sigmoid
        facts = trained(folder)
        self._mixture = None
        if facts.get("experts"):
            from rlcore.learner.policy_experts import load_mixture

            self._mixture = load_mixture(
                Path(folder),
                facts["experts"],
                facts["lora"],
                device=str(policy.model.device),
                dtype=dtype,
            )
            return
        try:
            self._model = RewardModel(
                path=folder,
                device=str(policy.model.device),
                dtype=dtype,
                format=format,
                batch_size=batch_size,
                max_length=max_length,
                label=label,
                sigmoid=sigmoid,
                heads=bool(facts.get("heads")),
            )
        except ValueError as error:
            raise RewardError(f"reward_model {model}: {error}") from error

    def __call__(self, groups: Sequence[Group]) -> list[list[Score]]:
        """Scores of each group's rollouts, in their order."""
        for group in groups:
            for rollout in group.rollouts:
                rollout.require_single_turn("the reward reward_model")
        rollouts = [(group, rollout) for group in groups for rollout in group.rollouts]
        values: list[float | None | Verdict]
        if self._mixture is not None:
            values = self._of_mixture(rollouts)
        elif self._reads_tokens:
            values = self._model.score_tokens([rollout.token_ids for _, rollout in rollouts])
        else:
            values = self._model(
                [group.task.prompt for group, _ in rollouts],
                [rollout.text for _, rollout in rollouts],
            )
        scores = iter(values)
        return [[_score(next(scores)) for _ in group.rollouts] for group in groups]

    def _of_mixture(self, rollouts: Sequence[tuple[Group, Rollout]]) -> list[float | None]:
        """Scores by the experts of each task's category; None where there are none, or the rollout is too long."""
        rows = [(group.task.category, rollout.token_ids) for group, rollout in rollouts]
        fitting = [i for i, (_, ids) in enumerate(rows) if len(ids) <= self._max_length]
        values: list[float | None] = [None] * len(rows)
        scores = self._mixture.scores([rows[i] for i in fitting], batch_size=self._batch_size)
        for i, score in zip(fitting, scores, strict=True):
            if score is not None and self._sigmoid:
                score = (1 + math.tanh(score / 2)) / 2
            values[i] = score
        return values


def trained(folder: str) -> dict[str, Any]:
    """What a reward_model stage wrote of the model; empty for a model of elsewhere."""
    path = Path(folder) / TRAINED
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def reads_tokens(folder: str) -> bool:
    """Whether the model was trained on the tokens of this engine's rollouts."""
    return trained(folder).get("reads") == "tokens"


def _score(value: float | None | Verdict) -> Score:
    if not isinstance(value, Verdict):
        return Score(value)
    return Score(value.value, dict(value.parts))
