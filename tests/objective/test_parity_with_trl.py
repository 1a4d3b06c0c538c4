"""The presets against TRL's own loss code on the same padded tensors, where TRL is installed."""

import ast
import importlib.util
import inspect
import math
import textwrap
from collections import defaultdict
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from test_preset_gradients import COUNTS, LENGTHS, ON, B, T, draw, error, flat, gradient

from rlcore.objective import Objective, Term, objective
from rlcore.objective.parts import clip, sequence_product, sequence_sum

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("trl") is None, reason="trl is not installed"
)

ARGS = {
    "delta": None,
    "use_bias_correction_kl": False,
    "steps_per_generation": 1,
    "sapo_temperature_pos": 1.0,
    "sapo_temperature_neg": 1.25,  # TRL holds them in fp32, which 1.25 survives
    "vespo_k_pos": 2.0,
    "vespo_lambda_pos": 3.0,
    "vespo_k_neg": 3.0,
    "vespo_lambda_neg": 2.0,
}
TRAINER = {
    "model": SimpleNamespace(training=True),
    "current_gradient_accumulation_steps": 1,
    "aux_loss_enabled": False,
    "_entropy_bonus_enabled": False,
    "use_adaptive_entropy": False,
    "use_vllm": False,
    "vllm_importance_sampling_correction": True,
    "top_entropy_quantile": 1.0,
    "off_policy_mask_threshold": None,
    "importance_sampling_level": "token",
    "max_completion_length": 20,
    "beta": 0.0,
    "epsilon_low": 0.2,
    "epsilon_high": 0.2,
    "loss_type": "grpo",
}
SEQUENCE = {"importance_sampling_level": "sequence", "epsilon_low": 0.02, "epsilon_high": 0.03}
OURS = {"clip_low": 0.02, "clip_high": 0.03}


def entropies(lp):
    """Some differentiable entropy, the same for both sides."""
    return lp.square() / 3


def engine_logps(batch):
    """What another implementation of the same weights would have has_behaviour: near `old`."""
    noise = torch.randn(B, T, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    return batch[1] + 0.35 * noise


def trainer_class(name):
    """TRL's trainer; GMPO is among its experiments."""
    import trl

    if name != "GMPOTrainer":
        return getattr(trl, name)
    from trl.experimental.gmpo import GMPOTrainer

    return GMPOTrainer


def trl_gradient(batch, trainer="GRPOTrainer", mode=None, args=None, **settings):
    """Gradient of the trainer's `_compute_loss`, called on a stand-in for `self` whose model gives the batch's values.

    `mode` is an importance-sampling mode with its bounds: (name, lowest, highest).
    """
    lp, old, ref, a = batch
    accelerator = SimpleNamespace(
        num_processes=1,
        gather=lambda x: x,
        gather_for_metrics=lambda x: x,
        reduce=lambda x, **_: x,
        sync_gradients=False,
    )
    inputs = {
        "prompt_ids": torch.zeros(B, 1),
        "prompt_mask": torch.ones(B, 1),
        "completion_ids": torch.zeros(B, T),
        "completion_mask": ON,
        "advantages": a[:, 0],
        "old_per_token_logps": old,
        "old_logps": (old * ON).sum(1),
        "ref_per_token_logps": ref,
        "sampling_per_token_logps": engine_logps(batch),
        "num_items_in_batch": LENGTHS.sum(),
    }
    if mode is not None:
        inputs["importance_sampling_ratio"] = trl_importance_ratio(old, engine_logps(batch), *mode)
    cls = trainer_class(trainer)

    def loss(live):
        own = SimpleNamespace(
            **TRAINER | {"use_vllm": mode is not None} | settings,
            args=SimpleNamespace(**ARGS | (args or {})),
            accelerator=accelerator,
            _metrics=defaultdict(lambda: defaultdict(list)),
        )
        if trainer == "GRPOTrainer":
            own.get_off_policy_mask, own.get_gamma_weights = (
                cls.get_off_policy_mask,
                cls.get_gamma_weights,
            )
        own._get_per_token_logps_and_entropies = lambda *args, **kwargs: (
            live,
            entropies(live),
            None,
        )
        return cls._compute_loss(own, own.model, inputs)

    return gradient(loss, lp)


@cache
def importance_code():
    """TRL's statements that make the ratio out of two log-probabilities: they stand in the middle of a long method."""
    import trl

    tree = ast.parse(
        textwrap.dedent(inspect.getsource(trl.GRPOTrainer._generate_and_score_completions))
    )
    found = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.If)
        and any(
            isinstance(x, ast.Assign) and ast.unparse(x.targets[0]) == "per_token_logps_diff"
            for x in node.body
        )
    ]
    assert len(found) == 1, "TRL computes its importance ratio elsewhere now"
    return compile(ast.Module(found, []), "trl", "exec")


def trl_importance_ratio(old, engine, mode, lowest, highest):
    settings = {
        "use_vllm": True,
        "vllm_importance_sampling_correction": True,
        "vllm_importance_sampling_mode": mode,
        "vllm_importance_sampling_clip_min": lowest,
        "vllm_importance_sampling_clip_max": highest,
    }
    names = {
        "self": SimpleNamespace(**settings),
        "torch": torch,
        "math": math,
        "tool_mask": None,
        "completion_mask": ON,
    }
    names |= {"old_per_token_logps": old, "sampling_per_token_logps": engine}
    exec(importance_code(), names)
    return names["vllm_importance_sampling_ratio"]


def our_gradient(made, batch):
    lp, old, ref, a = batch
    engine = flat(lp, engine_logps(batch), ref, a).old

    def loss(live):
        tokens = flat(live, old, ref, a)._replace(
            behaviour=engine, entropy=entropies(live)[ON.bool()]
        )
        return sum(term(tokens, COUNTS) for term in made.terms)

    return gradient(loss, lp)


LOSSES = [
    ("grpo", {}, {"loss_type": "grpo"}),
    ("grpo", {"kl": 0.07}, {"loss_type": "grpo", "beta": 0.07}),
    (
        "grpo",
        {"kl": 0.07, "kl_kind": "ratio_k3"},
        {"beta": 0.07, "args": {"use_bias_correction_kl": True}},
    ),
    ("grpo", {"dual_clip": 1.4}, {"args": {"delta": 1.4}}),
    ("dapo", {}, {"loss_type": "dapo", "epsilon_high": 0.28}),
    (
        "dapo",
        {"entropy": 0.3},
        {
            "loss_type": "dapo",
            "epsilon_high": 0.28,
            "_entropy_bonus_enabled": True,
            "entropy_coef": 0.3,
        },
    ),
    ("dapo", {"kl": 0.07}, {"loss_type": "dapo", "epsilon_high": 0.28, "beta": 0.07}),
    ("dapo", {"clip_high": 0.2}, {"loss_type": "bnpo"}),  # of one micro-batch
    ("dr_grpo", {"max_tokens": 20}, {"loss_type": "dr_grpo"}),
    ("cispo", {"cap": 1.3}, {"loss_type": "cispo", "epsilon_high": 1.3}),
    ("sapo", {"negative": 1.25}, {"loss_type": "sapo"}),
    ("vespo", {}, {"loss_type": "vespo"}),
    ("gspo", OURS, {"loss_type": "grpo"} | SEQUENCE),
    ("gspo_token", OURS, {"loss_type": "grpo"} | SEQUENCE),
    ("luspo", OURS, {"loss_type": "luspo"} | SEQUENCE),
    ("ppo", {}, {"loss_type": "bnpo"}),
]
MODES = [
    ({"kind": "token_truncate", "high": 1.2}, ("token_truncate", None, 1.2)),
    ({"kind": "token_mask", "low": 0.8, "high": 1.3}, ("token_mask", 0.8, 1.3)),
    ({"kind": "sequence_truncate", "high": 1.1}, ("sequence_truncate", None, 1.1)),
    ({"kind": "sequence_mask", "high": 1.1}, ("sequence_mask", None, 1.1)),
    ({"kind": "sequence_mask", "low": 0.4, "high": 3.0}, ("sequence_mask", 0.4, 3.0)),
]
CORRECTED = [
    (name, params, settings, correction, mode)
    for name, params, settings in LOSSES
    for correction, mode in MODES
    if name != "vespo"
    and not (name in ("gspo", "gspo_token", "luspo") and mode[0].startswith("token"))
]
"""By convention not the same: TRL's vespo takes the weight into w, and its sequence-level losses spread a token's weight over the
sequence, where ours leaves it on the token."""


def label(value):
    return (
        value
        if isinstance(value, str)
        else "-".join(map(str, value.values()))
        if isinstance(value, dict)
        else ""
    )


@pytest.mark.parametrize(("name", "params", "settings"), LOSSES, ids=label)
def test_same_gradient_as_trl(name, params, settings):
    batch = draw()
    assert (
        error(our_gradient(objective(name, **params), batch), trl_gradient(batch, **settings))
        < 1e-10
    )


@pytest.mark.parametrize(("name", "params", "settings", "correction", "mode"), CORRECTED, ids=label)
def test_same_gradient_as_trl_with_each_correction(name, params, settings, correction, mode):
    batch = draw()
    got = our_gradient(objective(name, **params, correction=correction), batch)
    assert error(got, trl_gradient(batch, mode=mode, **settings)) < 1e-10
    assert error(got, trl_gradient(batch, **settings)) > 1e-2


@pytest.mark.parametrize("threshold", [-0.1, 0.0, 0.1])
def test_same_off_policy_mask_as_trl(threshold):
    batch = draw()
    made = objective("grpo", correction={"kind": "negative_mask", "high": threshold})
    assert (
        error(our_gradient(made, batch), trl_gradient(batch, off_policy_mask_threshold=threshold))
        < 1e-10
    )


def test_rloo_is_trls_at_ratio_one():
    lp, _, ref, a = draw()
    batch = (lp, lp, ref, a)
    assert (
        error(our_gradient(objective("rloo"), batch), trl_gradient(batch, trainer="RLOOTrainer"))
        < 1e-10
    )


def test_trls_rloo_is_an_expression_too():
    batch = draw(spread=0.1)
    made = Objective(
        (Term(mask=clip(0.2, 0.2), denominator=sequence_product, average=sequence_sum),)
    )
    want = trl_gradient(batch, trainer="RLOOTrainer")
    assert (
        error(our_gradient(made, batch), want) < 1e-10
        and error(our_gradient(objective("rloo"), batch), want) > 1e-2
    )


@pytest.mark.parametrize(
    ("name", "params", "settings"),
    [
        ("grpo", {}, {"loss_type": "dapo"}),
        ("luspo", OURS, {"loss_type": "grpo"} | SEQUENCE),
        ("vespo", {"k_neg": 2.0}, {"loss_type": "vespo"}),
        ("grpo", {"kl": 0.07}, {"beta": 0.07, "args": {"use_bias_correction_kl": True}}),
        ("grpo", {"dual_clip": 1.6}, {"args": {"delta": 1.4}}),
        ("grpo", {"correction": MODES[0][0]}, {"mode": MODES[1][1]}),
        ("grpo", {"correction": MODES[2][0]}, {"mode": MODES[3][1]}),
        ("grpo", {"correction": {"kind": "geometric_mask", "high": 1.1}}, {"mode": MODES[3][1]}),
    ],
)
def test_another_setting_is_noticed(name, params, settings):
    batch = draw()
    assert (
        error(our_gradient(objective(name, **params), batch), trl_gradient(batch, **settings))
        > 1e-2
    )


@pytest.mark.parametrize("bounds", [(0.4, 0.4), (0.1, 0.3)], ids=str)
def test_gmpo_is_trls(bounds):
    low, high = bounds
    batch = draw(spread=0.6)
    made = objective("gmpo", clip_low=low, clip_high=high)
    settings = {"trainer": "GMPOTrainer", "epsilon_low": low, "epsilon_high": high}
    assert error(our_gradient(made, batch), trl_gradient(batch, **settings)) < 1e-10
    swapped = objective("gmpo", clip_low=high, clip_high=low + 0.1)
    assert error(our_gradient(swapped, batch), trl_gradient(batch, **settings)) > 1e-2


@pytest.mark.parametrize("start", [0.0, 0.3])
def test_adaptive_entropy_moves_as_trls(start):
    """The coefficients of a row of updates, each of a micro-batch with another entropy."""
    control = objective(
        "dapo", entropy={"target": 0.5, "delta": 0.1, "start": start, "most": 0.35}
    ).controls["entropy"]
    own = TRAINER | {"loss_type": "dapo", "_entropy_bonus_enabled": True}
    own |= {"use_adaptive_entropy": True, "entropy_coef": start, "_last_world_entropy": math.inf}
    args = {"entropy_target": 0.5, "entropy_coef_delta": 0.1}
    args |= {"entropy_coef_min": 0.0, "entropy_coef_max": 0.35}
    trainer = SimpleNamespace(
        **own,
        _entropy_window_stats=None,
        args=SimpleNamespace(**ARGS | args),
        accelerator=SimpleNamespace(
            num_processes=1,
            gather=lambda x: x,
            gather_for_metrics=lambda x: x,
            reduce=lambda x, **_: x,
            sync_gradients=True,
        ),
        _metrics=defaultdict(lambda: defaultdict(list)),
    )
    lp, old, ref, a = draw()
    inputs = {
        "prompt_ids": torch.zeros(B, 1),
        "prompt_mask": torch.ones(B, 1),
        "completion_ids": torch.zeros(B, T),
        "completion_mask": ON,
        "advantages": a[:, 0],
        "old_per_token_logps": old,
        "num_items_in_batch": LENGTHS.sum(),
    }
    applied, theirs = [], []
    for scale in (0.3, 0.3, 0.3, 3.0, 0.5, 0.3, 0.3, 0.3, 0.3, 3.0, 3.0, 0.3):
        live = entropies(lp * scale).requires_grad_()
        trainer._get_per_token_logps_and_entropies = lambda *_, live=live, **__: (lp, live, None)
        loss = trainer_class("GRPOTrainer")._compute_loss(trainer, trainer.model, inputs)
        theirs.append(-torch.autograd.grad(loss, live)[0].sum().item())
        applied.append(control.coefficient)
        control.observe(((live * ON).sum() / ON.sum()).item())
        assert control.level == pytest.approx(trainer.entropy_coef)
    assert applied == pytest.approx(theirs) and len(set(applied)) > 1
