"""A section that raises, is killed or hangs ends no other one, and what is known is on the disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlcore.bench.device import run as supervisor
from rlcore.bench.device.case import Section
from rlcore.bench.device.results import Results
from rlcore.bench.device.run import bench_device
from rlcore.errors import RecipeError

HERE = "tests.device"
FAULTY = Section("faulty", f"{HERE}.faulty_section", 120, "nothing")
UNLISTED = Section("unlisted", f"{HERE}.unlisted_section", 120, "nothing")
GOOD = Section("good", f"{HERE}.good_section", 120, "nothing")


def run(out: Path, *sections: Section, **settings: object) -> tuple[bool, dict, list[str]]:
    said: list[str] = []
    passed = bench_device(
        minutes=10, out=out, tiny=True, say=said.append, sections=sections, **settings
    )
    return passed, json.loads(out.read_text()), said


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bool, dict, list[str]]:
    folder = tmp_path_factory.mktemp("device")
    os.environ["PASSED_ONCE"] = str(folder / "once")
    os.environ["CHILD_OF_A_CASE"] = str(folder / "child")
    out = folder / "results.json"
    return out, *run(out, FAULTY, UNLISTED, GOOD)


def test_each_fault_is_recorded_and_the_rest_runs(faulty: tuple) -> None:
    _, passed, results, said = faulty
    assert not passed
    sections = results["sections"]
    assert {name: section["status"] for name, section in sections.items()} == {
        "faulty": "failed",
        "unlisted": "failed",
        "good": "green",
    }
    cases = sections["faulty"]["cases"]
    assert {name: case["status"] for name, case in cases.items()} == {
        "fine": "green",
        "wrong": "failed",
        "killed": "failed",
        "exits": "failed",
        "hangs": "failed",
        "leaves a child": "failed",
        "not JSON": "failed",
        "elsewhere": "not on this device",
        "once": "failed",
        "last": "green",
    }
    assert cases["fine"]["values"] == {"value": 1.5}
    assert "must be at most 1" in cases["wrong"]["error"]
    assert "faulty_section.py" in cases["wrong"]["error"], "the traceback"
    assert "SIGKILL" in cases["killed"]["error"]
    assert "exit status 3" in cases["exits"]["error"]
    assert "last words of the process" in cases["exits"]["error"]
    assert "longer than it may" in cases["hangs"]["error"]
    assert "not JSON serializable" in cases["not JSON"]["error"]
    assert cases["elsewhere"]["reason"] == "needs the package no_such_package_here"
    assert "a library of the driver is missing" in json.dumps(sections["unlisted"])
    assert any("faulty/hangs: failed" in line for line in said)


def test_every_result_says_on_which_machine(faulty: tuple) -> None:
    _, _, results, _ = faulty
    [machine] = results["machines"]
    assert machine["device"] == "cpu" and "torch" in machine["versions"]
    assert results["sections"]["good"]["cases"]["one"]["machine"] == 0
    assert results["tiny"] and "no measurement" in results["note"]


def test_nothing_that_a_case_started_is_left(faulty: tuple) -> None:
    child = int(Path(os.environ["CHILD_OF_A_CASE"]).read_text())
    deadline = time.monotonic() + 5
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        if "Z" in Path(f"/proc/{child}/stat").read_text().rpartition(")")[2]:
            break  # dead, and not yet collected by its new parent
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{child}").exists()


def test_a_later_call_goes_on_with_what_is_not_green(faulty: tuple, tmp_path: Path) -> None:
    """Green cases of a failed section are not run again, failed ones are; a green section is left alone."""
    out, _, before, _ = faulty
    copy = tmp_path / "results.json"
    copy.write_text(out.read_text())
    section = Section("faulty", f"{HERE}.once_more", 120, "nothing")
    (Path(__file__).parent / "once_more.py").write_text(
        "from rlcore.bench.device.case import Case\nfrom tests.device.faulty_section import fine, once\n"
        "def cases(tiny):\n    yield Case('fine', lambda: {'value': 2})\n    yield Case('once', once)\n"
    )
    try:
        _, after, said = run(copy, section, GOOD)
    finally:
        (Path(__file__).parent / "once_more.py").unlink()
    assert after["sections"]["faulty"]["cases"]["fine"] == before["sections"]["faulty"]["cases"]["fine"]
    assert after["sections"]["faulty"]["cases"]["once"]["status"] == "green"
    assert "good: green already" in said
    dates = [r["sections"]["good"]["cases"]["one"]["date"] for r in (before, after)]
    assert dates[0] == dates[1]
    time.sleep(1.1)
    _, again, _ = run(copy, GOOD, again=True)
    assert again["sections"]["good"]["cases"]["one"]["date"] > dates[0]


def test_a_section_ends_with_its_time_and_is_finished_by_the_next_call(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    section = Section("slow", f"{HERE}.slow_section", 8, "nothing")
    passed, results, _ = run(out, section)
    slow = results["sections"]["slow"]
    assert passed and slow["status"] == "unfinished"
    assert list(slow["cases"]) in (["quick"], [])
    assert "its time was over" in slow["reason"] or "was killed" in slow["reason"]


def test_a_killed_command_leaves_a_whole_file(tmp_path: Path) -> None:
    """The file is replaced after each case: whenever the command is killed, it can be read and continued."""
    out = tmp_path / "results.json"
    code = (
        "from pathlib import Path; from rlcore.bench.device.run import bench_device\n"
        "from tests.device.test_supervisor import *\n"
        f"bench_device(minutes=5, out=Path({str(out)!r}), tiny=True, sections=(GOOD, Section('slow', HERE + '.slow_section', 90, '')))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if out.exists() and "quick" in json.loads(out.read_text())["sections"].get("slow", {}).get("cases", {}):
            break
        time.sleep(0.02)
    process.kill()
    process.wait()
    results = json.loads(out.read_text())
    assert results["sections"]["good"]["status"] == "green"
    assert Results(out, tiny=True).is_green("good")
    until = time.monotonic() + 10
    while "slow_section" in subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True).stdout:
        assert time.monotonic() < until, "the section goes on"
        time.sleep(0.1)


def test_files_of_other_runs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "results.json"
    out.write_text("{")
    with pytest.raises(RecipeError, match="cannot be read as JSON"):
        Results(out, tiny=True)
    out.write_text("[]")
    with pytest.raises(RecipeError, match="no results file"):
        Results(out, tiny=True)
    out.unlink()
    results = Results(out, tiny=True)
    assert results.machine({"device": "cpu", "load": 1}) == 0
    assert results.machine({"device": "cpu", "load": 2}) == 1
    with pytest.raises(RecipeError, match="holds results of cpu and this is NVIDIA H100"):
        results.machine({"device": "NVIDIA H100"})
    results.write()
    with pytest.raises(RecipeError, match="holds a dry run"):
        Results(out, tiny=False)
    with pytest.raises(RecipeError, match="there is no section 'lerner'; did you mean 'learner'"):
        bench_device(minutes=1, out=tmp_path / "other.json", tiny=True, only=["lerner"])
    monkeypatch.setattr(supervisor, "_require_gpu", lambda: (_ for _ in ()).throw(RecipeError("no GPU")))
    with pytest.raises(RecipeError, match="no GPU"):
        bench_device(minutes=1, out=tmp_path / "other.json")


def test_without_a_gpu_the_command_says_what_to_do(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(RecipeError, match="torch sees no CUDA GPU here.*--tiny"):
        bench_device(minutes=1, out=tmp_path / "results.json")
