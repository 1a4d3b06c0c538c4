"""From a task to prompt tokens, and from answer tokens to the text that reward functions see."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Literal

from rlcore.errors import TaskError
from rlcore.types import Message, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SLOT = "@@answer@@"


class PromptEncoder:
    """Encodes prompts, plain or by the tokenizer's chat template.

    plain: the prompt string as it is, with the beginning-of-sequence token where the tokenizer writes one (once); a task
    with chat messages is refused. chat: a string becomes one user message; `system` is put first unless the task brings
    its own system message; the generation prompt is added.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        format: Literal["plain", "chat"] = "plain",
        system: str | None = None,
    ) -> None:
        if format == "chat" and not tokenizer.chat_template:
            raise TaskError(
                "prompt format 'chat' needs a chat template and the tokenizer of "
                f"{tokenizer.name_or_path!r} has none; use format 'plain' or a tokenizer with a template"
            )
        if format == "plain" and system is not None:
            raise TaskError(
                "a system prompt needs prompt format 'chat'; write it into the task's prompt or change the format"
            )
        if tokenizer.eos_token_id is None:
            raise TaskError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no end-of-sequence token; set its eos_token"
            )
        self.tokenizer, self.format, self.system = tokenizer, format, system

    def encode(self, task: Task) -> list[int]:
        """Prompt tokens. Raises `TaskError` if the prompt cannot be put into this format or is empty."""
        ids = self._encode_chat(task) if self.format == "chat" else self._encode_plain(task)
        if not ids:
            raise TaskError(
                f"the prompt of task {task.id!r} has no tokens; a model needs at least one to continue"
            )
        return ids

    def encode_demonstration(self, task: Task) -> list[int]:
        """The worked answer and its end token: end-of-sequence, or in chat format what the template closes a turn with."""
        if task.demonstration is None:
            raise TaskError(
                f"task {task.id!r} has no demonstration to imitate; name its column or leave the task out"
            )
        return [*self._ids(task.demonstration), self._end_of_answer]

    def decode(self, ids: list[int]) -> str:
        """Answer text without special tokens."""
        return self.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    def _encode_plain(self, task: Task) -> list[int]:
        if not isinstance(task.prompt, str):
            raise TaskError(
                f"the prompt of task {task.id!r} is a list of chat messages and the prompt format is 'plain'; use format 'chat'"
            )
        ids = self._ids(task.prompt)
        return ids if ids[: len(self._opening)] == self._opening else self._opening + ids

    def _encode_chat(self, task: Task) -> list[int]:
        return self._ids(
            self._render(self._messages(task), task.id, add_generation_prompt=True)
        )

    def _messages(self, task: Task) -> list[Message]:
        messages = (
            [{"role": "user", "content": task.prompt}]
            if isinstance(task.prompt, str)
            else list(task.prompt)
        )
        if self.system is None or (messages and messages[0]["role"] == "system"):
            return messages
        return [{"role": "system", "content": self.system}, *messages]

    def _render(
        self, messages: list[Message], task_id: str, add_generation_prompt: bool
    ) -> str:
        try:
            return self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except Exception as error:  # templates are programs and raise what they like
            raise TaskError(f"the chat template refused task {task_id!r}: {error}") from error

    def _ids(self, text: str) -> list[int]:
        """Tokens of the text alone: a chat template writes its own special tokens, plain prompts get `_opening`."""
        return self.tokenizer(text, add_special_tokens=False).input_ids

    @cached_property
    def _opening(self) -> list[int]:
        bos = self.tokenizer.bos_token_id
        return [bos] if bos is not None and self.tokenizer("a").input_ids[:1] == [bos] else []

    @cached_property
    def _end_of_answer(self) -> int:
        """First special token that the template writes after an assistant's words; end-of-sequence if there is none."""
        if self.format == "chat":
            turn = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _SLOT}]
            closing = self._render(turn, "(none)", add_generation_prompt=False).rpartition(
                _SLOT
            )[2]
            for token in self._ids(closing):
                if token in self._special:
                    return token
        return self.tokenizer.eos_token_id

    @cached_property
    def _special(self) -> set[int]:
        added = {
            id for id, token in self.tokenizer.added_tokens_decoder.items() if token.special
        }
        return added | set(self.tokenizer.all_special_ids)
