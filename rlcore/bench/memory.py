"""What `rlcore plan` says of a recipe's memory, against the memory that a run of it takes on this machine's CPU.

Measured is the most resident memory of a process that runs the recipe, less that of a process that imports the same modules
and does nothing. Planned is the stage that needs most, for completions as long as those of the run.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlcore.bench.measure import circumstances, resident
from rlcore.errors import RunError

SMOLLM2 = "~/.cache/rlcore/models/smollm2"
_SHORT_RL = "{kind: rl, tasks: train, steps: 2, groups_per_step: 8, group_size: 8, objective: dapo, optim: {micro_batch_tokens: 1024}}"
RECIPES = {
    # so small that its tensors are nothing: what the libraries take for themselves
    "tiny": [
        "quickstart",
        "model.config={model_type: qwen2, hidden_size: 32, intermediate_size: 32, num_hidden_layers: 1, "
        "num_attention_heads: 1, num_key_value_heads: 1, max_position_embeddings: 128}",
        "engine.max_sequences=64",
        "stages.sft.steps=2",
        "stages.rl.steps=2",
    ],
    "quickstart": [
        "quickstart",
        "stages.sft.steps=60",
        "stages.rl.steps=2",
        "stages.rl.optim.micro_batch_tokens=4096",
    ],
    "instruct": ["instruct", f"model.path=[{SMOLLM2}]", f"stages=[{_SHORT_RL}]"],
    "lora": [
        "instruct",
        f"model.path=[{SMOLLM2}]",
        "model.peft={type: lora, r: 16, target_modules: all-linear}",
        "engine.sync=adapter",
        f"stages=[{_SHORT_RL}]",
    ],
}
"""Name -> a recipe and its overrides: two models from scratch, all weights of a pretrained one, an adapter of it."""
DEADLINE_S = 1800


def bench_memory(recipes: Sequence[str] = tuple(RECIPES)) -> dict[str, Any]:
    """Planned and measured bytes of each recipe. Raises `RunError` where a run fails."""
    rows = {}
    for name in recipes:
        with tempfile.TemporaryDirectory() as folder:
            rows[name] = compare(name, Path(folder))
    return {"bench": "memory", "recipes": rows, **circumstances()}


def compare(name: str, folder: Path) -> dict[str, Any]:
    """MiB planned and measured of one of `RECIPES`, run in `folder`."""
    from rlcore.plan.memory import Machine, host_memory
    from rlcore.plan.plan import plan
    from rlcore.recipe.load import load

    recipe, *overrides = RECIPES[name]
    arguments = [recipe, *overrides, "name=memory", f"run.folder={folder}"]
    modules = folder / "modules.json"
    peak = _child("run", str(modules), *arguments)
    imports = _child("import", str(modules))
    machine = Machine(gpus=0, nodes=1, memory=host_memory())
    planned = plan(load(recipe, overrides), machine, run=folder / "memory")
    measured = peak - imports
    return {
        "planned_mib": round(planned.peak / 2**20),
        "measured_mib": round(measured / 2**20),
        "ratio": round(planned.peak / measured, 3),
        "imports_mib": round(imports / 2**20),
    }


def _child(*arguments: str) -> int:
    """Bytes that a process of this module's `main` says last."""
    done = subprocess.run(
        [sys.executable, "-m", "rlcore.bench.memory", *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    if done.returncode != 0:
        raise RunError(f"a measured run failed: {done.stderr.strip()[-600:]}")
    return int(done.stdout.strip().splitlines()[-1])


def main(argv: Sequence[str]) -> None:
    """`run FILE RECIPE key=value ...`: run it, write the names of imported modules, print the peak of resident bytes.

    `import FILE`: import those modules, print resident bytes.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["run", "import"])
    parser.add_argument("modules", type=Path)
    parser.add_argument("recipe", nargs="*")
    arguments = parser.parse_args(argv)
    if arguments.what == "import":
        for name in json.loads(arguments.modules.read_text()):
            # some are made up by their packages, and others refuse a second import order
            with contextlib.suppress(Exception):
                importlib.import_module(name)
        print(resident("VmRSS"))
        return
    from rlcore.recipe.load import load
    from rlcore.run.driver import train

    recipe, *overrides = arguments.recipe
    train(load(recipe, overrides))
    arguments.modules.write_text(json.dumps(list(sys.modules)))
    print(resident("VmHWM"))


if __name__ == "__main__":
    main(sys.argv[1:])
