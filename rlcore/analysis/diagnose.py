"""What went wrong in a run, by the rules of `rlcore.run.rules`, from its metrics alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from rlcore.errors import RunError
from rlcore.run.dead_states import FIRST_STEPS, PAGE, dead_states
from rlcore.run.folder import RunFolder, read_rows
from rlcore.run.rules import STAGE_RULES, STEP_RULES
from rlcore.run.trends import STEPS_OF_A_TREND, STEPS_OF_WASTE, Row

MOST_OFTEN = 0.5
"""Fraction of a stage's steps in which a step rule must have held for the run to be called ill."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    rule: str
    title: str
    sentence: str
    stage: str
    first: int
    last: int
    """Steps of the run that it is seen in, from first to last."""

    @property
    def link(self) -> str:
        return f"{PAGE}#{self.rule}"


def steps_of(run: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl. Raises `RunError` where there is no step of an rl stage yet."""
    rows = read_rows(RunFolder.of_run(run).metrics)
    if not any("reward/mean" in row or "reward/frac_unscored" in row for row in rows):
        raise RunError(
            f"{run} has no step of an rl stage yet: there is nothing to diagnose; 'rlcore rollouts {run} --failed' has "
            "what it wrote, where it wrote anything"
        )
    return rows


def unjudged(rows: Sequence[Row]) -> str:
    """What these steps are too few to show, as a sentence; "" where there are enough."""
    counts = Counter(str(row.get("stage", "")) for row in rows if "reward/frac_unscored" in row)
    most = max(counts.values(), default=0)
    if most >= STEPS_OF_A_TREND:
        return ""
    return (
        f"{most} steps are too few to see a trend of reward, length or entropy, which takes {STEPS_OF_A_TREND}"
        + (f", or waste, which takes {STEPS_OF_WASTE}" if most < STEPS_OF_WASTE else "")
    )


def diagnose(rows: Sequence[Row]) -> list[Finding]:
    """The findings in rows of metrics.jsonl, stage by stage; stages that do not generate have none."""
    findings = []
    for stage, of_stage in groupby(rows, key=lambda row: str(row.get("stage", ""))):
        stage_rows = [row for row in of_stage if "reward/frac_unscored" in row]
        if stage_rows:
            findings += _step_findings(stage, stage_rows)
            findings += _stage_findings(stage, stage_rows)
    return _without_consequences(findings)


def first_warnings(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """`stage`, `step` and `sentence` of each warning that the run printed in the first steps of a stage."""
    warnings = []
    for stage, of_stage in groupby(rows, key=lambda row: str(row.get("stage", ""))):
        for row in islice(of_stage, FIRST_STEPS):
            for sentence in dead_states(row):
                warnings.append({"stage": stage, "step": row["step"], "sentence": sentence})
    return warnings


def _step_findings(stage: str, rows: Sequence[Row]) -> list[Finding]:
    """Of rules that held in most steps."""
    findings = []
    for rule in STEP_RULES:
        hits = [row for row in rows if rule.says(row) is not None]
        if not hits or len(hits) < MOST_OFTEN * len(rows):
            continue
        last = hits[-1]
        sentence = (
            f"in {len(hits)} of {len(rows)} steps; at step {last['step']}: {rule.says(last)}"
        )
        findings.append(
            Finding(rule.name, rule.title, sentence, stage, hits[0]["step"], last["step"])
        )
    return findings


def _stage_findings(stage: str, rows: Sequence[Row]) -> list[Finding]:
    findings = []
    for rule in STAGE_RULES:
        sentence = rule.says(rows)
        if sentence is not None:
            span = rows[0]["step"], rows[-1]["step"]
            findings.append(Finding(rule.name, rule.title, sentence, stage, *span))
    return findings


CONSEQUENCES = {
    "constant-reward": {"equal-rewards", "zero-advantages", "waste"},
    "wrong-format": {"constant-reward", "equal-rewards", "waste", "reward-flat"},
    "equal-rewards": {"waste", "reward-flat"},
    "entropy-collapse": {"equal-rewards", "waste"},
    "kl-exploded": {"clipped"},
}
"""Rule -> rules that then hold as well and say less."""
LATER = {"reward-falls": {"all-truncated", "wrong-format", "equal-rewards"}}
"""Rule -> rules of steps that say less where the first step was not yet so."""


def _without_consequences(findings: Sequence[Finding]) -> list[Finding]:
    kept = []
    for finding in findings:
        causes = [
            other.rule
            for other in findings
            if other.stage == finding.stage and _follows(finding, other)
        ]
        if not causes:
            kept.append(finding)
    return kept


def _follows(finding: Finding, cause: Finding) -> bool:
    if finding.rule in CONSEQUENCES.get(cause.rule, ()):
        return True
    return finding.rule in LATER.get(cause.rule, ()) and finding.first > cause.first
