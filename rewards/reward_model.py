"""A trained reward model or classifier from transformers or TRL as the reward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlcore import Message, Verdict


class RewardModel:
    """The score a sequence-classification model gives to prompt and answer.

    A recipe names this class by its place. `{use: reward_model, model: ...}` gives the same score in the learner's process, with
    one copy of the model and no deadline; here filters and environments can read it.

    Each reward worker (`scoring.workers`) holds a copy of the model, and has no memory bound.
    path: hub name or folder. device, dtype: where and in what it computes; `auto` is the checkpoint's dtype.
    format: `chat` renders the conversation by the tokenizer's template, `plain` joins prompt and answer, `auto` is chat where
    there is a template. batch_size: conversations in one forward; it changes no score.
    label: of a model with several labels, the name or number of the one whose probability is the score. sigmoid: squash the
    one score of a model without labels to 0 .. 1. heads: the labels are scores, and all are given, as a verdict whose parts they are
    and whose value is their mean.
    A conversation longer than `max_length` tokens is `unscorable`: a cut one would be scored for what it does not end in.

    >>> RewardModel.conversation("2+2=?", "4")
    [{'role': 'user', 'content': '2+2=?'}, {'role': 'assistant', 'content': '4'}]
    """

    memory_gb = None

    def __init__(
        self,
        *,
        path: str,
        device: str = "cpu",
        dtype: str = "auto",
        format: str = "auto",
        batch_size: int = 16,
        max_length: int = 4096,
        label: str | int | None = None,
        sigmoid: bool = False,
        heads: bool = False,
    ) -> None:
        from rlcore import load_model, load_tokenizer

        self.tokenizer = load_tokenizer(path)
        self.model = load_model(path, dtype=dtype, head="SequenceClassification")
        if format not in ("auto", "chat", "plain"):
            raise ValueError(f"format is {format!r}; there are auto, chat and plain")
        if format == "chat" and not self.tokenizer.chat_template:
            raise ValueError(f"the tokenizer of {path} has no chat template; use format: plain")
        self.chat = format == "chat" or (
            format == "auto" and bool(self.tokenizer.chat_template)
        )
        self.model.to(device).eval()
        self.pad = self.model.config.get_text_config().pad_token_id
        self.device, self.batch_size, self.sigmoid = device, batch_size, sigmoid
        self.max_length = min(
            max_length, getattr(self.model.config, "max_position_embeddings", max_length)
        )
        self.heads = heads
        self.label = None if heads else self._label(label)

    def __call__(
        self, prompts: Sequence[str | list[Message]], completions: Sequence[Any], **columns: Any
    ) -> list[float | Verdict]:
        answers = [
            said if isinstance(said, str) else said[-1]["content"] for said in completions
        ]
        texts = [
            self._text(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)
        ]
        return self.score_tokens(
            self.tokenizer(texts, add_special_tokens=not self.chat).input_ids
        )

    def score_tokens(self, rows: Sequence[list[int]]) -> list[float | Verdict]:
        """The score of each sequence of the model's own tokens."""
        values: list[float | Verdict] = [
            Verdict(
                value=None,
                status="unscorable",
                reason=f"{len(row)} tokens, more than max_length ({self.max_length})",
            )
            for row in rows
        ]
        fitting = sorted(
            (i for i, row in enumerate(rows) if len(row) <= self.max_length),
            key=lambda i: len(rows[i]),
        )
        for start in range(0, len(fitting), self.batch_size):
            batch = fitting[start : start + self.batch_size]
            for i, score in zip(batch, self._scores([rows[i] for i in batch]), strict=True):
                values[i] = score
        return values

    @staticmethod
    def conversation(prompt: str | list[Message], answer: str) -> list[Message]:
        """Prompt and answer as chat messages."""
        asked = (
            [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        )
        return [*asked, {"role": "assistant", "content": answer}]

    def _text(self, prompt: str | list[Message], answer: str) -> str:
        if self.chat:
            return self.tokenizer.apply_chat_template(
                self.conversation(prompt, answer), tokenize=False
            )
        asked = (
            prompt
            if isinstance(prompt, str)
            else "\n".join(message["content"] for message in prompt) + "\n"
        )
        return asked + answer

    def _scores(self, rows: list[list[int]]) -> list[float] | list[Verdict]:
        import torch

        pad = self._padding(rows)
        longest = max(map(len, rows))
        ids = torch.tensor(
            [row + [pad] * (longest - len(row)) for row in rows], device=self.device
        )
        mask = torch.tensor(
            [[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=self.device
        )
        with torch.inference_mode():
            logits = self.model(input_ids=ids, attention_mask=mask).logits.float()
        if self.heads:
            scores = logits.sigmoid() if self.sigmoid else logits
            return [self._verdict(row) for row in scores.tolist()]
        if self.label is not None:
            return logits.softmax(-1)[:, self.label].tolist()
        return (logits[:, 0].sigmoid() if self.sigmoid else logits[:, 0]).tolist()

    def _verdict(self, scores: list[float]) -> Verdict:
        names = self.model.config.id2label
        parts = {names[number]: score for number, score in enumerate(scores)}
        return Verdict(value=sum(scores) / len(scores), parts=parts)

    def _padding(self, rows: list[list[int]]) -> int:
        """The padding token. Models read their score at a row's last token that is not padding: where the checkpoint names
        no padding token, one that no row ends in makes that the last token of each row."""
        if self.pad is not None:
            return self.pad
        ends = {row[-1] for row in rows if row}
        free = next(token for token in range(len(ends) + 1) if token not in ends)
        self.model.config.get_text_config().pad_token_id = free
        return free

    def _label(self, label: str | int | None) -> int | None:
        """Number of the label that is scored, None for a model with a single output."""
        names = self.model.config.id2label
        if self.model.config.num_labels == 1:
            return None
        number = {str(name): int(number) for number, name in names.items()}.get(
            str(label), label
        )
        if number not in range(self.model.config.num_labels):
            raise ValueError(
                f"say by `label` which of the model's labels is the score: {', '.join(map(str, names.values()))}"
            )
        return int(number)
