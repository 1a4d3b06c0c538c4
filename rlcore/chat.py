"""What a tokenizer's chat template does: how it ends a turn, and what it writes before the model's words.

Everything that must know where a completion ends asks `end_ids`: prompt encoder, engines,
checkpoints, `rlcore models check`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rlcore.errors import first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SLOT = "@@completion@@"
_OPEN_TAG = re.compile(r"(?:<[\w:.-]+>|\[[A-Z_]+\]|\u25c1\w+\u25b7)\s*\Z")
"""A tag that the text so far leaves open, such as `<think>`, `<seed:think>` or `[THINK]`."""
_OPEN_THINKING = re.compile(
    r"(?:<(?:\w+:)?(?:think|thinking|thought|reason|reasoning)>|\[THINK\]|\u25c1think\u25b7)\s*\Z"
)
_PAIRED = re.compile(r"(<|\[|\u25c1)/?([\w:.-]+)(>|\]|\u25b7)\Z")
"""An opening or closing tag."""
_ASKED_FOR = re.compile(r"\b(\w+) is (?:not )?defined\b")
"""How a template asks whether the caller has set a variable."""
_PASSED = {"messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token"}
"""Variables that transformers passes to every template."""
_USER = {"role": "user", "content": "?"}
_ASSISTANT = {"role": "assistant", "content": _SLOT}


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, Any]],
    *,
    generate: bool = False,
    **arguments: Any,
) -> str:
    """The chat template's text for these messages, ready for the assistant's turn if `generate`.

    Messages that end with one of the assistant are a turn that was begun: with `generate` it stays
    open, so that the model goes on with it. arguments: of the template, such as `enable_thinking`.
    Raises whatever the template raises.
    """
    is_begun = generate and messages[-1]["role"] == "assistant"
    return tokenizer.apply_chat_template(
        list(messages),
        tokenize=False,
        add_generation_prompt=generate and not is_begun,
        continue_final_message=is_begun,
        **arguments,
    )


def turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token with which the chat template closes an assistant's turn.

    The first special token behind the assistant's words, else the first added one. None where
    there is no template, or none of its tokens closes a turn.
    """
    if not tokenizer.chat_template:
        return None
    text = _rendered_or_none(tokenizer, [_USER, _ASSISTANT])
    if text is None or _SLOT not in text:
        return None
    closing = tokenizer(text.rpartition(_SLOT)[2], add_special_tokens=False).input_ids
    for candidates in (special_ids(tokenizer), tokenizer.added_tokens_decoder.keys()):
        for token in closing:
            if token in candidates:
                return token
    return None


def end_ids(tokenizer: PreTrainedTokenizerBase, *settings: Any) -> list[int]:
    """The tokens at which a completion ends.

    settings: generation config and config of the model, either may be None. Theirs, the
    tokenizer's end of sequence, and what the chat template closes a turn with: a base model with a
    chat template would otherwise learn to write a token at which no engine stops.
    """
    ids = [*end_ids_declared(*settings), tokenizer.eos_token_id, turn_end(tokenizer)]
    return list(dict.fromkeys(id for id in ids if id is not None))


def end_ids_declared(*settings: Any) -> list[int]:
    """`eos_token_id` of each of the settings, which may be None, one id or several."""
    ids: list[int] = []
    for setting in settings:
        listed = getattr(setting, "eos_token_id", None)
        if listed is not None:
            ids += listed if isinstance(listed, list | tuple) else [listed]
    return ids


def in_words(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Tokens with their ids, for a sentence: `<|endoftext|> (0), <|im_end|> (2)`."""
    return ", ".join(f"{tokenizer.convert_ids_to_tokens(id)} ({id})" for id in ids)


def special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids of all tokens that the tokenizer calls special."""
    added = tokenizer.added_tokens_decoder.items()
    return {id for id, token in added if token.special} | set(tokenizer.all_special_ids)


def frame_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Special tokens that frame a text and are no part of what the model says.

    Those with a role of their own (end, padding, unknown ...), and those that the chat template
    writes around messages. Other special tokens, such as the tags around thinking and tool calls
    of many models, are words of the completion.
    """
    roles = (getattr(tokenizer, f"{role}_token_id", None) for role in _ROLES)
    frame = {id for id in roles if id is not None} | set(end_ids(tokenizer))
    if not tokenizer.chat_template:
        return frame
    markers = special_ids(tokenizer) - _tag_ids(tokenizer)
    system = {"role": "system", "content": "?"}
    # Some templates refuse a system message; most write thinking only before the last answer.
    for messages in ([system, _USER, _ASSISTANT, _USER], [_USER, _ASSISTANT, _USER]):
        text = _rendered_or_none(tokenizer, messages)
        if text is not None:
            frame |= markers & set(tokenizer(text, add_special_tokens=False).input_ids)
    return frame


def _tag_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Special tokens that come in pairs, `<think>` and `</think>`: words, also where a template writes an empty pair."""
    ids: dict[tuple[str, ...], list[int]] = {}
    for id in special_ids(tokenizer):
        tag = _PAIRED.match(tokenizer.convert_ids_to_tokens(id))
        if tag:
            ids.setdefault(tag.groups(), []).append(id)
    return {id for pair in ids.values() if len(pair) > 1 for id in pair}


_ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


def opening(tokenizer: PreTrainedTokenizerBase, **arguments: Any) -> str:
    """The tag that the template itself opens at the start of the model's turn, `<think>` and a line break say.

    The model then writes only the rest. Empty for most templates.
    """
    before = _rendered_or_none(tokenizer, [_USER], **arguments)
    text = _rendered_or_none(tokenizer, [_USER], generate=True, **arguments)
    if before is None or text is None or not text.startswith(before):
        return ""
    tag = _OPEN_TAG.search(text.removeprefix(before))
    if not tag:
        return ""
    # What stands before every turn of the assistant is its header, `<bot>` say.
    turn = _rendered_or_none(tokenizer, [_USER, _ASSISTANT], **arguments) or ""
    is_header = turn.partition(_SLOT)[0].rstrip().endswith(tag[0].strip())
    return "" if is_header else tag[0]


def opened_thinking(text: str) -> str:
    """The tag of thinking that a prompt leaves open at its end, "" if it leaves none."""
    tag = _OPEN_THINKING.search(text)
    return tag[0] if tag else ""


def keeps_prefix(tokenizer: PreTrainedTokenizerBase, **arguments: Any) -> bool:
    """Whether a further turn leaves the text before it as it was.

    False for templates that drop the thinking of earlier turns.
    """
    thinking = {"role": "assistant", "content": f"<think>\n1\n</think>\n\n{_SLOT}"}
    before = _rendered_or_none(tokenizer, [_USER, thinking], **arguments)
    after = _rendered_or_none(tokenizer, [_USER, thinking, _USER], **arguments)
    return before is not None and after is not None and after.startswith(before.rstrip())


def _rendered_or_none(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]], **arguments: Any
) -> str | None:
    try:
        return render(tokenizer, messages, **arguments)
    except Exception:  # templates are programs and raise what they like
        return None


def template_problem(tokenizer: PreTrainedTokenizerBase) -> str:
    """Why the chat template cannot write a prompt of one user message; "" if it can."""
    try:
        render(tokenizer, [_USER], generate=True)
    except Exception as error:  # templates are programs and raise what they like
        return first_line(error)
    return ""


def takes_system(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template writes a system message."""
    system = {"role": "system", "content": _SLOT}
    text = _rendered_or_none(tokenizer, [system, _USER])
    return text is not None and _SLOT in text


def template_variables(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Variables of the chat template that a caller may set, `enable_thinking` say."""
    tests = _ASKED_FOR.findall(str(tokenizer.chat_template))
    return sorted({name for name in tests if name not in _PASSED})
