"""The model card of a checkpoint: what the recipe trained, on what, and how the evaluations went.

It has the hub's format: metadata (base model, data sets, results as a model index), then text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from rlcore.analysis.trained import HUB_NAME, Trained, hub_name, interval_of
from rlcore.run.evaluation_rows import proportion
from rlcore.run.folder import read_rows
from rlcore.terminal import visible

Weights = Literal["policy", "ema", "adapter"]

STAGE_KEYS = (
    "method",
    "objective",
    "tasks",
    "data",
    "rewards",
    "groups_per_step",
    "group_size",
    "batch_size",
    "curriculum",
    "filter",
    "budget",
    "minibatches",
    "update_epochs",
    "max_staleness",
    "credit.baseline",
    "credit.steps",
    "sampling.max_tokens",
    "sampling.temperature",
    "optim.use",
    "optim.lr",
    "optim.schedule",
    "optim.warmup_steps",
    "optim.betas",
    "optim.weight_decay",
    "optim.clip_norm",
    "optim.ema",
)
"""Keys of a training stage that the card shows."""


def model_card(trained: Trained, weights: Weights) -> ModelCard:
    """The card of a checkpoint's weights."""
    data = _metadata(trained, weights)
    text = "\n\n".join(
        [
            f"# {trained.recipe['name']}",
            _summary(trained, weights),
            _usage(trained, weights),
            _training(trained),
            _data(trained),
            _evaluation(trained, weights),
            _origin(trained),
        ]
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}\n")


def _metadata(trained: Trained, weights: Weights) -> ModelCardData:
    kinds = [stage["kind"] for stage, _ in trained.stages()]
    tasks = trained.recipe.get("tasks", {})
    hub_sets = {hub_name(part["path"]) for part in tasks.values() if part.get("path")}
    results = [
        _result(trained, row)
        for row, is_of_these in trained.evaluations()
        if is_of_these and _measures(trained, row, weights)
    ]
    name = trained.base
    is_on_hub = bool(HUB_NAME.fullmatch(name))
    relation = "adapter" if weights == "adapter" else "finetune"
    return ModelCardData(
        model_name=trained.recipe["name"],
        base_model=name if is_on_hub else None,
        base_model_relation=relation if is_on_hub else None,
        library_name="peft" if weights == "adapter" else "transformers",
        pipeline_tag="text-generation",
        datasets=sorted(filter(None, hub_sets)) or None,
        tags=["rlcore", *dict.fromkeys(kind for kind in kinds if kind.isidentifier())],
        metrics=["accuracy"] if results else None,
        eval_results=results or None,
    )


def _measures(trained: Trained, row: Mapping[str, Any], weights: Weights) -> bool:
    return (trained.evaluated_weights(row) == "ema") == (weights == "ema")


def _result(trained: Trained, row: Mapping[str, Any]) -> EvalResult:
    """One entry of the model index."""
    part = trained.recipe.get("tasks", {}).get(row["eval_set"], {})
    dataset = hub_name(part.get("path", "")) or str(part.get("use", row["eval_set"]))
    interval = interval_of(row)
    return EvalResult(
        task_type="text-generation",
        dataset_type=dataset,
        dataset_name=row["eval_set"],
        dataset_split=part.get("split"),
        metric_type="accuracy",
        metric_name=f"accuracy, stage {row['stage']}",
        metric_value=round(row["accuracy"], 4),
        metric_args={
            "tasks": row["tasks"],
            "completions": row["completions"],
            **({"interval_95": [round(end, 4) for end in interval]} if interval else {}),
        },
    )


def _summary(trained: Trained, weights: Weights) -> str:
    base = trained.base
    start = f"`{base}`" if base else "a model from scratch"
    if HUB_NAME.fullmatch(base):
        start = f"[{base}](https://huggingface.co/{base})"
    stages = [f"`{stage.get('name') or stage['kind']}`" for stage, _ in trained.stages()]
    by = f" by the stages {', '.join(stages)}" if stages else ""
    kind = "The averaged weights" if weights == "ema" else "The model"
    if weights == "adapter":
        settings = ", ".join(f"{key}={value}" for key, value in trained.peft.items())
        kind = f"An adapter ({settings})"
    return f"{kind} that rlcore made of {start}{by}, after step {trained.step}."


def _usage(trained: Trained, weights: Weights) -> str:
    auto = "AutoModelForCausalLM"
    library = "transformers"
    if weights == "adapter":
        auto, library = "AutoPeftModelForCausalLM", "peft"
    imports = {library: auto, "transformers": "AutoTokenizer"}
    if weights != "adapter":
        imports = {"transformers": f"{auto}, AutoTokenizer"}
    prompt = trained.recipe.get("prompt", {})
    lines = [f"from {module} import {names}" for module, names in imports.items()]
    lines += [
        "",
        'path = "."  # this folder, or its name on the hub',
        f"model = {auto}.from_pretrained(path)",
        "tokenizer = AutoTokenizer.from_pretrained(path)",
    ]
    if prompt.get("format") == "chat":
        system = prompt.get("system")
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": "..."})
        arguments = prompt.get("template_arguments") or {}
        extra = "".join(f", {key}={value!r}" for key, value in arguments.items())
        lines += [
            f"messages = {messages!r}",
            "inputs = tokenizer.apply_chat_template(",
            f'    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True{extra}',
            ")",
        ]
    else:
        lines += ['inputs = tokenizer("...", return_tensors="pt", add_special_tokens=False)']
    lines += [
        f"output = model.generate(**inputs, max_new_tokens={_longest(trained)})",
        'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :]))',
    ]
    return "\n".join(["## Use", "", "```python", *lines, "```"])


def _longest(trained: Trained) -> int:
    limits = [
        stage["sampling"]["max_tokens"]
        for stage in trained.recipe.get("stages", [])
        if stage.get("sampling")
    ]
    return max(limits, default=256)


def _training(trained: Trained) -> str:
    columns = []
    for stage, steps in trained.stages():
        column = {"kind": stage["kind"]}
        total = stage.get("steps")
        if total is not None:
            column["steps"] = str(total) if steps is None else f"{steps} of {total}"
        for key in STAGE_KEYS:
            value = _at(stage, key)
            if value is not None and value != [] and value != {}:
                column[key] = _short(value)
        columns.append((stage.get("name") or stage["kind"], column))
    if not columns:
        return "## Training\n\nNo stage had trained the model yet."
    used = {key for _, column in columns for key in column}
    keys = [key for key in ("kind", "steps", *STAGE_KEYS) if key in used]
    head = ["", *(name for name, _ in columns)]
    rows = [[key, *(column.get(key, "") for _, column in columns)] for key in keys]
    model = trained.recipe.get("model", {})
    more = (
        f"Arithmetic in {model.get('dtype', 'float32')}, seed {trained.recipe.get('seed', 0)}."
    )
    rest = "The whole recipe, resolved, is in `recipe.yaml`."
    return f"## Training\n\n{_table(head, rows)}\n\n{more} {rest}"


def _data(trained: Trained) -> str:
    rows = [[name, _short(part)] for name, part in trained.recipe.get("tasks", {}).items()]
    if not rows:
        return "## Data\n\nThe recipe names no task set."
    return "## Data\n\n" + _table(["task set", "part"], rows)


def _evaluation(trained: Trained, weights: Weights) -> str:
    rows = []
    for row, is_of_these in trained.evaluations():
        of = trained.evaluated_weights(row)
        interval = interval_of(row)
        shown = "" if interval is None else " to ".join(map(proportion, interval))
        mark = "yes" if is_of_these and _measures(trained, row, weights) else ""
        name = f"{row['stage']} (averaged weights)" if of == "ema" else row["stage"]
        counts = [row["tasks"], row["completions"]]
        rows.append(
            [
                name,
                row["eval_set"],
                row["step"],
                *counts,
                proportion(row["accuracy"]),
                shown,
                mark,
            ]
        )
    if not rows:
        return "## Evaluation\n\nThe run has not evaluated this checkpoint."
    head = ["evaluation", "eval set", "after step", "tasks", "completions", "accuracy"]
    head += ["95% interval", "these weights"]
    first = "Accuracy is the mean of the stage's first reward."
    return f"## Evaluation\n\n{_table(head, rows)}\n\n{first}"


def _origin(trained: Trained) -> str:
    starts = read_rows(trained.folder.starts)
    codes = dict.fromkeys(
        f"rlcore {row['rlcore']}, commit {row.get('commit', 'unknown')}"
        for row in starts
        if "rlcore" in row
    )
    code = "; ".join(codes) or "a version of rlcore that the run did not record"
    when = f"Started {starts[0]['time']}" if starts else "Started at an unknown time"
    resumes = f", resumed {len(starts) - 1} times" if len(starts) > 1 else ""
    return f"## Origin\n\n{when}{resumes}, with {code}."


def _at(stage: Mapping[str, Any], key: str) -> Any:
    value: Any = stage
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _short(value: Any) -> str:
    """A value of the recipe: a part by name with those of its parameters that say something."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "; ".join(_short(item) for item in value)
    if isinstance(value, dict) and "use" in value:
        plain = {"weight": 1.0}
        rest = [
            f"{key}={item}"
            for key, item in value.items()
            if key != "use" and item not in (None, "", False, [], {}, plain.get(key))
        ]
        return f"{value['use']} ({', '.join(rest)})" if rest else str(value["use"])
    return str(value)


def _table(head: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(value: Any) -> str:
    """Text of a table's cell: one line, and nothing in it is markup."""
    text = " ".join(visible(str(value)).split())
    return re.sub(r"([\\`*<>|]|\b_|_\b|\](?=\())", r"\\\1", text)
