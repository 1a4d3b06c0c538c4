"""Published methods by name: the keys of an rl stage that a publication sets.

A preset (`rlcore.objective.presets`) is a loss; a method is a loss with the baseline, the filter and
the treatment of equal rewards that its publication uses it with. `method: dr_grpo` therefore also
takes the mean as baseline, while `objective: dr_grpo` changes the loss alone.

`rlcore.objective.method_keys` lays a method's keys under a stage's own, so every piece can be replaced. No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Method:
    """What one publication sets."""

    objective: str
    """Name of the preset, with the preset's default parameters."""
    baseline: str | Mapping[str, Any]
    source: str
    """Paper, and where in it the pieces are defined."""
    zero_variance: str = "drop"
    """Groups of equal rewards. Papers count such groups in their averages ("keep"), where they add
    nothing to the gradient; here they leave the averages, for all methods alike. Methods "keep" them
    whose gradient is not zero there."""
    filter: str | None = None
    credit: Mapping[str, Any] = field(default_factory=dict)
    """Further keys of the section `credit`."""
    critic: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the section `critic`, where the baseline is one."""
    when: str = ""
    """What it is chosen for."""

    def keys(self) -> dict[str, Any]:
        """The keys of an rl stage."""
        credit = {"baseline": self.baseline, "zero_variance": self.zero_variance, **self.credit}
        keys: dict[str, Any] = {"objective": self.objective, "credit": credit}
        if self.filter is not None:
            keys["filter"] = self.filter
        return keys


VC_PPO = {"pretrain_steps": 50, "value_lambda": 1.0}

METHODS: dict[str, Method] = {
    "grpo": Method(
        objective="grpo",
        baseline="mean_std",
        source="arXiv 2402.03300, eq. 3 and 4.1.2; its KL of 0.04 is left to objective.kl",
        when="the default; the setting that most published runs compare with",
    ),
    "dr_grpo": Method(
        objective="dr_grpo",
        baseline="mean",
        source="arXiv 2503.20783, section 3.2: no std, a constant length, no KL",
        when="completions grow longer where they are wrong, or easy and hard tasks should weigh alike",
    ),
    "dapo": Method(
        objective="dapo",
        baseline="mean_std",
        filter="zero_variance",
        source="arXiv 2503.14476, section 3: clip 0.2 / 0.28, token mean, dynamic sampling, no KL; "
        "overlong shaping is the reward `overlong`",
        when="long completions and many tasks that are always or never solved",
    ),
    "rloo": Method(
        objective="rloo",
        baseline="leave_one_out",
        source="arXiv 2402.14740, section 3.3: whole sequences, no clip; its KL is kl_kind reward",
        when="one update a step; the unbiased estimate for whole sequences",
    ),
    "reinforce_pp": Method(
        objective="reinforce_pp",
        baseline="global",
        zero_variance="keep",
        source="arXiv 2501.03262: whitened over the batch; its KL is kl_kind reward",
        when="few completions a task (group_size 1 too)",
    ),
    "reinforce_pp_baseline": Method(
        objective="reinforce_pp",
        baseline="mean_global",
        zero_variance="keep",
        source="arXiv 2501.03262, the -baseline form: group mean, then whitened; its KL is kl_kind k2",
        when="rewards of different scale from task to task, several completions a task",
    ),
    "kimi": Method(
        objective="kimi",
        baseline="mean",
        zero_variance="keep",
        source="arXiv 2501.12599, section 2.3.2; the regulariser also acts on groups of equal rewards",
        when="several updates a step without a ratio or a clip",
    ),
    "ppo": Method(
        objective="ppo",
        baseline="critic",
        zero_variance="keep",
        source="arXiv 1707.06347 with GAE (1506.02438): clip 0.2, lambda 0.95, gamma 1, values clipped "
        "at 0.2, advantages whitened; its KL is kl_kind reward",
        when="one completion a task, or rewards that come in the middle of an episode",
    ),
    "vc_ppo": Method(
        objective="ppo",
        baseline="critic",
        zero_variance="keep",
        critic=VC_PPO,
        source="arXiv 2503.01491: value pretraining, lambda 1 for the critic and 0.95 for the policy",
        when="as ppo, for long completions with one reward at their end",
    ),
    "vapo": Method(
        objective="vapo",
        baseline="critic",
        zero_variance="keep",
        credit={"demonstrations": "solved"},
        critic={**VC_PPO, "length_adaptive": 0.05},
        source="arXiv 2504.05118: VC-PPO with length-adaptive lambda, clip 0.2 / 0.28, token mean, and "
        "0.1 times the language-model loss of correct completions",
        when="as vc_ppo, where completions differ much in length",
    ),
    "gspo": Method(
        objective="gspo",
        baseline="mean_std",
        source="arXiv 2507.18071, section 4.1: clip 3e-4 / 4e-4 of the sequence's geometric mean",
        when="mixture-of-experts models, whose token ratios are noisy, and several updates a step",
    ),
    "gspo_token": Method(
        objective="gspo_token",
        baseline="mean_std",
        source="arXiv 2507.18071, section 4.3",
        when="as gspo, with credit that differs from token to token",
    ),
    "luspo": Method(
        objective="luspo",
        baseline="mean_std",
        source="arXiv 2602.05261: GSPO times the length",
        when="gspo, where completions become too short",
    ),
    "cispo": Method(
        objective="cispo",
        baseline="mean_std",
        source="arXiv 2506.13585, section 3.1: GRPO's advantages, capped ratio, token mean, no KL",
        when="rare tokens matter and a clip would drop them; many updates a step",
    ),
    "sapo": Method(
        objective="sapo",
        baseline="mean_std",
        source="arXiv 2511.20347: GRPO's advantages, tau 1.0 / 1.05",
        when="several updates a step, with a clip that fades instead of cutting",
    ),
    "vespo": Method(
        objective="vespo",
        baseline="mean_std",
        source="arXiv 2602.10693, with GRPO's advantages as in TRL",
        when="data that is many updates old",
    ),
    "reinforce": Method(
        objective="reinforce",
        baseline="mean",
        source="Williams 1992, with the group's mean as baseline",
        when="the plainest token-level baseline for comparison",
    ),
    "luffy": Method(
        objective="luffy",
        baseline="mean_std",
        credit={"demonstrations": "mixed"},
        source="arXiv 2504.14945: the demonstration counts in the group's statistics",
        when="tasks have demonstrations that are better than the policy, and both are to be learned from",
    ),
    "hpt": Method(
        objective="hpt",
        baseline="mean_std",
        credit={"demonstrations": "gated"},
        source="arXiv 2509.04419: demonstrations of the tasks that the policy does not solve",
        when="tasks have demonstrations and the policy solves few of them",
    ),
    "opo": Method(
        objective="rloo",
        baseline="length_weighted",
        source="arXiv 2505.23585: exactly on-policy, the length-weighted optimal baseline, whole sequences",
        when="one update a step and completions of very different length",
    ),
    "remax": Method(
        objective="rloo",
        baseline="zero",
        zero_variance="keep",
        credit={"steps": {"use": "greedy", "scheme": "vine"}},
        source="arXiv 2310.10505, algorithm 1: the reward of the greedy completion as baseline, whole sequences",
        when="one completion a task without a critic, or few completions a task",
    ),
    "gpg": Method(
        objective="reinforce",
        baseline="mean",
        source="arXiv 2504.02546: no ratio, no std; its factor alpha is what leaving groups of equal "
        "rewards out of the averages does",
        when="one update a step, with as few parts as possible",
    ),
    "lite_ppo": Method(
        objective="ppo",
        baseline="mean_batch_std",
        zero_variance="keep",
        source="arXiv 2508.08221: group mean, deviation of the whole batch, token mean",
        when="groups whose rewards hardly differ should not be blown up",
    ),
    "max_rl": Method(
        objective="rloo",
        baseline="max_likelihood",
        source="arXiv 2602.02710: advantages over the mean reward, so that rarely solved tasks weigh more",
        when="many tasks are solved rarely and rewards are 0 or 1",
    ),
    "pass_at_k": Method(
        objective="grpo",
        baseline="pass_at_k",
        source="arXiv 2508.10751: GRPO on sets of 4 completions, in closed form",
        when="exploration: one correct completion of several is enough; rewards are 0 or 1",
    ),
    "pkpo": Method(
        objective="rloo",
        baseline="max_at_k",
        source="arXiv 2505.15201, eq. 33: the unbiased gradient of the best reward of 4 completions",
        when="as pass_at_k, for rewards of any scale",
    ),
    "mml": Method(
        objective="rloo",
        baseline="zero",
        zero_variance="keep",
        credit={"solutions": {"beta": 0.25}},
        source="arXiv 2205.14318: beta-MML over the correct completions of a task that were found so far; "
        "credit.solutions.beta: 1 is MML, null MLE-Aug",
        when="few tasks that are drawn again and again, with several right solutions each",
    ),
    "dro": Method(
        objective="dro",
        baseline="mean",
        zero_variance="keep",
        source="arXiv 2405.19107, per token as in Tinker; the square also acts on groups of equal rewards",
        when="stored or stale data, with a pull back to the policy that wrote them instead of a clip",
    ),
    "gmpo": Method(
        objective="gmpo",
        baseline="mean_std",
        source="arXiv 2507.20673: GRPO's advantages, geometric mean of ratios clipped at exp(0.4)",
        when="several updates a step and outliers among the token ratios",
    ),
    "topr": Method(
        objective="topr",
        baseline="mean",
        source="arXiv 2503.14286: correct completions imitated, wrong ones with a ratio of at most 1",
        when="data that is many updates old, also stored rollouts",
    ),
    "dppo": Method(
        objective="dppo",
        baseline="mean_std",
        source="arXiv 2602.04879: total variation of at most 0.2 between policy and engine, per token",
        when="the engine's probabilities differ from the trainer's, or several updates a step",
    ),
    "m2po": Method(
        objective="m2po",
        baseline="mean_std",
        source="arXiv 2510.01161: second moment of log ratios at most 0.04, no clip; needs max_staleness above 0 and "
        "old_logprobs: trainer",
        when="stale data (max_staleness above 0)",
    ),
    "clip_cov": Method(
        objective="clip_cov",
        baseline="mean_std",
        source="arXiv 2505.22617: tokens of large covariance left out, to keep entropy",
        when="entropy collapses early in training",
    ),
    "kl_cov": Method(
        objective="kl_cov",
        baseline="mean_std",
        source="arXiv 2505.22617: tokens of large covariance held near the old policy; needs several updates a step",
        when="as clip_cov; the paper finds it the steadier of the two",
    ),
    "opd": Method(
        objective="opd",
        baseline="zero",
        zero_variance="keep",
        source="on-policy distillation: reverse KL to a teacher as each token's reward (Lu et al., Thinking Machines 2025; "
        "MiniLLM, arXiv 2306.08543); rewards are measured and not learned from",
        when="a better model with the same tokenizer is there, or the same model with a hint",
    ),
    "gkd": Method(
        objective="gkd",
        baseline="zero",
        zero_variance="keep",
        credit={"demonstrations": "all"},
        source="arXiv 2306.13649, algorithm 1: JSD(0.5), half of it on demonstrations",
        when="as opd, with demonstrations and more of the teacher's distribution",
    ),
}
