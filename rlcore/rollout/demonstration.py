"""From a task's demonstration to tokens: a text, or a conversation whose completions are imitated and whose replies are only read,
or tokens as they are.
"""

from __future__ import annotations

import json
from dataclasses import replace

from rlcore.chat import render
from rlcore.errors import TaskError
from rlcore.rollout.conversation import Conversation
from rlcore.rollout.prompt import PromptEncoder
from rlcore.types import Message, Task

_USER: Message = {"role": "user", "content": "?"}


def encode_demonstration(encoder: PromptEncoder, task: Task) -> tuple[list[int], list[bool]]:
    """Tokens after the prompt, and which of them are imitated: the assistant's, end tokens included.

    Raises `TaskError` if the task has none, or the chat template refuses it.
    """
    messages = task.demonstration
    if not isinstance(messages, list):
        ids = encoder.encode_demonstration(task)
        return ids, [True] * len(ids)
    if messages and all(type(token) is int for token in messages):
        return _as_they_are(encoder, task.id, messages)
    _check(task.id, messages)
    conversation = Conversation(encoder)
    tokens: list[int] = []
    mask: list[bool] = []
    for number, message in enumerate(messages):
        if message["role"] == "assistant":
            text = _text_of(encoder, message)
            ids = encoder.encode_demonstration(replace(task, demonstration=text))
            tokens, mask = tokens + ids, mask + [True] * len(ids)
            continue
        if number and messages[number - 1]["role"] != "assistant":
            continue  # replies that follow each other were encoded with the first
        replies = _replies(messages[number:])
        ids = conversation.reply_ids(tokens, replies)
        tokens, mask = tokens + ids, mask + [False] * len(ids)
    return tokens, mask


def _as_they_are(
    encoder: PromptEncoder, task_id: str, ids: list[int]
) -> tuple[list[int], list[bool]]:
    """Token ids of a text that is no turn of a conversation: nothing ends it."""
    if encoder.format == "chat":
        raise TaskError(
            f"the demonstration of task {task_id!r} is a piece of a text, in tokens: a chat template cannot frame it; "
            "set prompt.format=plain"
        )
    if not 0 <= min(ids) <= max(ids) < len(encoder.tokenizer):
        raise TaskError(
            f"the demonstration of task {task_id!r} has the token {max(ids)} and the model's tokenizer only "
            f"{len(encoder.tokenizer)}: make the tokens with the model's tokenizer"
        )
    return list(ids), [True] * len(ids)


def _check(task_id: str, messages: list[Message]) -> None:
    for number, message in enumerate(messages, start=1):
        is_message = isinstance(message, dict) and isinstance(message.get("role"), str)
        if not is_message or not ("content" in message or "tool_calls" in message):
            raise TaskError(
                f"message {number} of the demonstration of task {task_id!r} needs a role, and content or tool_calls"
            )
    if not any(message["role"] == "assistant" for message in messages):
        raise TaskError(
            f"the demonstration of task {task_id!r} has no message of the assistant to imitate"
        )


def _replies(messages: list[Message]) -> list[Message]:
    """Those before the next message of the assistant."""
    ends = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    return messages[: ends[0]] if ends else messages


def _text_of(encoder: PromptEncoder, message: Message) -> str:
    """What the policy should write: the content, and the calls as the chat template writes them (hermes, if it writes none)."""
    content, calls = message.get("content") or "", message.get("tool_calls")
    if not calls:
        return content
    with_calls = {**message, "content": content}
    without = {key: value for key, value in with_calls.items() if key != "tool_calls"}
    whole = render(encoder.tokenizer, [_USER, with_calls], **encoder.arguments)
    if whole == render(encoder.tokenizer, [_USER, without], **encoder.arguments):
        texts = [_TOOL_CALL.format(call=json.dumps(call["function"])) for call in calls]
        return "\n".join([content, *texts] if content else texts)
    before = render(encoder.tokenizer, [_USER], generate=True, **encoder.arguments)
    end = encoder.tokenizer.decode([encoder.end_of_turn])
    written = whole.removeprefix(before)
    return written[: written.rfind(end)] if end in written else written


_TOOL_CALL = "<tool_call>\n{call}\n</tool_call>"
