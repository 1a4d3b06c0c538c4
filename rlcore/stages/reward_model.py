"""Stage `reward_model`: train a reward model on pairs or groups of completions; the policy
stays as it is.

The model is a sequence classifier of transformers with one output, made of the policy as the
stage before left it (or of `base`): its body is copied and a linear head put on it. It reads
the exact tokens of prompt and completion. With scores r:

    pairwise   -log sigmoid(r_chosen - r_rejected - margin)
    listwise   -1 / (k (n - k)) sum over right i and wrong j of log sigmoid(r_i - r_j)
    center     + center x (r_chosen + r_rejected)^2, which keeps scores around 0

The first is Bradley-Terry's, with the margin of Llama 2 (arXiv 2307.09288); the second is that of
Qwen2.5-Math (arXiv 2409.12122) for a task with k right and n - k wrong completions; the last is
from arXiv 2312.09244.

A fraction of the tasks is held out; on their completions accuracy and calibration are measured.
The model goes to `reward_models/<stage>/` of the run folder and loads with transformers. In
later stages the reward `{use: reward_model, model: <stage>}` scores with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from rlcore.credit.group import scored_rollouts
from rlcore.errors import RunError
from rlcore.recipe.optim_sections import UpdateSection
from rlcore.run.seeds import derive
from rlcore.run.stored import read_stored
from rlcore.stages.pair_keys import GIVEN, PairKeys, pair_rows

if TYPE_CHECKING:
    from rlcore.recipe.check import Checking
    from rlcore.run.session import Run


class RewardModelStage(PairKeys):
    headline = ("loss", "accuracy", "heldout/accuracy")
    trains = False
    trains_reward_model = True

    base: str = Field(
        "policy",
        description="the model whose body is copied: policy, or a folder or hub name with the "
        "policy's tokens",
    )
    loss: Literal["pairwise", "listwise"] = Field(
        "pairwise",
        description="of pairs, or of the right against the wrong completions of each task",
    )
    margin: bool = Field(
        False, description="subtract each pair's margin from the difference of its scores"
    )
    center: Annotated[float, Field(ge=0, le=1e3)] = Field(
        0.0,
        description="weight of the squared sum of a pair's scores (TRL: "
        "center_rewards_coefficient); 0.01 is usual",
    )
    heldout: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="fraction of the tasks on which the model is measured, not trained"
    )
    optim: UpdateSection = Field(default_factory=lambda: UpdateSection(lr=1e-5))

    @model_validator(mode="after")
    def _keys_have_an_effect(self) -> RewardModelStage:
        if self.loss == "listwise":
            for key in ("pairs", "per_task", "margin"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(
                        f"{key} has no effect with loss listwise, which compares all right "
                        f"with all wrong completions"
                    )
        return self

    def check(self, context: Checking) -> list[str]:
        total = self.steps * self.batch_size
        what = "pairs" if self.loss == "pairwise" else "tasks"
        return [
            *super().check(context),
            f"{self.label}: {self.steps} steps x {self.batch_size} {what} = {total:,}",
        ]

    def run(self, run: Run) -> None:
        run_reward_model(run, self)


def run_reward_model(run: Run, stage: RewardModelStage) -> None:
    from rlcore.stages.reward_model_trainer import train_reward_model

    seed = derive(run.recipe.seed, "reward_model", run.cursor.stage)
    rows = list(
        _listwise_rows(run, stage)
        if stage.loss == "listwise"
        else _pairwise_rows(run, stage, seed)
    )
    if not rows:
        raise RunError(
            f"stage {stage.label}: no task of {stage.data} has both right and wrong completions"
        )
    folder = run.folder.reward_models / stage.label
    with run.tracker.stage(stage, done=0):
        result = train_reward_model(run, stage, rows, folder=folder, seed=seed)
    if result:
        run.tracker.say(
            f"{stage.label}: held-out accuracy {result['heldout/accuracy']:.1%} of "
            f"{result['heldout/comparisons']:,} comparisons "
            f"(Brier score {result['heldout/brier']:.3f}), saved in {folder}"
        )
    run.end_stage()


def _pairwise_rows(run: Run, stage: RewardModelStage, seed: int) -> Iterator[dict[str, Any]]:
    """A row a pair: `task`, `chosen` and `rejected` with one sequence of tokens each, and
    `margin`.
    """
    for row in pair_rows(run, stage, seed=seed):
        if stage.margin and "margin" not in row:
            raise RunError(
                f"stage {stage.label}: margin is true, but a pair of {stage.data} has none: "
                + (
                    "give each row margin, or score_chosen and score_rejected"
                    if stage.pairs == GIVEN
                    else "use pairs: best_worst, or set margin: false"
                )
            )
        yield {
            "task": row.get("task") or str(row["prompt_ids"]),
            "chosen": [[*row["prompt_ids"], *row["chosen_ids"]]],
            "rejected": [[*row["prompt_ids"], *row["rejected_ids"]]],
            "margin": float(row["margin"]) if stage.margin else 0.0,
        }


def _listwise_rows(run: Run, stage: RewardModelStage) -> Iterator[dict[str, Any]]:
    """A row a task with right and wrong completions; others have nothing to compare and are
    left out.
    """
    stored = read_stored(run.stored(stage.data))
    kept = 0
    for one in stored:
        sides: dict[bool, dict[tuple[int, ...], None]] = {True: {}, False: {}}
        for rollout, verdict in scored_rollouts(one.group):
            rollout.require_single_turn("a reward model's listwise loss")
            if len(rollout.token_ids) <= run.policy.max_length:
                sides[verdict.passed()][tuple(rollout.token_ids)] = None
        if sides[True] and sides[False]:
            kept += 1
            yield _row(one.group.task.id, sides)
    run.tracker.say(
        f"{stage.label}: {kept:,} of {len(stored):,} tasks have right and wrong completions"
    )


def _row(task: str, sides: Mapping[bool, Mapping[tuple[int, ...], None]]) -> dict[str, Any]:
    chosen, rejected = ([list(ids) for ids in sides[side]] for side in (True, False))
    return {"task": task, "chosen": chosen, "rejected": rejected, "margin": 0.0}
