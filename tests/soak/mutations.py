"""Random changes of the shipped recipes: each is refused in a sentence or survives its dump, in time.

    python -m tests.soak.mutations --count 10000 --seed 0

A mutation is loaded, dumped, loaded again and checked. It fails if anything but an `RlcoreError`
is raised, if a sentence is longer than 1,500 characters, if the dump does not load as the same
recipe, or if all that takes over 10 seconds. Rewards are imported in this process in place of a
worker process, except for every hundredth mutation. Recipes whose tasks are made of a corpus are
not checked: preparing one takes longer.
"""

from __future__ import annotations

import argparse
import collections
import copy
import importlib
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

import yaml

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

from rlcore.errors import RlcoreError  # noqa: E402
from rlcore.recipe import load as recipe_load  # noqa: E402
from rlcore.recipe.check import check  # noqa: E402
from rlcore.recipe.yaml_text import parse_yaml  # noqa: E402
from rlcore.scoring.load import load_reward  # noqa: E402

DEADLINE_S = 10
LONGEST_SENTENCE = 1500
WITH_WORKER = 100
"""Every so many mutations the rewards are loaded by a real worker process."""

VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 7, 10**9, 10**18, 2**64, 10**76, -(10**30), 0.0, -0.0, 0.5, 1.5,
    1e-6, 1e-300, 1e300, -1e300, 5e-324, float("inf"), float("-inf"), float("nan"), "", " ", ".", "..",
    "../x", "/", "a/b", "~", "1e6", "1e-6", "0x10", "1_000", "1:30", "null", "yes", "on", "=", "<<", "- a",
    "a: b", "é", "\u2028", "\ufeff", "\U0001f600", "\ud800", "\0", "\x1b[2J", "tab\t", "line\nbreak", " x ",
    "trailing \n", "%", "{}", "{budget}", "x" * 300, "x" * 5000, "2024-05-01", date(2024, 5, 1),
    datetime(2024, 5, 1, 12, 30), [], {}, [[]], [None], [0.9], [0.9, 1.0], [1, 2, 3], ["a", "b"],
    {"use": None}, {"use": ""}, {"use": "x"}, {"use": "exact"}, {"use": "builtins:list"}, {"use": "os:system"},
    {"kind": "rl"}, {"kind": "x.py:Y"}, {"a": {"b": {"c": 1}}}, {1: 2}, {"": 1}, {"a.b": 1}, {1.5: "x"},
    {None: 1}, {True: 1}, "exact", "grpo", "sec", "zero_variance", "rl", "file.py:f", "rlcore.errors:first_line",
]  # fmt: skip

TEXTS = [
    "? [a, b]\n: 1\n", "? {a: b}\n: 1\n", "1.5: x\n", "a: &a [*a]\n", "p: &p {after: *p}\n", "[" * 3000 + "\n",
    "{a: " * 1500 + "\n", "x: " + "9" * 5000 + "\n", "!!python/object/apply:os.system [ls]\n",
    "!!int [1]\n", "x: !!float abc\n", "x: 2024-13-45\n", "x: !!binary '%%%'\n", "x: !!set {a, b}\n",
    "x: !!omap [a: 1]\n", "x: !!timestamp x\n", "\x00", "\t", "---\n---\n", "a: *unknown\n", "%YAML 9.9\n---\na: 1\n",
    "<<: 3\n", "<<: [{a: 1}, 2]\n", "a: &a {<<: *a}\n",
]  # fmt: skip


def laughs(opening: str, item: str, levels: int = 9, width: int = 9) -> str:
    """Aliases of aliases: `width ** levels` values in a few lines."""
    lines = [f"a0: &a0 {opening}"]
    for level in range(1, levels):
        aliases = ", ".join([f"*a{level - 1}"] * width)
        lines.append(f"a{level}: &a{level} {item.format(aliases)}")
    return "\n".join(lines) + "\n"


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Paths of all values below the top."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield (*path, key)
        if isinstance(item, dict | list):
            yield from places(item, (*path, key))


def change(raw: dict[str, Any], rng: random.Random) -> None:
    """One random change in place."""
    path = rng.choice(list(places(raw)))
    node = raw
    for key in path[:-1]:
        node = node[key]
    key = path[-1]
    action = rng.choice(
        ["value"] * 4 + ["near"] * 4 + ["remove", "rename", "add", "copy", "wrap"]
    )
    if action == "near":
        node[key] = near(node[key], rng)
    elif action == "value":
        node[key] = copy.deepcopy(rng.choice(VALUES))
    elif action == "remove":
        del node[key]
    elif action == "rename" and isinstance(node, dict):
        node[rng.choice(["x", "", "use", "name", str(key)[:-1], f"{key}.a", 3])] = node.pop(key)
    elif action == "add" and isinstance(node, dict):
        node[rng.choice(["x", "use", "name", "seed", "params"])] = rng.choice(VALUES)
    elif action == "wrap":
        node[key] = rng.choice([[node[key]], {"use": node[key]}, {"x": node[key]}])
    else:
        other = raw
        for step in rng.choice(list(places(raw))):
            other = other[step]
        node[key] = copy.deepcopy(other)


def near(value: Any, rng: random.Random) -> Any:
    """Another value of the same type, which a check of types lets pass."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice([0, 1, -1, value + 1, -value, value * 2, value * 1000, 10**9, 2**62])
    if isinstance(value, float):
        return rng.choice(
            [0.0, -value, value * 1e3, 1.0, 1e-320, 1e300, float("inf"), float("nan")]
        )
    if isinstance(value, str):
        return rng.choice(
            [value[:-1], value + "x", value.upper(), f"../{value}", value * 200, "\x1b[2J"]
        )
    if isinstance(value, list):
        return rng.choice([value[:-1], value * 2, value[::-1], [value]])
    if isinstance(value, dict):
        return {
            key: near(item, rng) if rng.random() < 0.3 else item for key, item in value.items()
        }
    return rng.choice(VALUES)


class _Writer(yaml.SafeDumper):
    """Writes what no recipe may hold too; lone surrogates as escapes."""


_Writer.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"'
    ),
)


def mutation(recipes: list[dict[str, Any]], rng: random.Random) -> str:
    """The text of one mutated recipe."""
    if rng.random() < 0.03:
        head = rng.choice([*TEXTS, laughs("[x, x]", "[{}]"), laughs("{k: 1}", "{{<<: [{}]}}")])
        return head + (rng.choice(["", "name: x\n", write(rng.choice(recipes))]))
    raw = copy.deepcopy(rng.choice(recipes))
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        if any(True for _ in places(raw)):
            change(raw, rng)
    text = write(raw)
    if rng.random() < 0.05:
        at = rng.randrange(len(text))
        text = (
            text[:at]
            + rng.choice(["", "[", "{", "'", '"', ":", "&a ", "*a ", "\n", "  "])
            + text[at + 1 :]
        )
    return text


def write(raw: Any) -> str:
    return yaml.dump(raw, Dumper=_Writer, sort_keys=False)


class Late(BaseException):
    """The mutation took too long; no `except Exception` may swallow it."""


def outcome(text: str, folder: Path) -> str:
    """`refused`, `refused by check` or `valid`; else what is wrong."""
    file = folder / "mutation.yaml"
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        recipe = recipe_load.load(str(file))
    except RlcoreError as error:
        return judged(error, "refused")
    again = folder / "again.yaml"
    again.write_text(recipe_load.dump(recipe), encoding="utf-8")
    try:
        if recipe_load.dump(recipe_load.load(str(again))) != again.read_text(encoding="utf-8"):
            return "FAULT the dump loads as another recipe"
    except RlcoreError as error:
        return f"FAULT the dump does not load: {error}"
    if any(section.use == "corpus" for section in recipe.tasks.values()):
        return "valid, not checked"
    try:
        check(recipe)
    except RlcoreError as error:
        return judged(error, "refused by check")
    return "valid"


def judged(error: RlcoreError, kind: str) -> str:
    length = len(str(error))
    return (
        kind
        if length <= LONGEST_SENTENCE
        else f"FAULT a sentence of {length} characters: {str(error)[:200]}"
    )


def timed(text: str, folder: Path) -> str:
    """The outcome, with anything that is raised or late as a fault."""

    def late(*_: Any) -> None:
        raise Late

    signal.signal(signal.SIGALRM, late)
    signal.alarm(DEADLINE_S)
    try:
        return outcome(text, folder)
    except Late:
        frames = traceback.extract_tb(sys.exc_info()[2])
        return f"FAULT over {DEADLINE_S} s in {frames[-2].filename}:{frames[-2].lineno}"
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return (
            f"FAULT {type(error).__name__}: {str(error)[:100]} ({last.filename}:{last.lineno})"
        )
    finally:
        signal.alarm(0)


def in_process(stage: Any, rule: Any) -> Any:
    """In place of a scorer: loads the rewards here."""
    from rlcore.recipe.build import build_rewards

    loaded = [load_reward(spec) for spec in build_rewards(stage.rewards)]
    needs = {reward.spec.name: reward.needs for reward in loaded}
    return argparse.Namespace(close=lambda: None, needs=needs)


def run(count: int, seed: int, show: Callable[[str], None] = print) -> collections.Counter[str]:
    """Mutate and judge `count` times; faults are shown with their text's number."""
    from rlcore.stages import reward_check

    # Imported once, by the first recipe with a parameter of the engine: no time of its own.
    importlib.import_module("rlcore.rollout.hf")
    recipes = []
    for path in recipe_load.recipe_names().values():
        text = path.read_text(encoding="utf-8")
        if "use: search" in text:  # its check makes an index of a whole corpus, which takes seconds
            continue
        raw = parse_yaml(text)
        recipes.append(
            raw if "extends" not in raw else recipe_load.load(str(path)).model_dump(mode="json")
        )
    real = reward_check.build_scorer
    outcomes: collections.Counter[str] = collections.Counter()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            text = mutation(recipes, random.Random(f"{seed}/{number}"))
            reward_check.build_scorer = real if number % WITH_WORKER == 0 else in_process
            started = time.monotonic()
            said = timed(text, Path(folder))
            seconds = time.monotonic() - started
            slowest = max(slowest, seconds)
            if seconds > DEADLINE_S and not said.startswith("FAULT"):
                said = f"FAULT {said} after {seconds:.1f} s"
            outcomes[said.split(" ")[0] if said.startswith("FAULT") else said] += 1
            if said.startswith("FAULT"):
                (Path(tempfile.gettempdir()) / f"mutation_{seed}_{number}.yaml").write_text(
                    text, encoding="utf-8", errors="surrogatepass"
                )
                show(f"{number}: {said}")
    reward_check.build_scorer = real
    show(f"{dict(outcomes)}, slowest {slowest:.1f} s")
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    return int(bool(run(arguments.count, arguments.seed)["FAULT"]))


if __name__ == "__main__":
    sys.exit(main())
