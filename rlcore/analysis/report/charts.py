"""Which metrics the report draws together. A chart without data is left out; a metric that no chart names goes to the last section."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Chart:
    title: str
    keys: str
    """Regular expression of the metrics that it draws; a group in it is a line's name."""
    about: str = ""
    kind: Literal["lines", "stack"] = "lines"
    """`stack`: lines lie on each other and are filled; one chart a run."""
    unit: str = ""
    fewest: int = 1
    """Lines below which it says nothing that other charts do not."""


SECTIONS: dict[str, tuple[Chart, ...]] = {
    "Reward": (
        Chart("Reward", r"reward/mean", "mean over all scored completions of the step"),
        Chart(
            "Reward by part",
            r"reward/(?!mean|std|frac_)([^/]+)",
            "each reward without its weight",
            fewest=2,
        ),
        Chart("Parts of rewards", r"reward/([^/]+/.+)"),
        Chart("Metrics of your own", r"metric/(.+)"),
        Chart("Accuracy on pairs", r"accuracy|margin", "prefer stages"),
    ),
    "Completions": (
        Chart("Length", r"completions/length/mean", unit="tokens"),
        Chart(
            "Truncated, wrong format, unscored",
            r"completions/(frac_truncated)|reward/(frac_wrong_format|frac_unscored)",
            "fractions of the completions",
        ),
        Chart("Different words", r"completions/distinct_words/mean", "per completion"),
    ),
    "Environment": (
        Chart("Turns", r"env/(turns|sequences)/mean", "completions and sequences of a rollout"),
        Chart("How episodes end", r"env/frac_(?!equal)(.+)", "fractions of the rollouts"),
        Chart("Equal states", r"env/frac_(equal_state)", "fraction of the turns"),
        Chart(
            "Counted", r"env/(?!frac_|turns|sequences)(.+)", "by the environment, per rollout"
        ),
    ),
    "Policy": (
        Chart("Entropy", r"entropy", "mean over the trained tokens", unit="nats"),
        Chart(
            "KL",
            r"loss/(kl)|policy/(kl_to_old)|(mismatch/kl)",
            "to the reference, to the old policy, and of the policy to the engine",
        ),
        Chart("Clipped", r"clip_frac", "fraction of the trained tokens"),
        Chart("Largest ratio", r"(policy|mismatch)/ratio_max", "1 on-policy"),
        Chart(
            "Staleness", r"staleness/(mean|max)", "age of the trained tokens", unit="versions"
        ),
        Chart("Off-policy tokens", r"tokens/frac_off_policy"),
    ),
    "Signal and waste": (
        Chart(
            "Waste",
            r"tokens/(frac_wasted)|reward/(frac_zero_std)|transform/(frac_left_out)",
            "tokens without an advantage; groups with equal rewards",
        ),
        Chart("Advantage", r"advantage/abs_mean", "mean absolute value over trained tokens"),
        Chart("Filter", r"filter/(.+)|prefilter/(skipped)"),
        Chart("Gradient norm", r"grad_norm", "before clipping"),
        Chart("Learning rate", r"lr"),
        Chart("Loss", r"loss|loss/(?!kl$)(.+)", "in rl stages it does not measure progress"),
    ),
    "Curriculum": (
        Chart(
            "Shares", r"curriculum/(.+)/frac", "fraction of the groups", kind="stack", fewest=2
        ),
        Chart("Pass rate", r"curriculum/(.+)/pass_rate", fewest=2),
        Chart("Loss of demonstrations", r"curriculum/(.+)/loss", "before the update"),
        Chart("Value to the task sampler", r"curriculum/(.+)/value"),
        Chart("Length budget", r"budget", unit="tokens"),
    ),
    "Credit": (
        Chart("Step values", r"credit/(frac_.+)"),
        Chart("Prefixes and completions", r"credit/(completions|prefixes|left_out)"),
        Chart("Tokens for step values", r"credit/(tokens|read)"),
    ),
    "Critic": (
        Chart(
            "Explained variance",
            r"critic/(explained_variance)",
            "1: values tell the returns, 0: no better than their mean",
        ),
        Chart("Values and returns", r"critic/(value|return)/mean"),
        Chart("Loss of the critic", r"critic/(loss)"),
        Chart("Gradient norm of the critic", r"critic/(grad_norm)", "before clipping"),
        Chart("Learning rate of the critic", r"critic/(lr)"),
    ),
    "Teacher and replay": (
        Chart("KL to the teacher", r"teacher/(kl)", unit="nats"),
        Chart("Probability of the teacher's tokens", r"teacher/(top_mass)"),
        Chart("Implicit reward", r"teacher/(implicit_reward)"),
        Chart("Replayed groups", r"replay/(groups|stored)"),
        Chart("Age of replayed groups", r"replay/(age)/mean", unit="steps"),
    ),
    "Preferences": (
        Chart("Rewards of a pair", r"rewards/(chosen|rejected)"),
        Chart("Held-out comparisons", r"heldout/(accuracy|brier|ece)", "of a reward model"),
    ),
    "Speed": (
        Chart(
            "Seconds of a step",
            r"time/(rollout|reward|credit|learn|publish)",
            kind="stack",
            unit="s",
        ),
        Chart(
            "Servers with nothing to do",
            r"time/engine_idle",
            "while the learner works",
            unit="s",
        ),
        Chart("Tokens per second", r"tokens_per_s/(.+)"),
        Chart("Memory", r"memory/(.+)", "peak of the main process", unit="GB"),
        Chart("Utilisation", r"mfu", "model FLOP utilisation of the learner"),
        Chart("Publishing gap", r"publish/(.+)", "engine against learner", unit="nats"),
    ),
}

NOT_DRAWN = re.compile(
    r"step|stage|phase|time/total|policy_version|updates|critic/(updates|pretraining)|heldout/comparisons|reward/std|staleness/frac_.*"
    r"|tokens/(prompt|completion|trained|forward_backward|forward_only)"
)
"""Metrics that are counts of the work, or parts of what is drawn."""


def sections(keys: Iterable[str]) -> list[dict[str, Any]]:
    """The sections of the page for runs with these metrics: title, and charts with their lines by name."""
    rest = {key for key in keys if not NOT_DRAWN.fullmatch(key)}
    drawn = []
    for title, charts in SECTIONS.items():
        chosen = []
        for chart in charts:
            lines = _lines(chart, rest)
            rest -= lines.keys()
            if len(lines) >= chart.fewest:
                chosen.append(_described(chart, lines))
        if chosen:
            drawn.append({"title": title, "charts": chosen})
    if rest:
        others = [_described(Chart(key, key), {key: key}) for key in sorted(rest)]
        drawn.append({"title": "Other metrics", "charts": others})
    return drawn


def _lines(chart: Chart, keys: Iterable[str]) -> dict[str, str]:
    """Key -> name of its line, of the metrics that belong to a chart."""
    lines = {}
    for key in sorted(keys):
        match = re.fullmatch(chart.keys, key)
        if match:
            names = [name for name in match.groups() if name]
            lines[key] = names[0] if names else key
    return lines


def _described(chart: Chart, lines: dict[str, str]) -> dict[str, Any]:
    return {
        "title": chart.title,
        "about": chart.about,
        "kind": chart.kind,
        "unit": chart.unit,
        "lines": lines,
    }
