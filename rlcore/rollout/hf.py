"""The transformers back end: a plain decode loop, exact for a fixed set of requests. For parity and where vLLM is absent."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlcore.chat import end_ids
from rlcore.errors import EngineError, ModelError
from rlcore.pretrained import as_in_memory, load_causal_lm, load_config
from rlcore.rollout.engine import SequenceScore
from rlcore.rollout.hf_decode import Wave
from rlcore.rollout.hf_mixture import Difference, Mixture, open_mixture
from rlcore.rollout.partial import Draft, check_requests
from rlcore.rollout.publish import fingerprint
from rlcore.rope import fix_rope
from rlcore.tokenizer import load_tokenizer
from rlcore.types import Completion, Request


class HfEngine:
    """Samples from a transformers model that it owns.

    Requests are decoded in waves of at most `max_sequences`, formed in submission order; a wave ends with its last row.
    Every token costs one uniform number, drawn from the request's own generator, and is found by inverting the cumulative
    distribution: batch composition changes nothing but round-off. Log-probabilities are those of the distribution drawn
    from; greedy requests (temperature 0) report the one at temperature 1, as vLLM does. After `load`, unfinished completions
    go on under the new weights with their key-value cache recomputed.

    differences: models whose difference is added to the policy's log-probabilities when it writes (`hf_mixture`): a list of
    {tuned: path, base: path, factor: 1.0}. Log-probabilities of completions are then those of the mixture; `load`, `fingerprint` and
    `score` are of the policy alone.
    """

    def __init__(
        self,
        model_folder: str | Path,
        *,
        dtype: str = "float32",
        max_length: int,
        max_sequences: int = 256,
        device: str = "cpu",
        differences: Sequence[Difference] = (),
    ) -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model, self._tokenizer = _open(model_folder, dtype, max_length)
        self._model.to(device).eval()
        self._reader: PreTrainedModel | Mixture = self._model
        """What writes: the policy, or a mixture with it."""
        if differences:
            self._reader = open_mixture(
                (self._model, self._tokenizer),
                differences,
                lambda path: _open(path, dtype, max_length),
            )
        self.version = 0
        self.shared, self.deterministic = False, True
        self._dtype, self._max_length, self._max_sequences = dtype, max_length, max_sequences
        self._eos = set(
            end_ids(self._tokenizer, self._model.generation_config, self._model.config)
        )
        settings = self._model.generation_config
        self._banned = list((settings and settings.suppress_tokens) or ())
        self._queue: deque[Draft] = deque()
        self._wave: Wave | None = None
        self._live: set[str] = set()
        self._done: list[Completion] = []

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests; they start with the next wave."""
        check_requests(requests, self._live, self._max_length)
        self._live.update(request.id for request in requests)
        self._queue.extend(Draft(request=request) for request in requests)

    def poll(self, timeout_s: float) -> list[Completion]:
        """Decode, at least one token a row, until a completion is finished or the time is up."""
        until = time.monotonic() + timeout_s
        while not self._done and self._live:
            if self._wave is None:
                rows = [
                    self._queue.popleft()
                    for _ in range(min(self._max_sequences, len(self._queue)))
                ]
                self._wave = Wave(self._reader, rows, self._eos, self._tokenizer, self._banned)
            for draft, finish in self._wave.step(self.version):
                self._finish(draft, finish)
            if self._wave.empty:
                self._wave = None
            if time.monotonic() >= until:
                break
        done, self._done = self._done, []
        return done

    def abort(self, request_ids: Sequence[str]) -> None:
        """Stop requests, queued or running."""
        ids = set(request_ids)
        stopped = [draft for draft in self._queue if draft.request.id in ids]
        self._queue = deque(draft for draft in self._queue if draft.request.id not in ids)
        if self._wave is not None:
            stopped += self._wave.remove(ids)
            if self._wave.empty:
                self._wave = None
        for draft in stopped:
            self._finish(draft, "aborted")

    @torch.no_grad()
    def load(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Copy weights in place; unfinished completions are read again under them."""
        live = dict(self._model.named_parameters(remove_duplicate=False))
        for name, tensor in as_in_memory(self._model, weights):
            if name not in live or live[name].shape != tensor.shape:
                held = f"of shape {tuple(live[name].shape)}" if name in live else "not at all"
                raise EngineError(
                    f"the engine's model has weight {name!r} {held}, the learner sent it with shape "
                    f"{tuple(tensor.shape)}; both must be made from the same model"
                )
            live[name].copy_(tensor)
        if self._wave is not None:
            self._wave.forget_cache()
        self.version = version

    def fingerprint(self) -> str:
        """Fingerprint of the parameters now served."""
        return fingerprint(self._model.parameters(), self._dtype)

    @torch.inference_mode()
    def score(self, sequences: Sequence[list[int]], top_k: int = 0) -> list[SequenceScore]:
        """One forward per sequence, no padding; log-softmax in float32."""
        scores = []
        for sequence in sequences:
            ids = torch.tensor([sequence], device=self._model.device)
            logits = self._model(input_ids=ids, use_cache=False).logits[0, :-1].float()
            logprobs = logits.log_softmax(-1)
            best = logprobs.topk(top_k)
            top = [
                dict(zip(tokens, values, strict=True))
                for tokens, values in zip(
                    best.indices.tolist(), best.values.tolist(), strict=True
                )
            ]
            taken = logprobs.gather(1, ids[0, 1:, None])[:, 0]
            scores.append(SequenceScore(taken.tolist(), top))
        return scores

    def close(self) -> None:
        """Drop the model and all requests."""
        self._queue.clear()
        self._live.clear()
        self._wave = None
        del self._model, self._reader

    def _finish(self, draft: Draft, finish: str) -> None:
        self._live.discard(draft.request.id)
        self._done.append(draft.completion(finish))


def _open(
    model_folder: str | Path, dtype: str, max_length: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer, with one set of rotary frequencies for all lengths."""
    config = load_config(model_folder)
    tokenizer = load_tokenizer(model_folder)
    capped = getattr(config.get_text_config(), "attn_logit_softcapping", None)
    # The fused attention of torch has no caps and leaves them out without a word.
    attention = "eager" if capped else "sdpa"
    try:
        model = load_causal_lm(model_folder, dtype, attention=attention)
    except ModelError:
        if attention == "eager":
            raise
        # not every architecture has fused attention
        model = load_causal_lm(model_folder, dtype, attention="eager")
    fix_rope(model, max_length)
    return model, tokenizer
