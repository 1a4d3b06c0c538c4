"""Proof that a model computes the same log-probabilities in packed form as on its own.

Two models are compared with themselves. The real weights, on a short natural text: are they all
used as the architecture uses them? And the architecture's twin (`rlcore.learner.twin`), on
sequences longer than each of its limits, packed and as a tree: does the packed forward know the
windows, caps and rotary frequencies that a short text does not reach?
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from rlcore.errors import ModelError, first_line
from rlcore.learner.attention import PACKED
from rlcore.learner.module import PackedModule
from rlcore.learner.noise import arithmetic_noise
from rlcore.learner.packed_reason import is_own_attention, known_limit, reason
from rlcore.learner.twin import ROPE_LIMIT, VOCABULARY, twin_of
from rlcore.rope import depends_on_length, fix_rope, pretrained_length

TEXTS = (
    "The ship left the harbour at dawn, and by noon the coast was out of sight.",
    "Water boils at 100 degrees Celsius at sea level. On a mountain the air is thinner, so it boils "
    "at a lower temperature and an egg takes longer to cook.",
    "def area(width, height):\n    return width * height\n",
)
"""What the real weights are compared on."""
LENGTHS = (12, 40, 24)
"""Tokens of each text."""
TWIN_LENGTHS = (5, ROPE_LIMIT, 12, 24, 60)
EXACT = 1e-3
"""Mean difference in nats that round-off of float32 may make."""
TWIN_EXACT = 3e-3
"""The same with the twin's large weights."""


def check_packed(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None
) -> float:
    """Switch `model` to packed attention and compare its log-probabilities with those before.

    Returns the factor by which the model scales its logits (`PackedModule`). Raises `ModelError`
    where the two differ by more than arithmetic noise, and for models that cannot be trained here.
    """
    name = type(model).__name__
    head = model.get_output_embeddings()
    if head is None:
        raise ModelError(
            f"{name} has no output embeddings: it is not a language model rlcore can train"
        )
    text = model.config.get_text_config()
    if limit := known_limit(text):
        raise ModelError(f"{name} is not supported: {limit}")
    sequences = _natural(
        tokenizer, len(head.weight), pretrained_length(text) or _positions(text)
    )
    sequences = [ids.to(model.device) for ids in sequences]
    # "eager" is the only implementation that does everything an architecture may ask for.
    model.set_attn_implementation("eager")
    try:
        expected = one_by_one(model, sequences)
    except Exception as error:  # an architecture raises anything for sizes that do not fit
        is_adapted = any("base_layer" in part for part, _ in model.named_modules())
        doubt = (
            "does model.peft adapt plain linear layers only"
            if is_adapted
            else "do its sizes fit together"
        )
        raise ModelError(f"{name} cannot run; {doubt}? {first_line(error)}") from error
    try:
        scale = _logit_scale(model, sequences[0])
    except Exception as error:  # there is no hidden state, or none that fits the head
        raise ModelError(
            f"{name} is not supported: its output head is more than one matrix on top of a decoder "
            f"({first_line(error)})"
        ) from error
    if not expected.isfinite().all():
        raise ModelError(f"{name} computes no numbers: {_not_finite(model)}")
    is_exact = model.dtype in (torch.float32, torch.float64)
    noise = 0.0 if is_exact else arithmetic_noise(model, sequences, expected, one_by_one)
    packed = _packed_logprobs(PackedModule(model, logit_scale=scale), sequences)
    difference = (packed.double() - expected).abs().mean().item()
    limit = EXACT if is_exact else max(EXACT, 3 * noise)
    if not difference <= limit:  # also where it is NaN
        raise ModelError(
            f"{name} is not supported: its packed log-probabilities differ from its own by "
            f"{difference:.2g} nats on average (arithmetic noise allows {limit:.2g}): {reason(model, sequences[0])}"
        )
    problem = twin_problem(model.config, str(model.device.type))
    if problem:
        raise ModelError(f"{name} is not supported: {problem}")
    return scale


def twin_problem(config: PretrainedConfig, device: str = "cpu") -> str:
    """Where the packed forward of the config's twin differs from its own forward; "" if nowhere."""
    return _twin_problem(_Key(config), device)


class _Key:
    """A config as a key of a cache."""

    def __init__(self, config: PretrainedConfig) -> None:
        self.config = config
        self._text = config.to_json_string(use_diff=False)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


@lru_cache(maxsize=64)
def _twin_problem(key: _Key, device: str) -> str:
    try:
        twin = twin_of(key.config).to(device)
        generator = torch.Generator().manual_seed(0)
        sequences = []
        for length in TWIN_LENGTHS:
            length = min(length, _positions(twin.config))
            sequences.append(
                torch.randint(VOCABULARY, (length,), generator=generator).to(device)
            )
        expected = [one_by_one(twin, [ids]) for ids in sequences]
        scale = _logit_scale(twin, sequences[0])
    except (
        Exception
    ) as error:  # an architecture raises anything for a config that it does not take
        warnings.warn(
            f"windows, caps and rope of {key.config.model_type} were not checked beyond a short text: "
            f"no small model of it could be made ({first_line(error)})",
            stacklevel=2,
        )
        return ""
    kind = depends_on_length(twin.config)
    # Both sets of frequencies, each on the sequences that it is meant for.
    cases = [(None, [ids for ids in sequences if not kind or len(ids) <= ROPE_LIMIT])]
    if kind == "longrope":
        cases.append((TWIN_LENGTHS[-1], [ids for ids in sequences if len(ids) > ROPE_LIMIT]))
    elif kind:
        cases.append((len(sequences[-1]), sequences[-1:]))
    expected_of = dict(zip(map(id, sequences), expected, strict=True))
    for length, compared in cases:
        fixed = twin_of(key.config).to(device)
        fix_rope(fixed, length)
        module = PackedModule(fixed, logit_scale=scale)
        wanted = torch.cat([expected_of[id(ids)] for ids in compared])
        for layout, logprobs in (
            ("packed", _packed_logprobs(module, compared)),
            ("shared", _tree_logprobs(module, compared)),
        ):
            difference = (logprobs.double() - wanted).abs().mean().item()
            if difference <= TWIN_EXACT:
                continue
            noise = _noise_in_float32(key.config, compared, wanted)
            if not difference <= max(TWIN_EXACT, 3 * noise):  # also where it is NaN
                return (
                    f"in a small model of its kind the log-probabilities of the {layout} layout differ "
                    f"from the model's own by {difference:.2g} nats on average: {reason(fixed, compared[-1])}"
                )
    return ""


def _noise_in_float32(
    config: PretrainedConfig, sequences: Sequence[Tensor], logprobs: Tensor
) -> float:
    """Mean error of the twin's own log-probabilities: one that runs its layers many times makes more of rounding."""
    try:
        exact = one_by_one(twin_of(config).double(), [ids.cpu() for ids in sequences])
    except Exception:  # code that knows no float64
        return 0.0
    return (exact - logprobs.cpu()).abs().mean().item()


def _not_finite(model: PreTrainedModel) -> str:
    """Why log-probabilities are NaN or infinite."""
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            return f"its weight {name} holds NaN or infinity; copy the model's files again"
    return (
        f"its numbers leave the range of {model.dtype}; set model.dtype to float32 or bfloat16"
    )


def _positions(config: PretrainedConfig) -> int:
    """Longest text that is read; XLNet says -1 for no limit."""
    limit = getattr(config, "max_position_embeddings", None) or 0
    return limit if limit > 0 else max(TWIN_LENGTHS)


def _natural(
    tokenizer: PreTrainedTokenizerBase | None, vocabulary: int, longest: int
) -> list[Tensor]:
    """The texts as token ids; random ones without a tokenizer."""
    generator = torch.Generator().manual_seed(0)
    sequences = []
    for text, length in zip(TEXTS, LENGTHS, strict=True):
        length = min(length, longest)
        if tokenizer is None:
            ids = torch.randint(vocabulary, (length,), generator=generator)
        else:
            coded = tokenizer(text, add_special_tokens=False).input_ids or [0]
            ids = torch.tensor((coded * length)[:length]) % vocabulary
        sequences.append(ids)
    return sequences


@torch.no_grad()
def one_by_one(model: PreTrainedModel, sequences: Sequence[Tensor]) -> Tensor:
    """Log-probabilities of all tokens but the first of each sequence, by the model's own forward."""
    logprobs = []
    for ids in sequences:
        logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1].double()
        logprobs.append(logits.log_softmax(-1).gather(1, ids[1:, None])[:, 0])
    return torch.cat(logprobs)


@torch.no_grad()
def _logit_scale(model: PreTrainedModel, ids: Tensor) -> float:
    """By which number of its config the model multiplies its logits, or divides them; 1 if by none.

    The name of that number says neither (`logits_scaling` divides in Granite and multiplies in
    HyperCLOVA X), so the effect is measured.
    """
    hidden = model.get_decoder()(input_ids=ids[None], use_cache=False).last_hidden_state
    own = model(input_ids=ids[None], use_cache=False).logits.float()
    text = model.config.get_text_config()
    softcap = getattr(text, "final_logit_softcapping", None)
    raw = model.get_output_embeddings()(hidden).float()
    if softcap or raw.shape != own.shape:
        return 1.0
    measured = ((own * raw).sum() / (raw * raw).sum()).item()
    for value in text.to_dict().values():
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            for scale in (float(value), 1 / value):
                if scale != 1 and abs(measured / scale - 1) < 0.01:
                    return scale
    return 1.0


@torch.no_grad()
def _packed_logprobs(module: PackedModule, sequences: Sequence[Tensor]) -> Tensor:
    """The same by the packed forward, the sequences side by side in one row."""
    return _run(module, sequences[0], lambda: module(*_packed(sequences))[0])


def _packed(
    sequences: Sequence[Tensor],
) -> tuple[Tensor, Tensor, tuple[int, ...], Tensor, Tensor]:
    """The inputs of `PackedModule` for the sequences side by side in one row."""
    inputs = torch.cat([ids[:-1] for ids in sequences])
    targets = torch.cat([ids[1:] for ids in sequences])
    lengths = tuple(len(ids) - 1 for ids in sequences)
    positions = torch.cat([torch.arange(length, device=inputs.device) for length in lengths])
    every_token = torch.arange(len(inputs), device=inputs.device)
    return inputs, positions, lengths, every_token, targets


@torch.no_grad()
def _tree_logprobs(module: PackedModule, sequences: Sequence[Tensor]) -> Tensor:
    """The same with each sequence cut into a beginning and its continuation, which a second one shares."""
    inputs, positions, lengths, parents, kept = [], [], [], [], []
    row = 0
    for ids in sequences:
        middle = len(ids) // 2
        root = len(lengths)
        pieces = ((0, middle, -1), (middle, len(ids) - 1, root), (middle, len(ids) - 1, root))
        for number, (start, end, parent) in enumerate(pieces):
            inputs.append(ids[start:end].flip(0) if number == 1 else ids[start:end])
            positions.append(torch.arange(start, end, device=ids.device))
            lengths.append(end - start)
            parents.append(parent)
            if number != 1:
                kept.append(torch.arange(row, row + end - start, device=ids.device))
            row += end - start
    targets = torch.cat([ids[1:] for ids in sequences])
    arguments = (
        torch.cat(inputs),
        torch.cat(positions),
        tuple(lengths),
        torch.cat(kept),
        targets,
    )
    return _run(module, sequences[0], lambda: module(*arguments, parents=tuple(parents))[0])


def _run(module: PackedModule, ids: Tensor, forward: Callable[[], Tensor]) -> Tensor:
    """The forward with packed attention. ids: a text of it. Raises `ModelError` for what the architecture raises."""
    name = type(module.model).__name__
    try:
        module.model.set_attn_implementation(PACKED)
        return forward()
    except ModelError as error:
        raise ModelError(f"{name} is not supported: {error}") from error
    except Exception as error:  # code that does not know our keywords or our attention
        if is_own_attention(module.model, ids):
            raise ModelError(
                f"{name} is not supported: its attention is code of its own, outside of the attention "
                "interface of transformers"
            ) from error
        raise ModelError(
            f"{name} is not supported: its code does not run with rlcore's packed attention "
            f"({first_line(error)})"
        ) from error
