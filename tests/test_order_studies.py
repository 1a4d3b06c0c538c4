"""The small studies of data order: every cell is a valid recipe, cells differ where they say, and every number is measured."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from rlcore.analysis.study import CellRun, run_study
from rlcore.analysis.study_results import StudyResults
from rlcore.bench.measure import Seconds
from rlcore.errors import RecipeError
from rlcore.learner.policy import load_policy
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
    "masked_thought": "sums", "meco": "meco", "checkpoint_averages": "averages",
}  # fmt: skip


def module(name: str, file: str = "reproduce") -> ModuleType:
    return import_file(PAPERS / name / f"{file}.py")


@pytest.mark.parametrize("name", STUDIES)
def test_every_cell_is_a_recipe_of_its_own(name: str) -> None:
    path = str(PAPERS / name / f"{STUDIES[name]}.yaml")
    cells = {cell: load(path, overrides) for cell, overrides in module(name).CELLS.items()}
    dumps = {json.dumps([stage.model_dump(mode="json") for stage in recipe.stages]) for recipe in cells.values()}
    assert len(dumps) == len(cells)
    if name not in ("dataset_decomposition", "meco"):  # which need their corpus
        for recipe in cells.values():
            assert check(recipe)


RESULTS = [(path.parent.name, "reproduce", path.name) for path in sorted(PAPERS.glob("*/results.json"))]
RESULTS = [result for result in RESULTS if result[0] in STUDIES] + [("dataset_decomposition", "speed", "speed.json")]


@pytest.mark.parametrize("name, file, stored", RESULTS)
def test_the_table_of_the_page_is_that_of_the_results(name: str, file: str, stored: str) -> None:
    study = module(name, file)
    results = StudyResults.read(PAPERS / name / stored)
    table = study.table(results).partition("\n\n")[0]
    assert table in (PAPERS / name / "README.md").read_text(encoding="utf-8")
    assert set(results.cells) == set(study.CELLS)
    assert all(len(cell.runs) >= 3 for cell in results.cells.values())
    if file == "reproduce":
        assert {cell: tuple(ran.overrides) for cell, ran in results.cells.items()} == study.CELLS


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


def test_every_side_reads_as_many_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLCORE_CACHE", str(tmp_path))
    paragraph = "The rain fell on the hills, and the river rose slowly through the night until {} o'clock."
    texts = ["\n\n".join(paragraph.format(i * 31 + j) for j in range(i % 7 + 3)) for i in range(60)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    study = module("dataset_decomposition", "speed")
    paths = [f"tasks.{name}.path={tmp_path / 'texts.jsonl'}" for name in ("pieces", "chunks")]
    recipe = load(study.RECIPE, [*study.at_context(1024), *paths])
    sides, fractions = study.batches(recipe, 1024)
    assert {sum(task.columns["tokens"] for task in side) for side in sides.values()} == {1024}
    assert {len({task.columns["tokens"] for task in side}) for side in sides.values()} == {1}
    assert set(sides) == {*fractions, "chunks"} and len(sides) > 3
    assert sum(fractions.values()) == pytest.approx(1)


def test_the_speed_of_buckets_is_that_of_an_epoch() -> None:
    study = module("dataset_decomposition", "speed")
    seconds = {"chunks": [Seconds(9, 2.0), Seconds(1, 4.0)], "64": [Seconds(9, 1.0)] * 2, "128": [Seconds(9, 0.5)] * 2}
    values = study.speed(seconds, {"64": 0.25, "128": 0.75}, 128)
    epoch = 0.25 * 1.0 + 0.75 * 0.5
    assert values["ratio"] == pytest.approx(3.0 / epoch)
    assert values["tokens/s, chunks"] == pytest.approx(128 / 3.0) and values["tokens/s, buckets"] == pytest.approx(128 / epoch)


def test_cells_of_decomposition_have_equal_tokens() -> None:
    study = module("dataset_decomposition")
    for cell, overrides in study.CELLS.items():
        recipe = load(str(study.RECIPE), overrides)
        stage = recipe.stages[0]
        sections = {name: section.model_dump() for name, section in recipe.tasks.items()}
        assert sections["pieces"]["keep"]["max_chars"] < sections["chunks"]["form"]["length"] == 2048
        longest = 2048 if stage.tasks == "chunks" else 1024  # no document fills the context
        assert stage.batch_size * longest == 2048, cell


def sources(path: Path) -> Path:
    rows = []
    for name in ("a/one", "b/two"):
        for number in range(20):
            text = f"Document {number} of {name}, line {{}}. " * 12
            rows.append({"source": f"{name}:{number}.md", "text": text.format(*range(12))})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_pieces_know_their_source_and_keep_to_their_split(tmp_path: Path) -> None:
    pieces = module("meco", "documents").pieces
    path = str(sources(tmp_path / "texts.jsonl"))
    train = pieces(path, split="train", per_source=100, characters=96)
    heldout = pieces(path, split="heldout", per_source=100, characters=96)
    documents = [{task.id.rpartition("/")[0] for task in tasks} for tasks in (train, heldout)]
    assert documents[1] == {"a/one/0", "a/one/16", "b/two/0", "b/two/16"} and not documents[0] & documents[1]
    assert {task.columns["url"] for task in train} == {"github.com/a/one", "github.com/b/two"}
    whole = [row["text"] for row in map(json.loads, Path(path).read_text().splitlines())]
    for task in train:
        text = f"{task.prompt}{task.demonstration}"
        assert len(text) == 96 and any(text in document for document in whole)
        assert task.columns["url"].endswith(task.category)
    assert len(pieces(path, split="train", per_source=5, characters=96)) == 10


def test_a_wrong_url_is_that_of_another_source(tmp_path: Path) -> None:
    tasks = module("meco", "documents").pieces(str(sources(tmp_path / "texts.jsonl")), split="train", per_source=4, characters=96)
    before = module("meco").prefixes(tasks)
    assert set(before["no"]) == {""}
    for task, own, another in zip(tasks, before["own"], before["another"], strict=True):
        assert own == f"URL: {task.columns['url']}\n\n" and another != own and another in before["own"]


def test_losses_behind_metadata_are_those_of_the_piece_alone(tmp_path: Path) -> None:
    study = module("meco")
    recipe = load(str(study.RECIPE))
    policy = load_policy(config=recipe.model.config, tokenizer="bytes", dtype="float32", seed=1)
    tasks = module("meco", "documents").pieces(str(sources(tmp_path / "texts.jsonl")), split="train", per_source=2, characters=96)
    read = study.token_losses(policy, tasks)
    policy.model.set_attn_implementation("sdpa")
    for i, task in enumerate(tasks):
        for kind, prefix in (("no", ""), ("own", f"URL: {task.columns['url']}\n\n")):
            ids = torch.tensor([policy.tokenizer(f"{prefix}{task.prompt}{task.demonstration}", add_special_tokens=False).input_ids])
            logits = policy.model(ids).logits[0, :-1].double()
            reference = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
            assert len(read[kind][i]) == 96 - 16
            assert read[kind][i] == pytest.approx(reference[-80:].tolist(), abs=1e-4)


def test_what_a_loss_is_worth_in_plain_tokens(tmp_path: Path) -> None:
    """Plain losses on a line over the logarithm of tokens: a loss that plain training has after k T tokens is worth k."""
    study = module("meco")
    results = StudyResults(tmp_path / "results.json", "meco", {})

    def line(tokens: float) -> float:
        return 3.0 - 0.4 * math.log(tokens)

    fractions = {"plain": 1.0, "plain, two thirds of the tokens": 2 / 3, "MeCo": 1.5, "MeCo without cooldown": 1.0}
    for cell, fraction in fractions.items():
        results.add(cell, 0, {"no metadata": line(fraction)}, seconds=0.0)
    assert study.worth(results) == pytest.approx([1.5])


def test_sums_of_rising_quality_are_the_same_problems() -> None:
    tasks = module("checkpoint_averages", "quality").sums(size=2000, seed=3, mistakes=0.6)
    plain = build_tasks(TaskSection(use="arithmetic", split="train", size=2000, seed=3))
    assert [task.prompt for task in tasks] == [task.prompt for task in plain]
    qualities = [task.columns["quality"] for task in tasks]
    assert qualities == sorted(qualities) and (qualities[0], qualities[-1]) == (0.0, 1.0)
    wrong = [task.demonstration != right.demonstration for task, right in zip(tasks, plain, strict=True)]
    chance = [0.6 * (1 - quality) for quality in qualities]
    # A result under 10 is never wrong, which few sums have.
    assert sum(wrong[:500]) == pytest.approx(sum(chance[:500]), abs=50)
    assert sum(wrong[1500:]) == pytest.approx(sum(chance[1500:]), abs=25)


def test_averages_span_the_decay() -> None:
    study = module("checkpoint_averages")
    recipe = load(str(study.RECIPE), study.CELLS["ascending, decay"])
    stage = recipe.stages[0]
    window = stage.optim.schedule["decay_fraction"] * stage.steps
    assert (study.LAST - 1) * recipe.run.checkpoint_every == window and recipe.run.keep_checkpoints == study.LAST
    assert stage.steps * stage.batch_size == recipe.tasks["demonstrations"].model_dump()["size"]


def test_a_study_of_a_stage_that_is_not_there(tmp_path: Path) -> None:
    recipe = str(PAPERS / "domain_upsampling/upsampling.yaml")
    with pytest.raises(RecipeError, match="has no stage 'late' to study"):
        run_study(recipe, {}, seeds=[0], folder=tmp_path, measures={}, first="late")
