"""The published objectives written the way their papers write them: native losses on padded [B, T] tensors, by autograd.

Independent of rlcore on purpose. `lp` is the live log-probability, `on` the 0/1 mask of trained tokens, `tokens` and `sequences`
the counts of the whole step.
"""

import torch


def ppo(ratio, a, low, high):
    return -torch.minimum(ratio * a, ratio.clamp(1 - low, 1 + high) * a)


def token_mean(loss, on, tokens, sequences):
    return (loss * on).sum() / tokens


def sequence_mean(loss, on, tokens, sequences):
    return ((loss * on).sum(1) / on.sum(1)).sum() / sequences


def grpo(lp, old, ref, a, on, tokens, sequences, low=0.2, high=0.2, kl=0.0):
    k3 = (ref - lp).exp() - (ref - lp) - 1
    return sequence_mean(ppo((lp - old).exp(), a, low, high) + kl * k3, on, tokens, sequences)


def dapo(lp, old, ref, a, on, tokens, sequences, low=0.2, high=0.28):
    return token_mean(ppo((lp - old).exp(), a, low, high), on, tokens, sequences)


def dr_grpo(lp, old, ref, a, on, tokens, sequences, low=0.2, high=0.2, max_tokens=20):
    return (ppo((lp - old).exp(), a, low, high) * on).sum() / (sequences * max_tokens)


def gspo(lp, old, ref, a, on, tokens, sequences, low=3e-4, high=4e-4):
    s = (((lp - old) * on).sum(1) / on.sum(1)).exp()
    return ppo(s, (a * on).sum(1) / on.sum(1), low, high).sum() / sequences


def gspo_token(lp, old, ref, a, on, tokens, sequences, low=3e-4, high=4e-4):
    s = (((lp - old) * on).sum(1, keepdim=True) / on.sum(1, keepdim=True)).exp().detach()
    return sequence_mean(ppo(s * (lp - lp.detach()).exp(), a, low, high), on, tokens, sequences)


def luspo(lp, old, ref, a, on, tokens, sequences, low=3e-4, high=4e-4):
    s = (((lp - old) * on).sum(1) / on.sum(1)).exp()
    return (on.sum(1) * ppo(s, (a * on).sum(1) / on.sum(1), low, high)).sum() / sequences


def cispo(lp, old, ref, a, on, tokens, sequences, cap=5.0):
    return token_mean(-(lp - old).exp().clamp(max=cap).detach() * a * lp, on, tokens, sequences)


def sapo(lp, old, ref, a, on, tokens, sequences, pos=1.0, neg=1.05):
    tau = torch.full_like(a, neg).masked_fill(a > 0, pos)
    return sequence_mean(
        -4 / tau * torch.sigmoid(tau * ((lp - old).exp() - 1)) * a, on, tokens, sequences
    )


def vespo(lp, old, ref, a, on, tokens, sequences, k=(2.0, 3.0), rate=(3.0, 2.0)):
    w = ((lp - old) * on).sum(1, keepdim=True).exp()
    phi = [w**k * (rate * (1 - w)).exp() for k, rate in zip(k, rate, strict=True)]
    return token_mean(-torch.where(a >= 0, *phi).detach() * a * lp, on, tokens, sequences)


def clipped(lp, old, ref, a, on, tokens, sequences, low=0.2, high=0.2):
    return token_mean(ppo((lp - old).exp(), a, low, high), on, tokens, sequences)


def rloo(lp, old, ref, a, on, tokens, sequences):
    return -((lp * on).sum(1) * (a * on).sum(1) / on.sum(1)).sum() / sequences


def reinforce(lp, old, ref, a, on, tokens, sequences):
    return token_mean(-a * lp, on, tokens, sequences)


MARKED_BELOW = -1.5
"""Tokens of a lower old log-probability are marked."""


def kl_cov(lp, old, ref, a, on, tokens, sequences, beta=1.0):
    near = beta * (lp - old).abs() * (old < MARKED_BELOW)
    return token_mean(-(lp - old).exp() * a + near, on, tokens, sequences)


def tenth_of_sft(*batch):
    return 0.1 * sft(*batch)


def sft(lp, old, ref, a, on, tokens, sequences):
    return token_mean(-lp, on, tokens, sequences)


def kimi(lp, old, ref, a, on, tokens, sequences, tau=0.1):
    # arXiv 2501.12599, 2.3.2: the squared error to the policy that drew the samples, over 2 tau
    error = (a * on).sum(1) / on.sum(1) - tau * ((lp - old) * on).sum(1)
    return (error**2).sum() / (2 * tau * sequences)


def awr(lp, old, ref, a, on, tokens, sequences, beta=1.0, cap=20.0):
    return token_mean(-(a / beta).exp().clamp(max=cap) * lp, on, tokens, sequences)


def dft(lp, old, ref, a, on, tokens, sequences):
    return token_mean(-lp.exp(), on, tokens, sequences)


def unlikelihood(lp, old, ref, a, on, tokens, sequences, alpha=1.0):
    loss = torch.where(a > 0, -lp, -alpha * torch.log(1 - lp.exp()))
    return token_mean(loss, on, tokens, sequences)


def luffy_offline(lp, old, ref, a, on, tokens, sequences, gamma=0.1):
    return token_mean(-lp.exp() / (lp.exp() + gamma) * a, on, tokens, sequences)


def sequence_mean_of(a, on):
    return (a * on).sum(1) / on.sum(1)


def gmpo(lp, old, ref, a, on, tokens, sequences, low=0.4, high=0.4):
    # arXiv 2507.20673: min(A prod r^(1/n), A prod clip(r)^(1/n)) token by token, by the sign of A
    ratio, a = lp - old, sequence_mean_of(a, on)
    inside = ratio.clamp(-low, high)
    kept = torch.where((a > 0)[:, None], torch.minimum(ratio, inside), torch.maximum(ratio, inside))
    return -(a * ((kept * on).sum(1) / on.sum(1)).exp()).sum() / sequences


def topr(lp, old, ref, a, on, tokens, sequences):
    # arXiv 2503.14286: trajectories of positive return have weight 1, others min(pi / mu, 1)
    score, weight = (lp * on).sum(1), ((lp - old) * on).sum(1).exp().clamp(max=1).detach()
    a = sequence_mean_of(a, on)
    return -(torch.where(a >= 0, torch.ones_like(weight), weight) * a * score).sum() / sequences


def dppo(lp, old, ref, a, on, tokens, sequences, low=0.2, high=0.2, cap=20.0, kl=False):
    # arXiv 2602.04879, eq. 11 to 14
    p, mu = lp.exp().detach(), old.exp()
    far = mu * (mu / p).log() + (1 - mu) * ((1 - mu) / (1 - p)).log() if kl else (p - mu).abs()
    stop = torch.where(a > 0, (p > mu) & (far > high), (p < mu) & (far > low))
    ratio = (p / mu).clamp(max=cap)
    return token_mean(-torch.where(stop, 0 * ratio, ratio) * a * lp, on, tokens, sequences)


def dro(lp, old, ref, a, on, tokens, sequences, beta=0.05):
    return token_mean(-a * lp + beta / 2 * (lp - old) ** 2, on, tokens, sequences)


def unclipped(lp, old, ref, a, on, tokens, sequences):
    return token_mean(-(lp - old).exp() * a, on, tokens, sequences)


CASES = [
    ("grpo", {}, grpo, {}),
    (
        "grpo",
        {"clip_low": 0.1, "clip_high": 0.3, "kl": 0.07},
        grpo,
        {"low": 0.1, "high": 0.3, "kl": 0.07},
    ),
    ("dapo", {}, dapo, {}),
    ("dr_grpo", {"max_tokens": 20}, dr_grpo, {}),
    ("gspo", {"clip_low": 0.02, "clip_high": 0.03}, gspo, {"low": 0.02, "high": 0.03}),
    ("gspo_token", {"clip_low": 0.02, "clip_high": 0.03}, gspo_token, {"low": 0.02, "high": 0.03}),
    ("luspo", {"clip_low": 0.02, "clip_high": 0.03}, luspo, {"low": 0.02, "high": 0.03}),
    ("cispo", {"cap": 1.3}, cispo, {"cap": 1.3}),
    ("sapo", {}, sapo, {}),
    ("vespo", {}, vespo, {}),
    ("ppo", {"clip_high": 0.3}, clipped, {"high": 0.3}),
    ("reinforce_pp", {}, clipped, {}),
    ("rloo", {}, rloo, {}),
    ("reinforce", {}, reinforce, {}),
    ("kimi", {"tau": 0.3}, kimi, {"tau": 0.3}),
    ("dro", {"beta": 0.3}, dro, {"beta": 0.3}),
    ("gmpo", {"clip_low": 0.2, "clip_high": 0.3}, gmpo, {"low": 0.2, "high": 0.3}),
    ("topr", {}, topr, {}),
    ("dppo", {"low": 0.05, "high": 0.1, "cap": 1.4}, dppo, {"low": 0.05, "high": 0.1, "cap": 1.4}),
    (
        "dppo",
        {"divergence": "kl", "low": 0.02, "high": 0.04},
        dppo,
        {"low": 0.02, "high": 0.04, "kl": True},
    ),
    ("m2po", {}, unclipped, {}),  # what it keeps: test_selection.py
    ("clip_cov", {"clip_low": 0.1}, clipped, {"low": 0.1}),
    ("kl_cov", {"beta": 0.7}, kl_cov, {"beta": 0.7}),  # what it marks: test_selection.py
    ("awr", {"beta": 0.5, "cap": 4.0}, awr, {"beta": 0.5, "cap": 4.0}),
    ("sft", {}, sft, {}),
    ("dft", {}, dft, {}),
    ("unlikelihood", {}, unlikelihood, {}),
    ("unlikelihood", {"alpha": 0.3}, unlikelihood, {"alpha": 0.3}),
]
"""Preset name, its parameters, native loss, its parameters: a new preset adds a row."""
IDS = [name + ("-" + "-".join(params) if params else "") for name, params, *_ in CASES]

TWO_STREAMS = {
    "luffy": (clipped, luffy_offline),
    "hpt": (grpo, sft),
    "vapo": (dapo, tenth_of_sft),
}
"""Presets that learn from own answers and from demonstrations, with the native loss of each."""
