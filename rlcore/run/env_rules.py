"""Rules of `rlcore.run.rules` for stages with an environment: each says what is wrong with one step, or None."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MANY_FAIL = 0.1
NEARLY_ALL = 0.95

Row = Mapping[str, Any]


def environment_fails(row: Row) -> str | None:
    fraction = row.get("env/frac_failed", 0.0)
    if fraction < MANY_FAIL:
        return None
    return (
        f"the environment failed in {fraction:.0%} of the rollouts, which have no reward: see why with "
        "'rlcore rollouts RUN --failed', and try it alone with 'rlcore env test'"
    )


def turns_run_out(row: Row) -> str | None:
    # A completion that is cut ends its episode too; that is another rule's.
    too_long = row.get("env/frac_length", 0.0) - row.get("completions/frac_truncated", 0.0)
    fraction = row.get("env/frac_max_turns", 0.0) + max(0.0, too_long)
    if fraction < NEARLY_ALL:
        return None
    limit = "env.max_turns" if too_long < fraction / 2 else "engine.max_length"
    return (
        f"{fraction:.0%} of the episodes were cut after {row.get('env/turns/mean', 0):.3g} turns, most at {limit}: raise it, or "
        "let the environment say less and end episodes that go nowhere"
    )


def calls_unreadable(row: Row) -> str | None:
    malformed = row.get("env/malformed_calls", 0.0)
    calls = malformed + row.get("env/tool_calls", 0.0)
    if not calls or malformed < calls / 2:
        return None
    return (
        f"{malformed / calls:.0%} of the tool calls could not be read: the policy does not write the format of its chat "
        "template (env.tool_format), or was never taught it (an sft stage with env)"
    )
