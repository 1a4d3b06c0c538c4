"""The learner's side of each stored completion token: its log-probability and the entropy of its distribution.

Generation and reward come first and are put on disk at once; what the learner computes in the updates of the step is
added to the same rows when it is known.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlcore.learner.token_record import Key, TokenValues, key_of
from rlcore.types import Group, Sample


def trainer_columns(
    groups: Iterable[Group],
    samples: Iterable[Iterable[Sample]],
    values: Mapping[Key, TokenValues],
) -> dict[str, dict[str, list[float | None]]]:
    """By rollout id, `logprobs` and `entropies` [n] of its completion tokens; None where a token was not trained.

    A rollout of which no token was trained has no entry.
    """
    rollouts = {rollout.id: rollout for group in groups for rollout in group.rollouts}
    columns: dict[str, dict[str, list[float | None]]] = {}
    for sample in (sample for group in samples for sample in group):
        if sample.stream != "policy" or sample.id not in rollouts:
            continue
        wrote = rollouts[sample.id].sequences[sample.part].mask
        unread: list[float | None] = [None] * len(wrote)
        read = values.get(key_of(sample), TokenValues(unread, unread))
        of_rollout = columns.setdefault(sample.id, {"logprobs": [], "entropies": []})
        of_rollout["logprobs"] += _written(read.logprobs, wrote)
        of_rollout["entropies"] += _written(read.entropies, wrote)
    return {
        id: of_rollout
        for id, of_rollout in columns.items()
        if any(value is not None for value in of_rollout["entropies"])
    }


def extend_rows(path: Path, additions: Sequence[Mapping[str, Any]]) -> None:
    """Add keys to each row of a jsonl file, in its order. A kill leaves the old file or the new one.

    The rows are not read: they may be large, and what is added is put before the brace that closes each.
    """
    lines = path.read_bytes().splitlines()
    longer = []
    for line, addition in zip(lines, additions, strict=True):
        if addition:
            line = line[:-1] + b", " + json.dumps(addition).encode()[1:]
        longer.append(line + b"\n")
    draft = path.with_suffix(".draft")
    draft.write_bytes(b"".join(longer))
    os.replace(draft, path)


def _written(values: Iterable[float | None], wrote: Iterable[Any]) -> list[float | None]:
    """The values of the tokens that the policy wrote."""
    return [value for value, mine in zip(values, wrote, strict=True) if mine]
