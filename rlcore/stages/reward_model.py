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
from arXiv 2312.09244. With `heads` there is a score for each of several rewards (EduAlign), under the
pairwise loss; with `gap` a completion is scored beside a reference (PIT). What is compared with
what: `rlcore.stages.reward_rows`.

A fraction of the tasks is held out; on their completions accuracy and calibration are measured.
The model goes to `reward_models/<stage>/` of the run folder and loads with transformers. In
later stages the reward `{use: reward_model, model: <stage>}` scores with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from rlcore.recipe.build_learner import require_policys_tokens
from rlcore.recipe.optim_sections import UpdateSection
from rlcore.run.seeds import derive
from rlcore.stages.pair_keys import PairKeys
from rlcore.stages.reward_rows import reward_rows
from rlcore.stages.source_check import check_stored_rewards

if TYPE_CHECKING:
    from rlcore.recipe.check import Checking
    from rlcore.run.session import Run


class RewardModelKeys(PairKeys):
    """Keys of a stage that trains a reward model, of one kind or another."""

    headline = ("loss", "accuracy", "heldout/accuracy")
    trains = False
    trains_reward_model = True

    base: str = Field(
        "policy",
        description="the model whose body is copied: policy, or a folder or hub name with the "
        "policy's tokens",
    )
    heldout: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="fraction of the tasks on which the model is measured, not trained"
    )
    optim: UpdateSection = Field(default_factory=lambda: UpdateSection(lr=1e-5))

    def check(self, context: Checking) -> list[str]:
        if self.base != "policy":
            with context.at("base"):
                require_policys_tokens(context.recipe.model, self.base)
        return super().check(context)


class RewardModelStage(RewardModelKeys):
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
    heads: list[str] = Field(
        [],
        description="a score for each of these stored rewards (a name, or reward/part), learned from the completions of "
        "highest and lowest value of it; none: one score",
    )
    gap: str | None = Field(
        None,
        description="a prompt with {prompt} and {reference}: the score is of a completion beside a reference (PIT), learned "
        "from five orderings of each pair",
    )

    @model_validator(mode="after")
    def _keys_have_an_effect(self) -> RewardModelStage:
        if self.loss == "listwise":
            for key in ("pairs", "per_task", "margin"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(
                        f"{key} has no effect with loss listwise, which compares all right "
                        f"with all wrong completions"
                    )
        if self.heads:
            self._require_plain("heads", ("loss", "pairs", "per_task", "margin", "gap"))
        if self.gap is not None:
            self._require_plain("gap", ("loss", "margin"))
            missing = [name for name in ("{prompt}", "{reference}") if name not in self.gap]
            if missing:
                raise ValueError(
                    f"gap is a prompt with {{prompt}} and {{reference}}, and lacks {missing[0]}"
                )
        return self

    def _require_plain(self, key: str, others: tuple[str, ...]) -> None:
        for other in others:
            if getattr(self, other) != type(self).model_fields[other].default:
                raise ValueError(f"{other} has no effect with {key}: leave out one of them")

    def check(self, context: Checking) -> list[str]:
        with context.at("heads"):
            check_stored_rewards(context, self.data, self.heads)
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
    rows = reward_rows(run, stage, seed=seed)
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
