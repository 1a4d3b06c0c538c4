"""From the schema's sections to the objects they describe: the one place that knows both.

Heavy wings are imported where they are built, so that checking a recipe stays light.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlcore.curriculum.filter import FILTERS, Filter, checked_filter
from rlcore.curriculum.length_budget import BUDGETS, Schedule, checked_schedule
from rlcore.curriculum.prefilter import PREFILTERS
from rlcore.curriculum.task_sampler import CURRICULA, TaskSampler
from rlcore.env.pool import EnvironmentPool
from rlcore.errors import RecipeError
from rlcore.plugin import Named, build, build_later
from rlcore.recipe.env_section import EnvSection
from rlcore.recipe.shared_sections import RewardSection, SamplingSection
from rlcore.recipe.task_sections import TaskSection
from rlcore.scoring.aggregate import Aggregate, build_aggregate, weighted_sum
from rlcore.scoring.forms import RewardSpec
from rlcore.scoring.scorer import Scorer
from rlcore.scoring.unscored import Unscored
from rlcore.types import Group, Sampling, Task

if TYPE_CHECKING:
    from rlcore.learner.policy import Policy
    from rlcore.stages.base import GeneratingStage, Stage
    from rlcore.stages.rl import RlStage


POLICY_REWARDS = {
    "information_gain": "rlcore.learner.information_gain:InformationGain",
    "latent_weight": "rlcore.run.latent_weight:LatentWeight",
    "likelihood": "rlcore.learner.likelihood:Likelihood",
    "reward_model": "rlcore.run.reward_model:ModelReward",
    "student_exam": "rlcore.run.student_exam:StudentExam",
}
"""Name in a recipe's `rewards` -> a reward that the learner's process computes, with the policy or another model: made as
`Part(policy, **parameters)`, it gives each rollout of groups a NamedTuple whose first field is the value, or None.
"""

LATE_REWARD_MODEL = {
    "reward_model": ", or compute it in the workers: {use: rewards.reward_model:RewardModel, path: ...}"
}
"""Name of a learner's reward -> another way to have it earlier."""

FOLLOW_UPS = {"guess_masks": "rlcore.tasks.corpus.guess:guess_masks"}
"""Name in a recipe -> a function `(groups, answer, **parameters) -> groups`."""

TASKS = {
    "arithmetic": "rlcore.tasks.arithmetic:arithmetic",
    "calculator": "rlcore.environments.calculator:calculator",
    "corpus": "rlcore.recipe.corpus:corpus",
    "countdown": "rlcore.tasks.countdown:countdown",
    "dataset": "rlcore.tasks.dataset:dataset",
    "facts": "rlcore.environments.facts:facts",
    "grid_moves": "rlcore.environments.grid_world:grid_moves",
    "grid_world": "rlcore.environments.grid_world:grid_world",
    "gym": "rlcore.tasks.gym:gym",
    "instructions": "rlcore.tasks.instructions:instructions",
    "joined": "rlcore.tasks.joined:joined",
    "masked_text": "rlcore.environments.masked_text:masked_text",
    "number_guessing": "rlcore.environments.number_guessing:number_guessing",
    "sampled": "rlcore.run.sampled:sampled",
    "verifiers": "rlcore.tasks.verifiers:verifiers",
}
"""Name in a recipe -> a function that gives a sequence of tasks."""


class TaskSets(Mapping[str, Sequence[Task]]):
    """The task sets of a recipe by name. Each is built once, when it is first asked for."""

    def __init__(
        self, sections: Mapping[str, TaskSection], stages: Sequence[Stage] = ()
    ) -> None:
        """stages: of the recipe, for sets that are made of what one of them samples."""
        self._sections = sections
        self.sources: dict[str, str] = {
            stage.label: stage.tasks for stage in stages if stage.writes_samples
        }
        """Name of each stage that samples -> the task set that it completes."""
        self._built: dict[str, Sequence[Task]] = {}
        self._building: list[str] = []

    def __getitem__(self, name: str) -> Sequence[Task]:
        if name in self._building:
            raise RecipeError(f"the task set {name!r} is made of itself")
        if name not in self._built:
            self._building.append(name)
            try:
                self._built[name] = build_tasks(self._sections[name], self)
            finally:
                self._building.remove(name)
        return self._built[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sections)

    def __len__(self) -> int:
        return len(self._sections)


def build_tasks(
    section: TaskSection, sets: Mapping[str, Sequence[Task]] | None = None
) -> Sequence[Task]:
    """The task set a section describes; rows become tasks when they are asked for.

    sets: all sets of the recipe, for one that is made of others.
    """
    parameters = section.parameters
    path = parameters.get("path")
    if section.use in ("corpus", "dataset") and isinstance(path, list):
        parameters["path"] = here(path)
        if section.use == "dataset" and Path(parameters["path"]).exists():
            # These name parts of the hub's copy.
            parameters.pop("subset", None)
            parameters.pop("split", None)
    named = {"use": section.use, **parameters}
    tasks = build(named, TASKS, what="task set", sets=sets or TaskSets({}))
    _refuse_other_than_tasks(section.use, tasks)
    return tasks


def _refuse_other_than_tasks(use: str, tasks: Any) -> None:
    if not isinstance(tasks, Sequence):
        problem = f"a {type(tasks).__name__}"
    elif not len(tasks):
        problem = f"a {type(tasks).__name__} without any"
    elif not isinstance(tasks[0], Task):
        problem = f"a {type(tasks).__name__} of {type(tasks[0]).__name__}"
    else:
        return
    raise RecipeError(f"task set {use!r} must give a sequence of rlcore.Task, not {problem}")


def here(places: str | Sequence[str]) -> str:
    """Of several places the first that exists on this machine, else the last."""
    listed = [places] if isinstance(places, str) else places
    return next((place for place in listed if Path(place).exists()), listed[-1])


def build_sampling(section: SamplingSection, *, keep_support: bool = False) -> Sampling:
    """`keep_support`: completions are learned from, so truncated sampling returns what it kept."""
    settings = section.model_dump()
    settings["stop"] = tuple(section.stop)
    sampling = Sampling(**settings)
    return replace(sampling, keep_support=keep_support and sampling.truncates)


def build_rewards(sections: Sequence[RewardSection]) -> list[RewardSpec]:
    return [
        RewardSpec(
            use=section.use,
            weight=section.weight,
            params=section.parameters,
            name=section.name,
            optional=section.optional,
            against=section.against,
            where=section.where,
            turn=section.turn,
        )
        for section in sections
    ]


def policy_rewards(sections: Sequence[RewardSection]) -> list[RewardSpec]:
    """Those of a stage's rewards that the learner computes, not a worker."""
    return [spec for spec in build_rewards(sections) if spec.use in POLICY_REWARDS]


def worker_rewards(sections: Sequence[RewardSection]) -> list[RewardSpec]:
    """The others: those that run in worker processes."""
    return [spec for spec in build_rewards(sections) if spec.use not in POLICY_REWARDS]


def build_policy_reward(
    spec: RewardSpec, policy: Policy | None, **context: Any
) -> Callable[[Sequence[Group]], list[list[tuple[float | None, ...]]]]:
    return build(
        {"use": spec.use, **spec.params},
        POLICY_REWARDS,
        policy,
        what="policy reward",
        **context,
    )


def build_rule(stage: GeneratingStage) -> Aggregate:
    """How the rewards of a stage become one value."""
    aggregate = getattr(stage, "aggregate", "sum")
    return build_aggregate(aggregate, build_rewards(stage.rewards))


def build_scorer(stage: GeneratingStage, rule: Aggregate | None = None) -> Scorer | Unscored:
    """`rule`: in place of the stage's own, which is put off where the learner adds rewards (`run.policy_rewards`)."""
    rewards = worker_rewards(stage.rewards)
    if not rewards:
        return Unscored()
    return Scorer(
        rewards,
        workers=stage.scoring.workers,
        deadline_s=stage.scoring.deadline_s,
        rule=rule or (weighted_sum if policy_rewards(stage.rewards) else build_rule(stage)),
    )


def build_environments(
    section: EnvSection | None, *, workers: int | None = None
) -> AbstractContextManager[EnvironmentPool | None]:
    """The worker processes of a stage's environment, to be closed with the stage; a context of None without one.

    workers: in place of the section's own. Raises `EnvError`.
    """
    if section is None:
        return nullcontext()
    return EnvironmentPool(
        section.spec,
        workers=workers or section.workers,
        deadline_s=section.deadline_s,
        memory_gb=section.memory_gb,
        max_reply=section.max_reply,
        python=section.python,
    )


def build_curriculum(
    named: Named, tasks: Sequence[Task], *, seed: int, rewarded: bool = True
) -> TaskSampler:
    """rewarded: for a stage whose tasks are rewarded one by one, and not imitated. Raises `RecipeError`."""
    made = build(named, CURRICULA, tasks, what="curriculum", seed=seed)
    if rewarded and getattr(made, "sizes_batches", False):
        raise RecipeError(
            f"curriculum {named!r} decides how many tasks a batch has, and a step of this stage has as many "
            "as its keys say: use it in an sft stage"
        )
    absent = [
        name
        for name in ("draw", "observe", "state_dict", "load_state_dict", "metrics")
        if not hasattr(made, name)
    ]
    if absent:
        raise RecipeError(
            f"curriculum {named!r} lacks {', '.join(absent)}: see rlcore.curriculum.task_sampler.TaskSampler"
        )
    if not _is_json(made.state_dict()):
        raise RecipeError(
            f"curriculum {named!r}: state_dict must hold plain JSON values (lists, no tuples; text as keys)"
        )
    return made


def build_order(
    named: Named, tasks: Sequence[Task], *, seed: int, measures_losses: bool = False
) -> TaskSampler:
    """The curriculum of a stage that imitates, where nothing is rewarded. Raises `RecipeError` for one that waits for rewards.

    measures_losses: whether the stage tells a curriculum that `learns_from_losses` the loss of each demonstration.
    """
    made = build_curriculum(named, tasks, seed=seed, rewarded=False)
    by_losses = measures_losses and getattr(made, "learns_from_losses", False)
    if getattr(made, "learns_from_rewards", False) and not by_losses:
        name = named if isinstance(named, str) else named.get("use")
        raise RecipeError(
            f"curriculum {name!r} learns from rewards, and this stage has none: use it in an rl stage"
        )
    return made


def build_prefilter(
    stage: RlStage, sampler: TaskSampler, tasks: Sequence[Task], *, seed: int
) -> TaskSampler:
    """The sampler, behind the stage's prefilter if it has one."""
    if stage.prefilter is None:
        return sampler
    named = stage.prefilter
    use = named.get("use") if isinstance(named, dict) else named
    if use not in PREFILTERS and ":" not in str(use):
        raise RecipeError(
            f"{named!r} names no prefilter (there are: {', '.join(PREFILTERS)}); "
            "write for example prefilter: {use: greso, by: category}"
        )
    return build(named, PREFILTERS, sampler, tasks, what="prefilter", seed=seed)


def _is_json(state: Any) -> bool:
    try:
        return json.loads(json.dumps(state)) == state
    except (TypeError, ValueError):
        return False


def build_filter(stage: RlStage) -> Filter | None:
    """The stage's filter; of several, one that accepts what all accept. Raises `RecipeError` if it looks at a reward there is not."""
    if stage.filter is None:
        return None
    late = policy_rewards(stage.rewards)
    if late:
        raise RecipeError(
            f"a filter judges groups before {late[0].use}, the learner's reward, is known: leave out one of them"
            + LATE_REWARD_MODEL.get(late[0].use, "")
        )
    listed = stage.filter if isinstance(stage.filter, list) else [stage.filter]
    names = [spec.name for spec in build_rewards(stage.rewards)]
    for named in listed:
        part = named.get("part") if isinstance(named, dict) else None
        if part is not None and str(part).split("/")[0] not in names:
            raise RecipeError(
                f"the filter looks at the reward {part!r}, but the stage's rewards are: {', '.join(names)}"
            )
    filters = [
        checked_filter(f"filter {named!r}", build(named, FILTERS, what="filter"))
        for named in listed
    ]
    return lambda group, version: all(accepts(group, version) for accepts in filters)


def build_budget(stage: RlStage) -> Schedule | None:
    """The stage's schedule, whose first and last step are tried. Raises `RecipeError` if a step has no whole number of tokens."""
    if stage.budget is None:
        return None
    named = (
        {"use": "fixed", "tokens": stage.budget}
        if isinstance(stage.budget, int)
        else stage.budget
    )
    schedule = build(named, BUDGETS, what="budget", steps=stage.steps)
    tokens = checked_schedule(f"budget {named!r}", schedule, most=stage.sampling.max_tokens)
    for step in (0, stage.steps - 1):
        tokens(step)
    return tokens


def build_follow_up(named: Named | None) -> Callable[..., list[Group]] | None:
    """A function from a step's groups, and from one that answers further tasks, to all groups of the step."""
    return None if named is None else build_later(named, FOLLOW_UPS, what="follow-up", given=2)
