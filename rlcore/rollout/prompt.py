"""From a task to prompt tokens, and from completion tokens to the text that reward functions see."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from rlcore.chat import frame_ids, in_words, opened_thinking, opening, render, turn_end
from rlcore.errors import TaskError, first_line
from rlcore.tokenizer import text_ids
from rlcore.types import Message, Task
from rlcore.types.plain import whole_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TAG_STARTS = ("<", "[", "\u25c1")
_TAIL = 32
"""Tokens at the end of a prompt among which an open tag is looked for."""


class PromptEncoder:
    """Encodes prompts, plain or by the tokenizer's chat template.

    plain: the prompt string as it is, with the beginning-of-sequence token where the tokenizer
    writes one (once); a task with chat messages is refused.
    chat: a string becomes one user message; `system` is put first unless the task brings its own
    system message; the generation prompt is added. Messages that end with one of the assistant
    leave that message open: the model goes on with it.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        format: Literal["plain", "chat"] = "plain",
        system: str | None = None,
        template_arguments: Mapping[str, Any] | None = None,
        hide: str | None = None,
    ) -> None:
        """template_arguments: variables of the chat template, `{"enable_thinking": False}` say.

        hide: regular expression of what `completion_text` leaves out.
        """
        if format == "chat" and not tokenizer.chat_template:
            raise TaskError(
                "prompt format 'chat' needs a chat template and the tokenizer of "
                f"{tokenizer.name_or_path!r} has none; use format 'plain' or a tokenizer with a template"
            )
        if format == "plain" and system is not None:
            raise TaskError(
                "a system prompt needs prompt format 'chat'; write it into the task's prompt or change the format"
            )
        if format == "plain" and template_arguments:
            raise TaskError(
                "arguments of the chat template have no effect with prompt format 'plain'; use format 'chat'"
            )
        if tokenizer.eos_token_id is None:
            raise TaskError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no end-of-sequence token; set its eos_token"
            )
        self.tokenizer = tokenizer
        self.format = format
        self.system = system
        self.arguments = dict(template_arguments or {})
        """Of the chat template."""
        self.hide = hide

    def encode(self, task: Task) -> list[int]:
        """Prompt tokens. Raises `TaskError` if the prompt cannot be put into this format or is empty."""
        ids = self._encode_chat(task) if self.format == "chat" else self._encode_plain(task)
        if not ids:
            raise TaskError(
                f"the prompt of task {task.id!r} has no tokens; a model needs at least one to continue"
            )
        return ids

    def encode_demonstration(self, task: Task) -> list[int]:
        """The worked answer and its end token: end-of-sequence, or in chat format what the template closes a turn with.

        A tag that the prompt leaves open at its end (`<think>`) is part of it, not of the demonstration.
        """
        if task.demonstration is None:
            raise TaskError(
                f"task {task.id!r} has no demonstration to imitate: name its column in columns.demonstration of the task set, "
                "or leave the row out of the data"
            )
        text = task.demonstration
        tag = self._opened(self.encode(task)) if text[:1] in _TAG_STARTS else ""
        if tag:
            text = text.removeprefix(tag).removeprefix(tag.strip())
        return [*self.ids(text), self.end_of_turn]

    def ending(self, end_ids: Sequence[int]) -> str:
        """Where completions end and what demonstrations teach, as a sentence. end_ids: of the policy (`chat.end_ids`)."""
        return (
            f"Completions end at {in_words(self.tokenizer, end_ids)}; in the prompt format "
            f"{self.format!r} demonstrations teach {in_words(self.tokenizer, [self.end_of_turn])}"
        )

    def decode(self, ids: list[int]) -> str:
        """Text without the special tokens that frame a turn (`frame_ids`)."""
        return self.tokenizer.decode(
            [id for id in ids if id not in self._frame],
            skip_special_tokens=False,
            clean_up_tokenization_spaces=False,
        )

    def completion_text(self, prompt_ids: list[int], completion_ids: list[int]) -> str:
        """What reward functions see.

        A tag that the prompt leaves open at its end belongs to it, whether the template, a begun
        message or the prompt itself wrote it: a well-formed completion of `<think>` has both its
        opening and its closing tag. What matches `hide` is left out.
        """
        text = self._opened(prompt_ids) + self.decode(completion_ids)
        return text if self.hide is None else re.sub(self.hide, "", text, flags=re.DOTALL)

    def _opened(self, prompt_ids: list[int]) -> str:
        """The tag that the prompt leaves open at its end."""
        # Text and not ids: tokens may have merged at the border of the tag.
        tail = self.tokenizer.decode(
            prompt_ids[-_TAIL:], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        if self._opening and tail.endswith(self._opening):
            return self._opening
        return opened_thinking(tail)

    def _encode_plain(self, task: Task) -> list[int]:
        if not isinstance(task.prompt, str):
            raise TaskError(
                f"the prompt of task {task.id!r} is a list of chat messages and the prompt format is 'plain'; use format 'chat'"
            )
        ids = self.ids(task.prompt)
        return ids if ids[: len(self._beginning)] == self._beginning else self._beginning + ids

    def _encode_chat(self, task: Task) -> list[int]:
        messages = self._messages(task)
        try:
            text = render(self.tokenizer, messages, generate=True, **self.arguments)
        except Exception as error:  # templates are programs and raise what they like
            raise TaskError(
                f"the chat template refused task {task.id!r}: {first_line(error)}"
            ) from error
        return self.ids(text)

    def _messages(self, task: Task) -> list[Message]:
        if isinstance(task.prompt, str):
            messages = [{"role": "user", "content": task.prompt}]
        else:
            messages = list(task.prompt)
        if self.system is None or (messages and messages[0]["role"] == "system"):
            return messages
        return [{"role": "system", "content": self.system}, *messages]

    def ids(self, text: str) -> list[int]:
        """Tokens of the text alone: a chat template writes its own special tokens, plain prompts get `_beginning`."""
        return text_ids(self.tokenizer, whole_text(text))

    @cached_property
    def _beginning(self) -> list[int]:
        bos = self.tokenizer.bos_token_id
        return [bos] if bos is not None and self.tokenizer("a").input_ids[:1] == [bos] else []

    @cached_property
    def end_of_turn(self) -> int:
        """The token with which demonstrations end."""
        # One of `chat.end_ids`, whatever the arguments of the template: engines stop at no other.
        end = turn_end(self.tokenizer) if self.format == "chat" else None
        return self.tokenizer.eos_token_id if end is None else end

    @cached_property
    def _frame(self) -> set[int]:
        return frame_ids(self.tokenizer)

    @cached_property
    def _opening(self) -> str:
        if self.format == "plain":
            return ""
        return opening(self.tokenizer, **self.arguments)
