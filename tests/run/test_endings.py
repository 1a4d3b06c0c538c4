"""How a run ends before its time: what it says, what it saves, and how it goes on."""

from __future__ import annotations

import fcntl
import io
import os
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlcore.recipe.load import load
from rlcore.run.driver import train
from rlcore.run.ending import TermRequest, interrupted
from rlcore.run.folder import read_rows
from rlcore.signals import end_on_signals
from rlcore.terminal import SafeConsole
from tests.run.test_checkpoint import started, write
from tests.run.whole import Process, run_folder, start, write_recipe

LONG = ("stages.sft.steps=400", "run.checkpoint_every=300")


def rows(recipe: Path) -> int:
    return len(read_rows(run_folder(recipe) / "metrics.jsonl"))


def wait_for_rows(recipe: Path, number: int, process: Process) -> None:
    until = time.monotonic() + 120
    while rows(recipe) < number:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.02)


def ended(process: Process) -> str:
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    return err


def test_sigterm_saves_a_checkpoint_when_the_recipe_says_so(tiny: Path) -> None:
    process = start("train", tiny, *LONG, "run.save_on_term_s=60")
    wait_for_rows(tiny, 3, process)
    process.send_signal(signal.SIGTERM)
    said = ended(process)
    steps = rows(tiny)
    assert 3 <= steps < 300
    assert f"interrupted after {steps} steps, all of them are saved; go on with: rlcore" in said
    assert [path.name for path in (run_folder(tiny) / "checkpoints").iterdir()] == [
        f"step_{steps:06d}"
    ]
    again = start(
        "train",
        run_folder(tiny),
        f"stages.sft.steps={steps + 1}",
        "stages.rl.steps=1",
        "--resume",
    )
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0 and f"resumed after step {steps}" in out, err


def test_sigterm_ends_at_once_and_says_what_is_lost(tiny: Path) -> None:
    process = start("train", tiny, "stages.sft.steps=400", "run.checkpoint_every=5")
    wait_for_rows(tiny, 8, process)
    process.send_signal(signal.SIGTERM)
    said = ended(process)
    number, lost = map(
        int, re.search(r"after (\d+) steps, the last (\d+) are not saved", said).groups()
    )
    assert (number - lost) % 5 == 0 and 0 < lost
    assert f"train {run_folder(tiny)} --resume" in said


def test_the_grace_period_is_kept() -> None:
    """A step that outlasts it is given up; so is one at a second signal."""
    for grace_s, signals in ((0.2, 1), (30.0, 2)):
        request = TermRequest(grace_s)
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt), request.listening():
            for _ in range(signals):
                os.kill(os.getpid(), signal.SIGTERM)
            assert request.received
            time.sleep(10)
        assert time.monotonic() - began < 5
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also where these tests run under nohup


def test_a_closed_terminal_ends_a_run_as_sigterm_does(tiny: Path) -> None:
    """A real terminal, whose other end is closed: the kernel sends SIGHUP, and what is printed has nowhere to go."""
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "rlcore", "train", str(tiny), *LONG, "run.save_on_term_s=60"],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        preexec_fn=_take_terminal,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    os.close(theirs)
    said = b""
    until = time.monotonic() + 120
    while rows(tiny) < 3:
        assert process.poll() is None and time.monotonic() < until, said.decode()
        if select.select([ours], [], [], 0.05)[0]:
            said += os.read(ours, 65536)
    os.close(ours)
    assert process.wait(60) == 130
    steps = rows(tiny)
    assert [path.name for path in (run_folder(tiny) / "checkpoints").iterdir()] == [
        f"step_{steps:06d}"
    ]


def test_sighup_without_a_grace_period_says_what_is_lost(tiny: Path) -> None:
    """As with `rlcore train ... > log` in a shell that ends."""
    process = start("train", tiny, "stages.sft.steps=400", "run.checkpoint_every=5")
    wait_for_rows(tiny, 8, process)
    for _ in range(2):  # of the shell and of the kernel
        process.send_signal(signal.SIGHUP)
    said = ended(process)
    assert re.search(r"interrupted after \d+ steps, the last \d+ are not saved", said)
    assert said.count("interrupted") == 1 and f"train {run_folder(tiny)} --resume" in said


def test_a_hang_up_is_noted_once_and_sigterm_after_it_keeps_the_grace_period() -> None:
    """A logout sends both, in any order."""
    for first, second in ((signal.SIGHUP, signal.SIGTERM), (signal.SIGTERM, signal.SIGHUP)):
        end_on_signals()
        request = TermRequest(30.0)
        with request.listening():
            for number in (first, second, signal.SIGHUP):
                os.kill(os.getpid(), number)
            assert request.received
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(5)
        os.kill(os.getpid(), signal.SIGHUP)  # does not disturb what comes after the loop


def test_nohup_is_respected(tiny: Path) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    end_on_signals()
    with TermRequest(5.0).listening():
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    numbers = (signal.SIGHUP, signal.SIGTERM, signal.SIGALRM)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def test_an_error_of_a_callback_says_how_to_go_on(tiny: Path) -> None:
    def fail(step: int, _: dict) -> None:
        if step == 3:
            raise ZeroDivisionError("a tracker of my own")

    said = io.StringIO()
    with pytest.raises(ZeroDivisionError):
        train(load(str(tiny)), callbacks=[fail], console=SafeConsole(file=said, width=200))
    assert (
        f"go on after step_000002 with: rlcore train {run_folder(tiny)} --resume"
        in said.getvalue()
    )


def test_an_interrupt_while_the_model_loads_says_how_to_go_on(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt) as raised:
        patch.setattr("rlcore.run.driver.build_policy", interrupt)
        train(load(str(tiny)), console=SafeConsole(quiet=True))
    assert str(raised.value) == (
        f"interrupted before the first step; go on with: rlcore train {run_folder(tiny)} --resume"
    )
    short = ["stages=[{kind: sft, tasks: demonstrations, steps: 1}]", "name=again"]
    train(load(str(tiny), short), console=SafeConsole(quiet=True))


@pytest.mark.parametrize(
    ("saved", "step", "sentence"),
    [
        (0, 7, "after 7 steps, none of them is saved"),
        (5, 7, "after 7 steps, the last 2 are not saved and will be made again"),
        (7, 7, "after 7 steps, all of them are saved"),
    ],
)
def test_what_an_interrupted_run_says(
    tmp_path: Path, saved: int, step: int, sentence: str
) -> None:
    folder = started(tmp_path / "a run")
    if saved:
        write(folder.checkpoints, saved)
    said = interrupted(folder.path, step)
    assert sentence in said and said.endswith(f"rlcore train '{folder.path}' --resume")


@pytest.mark.skipif("RLCORE_FULL" not in os.environ, reason="half a minute: two cold starts")
def test_under_torchrun_the_ending_tells_how_to_resume(tmp_path: Path) -> None:
    """The real launcher: one rank is killed, and the other says so before torchrun's own report."""
    recipe = write_recipe(tmp_path)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "-m",
        "rlcore",
    ]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(
        [*command, "train", str(recipe), *LONG],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    wait_for_rows(recipe, 2, process)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True)
    ranks = sorted(map(int, children.stdout.split()))
    os.kill(ranks[-1], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    wanted = f"torchrun --nproc_per_node 2 -m rlcore train {run_folder(recipe)} --resume"
    assert wanted in err, err[-3000:]
