"""One, two and three processes write the same completions, also of a task that is drawn twice."""

from __future__ import annotations

from pathlib import Path

import pytest
import rollout_reference as ref

from rlcore.curriculum.uniform import Uniform
from rlcore.rollout.collector import Collector
from rlcore.rollout.generator import Generator
from rlcore.rollout.hf import HfEngine
from rlcore.rollout.prompt import PromptEncoder
from rlcore.run.batches import BatchPlan, BatchSource
from rlcore.scoring.unscored import Unscored
from rlcore.types import Sampling, Task

TASKS = [Task(id=f"t{i}", prompt=f"{i}+{i}=") for i in range(3)]
STEPS = 3


def completions_of(ranks: int, model_path: Path) -> list[tuple[int, str, list[int]]]:
    """(step, id, tokens) of every completion that `ranks` processes write, each with its own engine.

    Four groups of three tasks: each step draws one of them twice, at the border of an epoch.
    """
    written = []
    for rank in range(ranks):
        generator = Generator(
            engine=HfEngine(model_path, max_length=64),
            encoder=PromptEncoder(ref.make_tokenizer()),
            scorer=Unscored(),
            sampling=Sampling(max_tokens=6, temperature=1.0, ignore_eos=True),
            group_size=2,
            seed_of_batch=lambda batch: 100 + batch,
            max_length=64,
        )
        source = BatchSource(
            BatchPlan(groups_per_step=4, steps=STEPS),
            TASKS,
            Uniform(TASKS, seed=1),
            Collector(generator, streaming=False),
            rank=rank,
            ranks=ranks,
        )
        for step in range(STEPS):
            for rollout in source.generate_and_score(step, version=0).rollouts:
                (completion,) = (turn for turn in rollout.turns if turn.role == "completion")
                written.append((step, rollout.id, list(completion.token_ids)))
    return sorted(written)


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_number_of_processes_does_not_change_what_is_written(
    ranks: int, model_path: Path
) -> None:
    alone = completions_of(1, model_path)
    assert len(alone) == 4 * 2 * STEPS
    assert len({id for _, id, _ in alone}) == len(alone)
    assert completions_of(ranks, model_path) == alone
    of_step = [tokens for step, _, tokens in alone if step == 0]
    assert all(of_step.count(tokens) == 1 for tokens in of_step)
