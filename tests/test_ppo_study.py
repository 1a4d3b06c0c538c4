"""The page about the critic shows the table of its stored results."""

from __future__ import annotations

from pathlib import Path

from rlcore.analysis.study_results import StudyResults
from rlcore.plugin import import_file

ROOT = Path(__file__).parents[1]
STUDY = ROOT / "recipes/methods/ppo_beside_grpo.py"


def test_the_page_shows_the_stored_results() -> None:
    study = import_file(STUDY)
    results = StudyResults.read(STUDY.with_suffix(".json"))
    page = (ROOT / "docs/critic.md").read_text(encoding="utf-8")
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
