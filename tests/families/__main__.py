"""Send families through the whole loop, each in a process of its own, and write the table of `docs/models.md`.

python -m tests.families                     all of them, then the table
python -m tests.families llama qwen3_moe     these, shown as they are
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from tests.families.configs import families
from tests.families.table import PAGE, page

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 300


def main() -> int:
    """1 if a cell is neither right nor refused."""
    parser = argparse.ArgumentParser(prog="python -m tests.families", description=__doc__)
    parser.add_argument("families", nargs="*", metavar="FAMILY")
    parser.add_argument("--engines", default="hf,vllm", help="default hf,vllm")
    parser.add_argument("--cache", type=Path, help="rows of an earlier, interrupted call")
    parser.add_argument(
        "--write", action="store_true", help="write the table of the rows there are"
    )
    arguments = parser.parse_args()
    rows = json.loads(arguments.cache.read_text()) if _exists(arguments.cache) else {}
    for family in arguments.families or families():
        if arguments.families or family not in rows:
            rows[family] = examine_apart(family, arguments.engines)
            print(family, json.dumps(rows[family]), flush=True)
        if arguments.cache:
            arguments.cache.write_text(json.dumps(rows, indent=1))
    if arguments.write or not arguments.families:
        path = ROOT / PAGE
        left_out = {"learner": "not made: left out of the call that wrote this table"}
        rows = {family: rows.get(family, left_out) for family in families()}
        path.write_text(page(rows, path.read_text(encoding="utf-8")), encoding="utf-8")
    return int(bool(faults(rows)))


def _exists(path: Path | None) -> bool:
    return path is not None and path.exists()


def faults(rows: dict[str, dict[str, str]]) -> list[str]:
    """Cells that are neither right nor refused with a sentence."""
    return [
        f"{family}, {check}: {cell}"
        for family, row in rows.items()
        for check, cell in row.items()
        if cell.startswith("fault")
    ]


def examine_apart(family: str, engines: str) -> dict[str, str]:
    """The row of a family. A crash, or a process that does not end, is a fault."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    command = [sys.executable, "-W", "ignore", "-m", "tests.families.examine", family, engines]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            cwd=ROOT,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        return {"learner": f"fault: not done after {DEADLINE_S} s"}
    for line in done.stdout.splitlines():
        if line.startswith("ROW"):
            return json.loads(line.removeprefix("ROW"))
    last = (done.stderr.strip().splitlines() or ["nothing printed"])[-1]
    return {"learner": f"fault: the process ended with {done.returncode} ({last[:200]})"}


if __name__ == "__main__":
    sys.exit(main())
