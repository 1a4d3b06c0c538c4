"""What can be wrong with training, each with its numbers: rules for one step, and rules for all steps of a stage.

The warnings of the first steps, `rlcore diagnose` and the report use these. Each rule is named after
its paragraph in docs/not_learning.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rlcore.run.env_rules import calls_unreadable, environment_fails, turns_run_out
from rlcore.run.trends import (
    FEWEST_STEPS,
    STEPS_OF_WASTE,
    Row,
    change_of,
    ends_of,
    late_mean,
    peak_of,
    values_of,
)

NEARLY_ALL = 0.95
"""Fraction that counts as all."""
MISMATCH_KL = 0.02
"""Nats a token (k3). bfloat16 gives up to 0.005, float32 1e-8."""
KL_EXPLODED = 0.5
"""Nats a token: the policy then gives a typical token less than two thirds of its old probability."""
MANY_CLIPPED = 0.3
"""Fraction of the tokens. About half is the most there can be: a clip acts only against the sign of the advantage."""
STANDARD_ERRORS = 3.0
"""By which the reward must have changed for a rule to speak of a rise or a fall."""


@dataclass(frozen=True)
class Rule:
    """One thing that goes wrong."""

    name: str
    """Its paragraph in docs/not_learning.md."""
    title: str
    says: Callable[[Any], str | None]
    """What is wrong, with numbers and advice, of one row (step rules) or of the rows of a stage; None where nothing is."""


def truncated(row: Row) -> str | None:
    fraction = row.get("completions/frac_truncated", 0.0)
    if fraction < NEARLY_ALL:
        return None
    return (
        f"{_all(fraction)} completion{_was(fraction)} cut at sampling.max_tokens: raise it, or teach the model to stop "
        "(an sft stage)"
    )


def wrong_format(row: Row) -> str | None:
    if row.get("reward/frac_wrong_format", 0.0) < NEARLY_ALL:
        return None
    return (
        "no completion had the format the reward asks for: check the prompt, or teach the "
        "format (an sft stage)"
    )


def unscored(row: Row) -> str | None:
    # rollouts whose environment failed are another rule's
    fraction = row.get("reward/frac_unscored", 0.0) - row.get("env/frac_failed", 0.0)
    if fraction < 0.5:
        return None
    return (
        f"{fraction:.0%} of the completions have no score, because the reward failed, timed out or returned None: "
        "see the reasons with 'rlcore rollouts RUN --failed', and try the reward alone with 'rlcore rewards test'"
    )


def filter_starved(row: Row) -> str | None:
    if row.get("filter/frac_filled", 1.0) >= 0.5:
        return None
    return (
        f"the filter accepted {row['filter/frac_filled']:.0%} of a batch after trying "
        f"{row['filter/tried_per_group']:.3g} batches: the tasks are too hard or too easy "
        "for it, or resample.max_gen_batches is too small"
    )


def zero_advantages(row: Row) -> str | None:
    if row.get("tokens/trained") != 0 or row.get("reward/frac_zero_std") == 1:
        return None
    if row.get("critic/pretraining"):  # the policy waits for its critic
        return None
    if row.get("transform/frac_left_out") == 1:
        return "the transform left out every demonstration of the step, so nothing was learned"
    return (
        "credit gave every completion an advantage of 0, so nothing was learned: check "
        "credit.baseline and its scheme"
    )


def equal_rewards(row: Row) -> str | None:
    # A credit scheme may teach although all rewards are equal: then some tokens are not wasted. A teacher reads no rewards.
    is_wasted = row.get("tokens/frac_wasted", 1) == 1
    teaches = not is_wasted or row.get("credit/frac_informative") or "teacher/kl" in row
    if row.get("reward/frac_zero_std") != 1 or teaches:
        return None
    return (
        f"all completions of each task earned the same reward (mean "
        f"{row['reward/mean']:.3g}), so nothing was learned: the tasks are too hard or too "
        "easy, or the reward is constant"
    )


def mismatch(row: Row) -> str | None:
    is_on_policy = (
        row.get("staleness/max", 0) == 0 and row.get("tokens/frac_off_policy", 0) == 0
    )
    kl = row.get("mismatch/kl", 0.0)
    if not is_on_policy or kl < MISMATCH_KL:
        return None
    return (
        f"engine and learner disagree on-policy by {kl:.3g} nats a token (k3; largest ratio "
        f"{row.get('mismatch/ratio_max', math.nan):.3g}): sampling settings that the engine does not report, other weights or "
        "another precision; compare publish/gap, and see correction in docs/off_policy.md"
    )


STEP_RULES = (
    Rule("all-truncated", "All completions are cut", truncated),
    Rule("wrong-format", "The format is never right", wrong_format),
    Rule("environment-fails", "The environment fails", environment_fails),
    Rule("turns-run-out", "Episodes are cut", turns_run_out),
    Rule("calls-unreadable", "Tool calls cannot be read", calls_unreadable),
    Rule("unscored", "Completions have no score", unscored),
    Rule("filter-starved", "The filter rejects the batch", filter_starved),
    Rule("zero-advantages", "All advantages are 0", zero_advantages),
    Rule("equal-rewards", "All completions of a task earn the same", equal_rewards),
    Rule("mismatch", "Engine and learner disagree", mismatch),
)
"""Of one step. In the first steps of a stage they are warnings."""


def constant_reward(rows: Sequence[Row]) -> str | None:
    spreads = values_of(rows, "reward/std")
    if not spreads or max(spreads) > 0 or len(set(values_of(rows, "reward/mean"))) > 1:
        return None
    return (
        f"every completion of all {len(spreads)} steps earned {rows[-1]['reward/mean']:.3g}: the reward does not look at the "
        "completion, or no completion comes near what it wants; try it on texts of your own with 'rlcore rewards test'"
    )


def wasted(rows: Sequence[Row]) -> str | None:
    fraction = late_mean(rows, "tokens/frac_wasted")
    if fraction is None or not 0.8 <= fraction < 1:
        return None
    equal = late_mean(rows, "reward/frac_zero_std") or 0.0
    return (
        f"{fraction:.0%} of the tokens that were generated teach nothing ({equal:.0%} of the groups have equal rewards): "
        "take tasks of medium difficulty with a curriculum, a prefilter or a filter (docs/curricula.md), or raise group_size"
    )


def kl_exploded(rows: Sequence[Row]) -> str | None:
    for key in ("policy/kl_to_old", "loss/kl"):
        values = values_of(rows, key)
        if values and max(values) > KL_EXPLODED:
            return (
                f"{key} reached {max(values):.3g} nats a token (first {values[0]:.3g}): the policy leaves what it was; "
                "lower optim.lr, raise the weight of kl, or make fewer updates of a batch"
            )
    return None


def clipped(rows: Sequence[Row]) -> str | None:
    fraction = late_mean(rows, "clip_frac")
    if fraction is None or fraction < MANY_CLIPPED:
        return None
    return (
        f"{fraction:.0%} of the trained tokens were clipped, so their gradient is lost: lower optim.lr, make fewer updates of a "
        "batch, or widen the clip"
    )


def entropy_collapsed(rows: Sequence[Row]) -> str | None:
    entropy_first, entropy_last = ends_of(rows, "entropy")
    equal_first, equal_last = ends_of(rows, "reward/frac_zero_std")
    spread = late_mean(rows, "reward/std") or 0.0
    # A policy that has solved its tasks is sure as well: then rewards of all tasks are equal.
    if (
        equal_last is None
        or equal_last < 0.5
        or spread < 0.2 * max(values_of(rows, "reward/std"))
    ):
        return None
    # Entropy is measured on trained tokens, so only in the groups that are still mixed.
    is_sure = (
        entropy_first is not None
        and 0.05 < entropy_first
        and entropy_last < 0.2 * entropy_first
    )
    is_alike = equal_first < 0.85 and equal_last > NEARLY_ALL
    if not is_sure and not is_alike:
        return None
    return (
        f"entropy went from {_shown(entropy_first)} to {_shown(entropy_last)} nats a token, and groups with equal rewards from "
        f"{equal_first:.0%} to {equal_last:.0%}, while rewards of different tasks still differ (std {spread:.3g}): the policy "
        "repeats itself; lower optim.lr, raise clip_high, or add an entropy or kl term"
    )


def length_collapsed(rows: Sequence[Row]) -> str | None:
    first, last = ends_of(rows, "completions/length/mean")
    if first is None or last is None or last > 0.25 * first:
        return None
    return (
        f"mean length fell from {first:.3g} to {last:.3g} tokens: the reward can be had with hardly any text; read some with "
        "'rlcore rollouts RUN', and look for the exploit with 'rlcore rewards probe'"
    )


def length_exploded(rows: Sequence[Row]) -> str | None:
    first, last = ends_of(rows, "completions/frac_truncated")
    if first is None or last is None or first > 0.3 or last < 0.7:
        return None
    return (
        f"truncated completions rose from {first:.0%} to {last:.0%}: longer texts are rewarded, or the end token is no longer "
        "written; add the reward overlong, or check that truncated completions earn less"
    )


def reward_fell(rows: Sequence[Row]) -> str | None:
    if _broke_at_once(rows):
        first, last = rows[0]["reward/mean"], late_mean(rows, "reward/mean")
        return (
            f"reward/mean fell from {first:.3g} in the first step to {last:.3g}, where it stays: the policy was destroyed "
            "by its first updates, and what else is named here follows from that; lower optim.lr"
        )
    change = change_of(rows, "reward/mean")
    if change is None:
        return None
    # A policy that is lost in the first steps has lost its reward before the first third is over.
    peak = peak_of(rows, "reward/mean")
    is_lost = 0 < peak and change.last < 0.5 * peak
    if change.standard_errors > -STANDARD_ERRORS and not is_lost:
        return None
    return (
        f"reward/mean fell from {max(peak, change.first):.3g} to {change.last:.3g} over {len(rows)} steps: optim.lr is too high, "
        "advantages have the wrong sign, or what is optimised (weights, kl, length terms) is not this reward"
    )


def reward_flat(rows: Sequence[Row]) -> str | None:
    change = change_of(rows, "reward/mean")
    signal = late_mean(rows, "advantage/abs_mean") or 0.0
    late_spread = late_mean(rows, "reward/std") or 0.0
    equal = late_mean(rows, "reward/frac_zero_std") or 0.0
    is_flat = change is not None and len(rows) >= 3 * FEWEST_STEPS
    if (
        not is_flat
        or abs(change.standard_errors) > 1
        or signal < 0.05
        or not late_spread
        or equal > 0.5
    ):
        return None
    learning_rate = (late_mean(rows, "lr")) or 0.0
    return (
        f"reward/mean did not move in {len(rows)} steps ({change.first:.3g} to {change.last:.3g}) although there is a signal "
        f"(advantage/abs_mean {signal:.3g}): optim.lr ({learning_rate:.2g}) is too low for this model, or the reward is noise"
    )


STAGE_RULES = (
    Rule("constant-reward", "The reward is constant", constant_reward),
    Rule("waste", "Most of the generated tokens teach nothing", wasted),
    Rule("kl-exploded", "The KL explodes", kl_exploded),
    Rule("clipped", "Most tokens are clipped", clipped),
    Rule("entropy-collapse", "Entropy has collapsed", entropy_collapsed),
    Rule("length-collapse", "Completions have shrunk to nothing", length_collapsed),
    Rule("length-explosion", "Completions grow until they are cut", length_exploded),
    Rule("reward-falls", "The reward falls", reward_fell),
    Rule("reward-flat", "The reward does not move", reward_flat),
)
"""Of all steps of a stage that generates."""


def _broke_at_once(rows: Sequence[Row]) -> bool:
    """Whether the first step earned rewards and the whole second half of the steps next to none."""
    rewards = values_of(rows, "reward/mean")
    late = rewards[len(rewards) // 2 :]
    return (
        len(rewards) >= STEPS_OF_WASTE
        and rewards[0] >= 0.2
        and rows[0].get("reward/frac_zero_std", 0.0) < NEARLY_ALL
        and max(late) <= 0.1 * rewards[0]
    )


def _shown(value: float | None) -> str:
    return "?" if value is None else f"{value:.3g}"


def _all(fraction: float) -> str:
    return "every" if fraction == 1 else f"{fraction:.0%} of the"


def _was(fraction: float) -> str:
    return " was" if fraction == 1 else "s were"
