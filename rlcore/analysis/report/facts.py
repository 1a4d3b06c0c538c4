"""What the recipe of a run was, in a few lines."""

from __future__ import annotations

from typing import Any

from rlcore.recipe.yaml_text import read_yaml
from rlcore.run.folder import RunFolder, read_rows
from rlcore.terminal import visible

STAGE_KEYS = (
    "method",
    "objective",
    "tasks",
    "groups_per_step",
    "group_size",
    "batch_size",
    "num_samples",
    "curriculum",
    "filter",
    "max_staleness",
    "minibatches",
    "update_epochs",
)
"""Keys of a stage that say most about it."""


def recipe_facts(folder: RunFolder) -> list[list[str]]:
    """[what, value] pairs: model, engine, a line a stage, and when processes started."""
    recipe = read_yaml(folder.recipe.read_text(encoding="utf-8"), str(folder.recipe))
    model = recipe.get("model", {})
    config = model.get("config") or {}
    source = model.get("path") or f"from scratch ({config.get('model_type', 'config')})"
    facts = [
        ["model", f"{_short(source)}, {model.get('dtype', 'float32')}"],
        ["engine", str(recipe.get("engine", {}).get("use", ""))],
        ["seed", str(recipe.get("seed", 0))],
    ]
    for number, stage in enumerate(recipe.get("stages", [])):
        name = stage.get("name") or stage.get("kind", "")
        facts.append([f"stage {number + 1}: {name}", _stage(stage)])
    for number, start in enumerate(read_rows(folder.starts)):
        what = "resumed" if number else "started"
        where = f", after step {start['after_step']}" if number else ""
        facts.append([what, f"{start['time']}{where}"])
    return [[visible(name), visible(value)] for name, value in facts]


def _stage(stage: dict[str, Any]) -> str:
    parts = [str(stage.get("kind", ""))]
    if "steps" in stage:
        parts.append(f"{stage['steps']} steps")
    for key in STAGE_KEYS:
        value = stage.get(key)
        if value is not None:
            parts.append(f"{key} {_short(value)}")
    rewards = [
        _short(reward.get("name") or reward["use"]) for reward in stage.get("rewards") or ()
    ]
    if rewards:
        parts.append(f"rewards {', '.join(rewards)}")
    lr = (stage.get("optim") or {}).get("lr")
    if lr is not None:
        parts.append(f"lr {lr:g}")
    return ", ".join(parts)


def _short(value: Any) -> str:
    """A value of the recipe in a few words: a part by name with its parameters."""
    if isinstance(value, dict) and "use" in value:
        rest = [f"{key}={item}" for key, item in value.items() if key != "use"]
        value = f"{value['use']} ({', '.join(rest)})" if rest else value["use"]
    elif isinstance(value, list):
        value = ", ".join(map(str, value))
    text = str(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
