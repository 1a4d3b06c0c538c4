"""The results file: written whole after every case, continued by later calls."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlcore.bench.device.case import ABSENT, FAILED, GREEN, UNFINISHED
from rlcore.errors import RecipeError

WHAT = "rlcore bench device"


class Results:
    """What is known so far. Raises `RecipeError` where the file is of something else, or of another kind of run."""

    def __init__(self, path: Path, *, tiny: bool) -> None:
        self._path = path
        self._values: dict[str, Any] = {
            "what": WHAT,
            "tiny": tiny,
            "note": "a dry run at toy size: no measurement" if tiny else "",
            "machines": [],
            "sections": {},
        }
        if path.exists():
            self._values = _read(path)
            if self._values["tiny"] != tiny:
                kind = "a dry run" if self._values["tiny"] else "measurements"
                raise RecipeError(f"{path} holds {kind}: give another file with --out")

    @property
    def sections(self) -> dict[str, Any]:
        return self._values["sections"]

    def begin(self, section: str, needs: str, *, again: bool) -> None:
        """Make room for a section; with `again` what is known of it is forgotten."""
        if again:
            self.sections.pop(section, None)
        self.sections.setdefault(section, {"status": UNFINISHED, "needs": needs, "cases": {}})

    def finished(self, section: str) -> list[str]:
        """Cases that need not run again: green ones, and those that this kind of machine cannot run."""
        cases = self.sections[section]["cases"].items()
        return [name for name, case in cases if case["status"] in (GREEN, ABSENT)]

    def is_green(self, section: str) -> bool:
        return self.sections.get(section, {}).get("status") == GREEN

    def machine(self, facts: Mapping[str, Any]) -> int:
        """The machine's number in the file. Raises `RecipeError` if earlier results are of another device."""
        machines = self._values["machines"]
        if machines and machines[0]["device"] != facts["device"]:
            raise RecipeError(
                f"{self._path} holds results of {machines[0]['device']} and this is {facts['device']}: "
                "give another file with --out"
            )
        if dict(facts) not in machines:
            machines.append(dict(facts))
        return machines.index(dict(facts))

    def put(self, section: str, case: str, outcome: Mapping[str, Any], machine: int) -> None:
        """Note what came of a case, and write the file."""
        date = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self.sections[section]["cases"][case] = {
            **outcome,
            "machine": machine,
            "date": date,
        }
        self.write()

    def close(self, section: str, *, all_cases: list[str] | None, reason: str = "") -> None:
        """Say what a section is, once no more of its cases will run. all_cases: None if its list is not known."""
        entry = self.sections[section]
        entry["status"] = _status(entry["cases"], all_cases)
        entry["reason"] = reason
        self.write()

    def write(self) -> None:
        """Replace the file in one piece: who reads it, or is killed, never meets half of it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        beside = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        beside.write_text(json.dumps(self._values, indent=1) + "\n")
        os.replace(beside, self._path)


def _status(cases: Mapping[str, Mapping[str, Any]], all_cases: list[str] | None) -> str:
    kinds = {case["status"] for case in cases.values()}
    if FAILED in kinds:
        return FAILED
    if all_cases is None or set(all_cases) - set(cases):
        return UNFINISHED
    return ABSENT if kinds == {ABSENT} else GREEN


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"{path} cannot be read as JSON ({error}): give another file"
        ) from None
    if not isinstance(values, dict) or values.get("what") != WHAT:
        raise RecipeError(
            f"{path} is no results file of `{WHAT}`: give another file with --out"
        )
    return values
