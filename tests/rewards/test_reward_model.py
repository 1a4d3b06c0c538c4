"""Models as rewards, on tiny ones made here: a sequence classifier, and a causal model as a judge in the worker."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Qwen2Config,
)

from rewards.judge_local import LocalJudge
from rewards.reward_model import RewardModel
from rlcore import RewardSpec, Task, Verdict
from rlcore.errors import RewardError
from rlcore.scoring.load import load_reward
from rlcore.scoring.scorer import Scorer
from rlcore.tokenizer import byte_tokenizer

PROMPTS = ["2+2=?", [{"role": "system", "content": "count"}, {"role": "user", "content": "2+2=?"}]]
ANSWERS = ["4", "It is four, I would say.", "", "5" * 40, "x = 4"]


def save(folder: Path, *, labels: int = 1, pad: int | None = None, causal: bool = False) -> str:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=264, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        max_position_embeddings=512, num_labels=labels, pad_token_id=pad, initializer_range=0.3,
    )  # fmt: skip
    maker = AutoModelForCausalLM if causal else AutoModelForSequenceClassification
    maker.from_config(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def one_score(tmp_path_factory) -> str:
    return save(tmp_path_factory.mktemp("one"))


def reference(path: str, prompt: object, answer: str) -> torch.Tensor:
    """Logits of one conversation alone, through transformers, in its chat format."""
    tokenizer, model = (
        AutoTokenizer.from_pretrained(path),
        AutoModelForSequenceClassification.from_pretrained(path).eval(),
    )
    asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    text = tokenizer.apply_chat_template(
        [*asked, {"role": "assistant", "content": answer}], tokenize=False
    )
    with torch.no_grad():
        return model(**tokenizer(text, return_tensors="pt", add_special_tokens=False)).logits[0]


@pytest.mark.parametrize(
    "pad", [None, 256, 258], ids=["no padding token", "its own", "end of sequence"]
)
@pytest.mark.parametrize("prompt", PROMPTS, ids=["text", "chat"])
def test_scores_are_transformers_own_at_any_batch_size(pad, prompt, tmp_path):
    path = save(tmp_path, pad=pad)
    expected = [reference(path, prompt, answer)[0].item() for answer in ANSWERS]
    for batch_size in (1, 2, 5):
        model = RewardModel(path=path, batch_size=batch_size)
        found = model([prompt] * len(ANSWERS), ANSWERS)
        assert found == pytest.approx(expected, abs=1e-5)
    assert max(expected) - min(expected) > 0.01, "a model that scores all alike would show nothing"
    if pad is None:
        model.pad = 258  # planted: padding with the token that rows end in moves the place where the score is read
        assert model([prompt] * len(ANSWERS), ANSWERS) != pytest.approx(expected, abs=1e-5)


def test_it_scores_in_a_worker_within_a_deadline_shorter_than_its_loading(one_score, rollout):
    spec = RewardSpec(
        "rewards.reward_model:RewardModel",
        params={"path": one_score, "sigmoid": True},
        name="taste",
    )
    with Scorer([spec], workers=1, deadline_s=1.0) as scorer:
        (verdicts,) = scorer.score(
            [(Task(id="t", prompt=PROMPTS[0]), [rollout(answer) for answer in ANSWERS])]
        )
    expected = [reference(one_score, PROMPTS[0], answer)[0].sigmoid().item() for answer in ANSWERS]
    assert [verdict.value for verdict in verdicts] == pytest.approx(expected, abs=1e-5)


def test_labels_formats_and_lengths(one_score, tmp_path):
    path = save(tmp_path, labels=3)
    expected = [reference(path, PROMPTS[0], answer).softmax(-1)[2].item() for answer in ANSWERS]
    for label in ("LABEL_2", 2):
        assert RewardModel(path=path, label=label)([PROMPTS[0]] * 5, ANSWERS) == pytest.approx(
            expected, abs=1e-5
        )
    chat = RewardModel(path=one_score)([PROMPTS[0]], ["4"])
    assert RewardModel(path=one_score, format="plain")([PROMPTS[0]], ["4"]) != pytest.approx(
        chat, abs=1e-4
    )
    short, long = RewardModel(path=one_score, max_length=20)([PROMPTS[0]] * 2, ["4", "4" * 40])
    assert (
        isinstance(short, float)
        and isinstance(long, Verdict)
        and long.status == "unscorable"
        and "max_length" in long.reason
    )
    with pytest.raises(RewardError, match="LABEL_0, LABEL_1, LABEL_2"):
        load_reward(RewardSpec("rewards.reward_model:RewardModel", params={"path": path}))


def test_a_model_without_a_trained_head_is_refused(tmp_path):
    path = save(tmp_path, causal=True)
    with pytest.raises(RewardError, match="the whole Qwen2ForSequenceClassification: they lack score.weight"):
        load_reward(RewardSpec("rewards.reward_model:RewardModel", params={"path": path}))


def test_a_local_judge_replies_as_generate_does_and_is_read(tmp_path):
    path = save(tmp_path, causal=True)
    template = "{prompt} {completion} {answer}"
    judge = LocalJudge(
        path=path, template=template, max_tokens=4, batch_size=2, verdict=r"(?s)^(.)"
    )
    questions = [f"2+2=? {answer} 4" for answer in ANSWERS if answer]
    tokenizer, model = (
        AutoTokenizer.from_pretrained(path),
        AutoModelForCausalLM.from_pretrained(path),
    )
    expected = []
    for question in questions:
        chat = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
        ids = tokenizer(chat, return_tensors="pt", add_special_tokens=False).input_ids
        written = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False
        )
        expected.append(tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True))
    assert judge.replies(questions) == expected, "left padding changes nothing"
    judge.replies = lambda asked: [
        "1" if " 4 4" in question else "0" if "5" in question else "?" for question in asked
    ]
    verdicts = judge([PROMPTS[0]] * 5, ANSWERS, ["4"] * 5)
    assert [verdict.value for verdict in verdicts] == [
        1.0,
        None,
        0.0,
        0.0,
        1.0 if " 4 4" in questions[-1] else None,
    ]
