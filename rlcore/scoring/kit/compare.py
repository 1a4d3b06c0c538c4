"""Where two rewards disagree: the same cases scored by both, grouped by cause."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rlcore.errors import RewardError
from rlcore.scoring.forms import RewardSpec
from rlcore.scoring.kit.cases import Case, as_group
from rlcore.scoring.scorer import Scorer
from rlcore.types import Verdict

TOLERANCE = 1e-6
"""Largest difference of two values that are the same."""


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """A case on which two rewards give different values, or only one gives a value."""

    group: str
    case: Case
    left: Verdict
    right: Verdict

    @property
    def winner(self) -> str:
        """Which of the two gives the expected value: "left", "right", "neither", or "" where none
        is expected.
        """
        if self.case.expected is None:
            return ""
        sides = {"left": self.left, "right": self.right}
        hits = [name for name, verdict in sides.items() if _is(verdict, self.case.expected)]
        return hits[0] if hits else "neither"


@dataclass(frozen=True, kw_only=True)
class GroupCount:
    """How two rewards compare on the cases of one group."""

    group: str
    cases: int
    differ: int
    left_right: int
    """Disagreements in which only the left reward gives the expected value."""
    right_right: int
    """Those in which only the right one does."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Result of `rlcore rewards compare`."""

    left: str
    right: str
    groups: list[GroupCount]
    disagreements: list[Disagreement]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        rows = [
            {
                "group": row.group,
                "completion": row.case.completion,
                "answer": row.case.answer,
                "expected": row.case.expected,
                "left": row.left.value,
                "right": row.right.value,
                "winner": row.winner,
            }
            for row in self.disagreements
        ]
        groups = [asdict(group) for group in self.groups]
        return {"left": self.left, "right": self.right, "groups": groups, "disagreements": rows}


def compare(
    left: str,
    right: str,
    cases: Sequence[Case],
    *,
    params: tuple[Mapping[str, Any], Mapping[str, Any]] = ({}, {}),
    by: str = "cause",
    deadline_s: float = 10.0,
) -> Comparison:
    """Score all cases with both rewards. Each case is a group of one completion.

    params: of the left and the right reward. by: the column whose values are the groups; cases
    without it are one group. Prompts and completions are messages of a chat and the reference
    answer is also the column `solution`, as TRL's rewards expect. Raises `RewardError` without cases, and if a reward cannot be loaded.
    """
    if not cases:
        raise RewardError("there are no cases to compare the rewards on")
    keys = {key for case in cases for key in case.columns}
    if by != "cause" and by not in keys:
        known = ", ".join(sorted(keys)) or "none"
        raise RewardError(
            f"no case has the key {by!r} to group by; the cases' columns: {known}"
        )
    cases = [_as_trl_has_it(case) for case in cases]
    first = _verdicts(RewardSpec(left, params=params[0]), cases, deadline_s)
    second = _verdicts(RewardSpec(right, params=params[1]), cases, deadline_s)
    names = [str(case.columns.get(by, "all")) for case in cases]
    different = [
        Disagreement(group=name, case=case, left=a, right=b)
        for name, case, a, b in zip(names, cases, first, second, strict=True)
        if not _is(a, b.value)
    ]
    groups = [_count(name, names, different) for name in sorted(set(names))]
    return Comparison(left=left, right=right, groups=groups, disagreements=different)


def page(comparison: Comparison) -> str:
    """The comparison as one HTML page that needs nothing else."""
    left, right = html.escape(comparison.left), html.escape(comparison.right)
    summary = _table(
        ["group", "cases", "differ", f"only {left} right", f"only {right} right"],
        [
            [html.escape(g.group), g.cases, g.differ, g.left_right, g.right_right]
            for g in comparison.groups
        ],
    )
    sections = []
    for group in comparison.groups:
        rows = [row for row in comparison.disagreements if row.group == group.group]
        if rows:
            head = ["completion", "answer", "expected", left, right]
            cells = [
                _cells(row, lambda text: f"<pre>{html.escape(text)}</pre>") for row in rows
            ]
            sections.append(f"<h2>{html.escape(group.group)}</h2>\n{_table(head, cells)}")
    title = f"{left} and {right}"
    return _PAGE.format(title=title, summary=summary, sections="\n".join(sections))


def _verdicts(spec: RewardSpec, cases: Sequence[Case], deadline_s: float) -> list[Verdict]:
    with Scorer([spec], workers=1, deadline_s=deadline_s) as scorer:
        return [verdict for (verdict,) in scorer.score([as_group(case) for case in cases])]


def _as_trl_has_it(case: Case) -> Case:
    prompt = case.prompt
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    columns = {"solution": case.answer, **case.columns}
    return replace(case, prompt=prompt, columns=columns)


def _is(verdict: Verdict, value: float | None) -> bool:
    if verdict.value is None or value is None:
        return verdict.value is value
    return abs(verdict.value - value) <= TOLERANCE


def _count(name: str, names: Sequence[str], rows: Sequence[Disagreement]) -> GroupCount:
    winners = [row.winner for row in rows if row.group == name]
    return GroupCount(
        group=name,
        cases=names.count(name),
        differ=len(winners),
        left_right=winners.count("left"),
        right_right=winners.count("right"),
    )


def _cells(row: Disagreement, text: Callable[[str], str]) -> list[Any]:
    """The columns of a disagreement: completion, answer, expected, left, right."""
    expected = "" if row.case.expected is None else f"{row.case.expected:g}"
    values = [
        verdict.status if verdict.value is None else f"{verdict.value:g}"
        for verdict in (row.left, row.right)
    ]
    return [text(row.case.completion), text(str(row.case.answer)), expected, *values]


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = ["<table><tr>" + "".join(f"<th>{name}</th>" for name in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows]
    return "\n".join([*lines, "</table>"])


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 14px/1.5 sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em }}
table {{ border-collapse: collapse; margin: 1em 0 }}
th, td {{ border: 1px solid #ccc; padding: .2em .6em; text-align: left; vertical-align: top }}
pre {{ margin: 0; white-space: pre-wrap; overflow-wrap: anywhere }}
</style>
<h1>{title}</h1>
{summary}
{sections}
</html>
"""
