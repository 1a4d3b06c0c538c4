"""Stored completions are trained at the temperature they were drawn at: on the same weights every ratio is 1."""

import json

import pytest
import torch
from test_update import make_learner

from rlcore.learner.attention import PACKED
from rlcore.objective import objective
from rlcore.run.stored import read_stored
from rlcore.stages.offline import OfflineStage, offline_samples


def row_of(model, number, temperature):
    """A stored row with the log-probabilities that an engine would record at this temperature, in plain torch."""
    generator = torch.Generator().manual_seed(number)
    ids = torch.randint(256, (12,), generator=generator)
    with torch.no_grad():
        logits = model(input_ids=ids[None]).logits[0, :-1].double()
    logprobs = (logits / temperature).log_softmax(-1).gather(1, ids[1:, None])[:, 0]
    mask = [position >= 4 for position in range(len(ids))]
    return {
        "task": f"t{number // 2}",
        "id": f"t{number // 2}/{number % 2}",
        "prompt": "x",
        "text": "y",
        "value": float(number % 2),
        "token_ids": ids.tolist(),
        "mask": mask,
        "logprobs": [0.0, *logprobs.tolist()],
        "temperature": temperature,
    }


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
def test_the_ratio_is_one_at_the_temperature_of_the_rows(tmp_path, make_policy, temperature):
    policy = make_policy()
    policy.model.set_attn_implementation("sdpa")
    rows = [row_of(policy.model, number, temperature) for number in range(8)]
    policy.model.set_attn_implementation(PACKED)
    stage = OfflineStage(
        kind="offline", data="rows", steps=1, objective="grpo", credit={"baseline": "mean"}
    )

    def report(rows):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        samples = offline_samples(read_stored(path), stage, objective("grpo"))
        assert len(samples) == 8
        return make_learner(make_policy(), "grpo").update(samples)

    right = report(rows)
    assert right.off_policy_tokens == right.tokens == 64
    assert right.old_ratio_max == pytest.approx(1, abs=1e-4) and right.clip_frac == 0
    if temperature != 1.0:  # the mistake: rows without their temperature are read as drawn at 1
        wrong = report([{k: v for k, v in row.items() if k != "temperature"} for row in rows])
        assert wrong.old_ratio_max > 1.3 and wrong.clip_frac > 0
