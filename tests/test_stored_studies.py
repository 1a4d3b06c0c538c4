"""Pages of studies show the tables of their stored results, and what they say of single runs is true of them."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from rlcore.analysis.study_results import StudyResults, study_table
from rlcore.plugin import import_file

RECIPES = Path(__file__).parents[1] / "recipes"


def test_ppo_beside_grpo() -> None:
    study = import_file(RECIPES / "methods/ppo_beside_grpo.py")
    results = StudyResults.read(RECIPES / "methods/ppo_beside_grpo.json")
    page = (RECIPES.parent / "docs/critic.md").read_text(encoding="utf-8")
    assert study.table(results).partition("\n\n")[0] in page
    assert set(results.cells) == set(study.CELLS)
    assert all(len(cell.runs) == 3 for cell in results.cells.values())
    of_grpo = results.values("GRPO, 32 x 16", "held out")
    for cell, said in (
        ("PPO, 32 x 16", "-0.002, -0.006, -0.018"),
        ("PPO, 512 x 1", "+0.018, +0.055, +0.045"),
        ("REINFORCE, 512 x 1", "+0.027, +0.066, +0.031"),
    ):
        pairs = zip(results.values(cell, "held out"), of_grpo, strict=True)
        assert ", ".join(f"{one - other:+.3f}" for one, other in pairs) == said and said in page


def test_ready_environments() -> None:
    study = import_file(RECIPES / "environments/reproduce.py")
    names = ("number_guessing", "calculator", "facts", "grid_world")
    results = {name: StudyResults.read(RECIPES / f"environments/{name}.json") for name in names}
    page = (RECIPES / "environments/README.md").read_text(encoding="utf-8")
    assert study.table(results).partition("\n\n")[0] in page
    seeds = {name: len(one.values("RL", "gain")) for name, one in results.items()}
    assert seeds == {"number_guessing": 3, "calculator": 5, "facts": 3, "grid_world": 3}
    gains = [gain for one in results.values() for gain in one.values("RL", "gain")]
    assert min(gains) > 0.21 and "at least 21 points" in page
    lower = []
    for one in results.values():
        gain = one.summary("RL", "gain")
        lower.append(f"{100 * (gain.mean - gain.half_width):.1f}")
    assert f"{', '.join(lower[:-1])} and {lower[-1]} points" in page


@pytest.mark.parametrize(("paper", "seeds"), [("gigpo", 4), ("masksearch", 3), ("mobile_r1", 3)])
def test_papers_of_environments(paper: str, seeds: int) -> None:
    study = import_file(RECIPES / "papers" / paper / "reproduce.py")
    results = StudyResults.read(RECIPES / "papers" / paper / "results.json")
    table = getattr(study, "table", study_table)(results).partition("\n\n")[0]
    assert table in (RECIPES / "papers" / paper / "README.md").read_text(encoding="utf-8")
    assert {cell: tuple(ran.overrides) for cell, ran in results.cells.items()} == study.CELLS
    assert all(len(cell.runs) == seeds for cell in results.cells.values())


@pytest.mark.parametrize(
    ("paper", "seeds"),
    [("rlp", 5), ("pretrain_zero", 5), ("rmt", 5), ("train_long_think_short", 12)],
)
def test_papers_of_plain_text_and_budgets(paper: str, seeds: int) -> None:
    study = import_file(RECIPES / "papers" / paper / "reproduce.py")
    results = StudyResults.read(RECIPES / "papers" / paper / "results.json")
    page = (RECIPES / "papers" / paper / "README.md").read_text(encoding="utf-8")
    shown = getattr(study, "table", study_table)
    assert shown(results).partition("\n\n")[0] in page
    assert {cell: tuple(ran.overrides) for cell, ran in results.cells.items()} == study.CELLS
    assert all(len(cell.runs) == seeds for cell in results.cells.values())
    assert page.split("\n\n")[1].startswith("**Outcome: ")


def test_rlpt_on_texts_of_two_rules() -> None:
    results = StudyResults.read(RECIPES / "papers/rlpt/results.json")
    page = (RECIPES / "papers/rlpt/README.md").read_text(encoding="utf-8")
    for cell in ("RLPT", "next-token training and replay", "next-token training, 3e-4"):
        gain = results.difference(cell, "nothing", "sums, worked: after RLVR")
        assert f"{100 * gain.mean:+.1f} ± {100 * gain.half_width:.1f} points" in page
    assert min(results.values("other rule, RLPT", "other rule: after")) > 0.3
    study = import_file(RECIPES / "papers/rlpt/reproduce.py")
    assert study.table(results).partition("\n\n")[0] in page
    assert {cell: tuple(ran.overrides) for cell, ran in results.cells.items()} == study.CELLS
    assert all(len(cell.runs) == 5 for cell in results.cells.values())
    columns = study.COLUMNS.values()
    same = [results.values(cell, name) for cell in ("RLPT", "RLPT, strict reward") for name in columns]
    assert same[: len(columns)] == same[len(columns) :]


def test_sec_on_nine_categories() -> None:
    study = import_file(RECIPES / "papers/sec/reproduce_domains.py")
    page = (RECIPES / "papers/sec/README.md").read_text(encoding="utf-8")
    results = StudyResults.read(RECIPES / "papers/sec/domains.json")
    assert study.table(results).partition("\n\n")[0] in page
    assert list(results.cells) == list(study.CELLS)
    chosen = StudyResults.read(RECIPES / "papers/sec/domains_validation.json")
    best = max(chosen.cells, key=lambda cell: chosen.summary(cell, "outside").mean)
    assert best == f"temperature {study.TEMPERATURE}, alpha {study.ALPHA}"


def test_steps_that_are_right_for_a_wrong_reason() -> None:
    results = StudyResults.read(RECIPES / "papers/rl_on_incorrect/spurious.json")
    page = (RECIPES / "papers/rl_on_incorrect/README.md").read_text(encoding="utf-8")
    assert results.derived["table"].partition("\n\n")[0] in page
    factors = {name: found["factor"] for name, found in results.derived["factors"].items()}
    assert 0.9 < factors["rft, all"] < factors["rft, 4 distinct"] < 1.1, "as many problems as SFT"
    assert 0.6 < factors["advantage-weighted"] < 0.8
    assert max(factor for name, factor in factors.items() if name.startswith("dpo")) == factors["dpo, first pit"]


def test_rlp_on_real_text() -> None:
    results = StudyResults.read(RECIPES / "papers/rlp/smollm2.json")
    page = (RECIPES / "papers/rlp/README.md").read_text(encoding="utf-8")
    assert study_table(results).partition("\n\n")[0] in page
    assert results.values("RLP", "before: gain") < results.values("RLP", "after: gain") < [0.0]
    assert "**RLP did not teach this model to think.**" in page


def test_rlpt_on_real_text() -> None:
    results = StudyResults.read(RECIPES / "papers/rlpt/smollm2.json")
    page = (RECIPES / "papers/rlpt/README.md").read_text(encoding="utf-8")
    assert study_table(results).partition("\n\n")[0] in page
    for form in ("ASR", "MSR", "ASR, greedy", "MSR, greedy"):
        (before,), (after,) = (results.values("RLPT", f"{form}: {when}") for when in ("before", "after"))
        assert abs(after - before) < 0.02
    assert "SmolLM2-135M: no effect in 60 steps" in page


def test_tulu3_in_two_seeds() -> None:
    study = import_file(RECIPES / "papers/tulu3/reproduce.py")
    results = StudyResults.read(RECIPES / "papers/tulu3/results.json")
    page = (RECIPES / "papers/tulu3/README.md").read_text(encoding="utf-8")
    assert study.table(results).partition("\n\n")[0] in page
    for cell, ran in results.cells.items():
        assert tuple(ran.overrides) == study.CELLS[cell] and len(ran.runs) == 2
    for cell in results.cells:
        words, constraints = (results.values(cell, f"{skill} after RLVR") for skill in ("words", "constraints"))
        assert all(now < before for now, before in zip(words, results.values(cell, "words after SFT"), strict=True))
        assert all(now > before for now, before in zip(constraints, results.values(cell, "constraints after SFT"), strict=True))
    assert page.split("\n\n")[1].startswith("**Outcome: two of five seeds so far.")


STUDIES = sorted(
    str(path.relative_to(RECIPES))
    for path in RECIPES.rglob("*.py")
    if any(word in path.read_text() for word in ("study_arguments", "study_main", '"--table"'))
)


@pytest.mark.parametrize("script", STUDIES)
def test_what_goes_wrong_is_one_sentence(script: str, tmp_path: Path, monkeypatch, capsys) -> None:
    text = (RECIPES / script).read_text()
    place = "--out" if '"--out"' in text else "--folder"
    monkeypatch.setattr(sys, "argv", [script, "--table", place, str(tmp_path / "absent")])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(RECIPES / script), run_name="__main__")
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and "Traceback" not in said
