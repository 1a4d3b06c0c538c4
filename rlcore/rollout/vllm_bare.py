"""vLLM's own generation, with nothing of ours around it: the other side of `rlcore bench rollout`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlcore.rollout.vllm_support import logprobs_needed
from rlcore.types import Sampling

if TYPE_CHECKING:
    from vllm import LLMEngine, RequestOutput


def generate_bare(
    engine: LLMEngine, prompts: Sequence[list[int]], sampling: Sampling
) -> list[RequestOutput]:
    """One completion of each prompt, as vLLM's `LLM.generate` does it: requests are added, the engine steps until all end."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    for number, prompt in enumerate(prompts):
        params = SamplingParams(
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            ignore_eos=sampling.ignore_eos,
            seed=number,
            logprobs=logprobs_needed(sampling, engine.model_config.get_vocab_size()),
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        engine.add_request(f"bare/{number}", {"prompt_token_ids": prompt}, params)
    outputs = []
    while engine.has_unfinished_requests():
        outputs += [output for output in engine.step() if output.finished]
    return outputs
