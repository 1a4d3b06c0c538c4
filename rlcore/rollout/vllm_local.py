"""The default back end: a vLLM engine in this process, stepped directly so that completions stream."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rlcore.errors import EngineError
from rlcore.rollout.engine import SequenceScore
from rlcore.rollout.partial import Draft, check_requests
from rlcore.rollout.process_state import guest_manners
from rlcore.rollout.publish import fingerprint_of_workers
from rlcore.rollout.vllm_adapter import AdapterSlot
from rlcore.rollout.vllm_config import (
    cache_bytes,
    in_our_words,
    read_config,
    read_special_tokens,
)
from rlcore.rollout.vllm_sleep import SleepMode
from rlcore.rollout.vllm_start import prepare_environment, start_engine
from rlcore.rollout.vllm_support import SpecialTokens, kept_tokens, logprobs_needed
from rlcore.types import Completion, Request

if TYPE_CHECKING:
    from vllm import LLMEngine, RequestOutput, SamplingParams

_LOAD_BYTES = 256 << 20  # weights handed to worker processes at a time
_SCORE = "rlcore.score/"
SCORE_DEADLINE_S = 600.0
"""How long one call of `score` may take."""


class VllmEngine:
    """Samples from a vLLM engine that this process owns.

    Log-probabilities are those of the distribution drawn from (greedy: at temperature 1). After `load` the prefix cache is
    emptied and unfinished completions are read again under the new weights. Under a launcher with several processes every
    process owns one engine. Raises `EngineError` if vLLM is absent.

    memory_gb: size of the key-value cache; by default it holds `max_sequences` full sequences, within 4 GB on CPU and 40%
    of the free memory on a GPU. seed: of vLLM itself; every request has its own. tensor_parallel: above 1 the workers are
    child processes. prefix_caching: what requests have in common at the start is computed once. adapter_rank: the weights
    of `model_folder` stay, and `load` takes a LoRA adapter of at most that rank (see `rollout.vllm_adapter`). sleep: give
    the memory of a GPU back while the learner works (vLLM's sleep mode); the weights wait in the memory of the host.
    """

    def __init__(
        self,
        model_folder: str | Path,
        *,
        dtype: str = "float32",
        max_length: int,
        max_sequences: int = 256,
        memory_gb: float | None = None,
        seed: int = 0,
        tensor_parallel: int = 1,
        adapter_rank: int | None = None,
        prefix_caching: bool = True,
        sleep: bool = False,
    ) -> None:
        prepare_environment()
        config = read_config(model_folder, tensor_parallel, max_length)
        self._special = read_special_tokens(model_folder, config)
        self.version = 0
        self.shared, self.deterministic = False, False
        self._dtype = dtype
        self._max_length = max_length
        self._tensor_parallel = tensor_parallel
        self._drafts: dict[str, Draft] = {}
        self._done: list[Completion] = []
        self._scores: dict[str, RequestOutput] = {}
        self._adapter = None if adapter_rank is None else AdapterSlot(adapter_rank)
        # Without an adapter slot there is one thing less that vLLM may not have.
        self._remedy = () if self._adapter is None else ("set engine.sync=merged",)
        with guest_manners(), in_our_words("cannot serve this model here", *self._remedy):
            self._engine = start_engine(
                model=str(model_folder),
                dtype=dtype,
                max_model_len=max_length,
                max_num_seqs=max_sequences,
                seed=seed,
                tensor_parallel_size=tensor_parallel,
                enable_prefix_caching=prefix_caching,
                enable_sleep_mode=sleep,
                kv_cache_memory_bytes=cache_bytes(
                    config, dtype, max_length, max_sequences, memory_gb, tensor_parallel
                ),
                **(self._adapter.engine_arguments if self._adapter else {}),
            )
        self._sleep_mode = SleepMode(self._engine)
        self._vocabulary = self._engine.model_config.get_vocab_size()

    @property
    def vllm(self) -> LLMEngine:
        """vLLM's own engine."""
        return self._engine

    def submit(self, requests: Sequence[Request]) -> None:
        """Hand requests to the engine."""
        check_requests(requests, self._drafts, self._max_length)
        self._sleep_mode.wake()
        for request in requests:
            params = _sampling_params(request, self._vocabulary, self._special)
            self._drafts[request.id] = Draft(request=request)
            prompt = {"prompt_token_ids": request.prompt_ids + request.prefix_ids}
            self._add(request.id, prompt, params)

    def poll(self, timeout_s: float) -> list[Completion]:
        """Step the engine until a completion is finished or the time is up."""
        until = time.monotonic() + timeout_s
        with torch.random.fork_rng(devices=[]):
            # on CPU vLLM draws numbers from the process's generator and discards them
            while not self._done and self._drafts:
                self._step()
                if time.monotonic() >= until:
                    break
        done, self._done = self._done, []
        return done

    def abort(self, request_ids: Sequence[str]) -> None:
        """Stop requests; the tokens streamed so far come back."""
        live = [id for id in request_ids if id in self._drafts]
        self._engine.abort_request(live)
        for id in live:
            self._done.append(self._drafts.pop(id).completion("aborted"))

    def load(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Copy weights into the engine, renew packed copies, and drop every cached key and value, running requests' too."""
        # Keys and values come back when the copies that loading makes are gone.
        self._sleep_mode.wake("weights")
        with in_our_words(f"did not take the weights of version {version}", *self._remedy):
            self._load(weights)
        self._sleep_mode.wake()
        if not self._engine.reset_prefix_cache(reset_running_requests=bool(self._drafts)):
            raise EngineError(
                f"vLLM did not empty its prefix cache after loading version {version} and would mix old and new "
                "weights; this is a bug, run with engine.use=hf"
            )
        self.version = version

    def _load(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        if self._adapter:
            self._engine.add_lora(self._adapter.write(weights))
            return
        for chunk in [weights] if self._tensor_parallel == 1 else _chunks_on_cpu(weights):
            self._engine.collective_rpc("rlcore_load", args=(chunk,))
        self._engine.collective_rpc("rlcore_loaded")

    def sleep(self) -> None:
        """Give the GPU's memory back until the engine is next used. Only with `sleep`; nothing may be under way."""
        if self._drafts:
            raise EngineError(
                f"{len(self._drafts)} requests are under way while the engine is put to sleep; drain them before"
            )
        self._sleep_mode.sleep()

    def fingerprint(self) -> str:
        """Fingerprint of the raw parameters held, over all tensor-parallel workers (`fingerprint_of_workers`)."""
        self._sleep_mode.wake()
        digests = self._engine.collective_rpc("rlcore_digests", args=(self._dtype,))
        return fingerprint_of_workers(
            digests, self._engine.collective_rpc("rlcore_stale_copies")
        )

    def score(self, sequences: Sequence[list[int]], top_k: int = 0) -> list[SequenceScore]:
        """Prompt log-probabilities, computed anew: such requests do not read the prefix cache."""
        for i, sequence in enumerate(sequences):
            if len(sequence) >= self._max_length:
                raise EngineError(
                    f"vLLM can score at most {self._max_length - 1} tokens here and sequence {i} has "
                    f"{len(sequence)}; raise max_length"
                )
        self._sleep_mode.wake()
        if self._adapter is None:
            return self._score_together(sequences, top_k)
        # The head of an engine with an adapter slot fails on prompts of several requests at once.
        return [self._score_together([sequence], top_k)[0] for sequence in sequences]

    def _score_together(
        self, sequences: Sequence[list[int]], top_k: int
    ) -> list[SequenceScore]:
        for i, sequence in enumerate(sequences):
            prompt = {"prompt_token_ids": list(sequence)}
            self._add(f"{_SCORE}{i}", prompt, _scoring_params(top_k))
        with torch.random.fork_rng(devices=[]):
            until = time.monotonic() + SCORE_DEADLINE_S
            while len(self._scores) < len(sequences):
                self._step()
                if time.monotonic() > until:
                    raise EngineError(
                        f"vLLM did not score {len(sequences)} sequences in {SCORE_DEADLINE_S:g} s; it is stuck "
                        "or starved, score fewer at a time"
                    )
        scores, self._scores = self._scores, {}
        return [_sequence_score(scores[f"{_SCORE}{i}"], top_k) for i in range(len(sequences))]

    def close(self) -> None:
        """Shut the engine down. Another one may be started in this process afterwards."""
        if self._adapter:
            self._adapter.close()
        with guest_manners():
            self._engine.engine_core.shutdown()
            del self._engine

    def _add(self, id: str, prompt: dict[str, list[int]], params: SamplingParams) -> None:
        self._engine.add_request(
            id, prompt, params, lora_request=self._adapter.request if self._adapter else None
        )

    def _step(self) -> None:
        with in_our_words("cannot compute with this model here", *self._remedy):
            outputs = self._engine.step()
        for output in outputs:
            if output.request_id.startswith(_SCORE):
                self._scores[output.request_id] = output
            elif output.request_id in self._drafts:
                self._extend(output)

    def _extend(self, output: RequestOutput) -> None:
        written = output.outputs[0]
        draft = self._drafts[output.request_id]
        logprobs = [
            entry[token].logprob
            for entry, token in zip(written.logprobs or [], written.token_ids, strict=True)
        ]
        if written.token_ids:
            support = None
            if draft.support is not None:
                support = [kept_tokens(entry, draft.request) for entry in written.logprobs]
            draft.extend(written.token_ids, logprobs, self.version, support)
        if output.finished:
            if written.finish_reason not in ("stop", "length"):
                raise EngineError(
                    f"vLLM ended request {output.request_id!r} with {written.finish_reason!r}; see its log "
                    "(VLLM_LOGGING_LEVEL=INFO)"
                )
            self._done.append(
                self._drafts.pop(output.request_id).completion(written.finish_reason)
            )


def _sampling_params(
    request: Request, vocabulary: int, special: SpecialTokens
) -> SamplingParams:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    sampling = request.sampling
    return SamplingParams(
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        stop=list(sampling.stop),
        ignore_eos=sampling.ignore_eos,
        stop_token_ids=[] if sampling.ignore_eos else special.ends,
        seed=request.seed,
        logit_bias=special.logit_bias,
        logprobs=logprobs_needed(sampling, vocabulary),
        detokenize=bool(sampling.stop),
        # a stop string may be the text of a special token, such as </tool_call>
        skip_special_tokens=False,
        output_kind=RequestOutputKind.DELTA,
    )


def _scoring_params(top_k: int) -> SamplingParams:
    """Prompt log-probabilities are at temperature 1 whatever the one token's is; that one is not wanted."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        max_tokens=1,
        temperature=0.0,
        prompt_logprobs=top_k,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _sequence_score(output: RequestOutput, top_k: int) -> SequenceScore:
    logprobs, top = [], []
    for entry, token in zip(
        output.prompt_logprobs[1:], output.prompt_token_ids[1:], strict=True
    ):
        logprobs.append(entry[token].logprob)
        best = {other: value.logprob for other, value in entry.items() if value.rank <= top_k}
        top.append(best)
    return SequenceScore(logprobs, top)


def _chunks_on_cpu(
    weights: Iterable[tuple[str, torch.Tensor]],
) -> Iterator[list[tuple[str, torch.Tensor]]]:
    """Weights in bounded pieces that can be sent to other processes."""
    chunk: list[tuple[str, torch.Tensor]] = []
    size = 0
    for name, tensor in weights:
        chunk.append((name, tensor.detach().cpu()))
        size += tensor.nbytes
        if size >= _LOAD_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
