"""The three phases in which a mixture of experts is trained as a reward model."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from rlcore.errors import RunError
from rlcore.learner.policy_experts import (
    ExpertMixture,
    GroupExperts,
    group_folder,
    padded,
    save_mixture,
)
from rlcore.measures.calibration import comparison_metrics
from rlcore.run.seeds import derive
from rlcore.run.stored import read_stored
from rlcore.stages.reward_model_trainer import base_model, reward_trainer, row_loss, save
from rlcore.stages.reward_rows import reward_rows
from rlcore.stages.trainer_settings import Log, OneBehind, optimizer_and_schedule

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from rlcore.run.session import Run
    from rlcore.stages.reward_experts import RewardExpertsStage
    from rlcore.stages.reward_model import RewardModelStage

Row = Mapping[str, Any]


class Splits(NamedTuple):
    """Task ids of one group. No task is in two of them."""

    base: list[str]
    """Phases 1 and 2."""
    mixture: list[str]
    """Phase 3."""
    heldout: list[str]


class GroupRows(NamedTuple):
    """What one group compares."""

    overall: list[Row]
    """By the pairs of the stage."""
    by_capability: dict[str, list[Row]]


def split_group(
    tasks: Collection[str], *, base_fraction: float, heldout: float, seed: int
) -> Splits:
    """Tasks of a group by phase. Raises `ValueError` where a phase has none."""
    order = sorted(tasks)
    random.Random(seed).shuffle(order)
    num_heldout = max(1, round(heldout * len(order))) if heldout else 0
    rest = order[num_heldout:]
    num_base = round(base_fraction * len(rest))
    splits = Splits(rest[:num_base], rest[num_base:], order[:num_heldout])
    if not splits.base or not splits.mixture:
        raise ValueError(f"{len(order)} tasks with pairs cannot be divided between the phases")
    return splits


def train_reward_experts(
    run: Run, stage: RewardExpertsStage, *, folder: Path, seed: int
) -> dict[str, Any]:
    """Train, measure and save. Collective; returns the held-out metrics, empty where nothing is held out."""
    rows = rows_of_groups(run, stage, seed=seed)
    log = OneBehind(run.log_step)
    groups: dict[str, GroupExperts] = {}
    splits: dict[str, Splits] = {}
    with torch.random.fork_rng(), tempfile.TemporaryDirectory() as scratch:
        bases = [Path(scratch) / group_folder(number) for number in range(len(rows))]
        for (name, of_group), saved in zip(rows.items(), bases, strict=True):
            splits[name] = _split(stage, name, of_group, derive(seed, name))
            groups[name] = train_group(
                run,
                stage,
                of_group,
                splits[name],
                saved=saved,
                seed=derive(seed, name),
                log=log,
            )
        result = measure_groups(groups, rows, splits)
        numbers = {key: value for key, value in result.items() if not isinstance(value, list)}
        log.end(numbers)
        facts = {"stage": stage.label, "experts": stage.experts, "lora": stage.lora, **result}
        save(run, folder, facts, lambda draft: _save_groups(draft, groups, bases, splits))
    return numbers


def rows_of_groups(run: Run, stage: RewardExpertsStage, *, seed: int) -> dict[str, GroupRows]:
    """The comparisons of each group, by its name. Raises `RunError` for a capability without any."""
    stored = read_stored(run.stored(stage.data))
    category_of = {one.group.task.id: one.group.task.category for one in stored}
    overall = reward_rows(run, stage.plain(), seed=seed)
    named = list(
        dict.fromkeys(c for capabilities in stage.experts.values() for c in capabilities)
    )
    labelled = reward_rows(run, stage.plain(heads=named), seed=seed)
    groups = {}
    for name, capabilities in stage.experts.items():
        by_capability = {
            capability: [
                {**row, "head": 0}
                for row in labelled
                if row["head"] == named.index(capability) and category_of[row["task"]] == name
            ]
            for capability in capabilities
        }
        own = [row for row in overall if category_of[row["task"]] == name]
        groups[name] = GroupRows(own, by_capability)
    return groups


def _split(stage: RewardExpertsStage, name: str, rows: GroupRows, seed: int) -> Splits:
    """Raises `RunError` where a phase of the group has nothing to compare."""
    tasks = {row["task"] for row in rows.overall}
    try:
        splits = split_group(
            tasks, base_fraction=stage.base_fraction, heldout=stage.heldout, seed=seed
        )
    except ValueError as error:
        raise RunError(
            f"stage {stage.label}: of the category {name!r} {stage.data} has too few pairs: {error}; sample more tasks of it"
        ) from None
    for capability, of_capability in rows.by_capability.items():
        if not _of(of_capability, splits.base):
            raise RunError(
                f"stage {stage.label}: no task of the category {name!r} in phase 2 has completions of different "
                f"{capability!r}: sample more, or leave the capability out"
            )
    return splits


def _of(rows: Sequence[Row], tasks: Sequence[str]) -> list[Row]:
    chosen = set(tasks)
    return [row for row in rows if row["task"] in chosen]


def train_group(
    run: Run,
    stage: RewardExpertsStage,
    rows: GroupRows,
    splits: Splits,
    *,
    saved: Path,
    seed: int,
    log: Log,
) -> GroupExperts:
    """All phases of one group. saved: where its base is written after phase 1."""
    plain = stage.plain()
    torch.manual_seed(seed)
    base = base_model(run, plain)
    _train(run, plain, base, _of(rows.overall, splits.base), seed=seed, log=_phase(log, 1))
    base.save_pretrained(saved)
    group = GroupExperts(base, list(rows.by_capability), stage.lora, seed=seed)
    expert_stage = stage.plain(steps=stage.expert_steps, optim=stage.expert_optim)
    for capability, of_capability in rows.by_capability.items():
        own_seed = derive(seed, capability)
        own_rows = _of(of_capability, splits.base)
        with group.expert(capability) as expert:
            _train(run, expert_stage, expert, own_rows, seed=own_seed, log=_phase(log, 2))
    train_mixer(stage, group, _of(rows.overall, splits.mixture), seed=seed, log=_phase(log, 3))
    return group.eval()


def _train(
    run: Run,
    stage: RewardModelStage,
    model: PreTrainedModel,
    rows: Sequence[Row],
    *,
    seed: int,
    log: Log,
) -> None:
    """Train what of a model has gradients, by the loss of a reward_model stage."""
    with tempfile.TemporaryDirectory() as scratch:
        trainer = reward_trainer(run, stage, model, rows, seed=seed, log=log, scratch=scratch)
        trainer.train()
    model.eval()
    run.accelerator.wait_for_everyone()


def _phase(log: Log, number: int) -> Callable[[Mapping[str, float]], None]:
    return lambda metrics: log({**metrics, "phase": number})


def train_mixer(
    stage: RewardExpertsStage, group: GroupExperts, rows: Sequence[Row], *, seed: int, log: Log
) -> None:
    """Phase 3, on hidden states that are computed once: the experts have no part in it.

    Every process does all of it, from the same seed.
    """
    chosen = features_of(group, [row["chosen"][0] for row in rows])
    rejected = features_of(group, [row["rejected"][0] for row in rows])
    optimiser, schedule = optimizer_and_schedule(
        group.mixer, stage.mixture_optim, stage.mixture_steps
    )
    draw = random.Random(seed)
    order: list[int] = []
    for _ in range(stage.mixture_steps):
        while len(order) < stage.batch_size:
            order += draw.sample(range(len(rows)), len(rows))
        batch, order = order[: stage.batch_size], order[stage.batch_size :]
        better = group.mixer(chosen[batch])[:, 0]
        worse = group.mixer(rejected[batch])[:, 0]
        losses = [row_loss(x[None], y[None]) for x, y in zip(better, worse, strict=True)]
        loss = torch.stack(losses).mean()
        optimiser.zero_grad()
        loss.backward()
        norm = clip_grad_norm_(group.mixer.parameters(), stage.mixture_optim.clip_norm)
        lr = schedule.get_last_lr()[0]
        optimiser.step()
        schedule.step()
        difference = (better - worse).detach()
        log(
            {
                "loss": loss.item(),
                "grad_norm": norm.item(),
                "lr": lr,
                "margin": difference.mean().item(),
                "accuracy": (difference > 0).float().mean().item(),
            }
        )


def features_of(
    group: GroupExperts, sequences: Sequence[Sequence[int]], *, at_once: int = 16
) -> Tensor:
    """The experts' last hidden states of each sequence, [N, E x H]."""
    parts = []
    for start in range(0, len(sequences), at_once):
        ids, mask = padded(sequences[start : start + at_once], group.base.device)
        parts.append(group.features(ids, mask).float())
    return torch.cat(parts)


def measure_groups(
    groups: Mapping[str, GroupExperts],
    rows: Mapping[str, GroupRows],
    splits: Mapping[str, Splits],
) -> dict[str, Any]:
    """`heldout/...` over the comparisons of all groups, and `heldout/accuracy/<group>`."""
    mixture = ExpertMixture(groups)
    differences: list[float] = []
    by_group = {}
    for name, of_group in rows.items():
        heldout = _of(of_group.overall, splits[name].heldout)
        if not heldout:
            continue
        better = mixture.scores([(name, row["chosen"][0]) for row in heldout])
        worse = mixture.scores([(name, row["rejected"][0]) for row in heldout])
        own = [high - low for high, low in zip(better, worse, strict=True)]
        by_group[f"heldout/accuracy/{name}"] = comparison_metrics(own)["accuracy"]
        differences += own
    if not differences:
        return {}
    metrics = comparison_metrics(differences)
    return {f"heldout/{name}": value for name, value in metrics.items()} | by_group


def _save_groups(
    folder: Path,
    groups: Mapping[str, GroupExperts],
    bases: Sequence[Path],
    splits: Mapping[str, Splits],
) -> None:
    """Write the groups, and which tasks each phase read."""
    for base in bases:
        shutil.copytree(base, folder / base.name)
    save_mixture(folder, groups)
    tasks = {name: of_group._asdict() for name, of_group in splits.items()}
    (folder / "splits.json").write_text(json.dumps(tasks), encoding="utf-8")
