"""The code blocks of the README and of docs/ work, and so do the keys inside their sentences."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlcore.objective.methods import METHODS
from rlcore.objective.presets import PRESETS
from rlcore.plugin import import_file
from rlcore.recipe.check import check
from rlcore.recipe.load import load
from rlcore.recipe.schema import Recipe
from rlcore.stages.rl import RlStage
from tests.run.whole import TINY

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

NOT_RUN = {
    "README.md": "tests/test_readme.py runs its commands",
    "rlcore rollouts runs/short": "needs a run; tests/report/test_report_records.py runs it",
    "rlcore report runs/short": "needs a run; tests/report/test_report_records.py runs it",
    "rlcore curriculum replay runs/short": "needs a run; tests/test_readme.py runs it",
    "rlcore curriculum plot runs/short": "needs a run; tests/curriculum/test_replay.py draws one",
    "rlcore credit show runs/NAME": "needs a run; tests/credit/test_step_credit.py shows one",
}
"""Page, or beginning of a command -> why it is not run here."""

NOT_CHECKED = {
    "my_problems.jsonl": "the data set is the reader's, and the model would be downloaded",
    "my_rewards.py:gap": "the text names this reward without its code",
    "my_parts.py:Writer": "tests/test_readme.py trains with an engine of this name",
    "my_steps.py:cut": "the text names this splitter without its code",
    "{use: corpus": "tests/tasks/test_corpus_tasks.py makes tasks of texts",
}
"""Words of a recipe's piece -> why only its keys are checked, and not whether its parts exist."""

TABLES = {
    "filter": ("filter",),
    "budget": ("budget",),
    "split": ("credit", "steps", "split"),
    "scheme": ("credit", "steps", "scheme"),
}
"""Head of a table's first column -> the key of an rl stage that its cells are values of."""

REWARDS = ("exact", "math", "judge", "relative_length", "hpc/helpful", "hpc/creative")
"""Names of the rewards of the small recipe: those that pieces of the pages mention."""

OLD_WORDS = (
    r"\b(desk|intake|gates?|admit\w*|arms?|learnt|gold|exam|lessons?|wings?|arrows?|house)\b"
    r"|\b(at most )?so many\b|\bonce mended\b|\bturned away\b|\b\w+_share\b"
)
"""Words of the glossary's last column, which pages do not use; names of tests and code may."""

FILES = {
    "my_texts.txt": "\n\n".join(
        f"{day} was the day on which the rain fell on the hills of the valley, and nobody went out."
        for day in ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
    ),
    "base_tasks.py": """
from rlcore import Task

COLUMNS = {"domain": "sums", "level": 1, "scores": 0.5, "text": "one two", "chosen": "2"}
COLUMNS |= {"target": "2", "numbers": [1, 1], "masks": 1, "steps": 1}

def tasks(n: int = 8):
    sums = [Task(id=f"t{i}", prompt=f"{i}+1=", answer=str(i + 1), demonstration=str(i + 1),
                 category="easy" if i % 2 else "hard", columns=COLUMNS) for i in range(n)]
    return sums
""",
}
"""What lies in the folder in which a block is used."""


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    code: str
    before: str
    """The page's text above it."""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(path: Path) -> list[Block]:
    text = path.read_text(encoding="utf-8")
    blocks = []
    for match in re.finditer(r"^```(\w*)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        before = text[: match.start()]
        line = before.count("\n") + 1
        blocks.append(Block(path.name, line, match[1], match[2], before))
    return blocks


BLOCKS = [block for path in PAGES for block in blocks_of(path)]


def in_language(language: str) -> list[Any]:
    return [pytest.param(block, id=str(block)) for block in BLOCKS if block.language == language]


def file_of(block: Block) -> str:
    """The file that the block's first comment names."""
    match = re.match(r"# (\w+\.py)\b", block.code)
    return match[1] if match else ""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An otherwise empty folder with every file that the pages show."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    for block in BLOCKS:
        if block.language == "python" and file_of(block):
            (tmp_path / file_of(block)).write_text(block.code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_every_block_names_its_language() -> None:
    languages = {block.language for block in BLOCKS}
    assert languages <= {"python", "yaml", "bash", "text"}
    assert {"python", "yaml", "bash"} <= languages


def test_every_exception_is_still_needed() -> None:
    texts = "".join(path.read_text(encoding="utf-8") for path in PAGES)
    unused = [words for words in (*NOT_RUN, *NOT_CHECKED) if words not in texts]
    assert unused in ([], ["README.md"])


def test_no_two_blocks_are_the_same_file() -> None:
    names = [file_of(block) for block in BLOCKS if block.language == "python" and file_of(block)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("block", in_language("python"))
def test_python(block: Block, folder: Path) -> None:
    if ">>>" in block.code:
        run_examples(block)
        return
    path = folder / (file_of(block) or "example.py")
    path.write_text(block.code)
    import_file(path, "block")


def run_examples(block: Block) -> None:
    """Run a doctest with the names of the module that the section is about."""
    module_name = re.findall(r"^`([\w.]+):\w+`", block.before, flags=re.MULTILINE)[-1]
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        pytest.skip(f"{error.name} is not installed")
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    example = doctest.DocTestParser().get_doctest(
        block.code, dict(vars(module)), str(block), block.page, block.line
    )
    assert doctest.DocTestRunner(optionflags=flags).run(example).failed == 0


@pytest.mark.parametrize("block", in_language("yaml"))
def test_yaml(block: Block, folder: Path) -> None:
    check_piece(block.code, folder)


@pytest.mark.parametrize("block", in_language("bash"))
def test_bash(block: Block, folder: Path) -> None:
    if block.page in NOT_RUN:
        pytest.skip(NOT_RUN[block.page])
    for line in block.code.splitlines():
        command = line.split("#")[0].strip()
        if command and not any(command.startswith(start) for start in NOT_RUN):
            run_command(command, folder)


def run_command(command: str, folder: Path) -> None:
    binaries = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {
        **os.environ,
        "PATH": binaries,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "RLCORE_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    finished = subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert finished.returncode == 0, f"{command}\n{finished.stdout}\n{finished.stderr}"


def inline_pieces(path: Path) -> list[Any]:
    """`key: value` inside sentences and tables, for keys of recipes and of rl stages."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    known = set(Recipe.model_fields) | set(RlStage.model_fields)
    pieces = []
    for piece in dict.fromkeys(re.findall(r"`(\w+(?:\.\w+)*: [^`]+)`", text)):
        key = piece.partition(":")[0].split(".")[0]
        if key in known - {"name", "kind", "steps"}:
            pieces.append(pytest.param(piece, id=f"{path.name}: {piece}"))
    return pieces


@pytest.mark.parametrize("piece", [piece for path in PAGES for piece in inline_pieces(path)])
def test_keys_inside_sentences(piece: str, folder: Path) -> None:
    check_piece(piece, folder)


def table_cells(path: Path) -> list[Any]:
    """First cells of the tables whose head is a key."""
    cells = []
    head = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("|"):
            head = ""
            continue
        first = line.split("|")[1].strip()
        head = head or first
        match = re.fullmatch(r"`([^`]+)`", first)
        if head in TABLES and match:
            cells.append(pytest.param(head, match[1], id=f"{path.name}: {head} {match[1]}"))
    return cells


@pytest.mark.parametrize("head, value", [cell for path in PAGES for cell in table_cells(path)])
def test_cells_of_tables(head: str, value: str, folder: Path) -> None:
    piece: Any = yaml.safe_load(value)
    for key in reversed(TABLES[head]):
        piece = {key: piece}
    check_piece(yaml.safe_dump(piece), folder)


def test_pages_use_the_words_of_the_glossary() -> None:
    pages = [*PAGES, *sorted((ROOT / "recipes/papers").glob("*/README.md"))]
    for path in pages:
        if path.name == "glossary.md":
            continue
        text = path.read_text(encoding="utf-8")
        for number, line in enumerate(text.splitlines(), start=1):
            without_code = re.sub(r"`[^`]*`", "", line)
            match = re.search(OLD_WORDS, without_code)
            assert match is None, f"{path.name}:{number}: {match and match[0]}: {line}"


def test_the_tables_of_objectives_are_complete() -> None:
    text = (ROOT / "docs/objectives.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| (`.*?) \|", text, flags=re.MULTILINE)
    named = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    assert set(PRESETS) | set(METHODS) <= named


def check_piece(text: str, folder: Path) -> None:
    """Load and check a recipe, or a piece of one laid over a small recipe."""
    piece = yaml.safe_load(text)
    if not (isinstance(piece.get("stages"), list) and "model" in piece) and "extends" not in piece:
        piece = laid_over_tiny(piece)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(piece, sort_keys=False))
    recipe_without_parts = any(word in text for word in NOT_CHECKED)
    with contextlib.chdir(folder):
        recipe = load(str(path))
        if not recipe_without_parts:
            check(recipe)


def laid_over_tiny(piece: dict[str, Any]) -> dict[str, Any]:
    """A small recipe with one rl stage, with the piece's keys where they belong."""
    recipe: dict[str, Any] = yaml.safe_load(TINY)
    recipe["engine"]["max_length"] = 2048
    recipe["tasks"] = {"base": {"use": "base_tasks.py:tasks"}}
    stage: dict[str, Any] = {"kind": "rl", "tasks": "base", "steps": 6, "group_size": 8}
    stage["sampling"] = {"max_tokens": 1024}
    stage["rewards"] = [{"use": "exact", "name": name} for name in REWARDS]
    stages = [stage]
    dotted = {}
    for key, value in piece.items():
        if key == "stages":
            stages += value
        elif key in ("tasks", "model", "engine", "prompt") and isinstance(value, dict):
            recipe[key] = {**recipe.get(key, {}), **value}
        elif key.startswith(("model.", "engine.")):
            dotted[key] = value
        elif "." in key:
            dotted[f"stages.rl.{key}"] = value
        else:
            stage[key] = value
    add_companions(recipe, stage, piece)
    return {**recipe, "stages": stages, **dotted}


def add_companions(recipe: dict[str, Any], stage: dict[str, Any], piece: dict[str, Any]) -> None:
    """Keys without which those of the piece would have no effect."""
    heads = {key.split(".")[0] for key in piece}
    if {"prefilter", "resample"} & heads:
        stage.setdefault("filter", "zero_variance")
    if "budget_text" in heads:
        stage.setdefault("budget", 64)
    if "demonstrations" in str(piece):
        stage.setdefault("objective", "luffy")
    if piece.get("engine.sync") == "adapter":
        recipe["model"]["peft"] = {"type": "lora"}
        recipe["engine"]["use"] = "vllm_local"
