"""The value model of actor-critic methods: the policy's architecture with one number a token in place of logits.

A critic is trained by the same `Learner` as a policy, so packing, micro-batches, ranks, sharding and
checkpoints are the policy's. Only its module and its objective differ. Where the learner says
log-probability, a critic has the value V of the state before the token:

    of a `Sample`       a policy's                         a critic's
    advantages          how far to push each token         the return R to be predicted
    old_logprobs        log pi_old, for the clipped ratio  V_old, for the clipped value
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from rlcore.errors import ModelError
from rlcore.learner.logprobs import Loss
from rlcore.learner.module import MixedModule, PackedModule
from rlcore.learner.policy import Policy, load_policy
from rlcore.learner.sharding import in_parts
from rlcore.learner.update import Learner
from rlcore.objective.parts import constant
from rlcore.objective.term import Objective, Term
from rlcore.objective.tokens import Tokens
from rlcore.pretrained import load_config, load_model
from rlcore.tokenizer import different_tokens
from rlcore.types import Sample

if TYPE_CHECKING:
    from accelerate import Accelerator

    from rlcore.objective.parts import Likelihood

CLASSIFIER = "ForSequenceClassification"
"""What reward models are to transformers: a model with one label, its linear head called `score`."""


class ValueModule(PackedModule):
    """A decoder and a linear head, called like a `PackedModule`: values stand where that one gives log-probabilities."""

    def __init__(self, decoder: PreTrainedModel, head: Tensor | None = None) -> None:
        """head: [1, H] weights to start from; without them every value is 0 at first."""
        super().__init__(decoder)
        size = decoder.config.get_text_config().hidden_size
        self.head = nn.Linear(size, 1, dtype=decoder.dtype, device=decoder.device)
        with torch.no_grad():
            self.head.bias.zero_()
            self.head.weight.zero_()
            if head is not None:
                self.head.weight.copy_(head)

    def forward(
        self,
        token_ids: Tensor,
        positions: Tensor,
        lengths: tuple[int, ...],
        source: Tensor,
        target: Tensor,
        temperature: float = 1.0,
        parents: tuple[int, ...] | None = None,
        support: Any = None,
        loss: Loss | None = None,
    ) -> tuple[Tensor, ...]:
        """Arguments as `PackedModule.forward` -> V [N] of the states at `source`, and N zeros in place of entropies."""
        hidden = self.hidden(token_ids, positions, lengths, source, parents)
        with torch.autocast(hidden.device.type, enabled=False):
            values = self.head(hidden.to(self.head.weight.dtype))[:, 0]
        zeros = torch.zeros_like(values)
        if loss is None:
            return values, zeros
        return values.detach(), zeros, loss(values, zeros, slice(None))


class MixedValueModule(MixedModule, ValueModule):
    """float32 master weights, a decoder that computes in bfloat16, and a head that computes in float32."""


def value_loss(clip: float | None = None) -> Objective:
    """Token mean of 1/2 (V - R)^2, in PPO's form with `clip` (the code of arXiv 1707.06347; arXiv 2005.12729, section 3):

    1/2 max((V - R)^2, (V_old + min(max(V - V_old, -clip), clip) - R)^2)
    """
    term = Term(advantage=constant(1.0), likelihood=squared_error(clip), name="value")
    return Objective((term,))


def squared_error(clip: float | None) -> Likelihood:
    """-1/2 of the (clipped) squared error, as a likelihood: an objective is minimised, a likelihood maximised."""

    def likelihood(tokens: Tokens) -> Tensor:
        value = tokens.logp
        target = tokens.advantage
        error = (value - target) ** 2
        if clip is not None:
            clipped = tokens.old + (value - tokens.old).clamp(-clip, clip)
            error = error.maximum((clipped - target) ** 2)
        return -error / 2

    return likelihood


class Critic:
    """A value model with its optimiser and schedule. Every rank calls its methods together with the others."""

    def __init__(
        self,
        model: Policy,
        *,
        accelerator: Accelerator,
        value_clip: float | None,
        **learner: Any,
    ) -> None:
        """model: as `load_critic` gives it. value_clip: of `value_loss`. learner: further arguments of `Learner`."""
        self._module = model.module
        self.learner = Learner(
            model, value_loss(value_clip), accelerator=accelerator, **learner
        )

    def values(self, samples: Sequence[Sample]) -> list[list[float]]:
        """[T] for each sample: V of the state before each trained token, 0 elsewhere. Collective."""
        valued, _ = self.learner.with_old_logprobs(samples)
        return [sample.old_logprobs for sample in valued]

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimiser and schedule. What is sharded stays so."""
        weights = {name: p.detach() for name, p in self._module.named_parameters()}
        return {"weights": weights, "learner": self.learner.state_dict()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        for name, parameter in self._module.named_parameters():
            parameter.copy_(in_parts(state["weights"][name], parameter))
        self.learner.load_state_dict(state["learner"])


def target(sample: Sample, values: list[float], returns: list[float]) -> Sample:
    """What a critic learns of a sample: values [T] before the update, and returns [T]."""
    return replace(
        sample,
        advantages=returns,
        old_logprobs=values,
        logprobs=None,
        support=None,
        temperature=1.0,
    )


def load_critic(
    path: str | Path, tokenizer: PreTrainedTokenizerBase, *, folder: Path, **settings: Any
) -> Policy:
    """A value model that starts from the language model or the reward model at `path`. Raises `ModelError`.

    A reward model (`...ForSequenceClassification` of one label) also gives its head's weights.
    tokenizer: the policy's, which the model must share. folder: an empty one, to write in.
    settings: further arguments of `load_policy`.
    """
    head = None
    architectures = load_config(path).architectures or [""]
    if architectures[0].endswith(CLASSIFIER):
        head = _as_causal_lm(path, folder)
        path, settings = folder, settings | {"tokenizer": str(path)}
    model = load_policy(path=str(path), **settings)
    different = different_tokens(tokenizer, model.tokenizer)
    if different:
        raise ModelError(
            f"the critic's model at {str(path)!r} has another tokenizer than the policy, whose tokens it must read ({different}): "
            "start it from the policy, or from a model with the policy's tokenizer"
        )
    module_class = MixedValueModule if isinstance(model.module, MixedModule) else ValueModule
    return replace(model, module=module_class(model.model.get_decoder(), head))


def _as_causal_lm(path: str | Path, folder: Path) -> Tensor:
    """Write a reward model's decoder to `folder` as a language model, with a head that nothing reads. Returns [1, H], the reward head."""
    reward = load_model(path, dtype="float32", head="SequenceClassification")
    score = getattr(reward, "score", None)
    if score is None or score.weight.shape[0] != 1:
        raise ModelError(
            f"the critic cannot start from {str(path)!r}: a reward model has one label and a linear head called score"
        )
    model = AutoModelForCausalLM.from_config(reward.config, dtype=torch.float32)
    setattr(model, model.base_model_prefix, reward.base_model)
    model.save_pretrained(folder)
    return score.weight.detach().clone()
