"""The small studies of data order: every cell is a valid recipe, cells differ where they say, and every number is measured."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from rlcore.analysis.study import CellRun, run_study
from rlcore.analysis.study_results import StudyResults
from rlcore.errors import RecipeError
from rlcore.plugin import import_file
from rlcore.recipe.build import build_tasks
from rlcore.recipe.check import check
from rlcore.recipe.load import load
from rlcore.recipe.task_sections import TaskSection
from rlcore.tokenizer import load_tokenizer

PAPERS = Path(__file__).resolve().parent.parent / "recipes/papers"
STUDIES = {
    "domain_upsampling": "upsampling", "stability_gap": "shift",
    "cyclical_curriculum": "cycle", "dataset_decomposition": "decompose",
}  # fmt: skip


def module(name: str, file: str = "reproduce") -> ModuleType:
    return import_file(PAPERS / name / f"{file}.py")


@pytest.mark.parametrize("name", STUDIES)
def test_every_cell_is_a_recipe_of_its_own(name: str) -> None:
    path = str(PAPERS / name / f"{STUDIES[name]}.yaml")
    cells = {cell: load(path, overrides) for cell, overrides in module(name).CELLS.items()}
    dumps = {json.dumps([stage.model_dump(mode="json") for stage in recipe.stages]) for recipe in cells.values()}
    assert len(dumps) == len(cells)
    if name != "dataset_decomposition":  # which needs its corpus
        for recipe in cells.values():
            assert check(recipe)


RESULTS = [(path.parent.name, "reproduce") for path in sorted(PAPERS.glob("*/results.json")) if path.parent.name in STUDIES]


@pytest.mark.parametrize("name, file", RESULTS)
def test_the_table_of_the_page_is_that_of_the_results(name: str, file: str) -> None:
    results = StudyResults.read(PAPERS / name / "results.json")
    table = module(name, file).table(results).partition("\n\n")[0]
    assert table in (PAPERS / name / "README.md").read_text(encoding="utf-8")
    cells = module(name, file).CELLS
    assert {cell: tuple(ran.overrides) for cell, ran in results.cells.items()} == cells
    assert all(len(ran.runs) >= 3 for ran in results.cells.values())


def test_the_dropped_domain_shares_all_steps_before_the_switch() -> None:
    study = module("domain_upsampling")
    mixes = [json.loads(study.CELLS[cell][0].partition("=")[2])["phases"] for cell in ("last 20%", "last 20%, drop reverse")]
    assert mixes[0][0] == mixes[1][0] == {"until": 160, "weights": study.BASE}
    assert sum(study.BASE.values()) == sum(study.RAISED.values()) == sum(study.DROPPED.values()) == 100


def test_replay_is_the_share_it_says() -> None:
    study = module("stability_gap")
    weights = json.loads(study.replay(0.3).partition("=")[2])["phases"][0]["weights"]
    assert weights.pop("sort") == 0.7 and sum(weights.values()) == pytest.approx(0.3) and len(weights) == 4


def test_the_gap_of_a_cell_is_that_of_its_log(tmp_path: Path) -> None:
    study = module("stability_gap")
    rows = [(0, 0, 0.9), (1, 5, 0.5), (1, 10, 0.95), (2, 10, 0.95)]
    lines = []
    for index, step, accuracy in rows:
        during = {"during": "shift"} if index == 1 else {}
        for name, shown in (("old", accuracy), ("new", 0.25)):
            lines.append({"stage_index": index, "step": step, "eval_set": name, "accuracy": shown, **during})
    (tmp_path / "eval.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = CellRun("cell", 0, {}, [], tmp_path)
    values = {name: measure(run) for name, measure in study.MEASURES.items()}
    assert values == pytest.approx(
        {"old before": 0.9, "depth": 0.4, "steps to lowest": 5, "steps to return": 10, "old after": 0.95, "new after": 0.25}
    )


def test_scores_become_columns(tmp_path: Path) -> None:
    scored = str(PAPERS / "cyclical_curriculum/scored.py") + ":problems"
    plain = build_tasks(TaskSection(use=scored, size=2, scores=None))
    assert {task.columns["ease"] for task in plain} == {1.0}
    path = tmp_path / "scores.json"
    path.write_text(json.dumps({plain[0].id: 0.25, plain[1].id: 0.0}))
    tasks = build_tasks(TaskSection(use=scored, size=2, scores=str(path)))
    assert [tasks[i].columns["ease"] for i in range(3)] == [4.0, 1e4, 1.0]
    assert tasks[0].columns["hardness"] == 0.25


def test_chunks_are_all_documents_joined() -> None:
    tokenizer = load_tokenizer("bytes")
    texts = ["abc", "defgh", "ij"]
    prepared = SimpleNamespace(table=[{"id": str(i), "text": text} for i, text in enumerate(texts)])
    chunks = module("dataset_decomposition", "chunks").chunk_tasks(prepared, tokenizer=tokenizer, length=4)
    joined = [token for chunk in chunks for token in chunk.demonstration]
    assert len(chunks) == 3 and len(joined) == 12  # 13 tokens with three ends
    text = tokenizer.decode(joined)
    assert sorted(part for part in text.split(tokenizer.eos_token) if part)[0][:2] in {"ab", "de", "ij"}


def test_a_study_of_a_stage_that_is_not_there(tmp_path: Path) -> None:
    recipe = str(PAPERS / "domain_upsampling/upsampling.yaml")
    with pytest.raises(RecipeError, match="has no stage 'late' to study"):
        run_study(recipe, {}, seeds=[0], folder=tmp_path, measures={}, first="late")
