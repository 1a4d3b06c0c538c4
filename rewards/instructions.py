"""Does the answer follow its instructions? Reads IFEval's columns; the instructions themselves are in `instruction_rules.py`."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from rewards.instruction_rules import RELATIONS, RULES
from rewards.thoughts import after_thoughts
from rlcore import Verdict, reward

_WORDS = ("keywords", "forbidden_words")
_NUMBERS = frozenset(
    name
    for rule in RULES.values()
    for name, parameter in inspect.signature(rule).parameters.items()
    if parameter.annotation in (int, "int")
)
"""Names of arguments that are whole numbers."""
_ANSWER_TAGS = re.compile(r"</?answer>")


@reward
def instructions(
    completion: str,
    *,
    instruction_id_list: Sequence[str],
    kwargs: Sequence[Mapping[str, Any] | None] | None = None,
    mode: Literal["strict", "loose"] = "strict",
    several: Literal["all", "average"] = "all",
    strip_tags: bool = False,
    **columns: Any,
) -> Verdict:
    """1 if the answer follows all of its instructions, else 0; with `several: average` the share it follows, 0 to 1.

    The columns `instruction_id_list` and `kwargs` are IFEval's; keys of kwargs that are null count as absent. `mode: loose` also
    accepts an answer that follows without its first line, its last line or both, and without its asterisks, instruction by
    instruction. What stands before `</think>` is ignored; `strip_tags` also takes away `<answer>` tags. `parts` are the instructions,
    `reason` names those not followed. An unknown instruction or relation or an absent argument is `unscorable`; an empty answer follows none.

    Source: IFEval (arXiv:2311.07911), prompt-level accuracy; `several: average` and `strip_tags` as the verifier of Tulu 3
    (arXiv:2411.15124) in its newer form.

    >>> rules = ["punctuation:no_comma", "length_constraints:number_words"]
    >>> verdict = instructions("Yes, I do.", instruction_id_list=rules, kwargs=[{}, {"relation": "at least", "num_words": 3}])
    >>> verdict.value, verdict.reason
    (0.0, 'not followed: punctuation:no_comma')
    """
    if mode not in ("strict", "loose") or several not in ("all", "average"):
        raise ValueError(
            f"mode is strict or loose, several is all or average; got mode={mode!r}, several={several!r}"
        )
    instruction_id_list, kwargs = _from_json(instruction_id_list), _from_json(kwargs)
    if isinstance(instruction_id_list, str) or isinstance(kwargs, str | Mapping):
        return _unscorable("instruction_id_list and kwargs must be lists, or lists in JSON")
    arguments = (
        [_from_json(one) for one in kwargs] if kwargs else [{}] * len(instruction_id_list)
    )
    if not instruction_id_list or len(arguments) != len(instruction_id_list):
        return _unscorable(
            f"{len(instruction_id_list)} instructions with {len(arguments)} kwargs"
        )
    text = after_thoughts(completion)
    text = text.lstrip() if "</think>" in completion else text
    if strip_tags:
        text = _ANSWER_TAGS.sub("", text).strip()
    # each once
    texts = [text] if mode == "strict" else list(dict.fromkeys(loose_variants(text)))
    followed: dict[str, float] = {}
    for number, (name, given) in enumerate(zip(instruction_id_list, arguments, strict=True)):
        problem = missing(name, given)
        if problem:
            return _unscorable(problem)
        key = name if name not in followed else f"{name}/{number}"
        followed[key] = float(any(follows(name, given, variant) for variant in texts))
    value = sum(followed.values()) / len(followed)
    broken = [name for name, held in followed.items() if not held]
    return Verdict(
        value=value if several == "average" else float(not broken),
        parts=followed,
        reason=f"not followed: {', '.join(broken)}" if broken else "",
    )


def follows(name: str, given: Mapping[str, Any] | None, text: str) -> bool:
    """Whether a text follows one instruction; an empty text follows none."""
    used = {
        key: _number(value) if key in _NUMBERS else value
        for key, value in (given or {}).items()
        if value is not None and key in _needs(name)
    }
    return bool(text.strip()) and RULES[name](text, **used)


def missing(name: str, given: Mapping[str, Any] | None) -> str:
    """Why an instruction cannot be checked, "" if it can."""
    if name not in RULES:
        return f"there is no rule for the instruction {name!r}"
    if given is not None and not isinstance(given, Mapping):
        return f"the kwargs of {name!r} are no mapping"
    values = {key: (given or {}).get(key) for key in _needs(name)}
    absent = [key for key, value in values.items() if value is None]
    if absent:
        return f"the kwargs of {name!r} lack {', '.join(absent)}"
    unknown = [
        value
        for key, value in values.items()
        if key.endswith("relation") and value not in RELATIONS
    ]
    known = " or ".join(map(repr, RELATIONS))
    if unknown:
        return f"{name!r} has the relation {unknown[0]!r}; IFEval knows {known}"
    wrong = [key for key, value in values.items() if not _is_kind(key, value)]
    return f"{wrong[0]} of {name!r} is {values[wrong[0]]!r}" if wrong else ""


def loose_variants(text: str) -> Iterator[str]:
    """The 8 texts of IFEval's loose mode: without first line, last line or both, each with and without asterisks."""
    lines = text.split("\n")
    for kept in (lines, lines[1:], lines[:-1], lines[1:-1]):
        variant = "\n".join(kept)
        if len(kept) < len(lines):
            variant = variant.strip()
        yield variant
        yield variant.replace("*", "")


def _needs(name: str) -> list[str]:
    return list(inspect.signature(RULES[name]).parameters)[1:]


def _is_kind(key: str, value: Any) -> bool:
    """Whether an argument is a whole number, a list of words or a text, as its name wants."""
    if key in _NUMBERS:
        return isinstance(_number(value), int)
    if key in _WORDS:
        is_list = isinstance(value, Sequence) and not isinstance(value, str)
        return is_list and len(value) > 0 and all(isinstance(word, str) for word in value)
    return isinstance(value, str)


def _number(value: Any) -> Any:
    """Columns that went through a table hold 3.0 or "3" for 3."""
    try:
        number = float(value)
        return int(number) if number.is_integer() and not isinstance(value, int) else value
    except (TypeError, ValueError, OverflowError):
        return value


def _from_json(value: Any) -> Any:
    """The list or mapping in a column of JSON; all else as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value.tolist() if hasattr(value, "tolist") else value


def _unscorable(reason: str) -> Verdict:
    return Verdict(value=None, status="unscorable", reason=reason)
