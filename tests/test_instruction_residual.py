"""The study of the instruction residual: its texts, what it merges, and that it goes on where it stopped."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from rlcore.errors import TaskError
from rlcore.plugin import import_file
from rlcore.recipe.load import load
from rlcore.run.checkpoint import all_checkpoints

PAPER = Path(__file__).resolve().parent.parent / "recipes/papers/instruction_residual"
texts = import_file(PAPER / "texts.py")
reproduce = import_file(PAPER / "reproduce.py")
SHORT = [f"stages.{stage}.steps=2" for stage in ("instruct", "base", "continued")] + [
    f"tasks.{tasks}.size=4" for tasks in ("eval_set", "first_heldout", "second_heldout")
]


def whole(task) -> str:
    return task.prompt + task.demonstration


@pytest.mark.parametrize("make", [texts.copies, lambda **keys: texts.sentences(subject="tools", **keys)])
def test_held_out_texts_are_never_trained(make) -> None:
    trained, heldout = ({whole(task) for task in make(split=split, size=300)} for split in ("train", "heldout"))
    assert trained and heldout and not trained & heldout


def test_pieces_are_the_documents_of_one_source(tmp_path: Path) -> None:
    rows = [{"source": f"{'ab'[i % 2]}/x:{i}", "text": f"word{i:02d} " * 12} for i in range(64)]
    path = tmp_path / "corpus.jsonl.gz"
    with gzip.open(path, "wt") as lines:
        lines.write("\n".join(json.dumps(row) for row in rows))
    split = {
        name: [whole(task) for task in texts.pieces([str(path)], source="a/", split=name, characters=40)]
        for name in ("train", "heldout")
    }
    expected = [row["text"][start : start + 40] for row in rows[::2] for start in (0, 40)]
    assert split["heldout"] == expected[0:2] + expected[32:34]
    assert split["train"] == expected[2:32] + expected[34:]
    with pytest.raises(TaskError, match="no document of 40 characters from 'c/'"):
        texts.pieces(str(path), source="c/", split="train", characters=40)
    with pytest.raises(TaskError, match="name a JSON Lines file"):
        texts.pieces(str(tmp_path / "none.jsonl"), source="a/", split="train")


def test_restored_is_continued_plus_instruct_minus_base(tmp_path: Path) -> None:
    def weights(name: str) -> dict[str, np.ndarray]:
        folder = tmp_path / "seed-0" / name
        folder = folder if name == "restored" else all_checkpoints(folder / "checkpoints")[-1]
        return {key: value.astype(np.float64) for key, value in load_file(folder / "model.safetensors").items()}

    results = reproduce.study(PAPER / "quick.yaml", tmp_path, seeds=[0], common=SHORT)
    instruct, base, continued, restored = map(weights, ("instruct", "base", "continued", "restored"))
    for name, value in restored.items():
        assert np.abs(continued[name] - base[name]).max() > 1e-5
        np.testing.assert_allclose(value, continued[name] + (instruct[name] - base[name]), atol=2e-7)
    losses = {cell: results.summary(cell, "second").mean for cell in reproduce.CELLS}
    assert len(set(losses.values())) == len(reproduce.CELLS)
    assert losses["continued"] < losses["base"] < losses["instruct"]
    for cell in reproduce.CELLS:
        assert f"| {cell} " in reproduce.table(results)

    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    reproduce.study(PAPER / "quick.yaml", tmp_path, seeds=[0], common=SHORT)
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}


def test_the_recipe_of_the_pretrained_model_has_the_same_stages() -> None:
    quick, full = (load(str(PAPER / f"{name}.yaml"), ()) for name in ("quick", "smollm2"))
    assert [stage.name for stage in quick.stages] == ["instruct", *(stage.name for stage in full.stages)]
    assert full.prompt.format == "chat" and all(
        getattr(stage, "train_on", "all") == "all" for stage in (*quick.stages, *full.stages)
    )
