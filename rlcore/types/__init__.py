"""The values that travel through a run, in the order in which they are made.

    Task -> Request -> Completion -> Turn -> Rollout -> Verdict -> Group -> Sample -> StepReport -> Outcome

Every value is frozen and checks its own lengths, so a misalignment is reported where it is made, with the id and all
lengths. Reward, credit and advantage are three words for three things: a *reward* function gives a `Verdict`, *credit*
turns the verdicts of a group into one *advantage* per token.

Shape letters: [T] all tokens of a sequence, [L] tokens of one turn or completion, [G] rollouts of a group.
"""

from rlcore.types.group import Group, Prefix, StepValues
from rlcore.types.request import Completion, Finish, Request, Sampling
from rlcore.types.rollout import Episode, Role, Rollout, Span, Turn
from rlcore.types.sample import Outcome, Sample, StepReport, TeacherScores
from rlcore.types.task import SCORED, Message, Status, Task, Verdict

__all__ = [
    "SCORED",
    "Completion",
    "Episode",
    "Finish",
    "Group",
    "Message",
    "Outcome",
    "Prefix",
    "Request",
    "Role",
    "Rollout",
    "Sample",
    "Sampling",
    "Span",
    "Status",
    "StepReport",
    "StepValues",
    "Task",
    "TeacherScores",
    "Turn",
    "Verdict",
]
