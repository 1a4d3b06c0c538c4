"""A Slurm cluster of two nodes inside this machine, as root and without systemd: for the scripts in launch/slurm."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

START_S = 60.0
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun")

CONFIG = """
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
ReturnToService=2
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
SlurmdParameters=config_overrides
KillWait=5
MinJobAge=3600
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=2 RealMemory=4000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=2 RealMemory=4000
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES
"""


def why_not() -> str:
    """Why there can be no cluster here; "" if there can."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if absent:
        return f"{', '.join(absent)} not installed (apt-get install slurm-wlm munge)"
    return "" if os.geteuid() == 0 else "only root can start Slurm's daemons"


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Two idle nodes n1 and n2; gives the environment for `sbatch` and the other commands."""
    ports = [_free_port() for _ in range(3)]
    host = socket.gethostname().partition(".")[0]
    folder.chmod(0o755)
    for name in ("state", "spool/n1", "spool/n2"):
        (folder / name).mkdir(parents=True)
    config = folder / "slurm.conf"
    config.write_text(
        CONFIG.format(host=host, folder=folder, port=ports[0], first=ports[1], second=ports[2])
    )
    environment = {**os.environ, "SLURM_CONF": str(config), "PATH": _path()}
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    munge = ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket"]
    munge += [
        f"--key-file={key}",
        f"--pid-file={folder}/munge.pid",
        f"--seed-file={folder}/seed",
    ]
    munge += [f"--log-file={folder}/munge.log"]
    commands = [
        munge,
        ["slurmctld", "-D", "-c"],
        *(["slurmd", "-D", "-N", n] for n in ("n1", "n2")),
    ]
    daemons = []
    try:
        for command in commands:
            daemons.append(_daemon(command, environment, folder))
            if command is munge:
                _wait_for(lambda: (folder / "munge.socket").exists(), "munged")
        _wait_for(lambda: _idle(environment), "two idle nodes", daemons)
        yield environment
    finally:
        for daemon in reversed(daemons):
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()


def _daemon(
    command: list[str], environment: dict[str, str], folder: Path
) -> subprocess.Popen[bytes]:
    with (folder / f"{command[0]}.out").open("ab") as out:
        return subprocess.Popen(command, env=environment, stdout=out, stderr=out)


def _idle(environment: dict[str, str]) -> bool:
    said = subprocess.run(
        ["sinfo", "-h", "-N", "-o", "%t"], env=environment, capture_output=True, text=True
    )
    return said.stdout.split() == ["idle", "idle"]


def _wait_for(happens, what: str, daemons: list[subprocess.Popen[bytes]] | None = None) -> None:
    until = time.monotonic() + START_S
    while not happens():
        ended = [daemon.args for daemon in daemons or [] if daemon.poll() is not None]
        assert not ended and time.monotonic() < until, (
            f"no {what} in {START_S:g} s; ended: {ended}"
        )
        time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
