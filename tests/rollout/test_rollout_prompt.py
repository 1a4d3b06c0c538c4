"""Prompts as the tokenizer's own template writes them, and as plain text."""

from __future__ import annotations

import pytest
import rollout_reference as ref
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from rlcore.errors import TaskError
from rlcore.rollout.prompt import PromptEncoder
from rlcore.tokenizer import load_tokenizer
from rlcore.types import Task
from tests.subwords import subword_tokenizer

TEXTS = ["an owl and a barn", "two\n\n lines <tool>call<eos>", "\u00fc \ufdfa \U0001f989", "", "  "]
TASK = Task(id="t", prompt="2+2=?", demonstration="4")


def ids(text: str) -> list[int]:
    return [ref.CHARS.index(char) for char in text]


def test_plain() -> None:
    encoder = PromptEncoder(ref.make_tokenizer())
    assert encoder.encode(TASK) == ids("2+2=?")
    assert encoder.encode_demonstration(TASK) == [*ids("4"), 1]
    assert encoder.decode([*ids("4 ."), 1]) == "4 ."


def test_a_text_has_the_tokens_of_a_call_of_the_tokenizer() -> None:
    """Also where its class adds something of its own, and after another library has left a length in it."""
    words = PreTrainedTokenizerFast(tokenizer_object=subword_tokenizer(TEXTS), eos_token="<eos>", pad_token="<eos>")
    words.add_special_tokens({"additional_special_tokens": ["<tool>"]})

    class Shouting(PreTrainedTokenizerFast):
        def __call__(self, text, **settings):
            return super().__call__(text.upper(), **settings)

    shouting = Shouting(tokenizer_object=subword_tokenizer(TEXTS), eos_token="<eos>", pad_token="<eos>")
    for tokenizer in (load_tokenizer("bytes"), words, shouting):
        encoder = PromptEncoder(tokenizer)
        called = [tokenizer(text, add_special_tokens=False).input_ids for text in TEXTS]
        assert [encoder.ids(text) for text in TEXTS] == called
        tokenizer(TEXTS[0], padding="max_length", truncation=True, max_length=2)
        assert [encoder.ids(text) for text in TEXTS] == called
    assert PromptEncoder(shouting).ids("owl") != PromptEncoder(words).ids("owl")


def test_beginning_of_sequence_is_written_once() -> None:
    tokenizer = ref.make_tokenizer("<bos>" + ref.CHATML)
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 2)]
    )
    plain, chat = PromptEncoder(tokenizer), PromptEncoder(tokenizer, format="chat")
    assert plain.encode(TASK) == [2, *ids("2+2=?")]
    assert plain.encode(Task(id="t", prompt="<bos>2")) == [2, *ids("2")]
    assert chat.encode(TASK).count(2) == 1
    assert (
        tokenizer(
            tokenizer.apply_chat_template([{"role": "user", "content": "2"}], tokenize=False)
        ).input_ids.count(2)
        == 2
    )
    assert plain.encode_demonstration(TASK) == [*ids("4"), 1]  # no beginning in the middle


def test_chat() -> None:
    encoder = PromptEncoder(ref.make_tokenizer(), format="chat", system="be brief")
    start, end = 3, 4
    system = [start, *ids("system\nbe brief"), end, *ids("\n")]
    rest = [start, *ids("user\n2+2=?"), end, *ids("\n"), start, *ids("assistant\n")]
    assert encoder.encode(TASK) == system + rest
    own = [{"role": "system", "content": "x"}, {"role": "user", "content": "2+2=?"}]
    assert (
        encoder.encode(Task(id="t", prompt=own))
        == [start, *ids("system\nx"), end, *ids("\n")] + rest
    )
    assert encoder.encode_demonstration(TASK) == [*ids("4"), end]  # the turn's own end, not <eos>
    assert encoder.decode(encoder.encode_demonstration(TASK)) == "4"


def test_a_template_without_turn_end_uses_end_of_sequence() -> None:
    encoder = PromptEncoder(
        ref.make_tokenizer("{% for m in messages %}{{ m.content }}{% endfor %}"), format="chat"
    )
    assert encoder.encode_demonstration(TASK) == [*ids("4"), 1]


def test_refusals() -> None:
    with pytest.raises(TaskError, match="needs a chat template"):
        PromptEncoder(ref.make_tokenizer(None), format="chat")
    with pytest.raises(TaskError, match="a system prompt needs prompt format 'chat'"):
        PromptEncoder(ref.make_tokenizer(), system="x")
    with pytest.raises(TaskError, match="'t' is a list of chat messages"):
        PromptEncoder(ref.make_tokenizer()).encode(
            Task(id="t", prompt=[{"role": "user", "content": "2"}])
        )
    with pytest.raises(TaskError, match="'t' has no tokens"):
        PromptEncoder(ref.make_tokenizer()).encode(Task(id="t", prompt=""))
    with pytest.raises(TaskError, match="'t' has no demonstration"):
        PromptEncoder(ref.make_tokenizer()).encode_demonstration(Task(id="t", prompt="2"))
    with pytest.raises(TaskError, match="template refused task 't': no"):
        PromptEncoder(ref.make_tokenizer("{{ raise_exception('no') }}"), format="chat").encode(TASK)
