"""From a recipe to the objects that hold the model: objective, policy, learner and engine.

Heavy packages are imported where they are used, so that checking a recipe stays light.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlcore.errors import EngineError, ModelError, RecipeError, RlcoreError
from rlcore.objective.presets import find_preset, objective
from rlcore.objective.term import Objective
from rlcore.plugin import build_later, in_words
from rlcore.recipe import schema

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedTokenizerBase

    from rlcore.learner.policy import Policy
    from rlcore.learner.update import Learner
    from rlcore.recipe.model_sections import ModelSection
    from rlcore.rollout.engine import Engine
    from rlcore.rollout.prompt import PromptEncoder
    from rlcore.stages.base import Stage


ENGINES = {
    "vllm_local": "rlcore.rollout.vllm_local:VllmEngine",
    "vllm_server": "rlcore.rollout.vllm_server:VllmServers",
    "hf": "rlcore.rollout.hf:HfEngine",
}
"""Name in a recipe -> a class; its parameters are the keys beside `use`."""

ENGINE_CONTEXT = (
    "model_folder",
    "dtype",
    "device",
    "adapter_rank",
    "max_length",
    "max_sequences",
)
"""Arguments that an engine receives from the run, where its signature names them."""


def build_objective(value: str | dict[str, Any], *, max_tokens: int) -> Objective:
    """A preset with its parameters; one that is normalised by a fixed length takes the stage's `max_tokens` by default."""
    params = {"use": value} if isinstance(value, str) else dict(value)
    name = params.pop("use", None)
    if "name" in params:
        raise RecipeError(f"objective {name!r} has no parameter 'name'")
    if name is None:
        raise RecipeError(
            f"objective {value!r} names no preset; "
            "write objective: grpo or objective: {use: grpo, clip_high: 0.28}"
        )
    if "max_tokens" in inspect.signature(find_preset(name)).parameters:
        params.setdefault("max_tokens", max_tokens)
    return objective(name, **params)


def build_policy(
    recipe: schema.Recipe,
    checkpoint: Path | None,
    accelerator: Accelerator,
    *,
    whole: bool = False,
) -> Policy:
    """The model of the recipe or of a checkpoint of its run; under an adapter the recipe's, with the checkpoint's adapter.

    Where the learner is sharded it is left in the host's memory, from which `rlcore.learner.sharding.shard` takes it.
    whole: it will not be sharded, and is put on the device, as a quantised model always is.
    """
    from rlcore.learner.policy import load_policy
    from rlcore.learner.sharding import device_to_load_on

    source = recipe.model.model_dump()
    on_device = whole or recipe.model.quantize is not None
    if checkpoint and recipe.model.peft is None:
        source |= {"path": str(checkpoint), "config": None, "tokenizer": None}
    elif source["path"]:
        source["path"] = starting_point(source["path"])
    return load_policy(
        **source,
        saved=checkpoint,
        seed=recipe.seed,
        device=accelerator.device if on_device else device_to_load_on(accelerator),
        max_length=recipe.engine.max_length,
    )


def starting_point(path: str | list[str]) -> str:
    """What `model.path` stands for: the first of a list that exists, and of a run folder its last checkpoint."""
    from rlcore.pretrained import first_existing

    name = path if isinstance(path, str) else first_existing(path)
    here = Path(name).expanduser()
    if here.exists():
        name = str(here)
    folders = here.glob("checkpoints/step_*")
    # A person's copy of one, such as step_000010.bak, is none.
    saved = sorted(f for f in folders if f.name.removeprefix("step_").isdecimal())
    return str(saved[-1]) if saved else name


def local_tokenizer(model: ModelSection) -> str | None:
    """What `load_tokenizer` reads as the model's tokenizer without a network; None if nothing of it is here."""
    named = model.tokenizer or model.path or []
    for name in [named] if isinstance(named, str) else named:
        if name == "bytes" or Path(name).expanduser().exists():
            return starting_point(name)
    return None


def require_starting_point(path: str) -> list[str]:
    """Raise `ModelError` for a path at which there is no model.

    A hub name is not looked up: the sentence that comes back says so.
    """
    from rlcore.pretrained import require_model

    require_model(starting_point(path))
    if Path(path).expanduser().exists():
        return []
    return [
        f"{path}: no folder here, so a name on the hub, which is looked up when the run needs it"
    ]


def require_policys_tokens(model: ModelSection, path: str | list[str]) -> None:
    """Raise `ModelError` where the model at `path` has other tokens than the policy. Nothing is said where one of the two tokenizers cannot be
    read without a network, or a model file is missing: the run itself then compares them.
    """
    from rlcore.tokenizer import add_tokens, different_tokens, load_tokenizer

    folder = starting_point(path)
    own = local_tokenizer(model)
    if own is None or not Path(folder).is_dir():
        return
    try:
        of_policy = load_tokenizer(own)
        add_tokens(of_policy, model.control_tokens)
        different = different_tokens(of_policy, load_tokenizer(folder))
    except ModelError:
        return
    if different:
        raise ModelError(
            f"the model {folder} has another tokenizer than the policy, whose tokens it must read ({different}): "
            "use a model with the policy's tokenizer"
        )


def build_encoder(recipe: schema.Recipe, tokenizer: PreTrainedTokenizerBase) -> PromptEncoder:
    """From tasks to prompts, as the recipe says."""
    from rlcore.rollout.prompt import PromptEncoder

    section = recipe.prompt
    return PromptEncoder(
        tokenizer,
        format=section.format,
        system=section.system,
        template_arguments=section.template_arguments,
        hide=section.hide,
    )


def encoder_without_model(recipe: schema.Recipe, tokenizer: str) -> PromptEncoder:
    """The encoder of a run of the recipe, from what `load_tokenizer` reads of the name. Raises `ModelError`."""
    from rlcore.tokenizer import add_tokens, load_tokenizer

    loaded = load_tokenizer(tokenizer)
    add_tokens(loaded, recipe.model.control_tokens)
    return build_encoder(recipe, loaded)


def build_learner(
    policy: Policy,
    stage: Stage,
    aim: Objective,
    *,
    accelerator: Accelerator,
    version: int,
    total_updates: int,
    reference: Policy | None = None,
) -> Learner:
    """total_updates: after which the schedule ends."""
    from rlcore.learner.update import Learner

    settings = stage.optim.settings()
    return Learner(
        policy,
        aim,
        accelerator=accelerator,
        total_updates=total_updates,
        version=version,
        reference=reference,
        **settings,
    )


def engine_maker(section: schema.EngineSection, **context: Any) -> Callable[[], Engine]:
    """A function that makes the engine. Raises `RecipeError` for a parameter that its class lacks.

    context: values of `ENGINE_CONTEXT`; the class receives those that its signature names.
    """
    return build_later(
        {"use": section.use, **section.parameters},
        ENGINES,
        what="engine",
        given=0,
        also=type(section).model_fields,
        max_length=section.max_length,
        max_sequences=section.max_sequences,
        **context,
    )


def check_differences(section: schema.EngineSection, model: ModelSection) -> None:
    """Raise `ModelError` for a model of `engine.differences` that is not here, or has other tokens than the policy."""
    for difference in section.differences:
        for path in (difference.get("tuned"), difference.get("base")):
            require_starting_point(str(path))
            require_policys_tokens(model, str(path))


def check_engine(section: schema.EngineSection) -> None:
    """Raise `RecipeError` for an engine that does not exist or parameters that it lacks.

    The parameters of a built-in engine are checked where the packages that it needs are installed.
    """
    if section.use in ENGINES and not (section.parameters and find_spec("torch")):
        return
    engine_maker(section, model_folder=None, dtype=None, device=None, adapter_rank=None)
    if section.use == "vllm_server":
        from rlcore.rollout.server_settings import check_settings

        check_settings(**section.parameters)


def build_engine(
    section: schema.EngineSection,
    model_folder: Path,
    *,
    dtype: str,
    device: str,
    adapter_rank: int | None = None,
) -> Engine:
    """The engine of the recipe; it serves the model in `model_folder` until weights are published."""
    make = engine_maker(
        section,
        model_folder=model_folder,
        dtype=dtype,
        device=device,
        adapter_rank=adapter_rank,
    )
    try:
        return make()
    except RlcoreError:
        raise
    except Exception as error:
        raise EngineError(
            f"engine {section.use!r} does not start: {in_words(error)}"
        ) from error
