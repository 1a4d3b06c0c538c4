"""The code blocks of the README and of docs/ work, and so do the keys and commands inside their sentences.

A command in a bash block is run. Where it needs what a test does not have, its comment says so: `# needs 8 GPUs`.
Commands of pages that look at a run, or train one, are run in the slow tier, in their order, in one folder.
"""

from __future__ import annotations

import contextlib
import doctest
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlcore.cli.main import _parse as parse_command
from rlcore.objective.methods import METHODS
from rlcore.objective.presets import PRESETS
from rlcore.plugin import import_file
from rlcore.recipe.check import check
from rlcore.recipe.load import load
from rlcore.recipe.schema import Recipe
from rlcore.stages.rl import RlStage
from tests.run.forked import Forked
from tests.run.whole import TINY

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

NOT_CHECKED = {
    "my_problems.jsonl": "the data set is the reader's, and the model would be downloaded",
    "my_rewards.py:gap": "the text names this reward without its code",
    "my_votes.py:letter": "the text names this function without its code",
    "my_parts.py:Writer": "tests/test_readme.py trains with an engine of this name",
    "my_steps.py:cut": "the text names this splitter without its code",
    "path: heldout.jsonl": "commands of the tutorial make this file, and the model",
    "path: runs/short": "the page looks at such a run",
    "{use: corpus": "tests/tasks/test_corpus_tasks.py makes tasks of texts",
    "{use: verifiers": "tests/env/test_verifiers.py runs it in an interpreter of its own",
    "{use: gem": "tests/env/test_other_libraries.py plays it in an interpreter of its own",
    "{use: textarena": "tests/env/test_other_libraries.py plays it in an interpreter of its own",
    "{use: openenv": "tests/env/test_other_libraries.py plays it in an interpreter of its own",
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
    """Its name from the root of the repository."""
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
        blocks.append(Block(path.relative_to(ROOT).as_posix(), line, match[1], match[2], before))
    return blocks


BLOCKS = [block for path in PAGES for block in blocks_of(path)]


def in_language(language: str) -> list[Any]:
    return [pytest.param(block, id=str(block)) for block in BLOCKS if block.language == language]


def file_of(block: Block) -> str:
    """The file that the block's first comment names."""
    match = re.match(r"# (\w+\.(?:py|yaml))\b", block.code)
    return match[1] if match else ""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An otherwise empty folder with every file that the pages show."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    for block in BLOCKS:
        if file_of(block):
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
    assert [words for words in NOT_CHECKED if words not in texts] == []


def test_no_two_blocks_are_the_same_file() -> None:
    names = [file_of(block) for block in BLOCKS if file_of(block)]
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


def commands_of(page: str) -> list[str]:
    """The commands of a page's bash blocks that can be run here; a block whose first line is `# needs ...` is left out whole."""
    commands = []
    for block in BLOCKS:
        if block.page == page and block.language == "bash" and not block.code.startswith("# needs "):
            for line in block.code.splitlines():
                command, _, comment = line.partition(" #")
                if command.strip() and not comment.strip().startswith("needs "):
                    commands.append(command.strip())
    return commands


COMMANDS = {
    page: commands
    for page in dict.fromkeys(block.page for block in BLOCKS)
    if (commands := commands_of(page))
}
TRAINS_OR_LOOKS = {
    page for page, commands in COMMANDS.items() if re.search("runs/| train |rewards ", str(commands))
}


def run_all(commands: list[str], folder: Path, timeout_s: float) -> None:
    ci = (ROOT / ".ci/run").read_text(encoding="utf-8")
    for command in commands:
        if command.startswith("bash launch/"):
            assert command in ci, f"neither this test nor .ci/run runs {command!r}"
        else:
            run_command(command, folder, timeout_s)


@pytest.mark.parametrize("page", sorted(COMMANDS.keys() - TRAINS_OR_LOOKS))
def test_commands(page: str, folder: Path) -> None:
    run_all(COMMANDS[page], folder, timeout_s=100)


@pytest.fixture(scope="session")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that pages look at."""
    folder = tmp_path_factory.mktemp("short")
    settings = "name=short engine.use=hf stages.sft.steps=20 stages.rl.steps=3"
    run_command(f"rlcore train quickstart {settings} run.checkpoint_every=20", folder, 400)
    return folder / "runs/short"


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted(TRAINS_OR_LOOKS))
def test_commands_of_runs(page: str, folder: Path, short_run: Path) -> None:
    commands = COMMANDS[page]
    if any(" train " in command and "engine.use=hf" not in command for command in commands):
        pytest.importorskip("vllm")
    for name in runs_to_look_at(page):
        shutil.copytree(short_run, folder / "runs" / name)
    run_all(commands, folder, timeout_s=600)


def runs_to_look_at(page: str) -> set[str]:
    """Names of the runs that the page's commands and recipes read without having trained them."""
    text = "\n".join(COMMANDS[page])
    recipes = [block.code for block in BLOCKS if block.page == page and block.language == "yaml"]
    read = set(re.findall(r"runs/(\w+)", text + "".join(recipes)))
    trained = set(re.findall(r"train \w+ name=(\w+)", text))
    for code in recipes:
        if f"train {(re.match(r'# ([^ ,]+yaml)', code) or [''])[0][2:]}" in text:
            trained |= set(re.findall(r"^name: (\w+)$", code, flags=re.MULTILINE))
    return read - trained


def test_a_command_that_is_not_run_says_what_it_needs() -> None:
    needs = set(re.findall(r"# needs [^\n]*", "".join(block.code for block in BLOCKS)))
    assert 8 <= len(needs) <= 20
    for what in needs:
        assert re.match(r"# needs (\d+ |a |an |the |that |such |Slurm)", what), what


def run_command(command: str, folder: Path, timeout_s: float) -> str:
    """Run a line of a page in a shell; one of rlcore alone in a fork, which spares it seconds of imports."""
    binaries = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {
        **os.environ,
        "PATH": binaries,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "RLCORE_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    program, *words = shlex.split(command)
    if program == "rlcore" and not re.search(r"[|&<>;$*]", command):
        with contextlib.chdir(folder):
            finished = Forked(words, environment)
        out, err = finished.communicate(timeout_s)
    else:
        finished = subprocess.run(
            command,
            shell=True,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        out, err = finished.stdout, finished.stderr
    assert finished.returncode == 0, f"{command}\n{out}\n{err}"
    return out


def commands_in(path: Path) -> list[Any]:
    """Every `rlcore ...` of a page: in sentences, tables and blocks of any kind, also behind a launcher."""
    text = path.read_text(encoding="utf-8")
    spans = re.findall(r"`([^`\n]+)`", text) + re.findall(r"^ {4,}(.*)$", text, flags=re.MULTILINE)
    for block in blocks_of(path):
        if block.language == "bash":
            spans += block.code.splitlines()
    commands = []
    for span in spans:
        match = re.match(r"(?:[A-Z_]+=\S+ )*(?:(?:torchrun|accelerate launch) .*-m )?(rlcore [a-z].*)", span)
        if match:
            command = re.split(r"\s+#| \|\| | [<>] ", match[1])[0]
            command = re.sub(r"(\w)(\|\w+)+", r"\1", command)  # a|b|c: the first of them
            commands.append(pytest.param(command, id=f"{path.name}: {command}"))
    return commands


@pytest.mark.parametrize(
    "command", [command for path in PAGES for command in commands_in(path)]
)
def test_commands_in_sentences(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is understood; one that only names a command, `rlcore bench`, is asked for its help."""
    words = shlex.split(command)[1:]
    try:
        parse_command(words)
    except SystemExit:
        with pytest.raises(SystemExit) as ended:
            parse_command([*words, "--help"])
        assert ended.value.code == 0 and f"usage: {command}" in capsys.readouterr().out


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


def test_the_table_of_methods_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    made = importlib.import_module("site_methods")
    text = made.PAGE.read_text(encoding="utf-8")
    assert made.with_table(text) == text, "write the table anew: python docs/site_methods.py"
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", text, flags=re.MULTILINE)
    assert [name for name, _ in rows] == list(METHODS)
    for name, cells in rows:
        assert METHODS[name].objective in cells and METHODS[name].when, name


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
        if key.startswith("env.") or key == "credit.turns":
            section, _, name = key.partition(".")
            stage.setdefault(section, {"use": "number_guessing"} if section == "env" else {})[name] = value
        elif key == "stages":
            stages += value
        elif key == "model" and "path" in value:
            recipe[key] = value
        elif key in ("tasks", "model", "engine", "prompt") and isinstance(value, dict):
            recipe[key] = {**recipe.get(key, {}), **value}
        elif key.startswith(("model.", "engine.", "prompt.", "run.")):
            dotted[key] = value
        elif "." in key:
            dotted[f"stages.rl.{key}"] = value
        else:
            stage[key] = value
    add_companions(recipe, stage, piece)
    return {**recipe, "stages": stages, **dotted}


PLAYED = {
    "number_guessing": {}, "calculator": {}, "facts": {}, "grid_world": {}, "fact_search": {"use": "facts", "form": "tools"},
}  # fmt: skip
"""Environment -> its own task set, of the same name where no other is said."""


def add_companions(recipe: dict[str, Any], stage: dict[str, Any], piece: dict[str, Any]) -> None:
    """Keys without which those of the piece would have no effect."""
    heads = {key.split(".")[0] for key in piece}
    if {"prefilter", "resample"} & heads:
        stage.setdefault("filter", "zero_variance")
    if "budget_text" in heads:
        stage.setdefault("budget", 64)
    if "demonstrations" in str({key: value for key, value in piece.items() if key != "tasks"}):
        stage.setdefault("objective", "luffy")
    by_turn = "'split': 'turn'" in str(piece)
    if piece.keys() & {"env.history", "credit.turns"} or by_turn:
        stage.setdefault("env", {"use": "number_guessing"})
        recipe["prompt"] = {"format": "chat"}
    env = stage.get("env") or {}
    if env.get("use") in PLAYED:
        recipe["tasks"]["base"] = {"use": env["use"], **PLAYED[env["use"]]}
    if env.get("tools") or env.get("use") == "fact_search":
        recipe["prompt"] = {"format": "chat"}
    if piece.get("engine.sync") == "adapter":
        recipe["model"]["peft"] = {"type": "lora"}
        recipe["engine"]["use"] = "vllm_local"
