"""What a reward model compares: rows of better and worse sequences.

A row has `task`, `chosen` and `rejected` (lists of sequences of tokens), `margin`, and `head`, the
number of the score that it teaches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rlcore.credit.group import scored_rollouts
from rlcore.errors import RunError
from rlcore.run.stored import read_stored
from rlcore.stages.pair_keys import GIVEN, pair_rows
from rlcore.types import Rollout, Task

if TYPE_CHECKING:
    from rlcore.run.session import Run
    from rlcore.stages.reward_model import RewardModelStage


def reward_rows(run: Run, stage: RewardModelStage, *, seed: int) -> list[dict[str, Any]]:
    """The rows of a stage. Raises `RunError` if there are none."""
    if stage.loss == "listwise":
        rows = list(_listwise(run, stage))
    elif stage.heads:
        rows = list(_by_head(run, stage))
    elif stage.gap is not None:
        rows = list(gap_rows(run, stage, pair_rows(run, stage, seed=seed)))
    else:
        rows = list(_pairwise(run, stage, seed))
    if not rows:
        raise RunError(
            f"stage {stage.label}: no task of {stage.data} has both right and wrong completions"
        )
    return rows


def _by_head(run: Run, stage: RewardModelStage) -> Iterator[dict[str, Any]]:
    """For each task and each of the stage's heads, the completion of the highest value of that reward
    against the one of the lowest.
    """
    stored = read_stored(run.stored(stage.data))
    compared = dict.fromkeys(stage.heads, 0)
    for one in stored:
        for number, name in enumerate(stage.heads):
            rated = []
            for rollout, verdict in scored_rollouts(one.group):
                rollout.require_single_turn("a reward model with heads")
                value = verdict.parts.get(name)
                if value is not None and len(rollout.token_ids) <= run.policy.max_length:
                    rated.append((value, rollout))
            row = _best_and_worst(one.group.task.id, rated)
            if row is not None:
                compared[name] += 1
                yield row | {"head": number}
    for name, number in compared.items():
        if not number:
            known = sorted(
                {part for one in stored for v in one.group.verdicts for part in v.parts}
            )
            raise RunError(
                f"stage {stage.label}: no task of {stage.data} has completions of different {name!r}; "
                f"its rewards are {', '.join(known) or 'none'}"
            )
    run.tracker.say(
        f"{stage.label}: {', '.join(f'{number:,} pairs by {name}' for name, number in compared.items())}"
    )


def _best_and_worst(task: str, rated: Sequence[tuple[float, Rollout]]) -> dict[str, Any] | None:
    """The row of a task's completions and their values of one reward; None where all are equal."""
    if not rated:
        return None
    high, best = max(rated, key=lambda pair: pair[0])
    low, worst = min(rated, key=lambda pair: pair[0])
    if high == low:
        return None
    return _row(task, [best.token_ids], [worst.token_ids])


def gap_rows(
    run: Run, stage: RewardModelStage, pairs: Iterable[Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Five rows a pair, with w the better completion, l the worse, and (y, ref) y beside the reference ref.

    PIT (arXiv 2310.00898): (w, l) above (w, w), (l, l) and (l, w), and these two above (l, w). The
    reference stands in the prompt, so in tasks whose prompt the same words make, the policy reads what the
    reward model reads.
    """
    for row in pairs:
        texts = {side: _text(row[side]) for side in ("chosen", "rejected")}
        task = row.get("task") or str(row["prompt_ids"])

        def beside(side: str, reference: str, row: Any = row, texts: Any = texts) -> list[int]:
            prompt = stage.gap.format(prompt=_text(row["prompt"]), reference=texts[reference])
            return [*run.encoder.encode(Task(id="gap", prompt=prompt)), *row[f"{side}_ids"]]

        better = beside("chosen", "rejected")
        same = [beside(side, side) for side in ("chosen", "rejected")]
        worse = beside("rejected", "chosen")
        orderings = [(better, same[0]), (better, same[1]), (better, worse)]
        orderings += [(equal, worse) for equal in same]
        if max(map(len, (better, worse, *same))) > run.policy.max_length:
            continue
        for above, below in orderings:
            yield _row(task, [above], [below])


def _text(side: str | Sequence[Mapping[str, str]]) -> str:
    """A side or a prompt as text: of chat messages the last one."""
    return side if isinstance(side, str) else side[-1]["content"]


def _pairwise(run: Run, stage: RewardModelStage, seed: int) -> Iterator[dict[str, Any]]:
    """A row a pair: `task`, `chosen` and `rejected` with one sequence of tokens each, and
    `margin`.
    """
    for row in pair_rows(run, stage, seed=seed):
        if stage.margin and "margin" not in row:
            raise RunError(
                f"stage {stage.label}: margin is true, but a pair of {stage.data} has none: "
                + (
                    "give each row margin, or score_chosen and score_rejected"
                    if stage.pairs == GIVEN
                    else "use pairs: best_worst, or set margin: false"
                )
            )
        yield {
            **_row(
                row.get("task") or str(row["prompt_ids"]),
                [[*row["prompt_ids"], *row["chosen_ids"]]],
                [[*row["prompt_ids"], *row["rejected_ids"]]],
            ),
            "margin": float(row["margin"]) if stage.margin else 0.0,
        }


def _listwise(run: Run, stage: RewardModelStage) -> Iterator[dict[str, Any]]:
    """A row a task with right and wrong completions; others have nothing to compare and are
    left out.
    """
    stored = read_stored(run.stored(stage.data))
    kept = 0
    for one in stored:
        sides: dict[bool, dict[tuple[int, ...], None]] = {True: {}, False: {}}
        for rollout, verdict in scored_rollouts(one.group):
            rollout.require_single_turn("a reward model's listwise loss")
            if len(rollout.token_ids) <= run.policy.max_length:
                sides[verdict.passed()][tuple(rollout.token_ids)] = None
        if sides[True] and sides[False]:
            kept += 1
            chosen, rejected = ([list(ids) for ids in sides[side]] for side in (True, False))
            yield _row(one.group.task.id, chosen, rejected)
    run.tracker.say(
        f"{stage.label}: {kept:,} of {len(stored):,} tasks have right and wrong completions"
    )


def _row(task: str, chosen: list[list[int]], rejected: list[list[int]]) -> dict[str, Any]:
    return {"task": task, "chosen": chosen, "rejected": rejected, "margin": 0.0, "head": 0}
