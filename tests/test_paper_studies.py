"""The small studies of RL on plain text: every cell is a valid recipe, and every number of the table is measured somewhere."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from rlcore.analysis.study import CellRun
from rlcore.plugin import import_file
from rlcore.recipe.load import load
from rlcore.stages.eval import EvalStage
from rlcore.stages.rl import RlStage
from rlcore.stages.sft import SftStage

PAPERS = Path(__file__).resolve().parent.parent / "recipes/papers"
STUDIES = {"rlp": "rlp", "rlpt": "rlpt", "pretrain_zero": "blanks", "rmt": "rmt"}
EVAL = {"accuracy": 0.5, "completions/length/mean": 12.0} | {
    f"reward/information_gain{part}": 0.25 for part in ("", "/thought", "/plain")
}


def study(name: str) -> ModuleType:
    return import_file(PAPERS / name / "reproduce.py")


@pytest.mark.parametrize("name", STUDIES)
def test_every_cell_and_every_number_is_there(name: str, tmp_path: Path) -> None:
    module, path = study(name), str(PAPERS / name / f"{STUDIES[name]}.yaml")
    rollouts = tmp_path / "rollouts"
    rollouts.mkdir()
    mask = {"category": "mask", "prompt": "dbfa=3 it QX!", "text": "<m>3</m>"}
    guesses = [{"category": "predict", "prompt": "dbfa=[MASK] it QX?", "value": value} for value in (1.0, 0.0)]
    for cell, overrides in getattr(module, "CELLS", {"rlp": ()}).items():
        stages = load(path, overrides).stages
        evals = {stage.name: EVAL for stage in stages if isinstance(stage, EvalStage)}
        label = "rlvr" if cell == "nothing" else "rl"
        trained = next(stage for stage in stages if stage.label == label)
        assert isinstance(trained, SftStage if "next-token training" in cell else RlStage)
        rows = [
            {"step": step, "stage": "rl", "tokens/trained": 7, "tokens/prompt": 3}
            for step in range(101, 101 + trained.steps)
        ]
        for line in rows:
            (rollouts / f"{line['step']:06d}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (mask, *guesses)))
        found = {
            key: measure(CellRun(cell, 0, evals, rows, tmp_path))
            for key, measure in module.MEASURES.items()
        }
        assert all(isinstance(value, float | int) for value in found.values())
        if name == "pretrain_zero":
            last = module.STEPS[-1]
            assert last == trained.steps and found[f"step {last}: masks that are inferable"] == 1
            assert found["step 1: masks that are noise"] == 0
            assert found["step 10: inferable spans guessed"] == 0.5


def test_next_token_training_has_as_many_tokens_as_rlpt() -> None:
    """RLPT's are at most its prompts and longest worked answers; texts have 26 to 37 bytes."""
    module = study("rlpt")
    rl, sft = (
        next(
            stage
            for stage in load(str(PAPERS / "rlpt/rlpt.yaml"), cell).stages
            if stage.label == "rl"
        )
        for cell in (module.CELLS["RLPT"], module.CELLS["next-token training"])
    )
    answers = rl.steps * rl.groups_per_step * rl.group_size
    assert answers * 35 < sft.steps * sft.batch_size * 34 < answers * 50
