"""Suites of other packages on a model folder, or on the last checkpoint of a run."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlcore.errors import RecipeError
from rlcore.recipe.build_learner import build_engine, starting_point
from rlcore.recipe.load import RUN_RECIPE, is_run_folder, override
from rlcore.recipe.model_sections import EngineSection
from rlcore.recipe.yaml_text import read_yaml

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rlcore.analysis.suite_lm_eval import Suite

PREFIX = "lm-eval:"


def tasks_of(suite: str) -> list[str]:
    """The tasks that `lm-eval:a,b` names. Raises `RecipeError` for another text, or without the package."""
    names = [name.strip() for name in suite.removeprefix(PREFIX).split(",") if name.strip()]
    if not suite.startswith(PREFIX) or not names:
        raise RecipeError(f"--suite is {suite!r}: write {PREFIX}TASK, or {PREFIX}TASK,TASK")
    if find_spec("lm_eval") is None:
        raise RecipeError(
            "--suite lm-eval needs the package lm-eval: pip install 'rlcore[lm-eval]'"
        )
    return names


def evaluate_suite(
    name: str, suite: Suite, overrides: Sequence[str] = ()
) -> dict[str, dict[str, Any]]:
    """Task -> metrics of a model folder, a name of the hub, or a run folder's last checkpoint.

    overrides: `engine.KEY=value` and `model.dtype=value`; a run's own recipe decides what they leave open.
    """
    from rlcore.analysis.suite_lm_eval import EngineModel, run_suite
    from rlcore.pretrained import load_config, require_model
    from rlcore.tokenizer import load_tokenizer

    settings = _settings(name, overrides)
    path = starting_point(name)
    require_model(path)
    longest = getattr(load_config(path).get_text_config(), "max_position_embeddings", None)
    section = EngineSection.model_validate(settings["engine"])
    if section.differences:
        raise RecipeError(
            "--suite scores texts by the model alone: leave out engine.differences (engine.differences=[])"
        )
    section = section.model_copy(
        update={"max_length": min(section.max_length, longest or section.max_length)}
    )
    engine = build_engine(
        section, Path(path), dtype=settings["model"].get("dtype", "float32"), device="auto"
    )
    try:
        model = EngineModel(
            engine,
            load_tokenizer(path),
            max_length=section.max_length,
            deadline_s=section.deadline_s,
        )
        return run_suite(model, suite)
    finally:
        engine.close()


def _settings(name: str, overrides: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The sections `engine` and `model` of the run's recipe, or empty ones, with overrides."""
    settings: dict[str, dict[str, Any]] = {"engine": {"use": "vllm_local"}, "model": {}}
    if is_run_folder(Path(name)):
        file = Path(name) / RUN_RECIPE
        recipe = read_yaml(file.read_text(encoding="utf-8"), str(file))
        settings = {key: dict(recipe.get(key) or {}) for key in settings}
    for item in overrides:
        if not item.startswith(("engine.", "engine=", "model.dtype=")):
            raise RecipeError(
                f"{item!r} has no effect with --suite: it takes engine.KEY=value and model.dtype=value"
            )
    override(settings, overrides)
    return settings
