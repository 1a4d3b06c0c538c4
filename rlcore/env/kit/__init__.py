"""Tools for authors of environments: test one without a model, or play it by hand."""

from rlcore.env.kit.examine import Examination, examine
from rlcore.env.kit.play import Turn, converse
from rlcore.env.kit.policies import Policy, load_policy, say

__all__ = ["Examination", "Policy", "Turn", "converse", "examine", "load_policy", "say"]
