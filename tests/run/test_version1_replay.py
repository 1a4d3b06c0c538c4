"""Version 1's requests of five steps, replayed: same requests, metrics and weights, bit for bit, with and without a filter.

`version1.json` was recorded by version 1 before the generator was rebuilt. Requests (ids, seeds, prompts, order of submission)
must be equal on any machine; bits of floating-point results are compared where the processor computes as the recording one did.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from rlcore.recipe.load import load
from rlcore.rollout.hf import HfEngine
from rlcore.run.driver import train
from rlcore.run.folder import read_rows
from tests.run.whole import run_folder, untimed, weights, write_recipe

RECORDED = json.loads((Path(__file__).parent / "version1.json").read_text())
FILES = {"metrics": "metrics.jsonl", "evals": "eval.jsonl"}
LONGER = "stages.rl.rewards=[{use: length, max_tokens: 9}]"
CASES = {"plain": [], "filter": ["stages.rl.filter=zero_variance", LONGER]}
RENAMED = {
    "truncated_share": "completions/frac_truncated",
    "zero_variance_share": "reward/frac_zero_std",
    "unscorable_share": "reward/frac_unscored",
    "wrong_format_share": "reward/frac_wrong_format",
    "length/mean": "completions/length/mean",
    "gate/waste": "tokens/frac_wasted",
    "gate/rounds": "filter/tried_per_group",
    "gate/filled": "filter/frac_filled",
    "kl": "mismatch/kl",
    "ratio/max": "mismatch/ratio_max",
    "clip_share": "clip_frac",
    "staleness": "staleness/mean",
    "answers": "completions",
}


def fingerprint_of_arithmetic() -> str:
    """Equal where matrix products, exponentials and sums round alike."""
    generator = torch.Generator().manual_seed(0)
    digest = hashlib.sha256()
    for rows, inner, columns in ((16, 64, 64), (128, 64, 259), (5, 64, 32)):
        a = torch.randn(rows, inner, generator=generator)
        b = torch.randn(inner, columns, generator=generator)
        digest.update((a @ b).log_softmax(-1).exp().cumsum(-1).numpy().tobytes())
    return digest.hexdigest()


def renamed(row: dict[str, Any]) -> dict[str, Any]:
    row = {RENAMED.get(key, key): value for key, value in row.items()}
    return {re.sub(r"^curriculum/(.*)/share$", r"curriculum/\1/frac", k): v for k, v in row.items()}


@pytest.mark.parametrize("case", CASES)
def test_version_1_is_replayed(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded, submitted = RECORDED[case], []
    submit = HfEngine.submit

    def record(self: HfEngine, requests: list) -> None:
        submitted.append(
            [
                [r.id, r.seed, r.prompt_ids, r.sampling.max_tokens]
                for r in requests
                if not r.prefix_ids
            ]
        )
        submit(self, requests)

    monkeypatch.setattr(HfEngine, "submit", record)
    recipe = write_recipe(tmp_path)
    # Evaluation seeds follow from the name of the task set.
    recipe.write_text(recipe.read_text().replace("eval_set", "exam"))
    train(load(str(recipe), ["stages.rl.steps=5", *CASES[case]]), console=Console(quiet=True))
    without_batch = [
        [[re.sub(r"#\d+\.", "#", id), *rest] for id, *rest in requests] for requests in submitted
    ]
    assert without_batch == recorded["submitted"]
    folder = run_folder(recipe)
    exact = fingerprint_of_arithmetic() == RECORDED["arithmetic"]
    for name in ("metrics", "evals"):
        rows = untimed(read_rows(folder / f"{FILES[name]}"))
        for before, now in zip(recorded[name], rows, strict=True):
            before = renamed(before)
            assert before.keys() <= now.keys()
            for key, value in before.items():
                if not exact and isinstance(value, float):  # texts and numbers of tokens are equal on all machines
                    value = pytest.approx(value, rel=1e-3, abs=1e-4)
                assert now[key] == value, key
    final = weights(folder)
    if exact:
        hashes = {key: hashlib.sha256(value).hexdigest() for key, value in final.items()}
        assert hashes == recorded["weights_sha256"]
    for key, total in recorded["weights_abs_sum"].items():
        tensor = torch.frombuffer(bytearray(final[key]), dtype=torch.float32)
        assert float(tensor.double().abs().sum()) == pytest.approx(total, rel=2e-4)
