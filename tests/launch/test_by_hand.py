"""The lines of docs/scale.md for two machines, as they stand: in a copy of the project, between two network namespaces, with names for the hosts."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlcore.run.folder import read_rows
from tests.launch.two_hosts import ADDRESS, LEARNER, SERVER, start_on, two_hosts, wait_for

pytest.importorskip("vllm")
pytestmark = [pytest.mark.vllm, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
NOT_CLONED = (".git", ".venv", "runs", "site", "__pycache__", ".*_cache")
NAMES = {SERVER: "node1", LEARNER: "node2"}


@pytest.fixture
def named_hosts() -> Iterator[None]:
    """`ip netns exec` shows a host the files of /etc/netns/HOST in place of those of /etc."""
    with two_hosts():
        hosts = "127.0.0.1 localhost\n" + "".join(f"{ADDRESS[host]} {name}\n" for host, name in NAMES.items())
        folders = [Path("/etc/netns") / host for host in NAMES]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "hosts").write_text(hosts)
        try:
            yield
        finally:
            for folder in folders:
                (folder / "hosts").unlink()
                folder.rmdir()


def blocks_of(heading: str) -> list[str]:
    """The bash blocks of a section of docs/scale.md."""
    page = (ROOT / "docs/scale.md").read_text(encoding="utf-8")
    section = page.partition(f"### {heading}\n")[2].partition("\n### ")[0].partition("\n## ")[0]
    return re.findall(r"```bash\n(.*?)```", section, flags=re.DOTALL)


def link_environment(clone: Path) -> None:
    """This environment as the clone's own, with the mark by which launch/environment.sh knows that it need not install for minutes."""
    environment = clone / ".venv"
    environment.mkdir()
    for entry in Path(sys.prefix).iterdir():
        if entry.name != ".rlcore":
            (environment / entry.name).symlink_to(entry)
    mark = 'echo "cpu $(cat pyproject.toml launch/constraints-cpu.txt | cksum)" > .venv/.rlcore'
    subprocess.run(["bash", "-c", mark], cwd=clone, check=True)


def test_servers_on_one_host_and_a_learner_on_the_other(named_hosts: None, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    shutil.copytree(ROOT, clone, ignore=shutil.ignore_patterns(*NOT_CLONED))
    link_environment(clone)
    serving, training = blocks_of("Two machines by hand")
    logs = tmp_path / "serve.log", tmp_path / "train.log"
    # the installed `rlcore` is that of this tree
    server, learner = (
        start_on(host, log, ["bash", "-ec", lines], cwd=clone, PYTHONPATH=str(clone), RLCORE_DEVICE="cpu")
        for host, log, lines in zip(NAMES, logs, (serving, training), strict=True)
    )
    try:
        wait_for(lambda: "RLCORE_SERVERS=" in logs[0].read_text(), server, logs[0])
        assert learner.wait(900) == 0, logs[1].read_text()[-3000:]
    finally:
        for process in (learner, server):
            process.terminate()
            process.wait(60)
    before, after = (row["accuracy"] for row in read_rows(clone / "runs/quickstart/eval.jsonl"))
    assert after > 0.6 > before
    steps = [row for row in read_rows(clone / "runs/quickstart/metrics.jsonl") if row["stage"] == "rl"]
    assert max(row["staleness/max"] for row in steps) == 1
