"""Text of models and files cannot steer the terminal, whatever prints it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

from rlcore.analysis.credit_view import terminal
from rlcore.cli.main import main
from rlcore.terminal import SafeConsole, visible

HOSTILE = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202eabc\r"


def printed(thing: object) -> str:
    file = io.StringIO()
    SafeConsole(
        file=file, force_terminal=True, width=100, color_system="truecolor", highlight=False
    ).print(thing)
    return file.getvalue()


def test_own_colours_work_and_those_of_the_text_do_not() -> None:
    table = Table("a")
    table.add_row(Text(HOSTILE, style="bold red"))
    table.add_row(HOSTILE)
    for thing in (HOSTILE, Text(HOSTILE, style="red"), table):
        said = printed(thing)
        assert not {"\x1b[2J", "\x1b]0", "\x07", "\x9b", "\u202e"} & set(said)
        assert "\x1b[2J" not in said and "\x1b]0" not in said and "␛[2J" in said
    assert "abc" in printed(HOSTILE)
    assert "\x1b[" in printed(Text("x", style="bold red"))


def test_ordinary_text_is_left_alone() -> None:
    text = "Überprüfung, 数学, 🙂\tx\ny"
    assert visible(text) == text


def test_the_picture_of_a_rollout_shows_what_a_model_wrote() -> None:
    row = {
        "id": HOSTILE, "optimiser_step": 1, "value": 1.0, "answer": HOSTILE, "prompt": HOSTILE, "mask": [1],
        "steps": {"spans": [[0, 1]], "values": [0.5, 1.0]}, "advantages": [[0.5, 1]],
    }  # fmt: skip
    said = printed(terminal(row, [HOSTILE]))
    assert "\x1b[2J" not in said and "\x1b]0" not in said and "\x07" not in said


def test_an_error_shows_what_a_file_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(f'extends: "{HOSTILE.encode("unicode_escape").decode()}"\n')
    assert main(["train", str(path)]) == 2
    assert "\x1b" not in capsys.readouterr().err


PRINTS = """
import sys
from rlcore.terminal import lasting_output, make_console

with lasting_output():
    console = make_console()
    for _ in range(3):
        print("a line")
        print("a line", file=sys.stderr)
        console.print("a line")
        sys.stdout.flush()
sys.exit(7)
"""


@pytest.mark.parametrize("output", ["a pipe that nobody reads", "a full disk", "a closed terminal"])
def test_what_cannot_be_printed_ends_nothing(output: str) -> None:
    """As under `| head -1`, or where the log's disk is full: the exit status is the command's own."""
    if output == "a full disk":
        theirs = os.open("/dev/full", os.O_WRONLY)
    else:
        ours, theirs = os.pipe() if "pipe" in output else os.openpty()
        os.close(ours)
    command = [sys.executable, "-c", PRINTS]
    status = subprocess.run(command, stdout=theirs, stderr=theirs, timeout=60).returncode
    os.close(theirs)
    assert status == 7
