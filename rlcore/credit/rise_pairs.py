"""RISE (arXiv 2410.06638): pairs of a right step and the same step with one subtle error put
into it.

The paper trains with DPO on such edited pairs and on full pairs, and with the negative
log-likelihood of the chosen text: `method: dpo`, `loss_type: {sigmoid: 1.0, sft: 0.2}`, `beta:
0.4`. It has the model itself plant the errors, by seven instructions. Here an edit is a
function `(text of a step, random.Random) -> edited text, or None where it does not apply`:
three of the seven as rules, or your own, which may look up what a model wrote.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping
from difflib import SequenceMatcher
from typing import Any

from rlcore.credit.group import scored_rollouts
from rlcore.credit.pairs import Pair, answer_pairs
from rlcore.credit.split import SPLITTERS, split_steps
from rlcore.errors import RecipeError
from rlcore.plugin import build, call, find
from rlcore.types import Group, Rollout, Span

Edit = Callable[[str, random.Random], str | None]

EDITS = {
    name: f"rlcore.credit.rise_pairs:{name}"
    for name in ("any_edit", "change_number", "change_sign", "drop_term")
}
"""Name in a recipe -> an edit."""

ANNOUNCES = re.compile(
    r"\b(error|mistake|wrong|incorrect|wait|actually|correction)\b", re.IGNORECASE
)
"""Words that give an error away, or say that a solution corrects itself."""
BOXED = re.compile(r"\\boxed\{([^{}]*)\}")


def rise_pairs(
    group: Group,
    *,
    draw: random.Random,
    encode: Callable[[str], list[int]],
    decode: Callable[[list[int]], str],
    split: str | dict[str, Any] = "newline",
    edit: str = "any_edit",
    max_steps: int = 8,
    min_similarity: float = 0.5,
    full: bool = True,
) -> Iterator[Pair]:
    """Edited pairs of one correct completion that does not correct itself: behind prompt and
    the steps so far, the step against its edited form; and the full pair of that task.

    split: what a step is, as in `credit.steps`. edit: what plants the error, change_number,
    change_sign, drop_term, any_edit (one of them, drawn) or file.py:function. max_steps: most
    steps that are edited in a completion, drawn. min_similarity: of a step and its edited form
    (difflib's ratio); less alike ones are left out. full: also yield a correct against a wrong
    completion.
    """
    solution = next(
        (
            rollout
            for rollout, verdict in scored_rollouts(group)
            if verdict.passed()
            and rollout.finish == "stop"
            and not ANNOUNCES.search(rollout.text)
        ),
        None,
    )
    if solution is None:
        return
    solution.require_single_turn("making preference pairs")
    plant = _edit(edit)
    spans = split_steps(solution.completion_ids, decode, build(split, SPLITTERS, what="split"))
    chosen_spans = sorted(draw.sample(spans, min(max_steps, len(spans))))
    for span in chosen_spans:
        rejected = _edited(solution, span, plant, draw, encode, decode, min_similarity)
        if rejected is not None:
            yield Pair(
                task_id=group.task.id,
                prompt_ids=[*solution.prompt_ids, *solution.completion_ids[: span.start]],
                chosen_ids=solution.completion_ids[span.start : span.end],
                rejected_ids=rejected,
            )
    if full:
        yield from list(answer_pairs(group))[:1]


def _edited(
    solution: Rollout,
    span: Span,
    plant: Edit,
    draw: random.Random,
    encode: Callable[[str], list[int]],
    decode: Callable[[list[int]], str],
    min_similarity: float,
) -> list[int] | None:
    """Tokens of the edited step; None where no error could be planted that passes the paper's
    filters.
    """
    ids = solution.completion_ids[span.start : span.end]
    # The end-of-turn token has no text; it stays behind the edited step.
    end = len(ids) - 1 if ids and not decode(ids[-1:]) else len(ids)
    text = decode(ids[:end])
    if encode(text) != ids[:end]:  # its tokens depend on those before: others would differ too
        return None
    edited = plant(text, draw)
    if edited is None or edited == text or ANNOUNCES.search(edited):
        return None
    if span.end < len(solution.completion_ids):
        edited = BOXED.sub(r"\1", edited)  # an intermediate step gives no final answer
    if SequenceMatcher(None, text, edited, autojunk=False).ratio() < min_similarity:
        return None
    return [*encode(edited), *ids[end:]]


def _edit(name: str) -> Edit:
    """The edit, whose results are checked. Raises `RecipeError`."""
    function = find(name, EDITS, what="edit")

    def checked(text: str, draw: random.Random) -> str | None:
        edited = call(f"edit {name!r}", function, text, draw)
        if edited is not None and not isinstance(edited, str):
            raise RecipeError(f"edit {name!r} must give a text or None, not {edited!r}")
        return edited

    return checked


def change_number(text: str, draw: random.Random) -> str | None:
    """One whole number is changed by 1, 2 or 10."""
    numbers = list(re.finditer(r"\d+", text))
    if not numbers:
        return None
    match = draw.choice(numbers)
    value = int(match[0])
    other = draw.choice([value + by for by in (-10, -2, -1, 1, 2, 10) if value + by >= 0])
    return f"{text[: match.start()]}{other}{text[match.end() :]}"


def change_sign(text: str, draw: random.Random) -> str | None:
    """One operation between numbers becomes another."""
    others: Mapping[str, str] = {"+": "-", "-": "+", "*": "+", "/": "*"}
    signs = list(re.finditer(r"(?<=[\d)]) ?([-+*/]) ?(?=[\d(])", text))
    if not signs:
        return None
    match = draw.choice(signs)
    return f"{text[: match.start(1)]}{others[match[1]]}{text[match.end(1) :]}"


def drop_term(text: str, draw: random.Random) -> str | None:
    """One term of a sum is left out."""
    terms = list(re.finditer(r"(?<=\d) ?[-+] ?\d+", text))
    if not terms:
        return None
    match = draw.choice(terms)
    return f"{text[: match.start()]}{text[match.end() :]}"


def any_edit(text: str, draw: random.Random) -> str | None:
    """One of the rules that apply, drawn."""
    results = [edit(text, draw) for edit in (change_number, change_sign, drop_term)]
    applying = [edited for edited in results if edited is not None]
    return draw.choice(applying) if applying else None
