"""Tools for authors of rewards: list and describe them, test one, try exploits, start a new one."""

from rlcore.scoring.kit.cases import Case, Trial, read_cases
from rlcore.scoring.kit.catalog import RewardInfo, describe_rewards, markdown
from rlcore.scoring.kit.compare import Comparison, compare, page
from rlcore.scoring.kit.examine import Examination, examine, try_reward
from rlcore.scoring.kit.faults import FAULTS
from rlcore.scoring.kit.probes import PROBES, ProbeResult, probe
from rlcore.scoring.kit.template import write_template

__all__ = [
    "Case",
    "Comparison",
    "Examination",
    "FAULTS",
    "PROBES",
    "ProbeResult",
    "RewardInfo",
    "Trial",
    "compare",
    "describe_rewards",
    "examine",
    "markdown",
    "page",
    "probe",
    "read_cases",
    "try_reward",
    "write_template",
]
