"""Delta Learning (arXiv 2507.06187): pairs of two generators, of which one is known to be
stronger.

No verifier and no judge: the order of the generators is the label, and both may be weaker than
the policy that learns from their difference. The paper trains with `method: dpo`, `loss_type:
sigmoid_norm`, `beta: 5`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import cycle

from rlcore.credit.pairs import Pair
from rlcore.errors import RecipeError
from rlcore.types import Group


def delta_pairs(
    group: Group, *, weaker: str, groups_of: Callable[[str], Mapping[str, Group]]
) -> Iterator[Pair]:
    """Each completion of `data`, the stronger generator's, against one of the weaker
    generator's to the same prompt.

    weaker: the sample stage, file or folder with the completions of the weaker generator, over
    the same tasks. They take turns; equal texts make no pair, and a task without such
    completions none.
    """
    other = groups_of(weaker).get(group.task.id)
    if other is None:
        return
    weak = cycle(other.rollouts)
    for chosen, rejected in zip(group.rollouts, weak, strict=False):
        for rollout in (chosen, rejected):
            rollout.require_single_turn("making preference pairs")
        if chosen.prompt_ids != rejected.prompt_ids:
            raise RecipeError(
                f"the completions of task {group.task.id!r} in {weaker!r} have another prompt: "
                f"sample both from one task set"
            )
        if chosen.completion_ids != rejected.completion_ids:
            yield Pair(
                task_id=group.task.id,
                prompt_ids=chosen.prompt_ids,
                chosen_ids=chosen.completion_ids,
                rejected_ids=rejected.completion_ids,
            )
