"""From what an environment says to tokens, without ever tokenizing a completion again.

    prompt | completion 1 | reply 1 | completion 2 | reply 2 | ...

A completion stays the tokens that the engine sampled, its end token included. A reply is the text that the chat template
writes between the end of an assistant's turn and the next one's beginning, tokenized by itself: the difference between a
rendering with the reply and one without. So what the policy is trained on is what it read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

from rlcore.chat import end_ids, keeps_prefix, render
from rlcore.env.base import Observation, messages_of
from rlcore.errors import EnvError, TaskError, first_line
from rlcore.rollout.prompt import PromptEncoder
from rlcore.rollout.tool_calls import ToolFormat, format_of, read_message
from rlcore.types import Message, Task

History = Literal["append", "template"]
_SLOT = "@@completion@@"
_USER = {"role": "user", "content": "?"}
_TOOLS_TEXT = """You may call functions. These are their signatures:
<tools>
{schemas}
</tools>
For each call write a JSON object with the function's name and arguments between the tags:
<tool_call>
{{"name": "...", "arguments": {{...}}}}
</tool_call>"""


def require_chat(format: str, schemas: Sequence[Any], history: History) -> None:
    """Raise `EnvError` where an environment needs prompts of another format. schemas: of its tools."""
    if format == "chat":
        return
    if schemas:
        raise EnvError(
            "the environment has tools, which only a chat prompt can show to the model: set prompt.format to chat, "
            "or use an environment that reads the text of completions"
        )
    if history == "template":
        raise EnvError("env.history is template, which needs prompt.format chat")


class Conversation:
    """Encodes prompts, completions and replies of one environment's rollouts."""

    def __init__(
        self,
        encoder: PromptEncoder,
        schemas: Sequence[Mapping[str, Any]] = (),
        *,
        tool_format: ToolFormat | None = None,
        history: History = "append",
        also_end: Sequence[int] = (),
    ) -> None:
        """schemas: of the environment's tools; the chat template shows them, or a system message where it shows none.
        tool_format: of the policy's calls; None: that of the chat template, else hermes. history: `append` keeps what was
        written; `template` lets the chat template rewrite earlier turns (drop their thinking, say), and each turn that is
        rewritten begins a further training sequence. Raises `EnvError`."""
        require_chat(encoder.format, schemas, history)
        self.encoder = encoder
        self.history = history
        self._end_ids = {*end_ids(encoder.tokenizer), *also_end}
        self._schemas = list(schemas)
        self._tool_format: ToolFormat = tool_format or format_of(encoder.tokenizer) or "hermes"
        if schemas:
            self.encoder = self._with_tools(encoder)

    def begin(self, task: Task, observation: Observation) -> tuple[list[int], list[Message]]:
        """Prompt tokens of an episode, and the same as messages. observation: the environment's first."""
        reply, prompt = observation.reply, task.prompt
        if observation.restart:
            return self.whole(task, messages_of(reply)), messages_of(reply)
        if isinstance(reply, str):
            prompt = _with_text(prompt, reply)
        elif reply is not None and isinstance(prompt, str) and self.encoder.format == "plain":
            prompt += _texts(messages_of(reply))
        elif reply is not None:
            prompt = [*(messages_of(prompt) if prompt else []), *messages_of(reply)]
        return self.encoder.encode(replace(task, prompt=prompt)), messages_of(prompt)

    def whole(self, task: Task, messages: Sequence[Message]) -> list[int]:
        """Tokens of a prompt that consists of these messages."""
        is_plain = self.encoder.format == "plain"
        prompt = _texts(messages) if is_plain else list(messages)
        return self.encoder.encode(replace(task, prompt=prompt))

    def message(self, prompt_ids: list[int], completion_ids: list[int]) -> Message:
        """A completion as the environment sees it."""
        text = self.encoder.completion_text(prompt_ids, completion_ids)
        if not self._schemas:
            return {"role": "assistant", "content": text}
        own = getattr(self.encoder.tokenizer, "response_template", None)
        return read_message(text, self._tool_format, self._schemas, own)

    def reply_ids(
        self, completion_ids: Sequence[int], messages: Sequence[Message]
    ) -> list[int]:
        """Tokens between a completion and the next. Raises `TaskError` if the chat template refuses the messages."""
        if self.encoder.format == "plain":
            return self.encoder.ids(_texts(messages))
        text = self._between(messages)
        is_closed = bool(completion_ids) and completion_ids[-1] in self._end_ids
        return self.encoder.ids(text.removeprefix(self._end_text) if is_closed else text)

    @property
    def rewrites_history(self) -> bool:
        """Whether the chat template changes earlier turns, such as their thinking, when later ones come."""
        encoder = self.encoder
        return encoder.format == "chat" and not keeps_prefix(
            encoder.tokenizer, **encoder.arguments
        )

    def _between(self, messages: Sequence[Message]) -> str:
        """What the template writes from the end of an assistant's words on, beginning with the token that ends the turn."""
        before: Message = {"role": "assistant", "content": _SLOT}
        calls = [_call_of(message) for message in messages if message["role"] == "tool"]
        if calls:  # templates refuse the reply of a tool that was not called
            before["tool_calls"] = calls
        try:
            text = self._rendered([_USER, before], messages)
        except Exception as error:  # templates are programs and raise what they like
            raise TaskError(
                f"the chat template refused the environment's reply {json.dumps(messages)[:200]}: {first_line(error)}"
            ) from error
        at = text.find(self._end_text, text.index(_SLOT)) if _SLOT in text else -1
        if at < 0:
            raise TaskError(
                "the chat template does not write the words of an earlier assistant's turn, so a conversation cannot go on"
            )
        return text[at:]

    def _rendered(self, before: list[Message], messages: Sequence[Message]) -> str:
        """The template's text of a talk that goes on with the assistant."""
        tokenizer, arguments = self.encoder.tokenizer, self.encoder.arguments
        if messages:
            return render(tokenizer, [*before, *messages], generate=True, **arguments)
        # Nothing was replied. A talk that ends with the assistant would be left open.
        opened = render(tokenizer, [_USER], generate=True, **arguments)
        header = opened.removeprefix(render(tokenizer, [_USER], **arguments))
        return render(tokenizer, before, **arguments) + header

    @cached_property
    def _end_text(self) -> str:
        return self.encoder.tokenizer.decode([self.encoder.end_of_turn])

    def _with_tools(self, encoder: PromptEncoder) -> PromptEncoder:
        """The encoder whose prompts show the tools."""
        shown = {**encoder.arguments, "tools": self._schemas}
        without = render(encoder.tokenizer, [_USER], generate=True, **encoder.arguments)
        if render(encoder.tokenizer, [_USER], generate=True, **shown) != without:
            return PromptEncoder(
                encoder.tokenizer,
                format="chat",
                system=encoder.system,
                template_arguments=shown,
                hide=encoder.hide,
            )
        self._tool_format = "hermes"
        listed = _TOOLS_TEXT.format(schemas="\n".join(map(json.dumps, self._schemas)))
        system = f"{encoder.system}\n\n{listed}" if encoder.system else listed
        return PromptEncoder(
            encoder.tokenizer,
            format="chat",
            system=system,
            template_arguments=encoder.arguments,
            hide=encoder.hide,
        )


def _with_text(prompt: str | list[Message], text: str) -> str | list[Message]:
    """The prompt with a text at the end of its last message."""
    if isinstance(prompt, str):
        return prompt + text
    last = prompt[-1]
    return [*prompt[:-1], {**last, "content": last["content"] + text}]


def _texts(messages: Sequence[Message]) -> str:
    return "".join(message["content"] for message in messages)


def _call_of(reply: Message) -> dict[str, Any]:
    """A call that the reply of a tool could answer."""
    call = {
        "type": "function",
        "function": {"name": reply.get("name", "tool"), "arguments": {}},
    }
    return {"id": reply.get("tool_call_id", "call00000"), **call}
