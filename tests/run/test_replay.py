"""Replay: which stored groups join a step, what their gradient is, and that a killed run goes on with them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from rlcore.learner.policy import load_policy
from rlcore.learner.update import Learner
from rlcore.learner.updates import run_updates
from rlcore.objective import objective
from rlcore.recipe.replay_section import ReplaySection
from rlcore.run.folder import read_rows
from rlcore.run.replay import ReplayBuffer
from rlcore.types import Sample, TeacherScores
from tests.run.whole import finish, kill_when, run_folder, start, story, untimed, write_recipe

CONFIG = {"model_type": "qwen2", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
          "num_key_value_heads": 1, "max_position_embeddings": 64}  # fmt: skip


def group(step: int, order: int, n: int = 3, **more) -> list[Sample]:
    rng = random.Random(f"{step}/{order}")
    return [
        Sample(
            id=f"{step}/{order}#{i}",
            token_ids=[rng.randrange(256) for _ in range(8)],
            mask=[False] * 3 + [True] * 5,
            advantages=[rng.uniform(-1, 1)] * 8,
            logprobs=[-5.5 - rng.random() / 4 for _ in range(8)],
            version=step,
            **more,
        )
        for i in range(n)
    ]


def step_groups(step: int, orders) -> list:
    return [((0, order, ""), group(step, order)) for order in orders]


def joined_of(buffers: list[ReplayBuffer], step: int, per_step: int) -> list:
    """Stored groups of all ranks that join a step; the ranks' gathers are run side by side."""
    import threading

    joined: list = [None] * len(buffers)

    def one(rank: int) -> None:
        fresh = step_groups(step, range(rank, per_step, len(buffers)))
        joined[rank] = buffers[rank].join(step, fresh)[len(fresh) :]

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(len(buffers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return sorted(pair for part in joined for pair in part)


def ranks_of(ranks: int, section: ReplaySection, per_step: int) -> list[ReplayBuffer]:
    import threading

    barrier, slots = threading.Barrier(ranks), [[] for _ in range(ranks)]

    def gather_of(rank: int):
        def gather(items):
            slots[rank] = list(items)
            barrier.wait(30)
            whole = [item for part in slots for item in part]
            barrier.wait(30)
            return whole

        return gather

    return [
        ReplayBuffer(section, groups_per_step=per_step, seed=7, rank=rank, ranks=ranks, gather=gather_of(rank))
        for rank in range(ranks)
    ]  # fmt: skip


def test_what_joins_is_older_than_the_step_and_does_not_depend_on_the_ranks() -> None:
    section = ReplaySection(fraction=0.5, size=10, max_age=2)
    stories = []
    for ranks in (1, 2, 3):
        buffers = ranks_of(ranks, section, per_step=4)
        stories.append([joined_of(buffers, step, 4) for step in range(6)])
    assert stories[0] == stories[1] == stories[2]
    assert [len(joined) for joined in stories[0]] == [0, 4, 4, 4, 4, 4]
    for step, joined in enumerate(stories[0]):
        for (kind, written, _), samples in joined:
            assert kind == 3 and step - 2 <= written < step
            order = int(samples[0].id.split("/")[1].split("#")[0])
            assert samples == group(written, order)  # advantages, log-probabilities, version
    # 10 stored of 4 a step: when a step draws, the groups of two steps and two more are there
    assert len({key for key, _ in stories[0][5]}) == 4


def test_size_drops_the_oldest() -> None:
    [buffer] = ranks_of(1, ReplaySection(fraction=0.5, size=3, max_age=9), per_step=4)
    for step in range(3):
        buffer.join(step, step_groups(step, range(2)))
    assert [tuple(entry["key"][:3]) for entry in buffer.state_dict()] == [(1, 0, 1), (2, 0, 0), (2, 0, 1)]


def test_a_buffer_saved_and_loaded_goes_on_alike_also_on_other_ranks(tmp_path: Path) -> None:
    section = ReplaySection(fraction=0.4, size=12, max_age=3)

    def begun(ranks: int) -> list[ReplayBuffer]:
        buffers = ranks_of(ranks, section, per_step=6)
        for step in range(3):
            joined_of(buffers, step, 6)
        return buffers

    want = joined_of(begun(1), 3, 6)
    torch.save([buffer.state_dict() for buffer in begun(2)], tmp_path / "state.pt")
    states = torch.load(tmp_path / "state.pt", weights_only=True)
    for ranks in (1, 2, 3):
        buffers = ranks_of(ranks, section, per_step=6)
        for buffer in buffers:
            buffer.load_state_dict(states)
        assert joined_of(buffers, 3, 6) == want


def test_a_teachers_scores_are_stored_with_their_tensors() -> None:
    scores = TeacherScores(
        logprobs=[-1.0] * 5, top_ids=torch.arange(10).view(5, 2), top_logprobs=-torch.rand(5, 2)
    )
    [buffer] = ranks_of(1, ReplaySection(fraction=0.5), per_step=1)
    buffer.join(0, [((0, 0, ""), group(0, 0, teacher=scores))])
    [other] = ranks_of(1, ReplaySection(fraction=0.5), per_step=1)
    other.load_state_dict([buffer.state_dict()])
    [(_, samples)] = other.join(1, [])
    assert samples == group(0, 0, teacher=scores)
    assert torch.equal(samples[1].teacher.top_ids, scores.top_ids)
    assert torch.equal(samples[1].teacher.top_logprobs, scores.top_logprobs)


def test_the_gradient_on_fresh_and_stored_groups_is_the_clipped_loss_on_both() -> None:
    """GRPO in float64: fresh groups have ratio 1, stored ones the ratio to their own recorded log-probabilities."""

    def policy():
        return load_policy(config=CONFIG, tokenizer="bytes", dtype="float64", seed=3)

    [buffer] = ranks_of(1, ReplaySection(fraction=0.5), per_step=2)
    buffer.join(3, step_groups(3, range(2)))
    groups = buffer.join(4, step_groups(4, range(2)))
    learner = Learner(policy(), objective("grpo"), accelerator=Accelerator(cpu=True), lr=1e-3,
                      total_updates=1, version=4, optimizer="sgd", clip_norm=1e9, betas=(0.0, 0.0))  # fmt: skip
    before = [p.detach().clone() for p in learner.policy.module.parameters()]
    report = run_updates(learner, groups, seed=0, old_logprobs="engine")
    assert report.sequences == 12 and report.off_policy_tokens == 30

    model = policy().model
    model.set_attn_implementation("sdpa")
    loss = 0
    for written in (3, 4):
        for order in range(2):
            for sample in group(written, order):
                logits = model(torch.tensor([sample.token_ids])).logits[0, 2:7]
                ids = torch.tensor(sample.token_ids[3:])
                logp = logits.log_softmax(-1).gather(1, ids[:, None])[:, 0]
                recorded = torch.tensor(sample.logprobs[3:], dtype=torch.float64)
                ratio = (logp - (recorded if written == 3 else logp.detach())).exp()
                a = sample.advantages[0]
                loss = loss - torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a).mean() / 12
    loss.backward()
    after = learner.policy.module.parameters()
    for new, old, p in zip(after, before, model.parameters(), strict=True):
        assert torch.allclose(old - new, 1e-3 * p.grad, atol=1e-14)


OPTIONS = (
    "stages.sft.steps=2",
    "stages.before.limit=1",
    "stages.after.limit=1",
    "run.checkpoint_every=1",
    "stages.rl.optim.lr=3e-3",
    "stages.rl.credit.zero_variance=keep",
    "stages.rl.replay={fraction: 0.4, size: 9, max_age: 3}",
)
TAUGHT = (
    "stages.rl.method=opd",
    "stages.rl.objective={divergence: jsd}",
    'stages.rl.teacher={model: policy, prompt: "{prompt}{answer} ", top_k: 4}',
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "processes"),
    [
        (("stages.rl.minibatches=2", "stages.rl.max_staleness=1"), 1),
        ((*TAUGHT, "stages.rl.minibatches=2"), 2),
    ],
)
def test_a_killed_run_goes_on_bit_for_bit(more: tuple[str, ...], processes: int, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole = write_recipe(tmp_path / "whole")
    finish(start("train", whole, *OPTIONS, *more, processes=processes))
    uninterrupted = story(run_folder(whole))

    def steps() -> list[dict]:
        rows = untimed(read_rows(run_folder(recipe) / "metrics.jsonl"))
        return [row for row in rows if row["stage"] == "rl"]

    recipe = write_recipe(tmp_path)
    process = start("train", recipe, *OPTIONS, *more, processes=processes)
    kill_when(process, lambda: len(steps()) >= 3)
    finish(start("train", recipe, *OPTIONS, *more, "--resume", processes=processes))
    for part, left in story(run_folder(recipe)).items():
        assert left == uninterrupted[part], f"{part} differ after kill and resume"
    assert [row["replay/groups"] for row in steps()] == [0, 3, 3, 3, 3, 3]
    assert max(row["policy/ratio_max"] for row in steps()[1:]) > 1.01
