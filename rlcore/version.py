"""Which code of rlcore is running: its version and, where that can be known, the commit."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
from pathlib import Path

import rlcore

DEADLINE_S = 10


def code_version() -> dict[str, str]:
    """`rlcore`: the version; `commit`, left out where it is unknown, ends in -dirty where files differ from it."""
    commit = _commit_of_checkout(Path(rlcore.__file__).parent.parent) or _commit_of_install()
    return {"rlcore": rlcore.__version__, **({"commit": commit} if commit else {})}


def _commit_of_checkout(root: Path) -> str:
    """The commit of the git checkout whose root this is; empty where it is none."""
    if not (root / ".git").exists():
        return ""
    command = ["git", "--no-optional-locks", "-C", str(root), "describe"]
    command += ["--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=DEADLINE_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _commit_of_install() -> str:
    """The commit that pip installed from a repository; empty where it came from elsewhere."""
    try:
        text = importlib.metadata.distribution("rlcore").read_text("direct_url.json")
        return str(json.loads(text or "{}").get("vcs_info", {}).get("commit_id", ""))
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return ""
