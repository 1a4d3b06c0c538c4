"""The keys of a recipe, their types, defaults and meaning. Checking a recipe needs no torch.

Every key is declared once with its description; an unknown key is an error (`recipe.load` names
the nearest one). The keys of a stage stand in the stage's own file. The same classes are the
Python API: `Recipe.model_validate({...})`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SerializeAsAny,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from rlcore.errors import RecipeError
from rlcore.plugin import find
from rlcore.recipe.continued import with_continued_optimiser
from rlcore.recipe.env_section import EnvSection
from rlcore.recipe.model_sections import EngineSection, ModelSection, PromptSection
from rlcore.recipe.optim_sections import OptimSection
from rlcore.recipe.section import Amount, Count, Name, Seconds, Section
from rlcore.recipe.shared_sections import RewardSection, SamplingSection, ScoringSection
from rlcore.recipe.task_sections import TaskSection

STAGES = {
    "sft": "rlcore.stages.sft:SftStage",
    "rl": "rlcore.stages.rl:RlStage",
    "eval": "rlcore.stages.eval:EvalStage",
    "sample": "rlcore.stages.sample:SampleStage",
    "offline": "rlcore.stages.offline:OfflineStage",
    "prefer": "rlcore.stages.prefer:PreferStage",
    "merge": "rlcore.stages.merge:MergeStage",
    "reward_model": "rlcore.stages.reward_model:RewardModelStage",
    "reward_experts": "rlcore.stages.reward_experts:RewardExpertsStage",
}
"""Name in a recipe -> a subclass of `rlcore.stages.base.Stage`."""

SHARED = ("rewards", "scoring", "sampling", "optim", "env")
"""Sections that may stand once at the top of a recipe, for the stages that have them."""


def stage_class(kind: str) -> type[Section]:
    """The class of a stage: built in, or of a file or package. Raises `RecipeError`."""
    stage = find(kind, STAGES, what="stage")
    if not (isinstance(stage, type) and issubclass(stage, Section) and hasattr(stage, "check")):
        raise RecipeError(f"stage {kind!r} is not a subclass of rlcore.stages.base.Stage")
    return stage


def _validated_stage(value: Any, info: ValidationInfo) -> Any:
    """The stage a mapping describes, with the shared sections it leaves out or changes in part."""
    if not isinstance(value, Mapping):
        return value
    kind = value.get("kind")
    if not isinstance(kind, str):
        raise ValueError(
            f"the key 'kind' is required: one of {', '.join(STAGES)}, or file.py:Class"
        )
    try:
        stage = stage_class(kind)
    except RecipeError as error:
        raise ValueError(str(error)) from None
    keys = dict(value)
    for name in SHARED:
        shared = info.data.get(name)
        field = stage.model_fields.get(name)
        if shared and field:
            keys[name] = _laid_over(_stated(shared, field), keys.get(name))
    return stage.model_validate(keys)


def _stated(shared: Any, field: FieldInfo) -> Any:
    """The keys that a shared section sets, without its defaults and what the stage's field lacks."""
    if isinstance(shared, list):
        return [item.model_dump(mode="json", exclude_unset=True) for item in shared]
    stated = shared.model_dump(mode="json", exclude_unset=True)
    # The parameters of an environment are no fields.
    known = getattr(field.annotation, "model_fields", None)
    return {key: item for key, item in stated.items() if known is None or key in known}


def _laid_over(base: Any, over: Any) -> Any:
    """`over`, with what a mapping of it leaves out taken from `base`."""
    if over is None:
        return base
    if isinstance(base, dict) and isinstance(over, Mapping):
        return {**base, **{key: _laid_over(base.get(key), item) for key, item in over.items()}}
    return over


AnyStage = Annotated[SerializeAsAny[Section], BeforeValidator(_validated_stage)]


class RunSection(Section):
    folder: str = Field("runs", description="where run folders are made")
    checkpoint_every: Count = Field(
        50, description="steps between checkpoints; one is also made after each stage"
    )
    checkpoint_async: bool = Field(
        False,
        description="copy a checkpoint in memory and write it while the steps go on; those at the "
        "end of a stage are waited for",
    )
    keep_checkpoints: Count = Field(2, description="older ones are removed")
    trackers: list[Literal["tensorboard", "wandb", "trackio"]] = Field(
        default_factory=list, description="also log there"
    )
    token_values: bool = Field(
        True,
        description="rl stages: keep the learner's log-probability and entropy of each trained token with the rollouts",
    )
    timeout_s: Seconds = Field(
        1800.0, description="a process that waits longer than this for another ends the run"
    )
    save_on_term_s: Seconds | None = Field(
        None,
        description="on SIGTERM or SIGHUP go on to the end of the step, save and end; "
        "at once if that takes longer than these seconds; null: at once",
    )
    peak_tflops: Amount | None = Field(
        None, description="peak TFLOP/s of a device, for the metric mfu; null: known GPUs only"
    )


class Recipe(Section):
    name: Name = Field(description="names the run folder")
    seed: int = Field(0, description="of everything random")
    model: ModelSection
    engine: EngineSection = Field(default_factory=EngineSection)
    prompt: PromptSection = Field(default_factory=PromptSection)
    tasks: dict[Name, TaskSection] = Field(min_length=1, description="task sets by name")
    # Excluded when a recipe is written: each stage then has the shared sections that it took.
    rewards: list[RewardSection] = Field(
        default_factory=list,
        exclude=True,
        description="rewards of every stage that names none of its own",
    )
    scoring: ScoringSection | None = Field(
        None, exclude=True, description="shared by the stages that have rewards"
    )
    sampling: SamplingSection | None = Field(
        None, exclude=True, description="shared by the stages that generate"
    )
    optim: OptimSection | None = Field(
        None, exclude=True, description="shared by the stages that train"
    )
    env: EnvSection | None = Field(
        None, exclude=True, description="shared by the stages that generate"
    )
    stages: list[AnyStage] = Field(
        min_length=1, description="run in order; each starts from what the one before left"
    )
    run: RunSection = Field(default_factory=RunSection)

    @field_validator("env", mode="before")
    @classmethod
    def _is_whole(cls, value: Any) -> Any:
        if (
            isinstance(value, Mapping)
            and value
            and not value.get("use")
            and not value.get("tools")
        ):
            raise ValueError(
                "this section names no environment; the one of a stage is changed there, as in "
                f"stages.NAME.env.{next(iter(value))}=..."
            )
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        lora = (self.model.peft or {}).get("type") == "lora"
        takes_adapters = self.engine.use in ("vllm_local", "vllm_server")
        if self.engine.sync == "adapter" and not (lora and takes_adapters):
            raise ValueError(
                "engine.sync is adapter, which needs engine.use vllm_local or vllm_server, "
                "and model.peft of type lora"
            )
        for name in SHARED:
            self._refuse_unused(name)
        self._refuse_same_files()
        for i, stage in enumerate(self.stages):
            try:
                self.stages[i] = stage = with_continued_optimiser(stage, self.stages[:i])
            except ValueError as error:
                raise ValueError(f"stages.{i}.{error}") from None
            for problem in stage.problems(self, self.stages[:i]):
                raise ValueError(f"stages.{i}.{problem}")
        return self

    def _refuse_same_files(self) -> None:
        """Raise `ValueError` for two stages that would write the same files."""
        owners: dict[str, int] = {}
        for i, stage in enumerate(self.stages):
            path = f"{stage.files}/{stage.label}"
            if stage.files and path in owners:
                raise ValueError(
                    f"stages {owners[path]} and {i} both write {path}: give one another name"
                )
            owners[path] = i

    def _refuse_unused(self, name: str) -> None:
        """Raise `ValueError` for a shared section, or a key of it, that reaches no stage."""
        shared = getattr(self, name)
        if not shared:
            return
        sections = [getattr(stage, name) for stage in self.stages if hasattr(stage, name)]
        if not sections:
            raise ValueError(f"{name} has no effect here: no stage has such a section")
        if isinstance(shared, list):
            if shared not in sections:
                raise ValueError(f"{name} has no effect here: every stage names its own")
            return
        for key in sorted(shared.model_fields_set):
            values = [getattr(section, key, None) for section in sections]
            if getattr(shared, key) not in values:
                raise ValueError(f"{name}.{key} has no effect here: every stage sets its own")
