"""A language model in the worker process as the judge: for a small judge on a device of its own, without a server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rewards.judge import VERDICT, Reader, fill, load_template
from rewards.thoughts import after_thoughts
from rlcore import Message, Verdict


class LocalJudge:
    """1 where a judge model finds that the completion agrees with the reference answer, 0 where it does not; the model is loaded here.

    Each reward worker (`scoring.workers`) holds a copy, and has no memory bound. path: hub name or folder of a causal language
    model. device, dtype: where and in what it computes; `auto` is the checkpoint's dtype.
    batch_size: answers judged in one call. template, verdict, json_key, lowest, highest: as of `judge`. Replies are greedy.
    A large judge is faster behind vLLM's server, with `judge`.

    >>> Reader(VERDICT, json_key="", lowest=0.0, highest=1.0)("Both are four. VERDICT: 0, no: it agrees.\\nVERDICT: 1").value
    1.0
    """

    memory_gb = None

    def __init__(
        self,
        *,
        path: str,
        device: str = "cpu",
        dtype: str = "auto",
        batch_size: int = 16,
        max_tokens: int = 256,
        template: str = "answer",
        verdict: str = VERDICT,
        json_key: str = "",
        lowest: float = 0.0,
        highest: float = 1.0,
    ) -> None:
        from rlcore import load_model, load_tokenizer

        self.template, self.reader = (
            load_template(template),
            Reader(verdict, json_key, lowest, highest),
        )
        self.tokenizer = load_tokenizer(path)
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model = load_model(path, dtype=dtype).to(device).eval()
        self.device, self.batch_size, self.max_tokens = device, batch_size, max_tokens

    def __call__(
        self,
        prompts: Sequence[str | list[Message]],
        completions: Sequence[Any],
        answer: Sequence[Any],
        **columns: Sequence[Any],
    ) -> list[Verdict]:
        texts = [said if isinstance(said, str) else said[-1]["content"] for said in completions]
        texts = [after_thoughts(text) for text in texts]
        verdicts = [
            Verdict(value=0.0, reason="an empty answer is not shown to the judge")
        ] * len(texts)
        asked = [i for i, text in enumerate(texts) if text.strip()]
        for start in range(0, len(asked), self.batch_size):
            batch = asked[start : start + self.batch_size]
            rows = [
                {
                    name: values[i]
                    for name, values in columns.items()
                    if isinstance(values, list)
                }
                for i in batch
            ]
            questions = [
                fill(self.template, prompts[i], texts[i], answer[i], row)
                for i, row in zip(batch, rows, strict=True)
            ]
            for i, reply in zip(batch, self.replies(questions), strict=True):
                verdicts[i] = self.reader(reply)
        return verdicts

    def replies(self, questions: Sequence[str]) -> list[str]:
        """The model's greedy replies, in the tokenizer's chat format where it has one."""
        if self.tokenizer.chat_template:
            chats = [[{"role": "user", "content": question}] for question in questions]
            questions = self.tokenizer.apply_chat_template(
                chats, tokenize=False, add_generation_prompt=True
            )
        batch = self.tokenizer(
            list(questions),
            return_tensors="pt",
            padding=True,
            add_special_tokens=not self.tokenizer.chat_template,
        ).to(self.device)
        written = self.model.generate(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            max_new_tokens=self.max_tokens,
            do_sample=False,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        return self.tokenizer.batch_decode(
            written[:, batch.input_ids.shape[1] :], skip_special_tokens=True
        )
