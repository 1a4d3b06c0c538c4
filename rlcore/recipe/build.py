"""From the schema's sections to the objects they describe: the one place that knows both.

Heavy wings are imported where they are built, so that checking a recipe stays light.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlcore.credit.category_weights import weighted_categories
from rlcore.credit.continuations import with_continuations
from rlcore.credit.demonstrations import gated, mixed
from rlcore.credit.group import Credit, group_credit
from rlcore.credit.monte_carlo import Continue, MonteCarlo, StepEstimator
from rlcore.credit.reward_parts import normalised_parts
from rlcore.credit.siblings import Siblings
from rlcore.credit.split import SPLITTERS, Decode
from rlcore.credit.step_values import SCHEMES, Values, checked_scheme, without_zeros
from rlcore.credit.whiten import Gather, exponential_weights, whitened
from rlcore.curriculum.filter import FILTERS, Filter, checked_filter
from rlcore.curriculum.length_budget import BUDGETS, Schedule, checked_schedule
from rlcore.curriculum.prefilter import Prefilter
from rlcore.curriculum.task_sampler import CURRICULA, TaskSampler
from rlcore.errors import RecipeError
from rlcore.objective.presets import find_preset, objective
from rlcore.objective.term import Objective
from rlcore.plugin import Named, build, build_later
from rlcore.recipe import schema, task_sections
from rlcore.scoring.aggregate import Mix, build_mix, part_weights, weighted_sum
from rlcore.scoring.forms import RewardSpec
from rlcore.scoring.scorer import Scorer
from rlcore.scoring.unscored import Unscored
from rlcore.types import Group, Sample, Sampling, Task

if TYPE_CHECKING:
    from accelerate import Accelerator

    from rlcore.learner.information_gain import Gain
    from rlcore.learner.policy import Policy
    from rlcore.learner.update import Learner
    from rlcore.rollout.engine import Engine


POLICY_REWARDS = {"information_gain": "rlcore.learner.information_gain:InformationGain"}
"""Name in a recipe's `rewards` -> a reward that reads the policy itself: made as `Part(policy, **parameters)`."""
ENGINES = {"vllm_local": "rlcore.rollout.vllm_local:VllmEngine", "hf": "rlcore.rollout.hf:HfEngine"}
"""Name in a recipe -> a class made as `Engine(model_folder, ...)`; of what is offered below it takes what it asks for."""
WHITENED = {"global": "none", "mean_global": "mean"}
"""Baselines whose advantages are whitened over all tokens of a step -> the one in the group."""
SECOND_ROUNDS = {"guess_masks": "rlcore.tasks.corpus.guess:guess_masks"}
"""Name in a recipe -> a function `(groups, answer, **parameters) -> groups`."""


def build_tasks(section: task_sections.Tasks) -> Sequence[Task]:
    """The task set a section describes; rows become tasks when they are asked for."""
    settings = section.model_dump(exclude={"kind"})
    if isinstance(section, task_sections.ArithmeticTasks):
        from rlcore.tasks.arithmetic import arithmetic

        return arithmetic(**settings)
    if isinstance(section, task_sections.CountdownTasks):
        from rlcore.tasks.countdown import countdown

        return countdown(**settings)
    if isinstance(section, task_sections.GymTasks):
        from rlcore.tasks.gym import gym

        return gym(**settings)
    if isinstance(section, task_sections.FunctionTasks):
        return _own_tasks(section)
    if isinstance(section, task_sections.CorpusTasks):
        from rlcore.recipe.corpus import corpus_tasks

        return corpus_tasks(section, here(section.path))
    from rlcore.tasks.dataset import dataset

    if isinstance(section.path, list) and Path(here(section.path)).exists():
        settings |= {"subset": None, "split": "train"}  # these name parts of the hub's copy
    return dataset(**(settings | {"path": here(section.path)}))


def _own_tasks(section: task_sections.FunctionTasks) -> Sequence[Task]:
    made = build({"use": section.use, **section.params}, {}, what="task set")
    if not isinstance(made, Sequence) or not len(made) or not isinstance(made[0], Task):
        found = f"a {type(made).__name__}"
        if isinstance(made, Sequence):
            found += f" of {type(made[0]).__name__}" if len(made) else " without any"
        raise RecipeError(
            f"task set {section.use!r} must give a sequence of rlcore.Task, not {found}"
        )
    return made


def here(places: str | Sequence[str]) -> str:
    """Of several places the first that exists on this machine, else the last."""
    listed = [places] if isinstance(places, str) else places
    return next((place for place in listed if Path(place).exists()), listed[-1])


def build_sampling(section: schema.SamplingSection) -> Sampling:
    return Sampling(**{**section.model_dump(), "stop": tuple(section.stop)})


def build_rewards(sections: Sequence[schema.RewardSection]) -> list[RewardSpec]:
    return [RewardSpec(**section.model_dump()) for section in sections]


def policy_rewards(sections: Sequence[schema.RewardSection]) -> list[RewardSpec]:
    """Those of a stage's rewards that the learner computes, not a worker."""
    return [spec for spec in build_rewards(sections) if spec.use in POLICY_REWARDS]


def worker_rewards(sections: Sequence[schema.RewardSection]) -> list[RewardSpec]:
    """The others: those that run in worker processes."""
    return [spec for spec in build_rewards(sections) if spec.use not in POLICY_REWARDS]


def build_policy_reward(
    spec: RewardSpec, policy: Policy | None, **context: Any
) -> Callable[[Sequence[Group]], list[list[Gain]]]:
    return build(
        {"use": spec.use, **spec.params}, POLICY_REWARDS, policy, what="policy reward", **context
    )


def build_rule(stage: schema.RlStage | schema.EvalStage | schema.SampleStage) -> Mix:
    """How the rewards of workers become one value."""
    rewards = worker_rewards(stage.rewards)
    return (
        build_mix(stage.mix, rewards)
        if isinstance(stage, schema.RlStage) and rewards
        else weighted_sum
    )


def build_scorer(
    stage: schema.RlStage | schema.EvalStage | schema.SampleStage, rule: Mix | None = None
) -> Scorer | Unscored:
    """`rule`: in place of the stage's own."""
    rewards = worker_rewards(stage.rewards)
    if not rewards:
        return Unscored()
    return Scorer(
        rewards,
        workers=stage.reward_workers,
        deadline_s=stage.reward_deadline_s,
        rule=rule or build_rule(stage),
    )


def build_curriculum(named: Named, tasks: Sequence[Task], *, seed: int) -> TaskSampler:
    made = build(named, CURRICULA, tasks, what="curriculum", seed=seed)
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


def build_prefilter(
    stage: schema.RlStage, sampler: TaskSampler, tasks: Sequence[Task], *, seed: int
) -> TaskSampler:
    """The sampler, behind what passes over tasks like those the stage's filter rejected, where it has a memory."""
    return (
        sampler
        if stage.prefilter is None
        else Prefilter(sampler, tasks, **stage.prefilter.model_dump(), seed=seed)
    )


def _is_json(state: Any) -> bool:
    try:
        return json.loads(json.dumps(state)) == state
    except (TypeError, ValueError):
        return False


def build_filter(stage: schema.RlStage) -> Filter | None:
    """The stage's filter; of several, one that accepts what all accept. Raises `RecipeError` if it looks at a reward there is not."""
    if stage.filter is None:
        return None
    if policy_rewards(stage.rewards):
        raise RecipeError(
            "a filter judges groups before information_gain, the learner's reward, is known: leave out one of them"
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


def build_budget(stage: schema.RlStage) -> Schedule | None:
    """The stage's schedule, whose first and last step are tried. Raises `RecipeError` if a step has no whole number of tokens."""
    if stage.budget is None:
        return None
    named = (
        {"use": "fixed", "tokens": stage.budget} if isinstance(stage.budget, int) else stage.budget
    )
    schedule = build(named, BUDGETS, what="budget", steps=stage.steps)
    tokens = checked_schedule(f"budget {named!r}", schedule, most=stage.sampling.max_tokens)
    for step in (0, stage.steps - 1):
        tokens(step)
    return tokens


def build_second_round(named: Named | None) -> Callable[..., list[Group]] | None:
    """A function from a step's groups, and from one that answers further tasks, to all groups of the step."""
    return (
        None if named is None else build_later(named, SECOND_ROUNDS, what="second round", given=2)
    )


def credit_weights(stage: schema.RlStage) -> dict[str, float] | None:
    """The weights of the parts that credit sums itself; None where the rewards' own mix stands. Raises `RecipeError`."""
    if not stage.credit.normalise_parts:
        return None
    if stage.credit.demonstrations == "mixed":
        raise RecipeError(
            "credit.normalise_parts needs every part of an answer's reward, which a mixed-in demonstration lacks"
        )
    return part_weights(stage.mix, build_rewards(stage.rewards))


def build_credit(
    section: schema.CreditSection,
    *,
    weights: Mapping[str, float] | None = None,
    gather: Gather = list,
    demonstrate: Callable[[Task], Sample] | None = None,
    values: StepEstimator | Values | None = None,
) -> Credit:
    """`weights`: of parts that are normalised each by itself. `gather` joins the items of all processes; `demonstrate` makes the
    sample of a task's demonstration, where one is used; `values` estimates those of steps (`build_step_values`)."""
    whitening = WHITENED.get(section.baseline) if isinstance(section.baseline, str) else None
    kept = "keep" if whitening or values else section.zero_variance
    credit = group_credit(baseline=whitening or section.baseline, zero_variance=kept)
    if weights is not None:
        credit = normalised_parts(credit, weights)
    if section.category_weights:
        credit = weighted_categories(credit, section.category_weights)
    compared = credit
    if demonstrate and section.demonstrations == "mixed":
        credit = mixed(credit, demonstrate)
    if section.steps and values:
        credit = _build_scheme(section.steps.scheme, credit, values)
        if section.steps.keep != "none":
            credit = with_continuations(
                credit, compared, lambda: values.continued, section.steps.keep
            )
        if (
            section.zero_variance == "drop" and not whitening and not section.exponential
        ):  # to these two, zero says something
            credit = without_zeros(credit)
    if whitening:
        credit = whitened(credit, gather)
    if section.exponential:
        credit = exponential_weights(credit, gather, beta=section.exponential)
    if demonstrate and section.demonstrations == "gated":
        credit = gated(credit, demonstrate, threshold=section.threshold)
    return credit


def _build_scheme(named: Named, credit: Credit, values: Values) -> Credit:
    scheme = build(named, SCHEMES, credit, values, what="credit scheme")
    name = named if isinstance(named, str) else named["use"]
    return scheme if name in SCHEMES else checked_scheme(f"credit scheme {name!r}", scheme)


def build_step_values(
    stage: schema.RlStage | schema.SampleStage,
    continue_: Continue,
    decode: Decode,
    *,
    processes: int = 1,
) -> StepEstimator | None:
    """What estimates the values of steps, where the stage asks for them; of `total_tokens` each process has an equal part."""
    section = stage.steps if isinstance(stage, schema.SampleStage) else stage.credit.steps
    if section is None:
        return None
    if policy_rewards(stage.rewards):
        raise RecipeError(
            "step values are made of rewards that workers compute: leave out those of the learner, or the steps"
        )
    splitter = build(section.split, SPLITTERS, what="split")
    if section.values == "siblings":
        return Siblings(
            split=splitter,
            decode=decode,
            state=section.state,
            answers=section.answers,
            passing=section.passing,
        )
    settings = section.model_dump(exclude={"scheme", "split", "keep", "values", "state"})
    if settings["total_tokens"] is not None:
        settings["total_tokens"] //= processes
    return MonteCarlo(
        continue_=continue_,
        split=splitter,
        decode=decode,
        max_tokens=stage.sampling.max_tokens,
        **settings,
    )


def build_objective(value: str | dict[str, Any], *, max_tokens: int) -> Objective:
    """A preset with its parameters; one that is normalised by a fixed length takes the stage's `max_tokens` by default."""
    if isinstance(value, str):
        value = {"preset": value}
    params = {key: item for key, item in value.items() if key != "preset"}
    if "preset" not in value:
        raise RecipeError(
            f"objective {value!r} names no preset; write objective: grpo or objective: {{preset: grpo, clip_high: 0.28}}"
        )
    if "max_tokens" in inspect.signature(find_preset(value["preset"])).parameters:
        params.setdefault("max_tokens", max_tokens)
    return objective(value["preset"], **params)


def build_policy(
    recipe: schema.Recipe, checkpoint: Path | None, accelerator: Accelerator
) -> Policy:
    """The model of the recipe or of a checkpoint of its run; under an adapter the recipe's, with the checkpoint's adapter."""
    from rlcore.learner.policy import load_policy

    source = recipe.model.model_dump()
    if source["path"] and (saved := sorted(Path(source["path"]).glob("checkpoints/step_*"))):
        source["path"] = str(saved[-1])
    if checkpoint and recipe.model.peft is None:
        source |= {"path": str(checkpoint), "config": None, "tokenizer": None}
    return load_policy(**source, saved=checkpoint, seed=recipe.seed, device=accelerator.device)


def build_learner(
    policy: Policy,
    stage: schema.SftStage | schema.RlStage | schema.OfflineStage,
    aim: Objective,
    *,
    accelerator: Accelerator,
    version: int,
    temperature: float = 1.0,
    reference: Policy | None = None,
) -> Learner:
    from rlcore.learner.update import Learner

    settings = stage.optim.model_dump()
    settings["optimizer"] = settings.pop("name")
    return Learner(
        policy,
        aim,
        accelerator=accelerator,
        total_steps=stage.steps,
        version=version,
        temperature=temperature,
        reference=reference,
        **settings,
    )


def build_engine(
    section: schema.EngineSection,
    model_folder: Path,
    *,
    dtype: str,
    device: str,
    adapter_rank: int | None = None,
) -> Engine:
    """The back end the recipe names, serving the model in `model_folder` until weights are published to it."""
    settings = section.model_dump(exclude={"kind", "deadline_s", "sync", "sync_tolerance"})
    return build(
        section.kind,
        ENGINES,
        model_folder,
        what="engine",
        dtype=dtype,
        device=device,
        adapter_rank=adapter_rank,
        **settings,
    )
