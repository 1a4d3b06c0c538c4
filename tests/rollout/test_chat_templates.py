"""Templates and tokenizers as models have them: where turns end, what is opened, what rewards see."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from transformers import GenerationConfig, PreTrainedTokenizerFast

from rewards.text import spans, tags
from rlcore.chat import (
    end_ids,
    keeps_prefix,
    opening,
    takes_system,
    template_variables,
    turn_end,
)
from rlcore.errors import TaskError
from rlcore.learner.policy import load_policy
from rlcore.rollout.hf import HfEngine
from rlcore.rollout.prompt import PromptEncoder
from rlcore.tokenizer import byte_tokenizer
from rlcore.types import Task
from tests.rollout.end_of_turn import greedy, make_base, weights_that_write

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{% for m in messages %}<|start|>{{ m.role }}<|header|>\n\n{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant<|header|>\n\n{% endif %}"
)
MISTRAL = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}<|eos|>"
    "{% else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"
)
DEEPSEEK_R1 = CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")
QWEN3 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('</think>')[-1] }}"
    "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}"
)
EMPTY_THINKING = CHATML.replace(
    "{{ m.content }}",
    "{% if m.role == 'assistant' and '</think>' not in m.content %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}",
)
TASK = Task(id="t", prompt="2+2?", demonstration="<think>\n2 and 2\n</think>\n\n4")


def tokenizer_with(
    template: str, *special: str, added: tuple[str, ...] = ()
) -> PreTrainedTokenizerFast:
    """The byte-level tokenizer, which ends at <|eos|>, with the tokens and template of a chat model."""
    tokenizer = byte_tokenizer(max_length=256)
    tokenizer.add_tokens(list(special), special_tokens=True)
    tokenizer.add_tokens(list(added))
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize(
    ("template", "special", "added", "end"),
    [
        (CHATML, ("<|im_start|>", "<|im_end|>"), (), "<|im_end|>"),
        (CHATML, ("<|im_start|>",), ("<|im_end|>",), "<|im_end|>"),
        (LLAMA3, ("<|start|>", "<|header|>", "<|eot_id|>"), (), "<|eot_id|>"),
        (MISTRAL, (), (), "<|eos|>"),
        (QWEN3, ("<|im_start|>", "<|im_end|>"), ("<think>", "</think>"), "<|im_end|>"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", (), (), "<|eos|>"),
    ],
)
def test_demonstration_engine_and_checkpoint_end_at_the_same_token(
    template: str, special: tuple[str, ...], added: tuple[str, ...], end: str, tmp_path: Path
) -> None:
    """A base model whose files know only <|eos|>, with the chat template of an instruct model."""
    tokenizer = tokenizer_with(template, *special, added=added)
    end_id = tokenizer.convert_tokens_to_ids(end)
    policy = load_policy(path=str(make_base(tmp_path / "base", tokenizer)))
    encoder = PromptEncoder(policy.tokenizer, format="chat")
    assert encoder.encode_demonstration(TASK)[-1] == end_id
    assert set(policy.end_ids) == {258, end_id}
    policy.save(tmp_path / "saved")
    listed = GenerationConfig.from_pretrained(tmp_path / "saved").eos_token_id
    assert set(listed if isinstance(listed, list) else [listed]) == {258, end_id}
    assert encoder.ending(policy.end_ids).endswith(f"demonstrations teach {end} ({end_id})")

    engine = HfEngine(tmp_path / "base", max_length=64)
    engine.load(weights_that_write(tmp_path / "base", end_id), 1)
    completion = greedy(engine)
    assert (completion.token_ids, completion.finish) == ([end_id], "stop")


def test_the_turn_end_of_a_template_that_fails_is_left_to_the_tokenizer() -> None:
    tokenizer = tokenizer_with("{{ raise_exception('no') }}")
    assert turn_end(tokenizer) is None
    assert end_ids(tokenizer, None, GenerationConfig(eos_token_id=[7, 258])) == [7, 258]


@pytest.mark.parametrize("opened", ["<think>\n", "<think>", "<think>\n\n"])
@pytest.mark.parametrize("template", [CHATML, EMPTY_THINKING], ids=["chatml", "empty_thinking"])
@pytest.mark.parametrize("special", [True, False])
def test_rewards_see_the_thinking_that_the_template_opened(
    special: bool, template: str, opened: str
) -> None:
    """Also where the tags are special tokens, which a tokenizer would leave out of the text."""
    opens = template.replace("assistant\n{% endif", f"assistant\n{opened}{{% endif")
    encoder = PromptEncoder(thinking_tokenizer(opens, special), format="chat")
    assert opening(encoder.tokenizer) == opened
    assert_well_formed(encoder, Task(id="t", prompt="2+2?"))


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("opened", ["<think>\n", "<think>"])
@pytest.mark.parametrize("format", ["plain", "chat"])
def test_rewards_see_the_thinking_that_the_prompt_opened(
    format: str, opened: str, special: bool
) -> None:
    """A begun message of the assistant, or the prompt of a base model."""
    encoder = PromptEncoder(thinking_tokenizer(CHATML, special), format=format)
    begun = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": opened}]
    assert_well_formed(
        encoder, Task(id="t", prompt=begun if format == "chat" else f"2+2? Answer: {opened}")
    )


def thinking_tokenizer(template: str, special: bool) -> PreTrainedTokenizerFast:
    marks = ("<think>", "</think>")
    return tokenizer_with(
        template,
        *("<|im_start|>", "<|im_end|>", *(marks if special else ())),
        added=() if special else marks,
    )


def assert_well_formed(encoder: PromptEncoder, task: Task) -> None:
    """The rest that a model writes is a whole text for rewards, and a whole text is taught as the rest."""
    prompt = encoder.encode(task)
    written = encoder.ids("a</think><answer>4</answer>")
    text = encoder.completion_text(prompt, written)
    assert text.replace("\n", "") == "<think>a</think><answer>4</answer>"
    assert tags(text) == 1.0 and spans(text).value == 1.0
    assert text.split("</think>")[-1] == "<answer>4</answer>"
    whole = replace(task, demonstration="<think>\na</think><answer>4</answer>")
    taught = encoder.encode_demonstration(whole)
    assert encoder.tokenizer.decode(prompt + taught).count("<think>") == 1


def test_a_template_that_heads_each_turn_with_a_tag_opens_nothing() -> None:
    template = (
        "{% for m in messages %}<{{ m.role }}>\n{{ m.content }}<|eos|>\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>\n{% endif %}"
    )
    encoder = PromptEncoder(tokenizer_with(template), format="chat")
    assert opening(encoder.tokenizer) == ""
    assert encoder.completion_text(encoder.encode(TASK), encoder.ids("4")) == "4"


def test_a_prompt_that_ends_in_other_markup_adds_nothing() -> None:
    encoder = PromptEncoder(tokenizer_with(CHATML))
    task = Task(id="t", prompt="<p>So <b>")
    assert encoder.completion_text(encoder.encode(task), encoder.ids("4")) == "4"


def test_a_prompt_that_opens_nothing_adds_nothing() -> None:
    tokenizer = tokenizer_with(
        QWEN3, "<|im_start|>", "<|im_end|>", added=("<think>", "</think>")
    )
    for arguments in ({}, {"enable_thinking": False}):
        encoder = PromptEncoder(tokenizer, format="chat", template_arguments=arguments)
        assert encoder.completion_text(encoder.encode(TASK), encoder.ids("4")) == "4"


def test_template_arguments_reach_the_template() -> None:
    tokenizer = tokenizer_with(
        QWEN3, "<|im_start|>", "<|im_end|>", added=("<think>", "</think>")
    )
    assert template_variables(tokenizer) == ["enable_thinking"]
    plain = PromptEncoder(tokenizer, format="chat").encode(TASK)
    silent = PromptEncoder(
        tokenizer, format="chat", template_arguments={"enable_thinking": False}
    ).encode(TASK)
    assert tokenizer.decode(silent) == tokenizer.decode(plain) + "<think>\n\n</think>\n\n"
    with pytest.raises(TaskError, match="no effect with prompt format 'plain'"):
        PromptEncoder(tokenizer, template_arguments={"enable_thinking": False})


@pytest.mark.parametrize("begun", ["It is", "It is ", "<think>\nso", "4</think>\n\nIt"])
@pytest.mark.parametrize(
    "template", [CHATML, LLAMA3, MISTRAL, DEEPSEEK_R1, QWEN3, EMPTY_THINKING]
)
def test_a_begun_answer_is_continued(template: str, begun: str) -> None:
    """Neither closed, nor opened a second time, nor cut where a template trims it."""
    tokenizer = tokenizer_with(template, "<|im_start|>", "<|im_end|>")
    messages = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": begun}]
    encoder = PromptEncoder(tokenizer, format="chat")
    ids = encoder.encode(Task(id="t", prompt=messages))
    text = tokenizer.decode(ids)
    assert text.rstrip().endswith(begun.rstrip())
    assert text.count(begun.strip()) == 1
    assert encoder.completion_text(ids, encoder.ids("4")) == "4"


def test_what_a_template_supports() -> None:
    chatml = tokenizer_with(CHATML, "<|im_start|>", "<|im_end|>")
    mistral = tokenizer_with(MISTRAL)
    qwen3 = tokenizer_with(QWEN3, "<|im_start|>", "<|im_end|>", added=("<think>", "</think>"))
    assert takes_system(chatml) and not takes_system(mistral)
    assert keeps_prefix(chatml) and not keeps_prefix(qwen3)
