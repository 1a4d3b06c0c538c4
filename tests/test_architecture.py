"""The house rules a machine can check: sizes, import direction, where heavy packages may appear."""

from __future__ import annotations

import ast
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

from tests.conftest import SLOW_TESTS

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted([*ROOT.glob("rlcore/**/*.py"), *ROOT.glob("rewards/**/*.py")])
NAMES = {
    path: ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in SOURCES
}

LAYERS = {
    "rlcore.__main__": 9,
    "rlcore.bench.device.__main__": 9,
    "rlcore.cli": 8,
    "rlcore.api": 8,
    "rlcore.analysis": 7,
    "rlcore.bench": 7,
    "rlcore.plan": 6.5,
    "rlcore.run.driver": 6,
    "rlcore.stages": 5,
    "rlcore.run": 4,
    "rlcore.recipe.build": 3,
    "rlcore.recipe.build_credit": 3,
    "rlcore.recipe.build_learner": 3,
    "rlcore.recipe.check": 3,
    "rlcore.recipe.corpus": 3,
    "rlcore.recipe.parts": 3,
    "rewards": 2,
    "rlcore.environments": 1.5,
    "rlcore": 1,
    "rlcore.plugin": 0.5,
    "rlcore.bfloat16": 0.25,
    "rlcore.chat": 0.5,
    "rlcore.child_process": 0.5,
    "rlcore.pretrained": 0.5,
    "rlcore.signals": 0.5,
    "rlcore.tokenizer": 0.5,
    "rlcore.version": 1.5,
    "rlcore.gguf": 0.25,
    "rlcore.rope": 0.5,
    "rlcore.weight_files": 0.5,
    "rlcore.workers": 0.5,
    "rlcore.env": 0.7,
    "rewards.sandbox": 0,
    "rewards.thoughts": 0,
    "rlcore.types": 0.2,
    "rlcore.errors": 0,
}
"""Longest prefix wins; a module imports only lower layers and its own package. Packages not named here are layer 1."""
NEIGHBOURS = {
    ("rlcore.rollout", "rlcore.scoring"),
    ("rlcore.learner", "rlcore.objective"),
    ("rlcore", "rlcore.scoring"),
    ("rewards.math", "rewards.math_final"),
    ("rewards.math", "rewards.math_parse"),
    ("rewards.math", "rewards.math_spelling"),
    ("rewards.math", "rewards.math_value"),
    ("rewards.math", "rewards.math_words"),
    ("rewards.math_vote", "rewards.math_final"),
    ("rewards.math_vote", "rewards.math_spelling"),
    ("rewards.math_final", "rewards.math_letters"),
    ("rewards.math_final", "rewards.math_prose"),
    ("rewards.math_final", "rewards.math_spelling"),
    ("rewards.math_final", "rewards.math_units"),
    ("rewards.math_spelling", "rewards.math_letters"),
    ("rewards.math_spelling", "rewards.math_prose"),
    ("rewards.math_spelling", "rewards.math_relations"),
    ("rewards.math_value", "rewards.math_parse"),
    ("rewards.math_value", "rewards.math_relations"),
    ("rewards.math_value", "rewards.math_spelling"),
    ("rewards.math_value", "rewards.math_units"),
    ("rewards.math_value", "rewards.math_words"),
    ("rewards.math_words", "rewards.math_prose"),
    ("rewards.math_words", "rewards.math_spelling"),
    ("rewards.math_words", "rewards.math_units"),
    ("rewards.code", "rewards.code_blocks"),
    ("rewards.judge_local", "rewards.judge"),
    ("rewards.instructions", "rewards.instruction_rules"),
}
"""Packages of one layer that may know each other, in this direction."""

HEAVY = {
    "vllm": ("rlcore.rollout.vllm_",),
    "math_verify": ("rewards.math",),
    "langdetect": ("rewards.instruction_rules",),
    "nltk": ("rewards.instruction_rules",),
    "punkt": ("rewards.instruction_rules",),
    "reasoning_gym": ("rlcore.tasks.gym", "rewards.gym"),
    "peft": ("rlcore.learner.policy",),
    "lm_eval": ("rlcore.analysis.suite_lm_eval",),
    "trl": ("rlcore.stages.prefer", "rlcore.bench."),
}


LAYOUT_TOKENS = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def layer(module: str) -> float:
    return LAYERS[
        max((prefix for prefix in LAYERS if f"{module}.".startswith(f"{prefix}.")), key=len)
    ]


def package(module: str) -> str:
    return ".".join(module.split(".")[:2])


def imports(path: Path) -> set[str]:
    """Modules a file imports at run time (not under TYPE_CHECKING)."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update(
                {node.module}
                | {f"{node.module}.{alias.name}" for alias in node.names if node.module == "rlcore"}
                & set(NAMES.values())
            )
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


@pytest.mark.parametrize("path", SOURCES, ids=NAMES.get)
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 350, (
        f"{path.name} is a file with two ideas: give the second its own door"
    )
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 60, (
                f"{path.name}: {node.name} is too long to hold in one look"
            )


@pytest.mark.parametrize("path", SOURCES, ids=NAMES.get)
def test_every_file_says_what_it_is_and_returns_are_typed(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree) or not tree.body
    untyped = [
        n.name
        for n in ast.walk(tree)
        if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef) and n.returns is None
    ]
    assert not untyped


@pytest.mark.parametrize("path", SOURCES, ids=NAMES.get)
def test_imports_run_downwards(path: Path) -> None:
    module = NAMES[path]
    for other in imports(path):
        if other.split(".")[0] not in ("rlcore", "rewards") or package(other) == package(module):
            continue
        allowed = layer(other) < layer(module) or (package(module), package(other)) in NEIGHBOURS
        assert allowed, f"{module} must not import {other}"


@pytest.mark.parametrize("path", SOURCES, ids=NAMES.get)
def test_heavy_packages_have_one_door(path: Path) -> None:
    for other in imports(path):
        doors = HEAVY.get(other.split(".")[0], (NAMES[path],))
        assert NAMES[path].startswith(doors), f"{NAMES[path]} imports {other}; only {doors} may"


def tokens_and_lines(path: Path) -> tuple[int, int]:
    """Python tokens and code lines of a file; comments, blank lines and docstrings do not count."""
    lines = set()
    tokens = 0
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            is_docstring = token.type == tokenize.STRING and token.line.strip().startswith(('"', 'r"'))
            if token.type not in LAYOUT_TOKENS and not is_docstring:
                tokens += 1
                lines.add(token.start[0])
    return tokens, len(lines)


def test_lines_are_not_dense() -> None:
    """Code that a reader follows at first sight has 6 to 8 tokens a line; version 1 had 10.7."""
    counts = [tokens_and_lines(path) for path in SOURCES]
    tokens = sum(count for count, _ in counts)
    lines = sum(count for _, count in counts)
    assert tokens / lines < 8.3


def test_rewards_know_only_public_names() -> None:
    import rlcore

    for path in ROOT.glob("rewards/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rlcore"):
                assert node.module == "rlcore" and {alias.name for alias in node.names} <= set(
                    rlcore.__all__
                )


def test_public_names_exist() -> None:
    import rlcore

    assert all(hasattr(rlcore, name) for name in rlcore.__all__)
    assert rlcore.__all__ == sorted(rlcore.__all__)


def test_checking_a_recipe_needs_no_torch() -> None:
    code = ("import sys; sys.modules['torch'] = None; sys.modules['vllm'] = None\n"
            "from rlcore.recipe.load import load; from rlcore.recipe.check import check\n"
            "print(*check(load('quickstart')), sep='\\n')")  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert "512 completions a step" in done.stdout


def test_tests_of_the_slow_tier_exist() -> None:
    assert list(SLOW_TESTS) == sorted(set(SLOW_TESTS))
    for line in SLOW_TESTS:
        file, _, function = line.partition("::")
        assert f"def {function.partition('[')[0]}(" in (ROOT / file).read_text(encoding="utf-8"), line
