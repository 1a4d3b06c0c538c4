"""Credit: from the verdicts of a group to one advantage per token. One file per scheme."""

from rlcore.credit.demonstrations import demonstration_sample, gated, mixed
from rlcore.credit.group import Credit, group_credit, group_samples, outcome
from rlcore.credit.reward_parts import normalised_parts
from rlcore.credit.whiten import exponential_weights, whitened

__all__ = [
    "Credit",
    "demonstration_sample",
    "exponential_weights",
    "gated",
    "group_credit",
    "group_samples",
    "mixed",
    "normalised_parts",
    "outcome",
    "whitened",
]
