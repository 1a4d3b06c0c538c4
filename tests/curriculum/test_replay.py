"""Replay on a record made by hand, pictures, the page's own sampler, and the cost of many tasks."""

from __future__ import annotations

import json
import re
import xml.dom.minidom
from pathlib import Path

import pytest

from rlcore.analysis.replay import Record, mean_advantage, replay
from rlcore.cli.main import main
from rlcore.curriculum.task_sampler import CURRICULA
from rlcore.plugin import build
from rlcore.run.plots import draw_categories, panels_svg
from tests.curriculum.test_category_samplers import tasks
from tests.curriculum.worlds import play
from tests.run.whole import TINY

STEPS = 30
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "curricula.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which 2-terms is always solved, 3-terms never, and 4-terms half the time; it drew only two tasks of each."""
    folder = tmp_path_factory.mktemp("recorded")
    recipe = TINY.replace(
        "tasks: demonstrations, steps: 6, groups", "tasks: demonstrations, steps: 30, groups"
    )
    recipe = recipe.replace(
        "size: 64, max_number: 4, terms: [2]", "size: 90, max_number: 4, terms: [2, 3, 4]"
    )
    (folder / "recipe.yaml").write_text(recipe)
    (folder / "rollouts").mkdir()
    categories: dict[str, list[int]] = {}
    from rlcore.tasks.arithmetic import arithmetic

    for i, task in enumerate(arithmetic(size=90, max_number=4, terms=[2, 3, 4])[:]):
        categories.setdefault(task.category, []).append(i)
    values = {
        "2-terms": (1.0, 1.0, 1.0, 1.0),
        "3-terms": (0.0, 0.0, 0.0, 0.0),
        "4-terms": (1.0, 0.0, 1.0, 0.0),
    }
    with (folder / "metrics.jsonl").open("w") as metrics:
        metrics.write(json.dumps({"step": 6, "stage": "sft"}) + "\n")
        for step in range(7, 7 + STEPS):
            shares = {f"curriculum/{category}/frac": 1 / 3 for category in categories}
            metrics.write(json.dumps({"step": step, "stage": "rl", **shares}) + "\n")
            for rank, place in enumerate(("", ".rank1")):
                rows = [
                    {"index": categories[category][rank], "category": category, "value": value}
                    for category in categories
                    for value in values[category]
                ]
                (folder / "rollouts" / f"{step:06d}{place}.jsonl").write_text(
                    "".join(json.dumps(row) + "\n" for row in rows)
                )
    return folder


def test_replay_ranks_samplers_by_what_they_would_have_drawn(recorded: Path) -> None:
    record = Record(recorded)
    assert record.steps == STEPS and mean_advantage((1.0, 0.0, 1.0, 0.0)) == pytest.approx(
        0.5 / (1 / 3) ** 0.5
    )
    plain = replay(record, "uniform", passes=10)
    bandit = replay(record, {"use": "sec", "temperature": 0.1, "unsampled": "keep"}, passes=10)
    only = replay(record, {"use": "mixture", "weights": {"4-terms": 1}}, passes=10)
    assert (
        only.shares == {"4-terms": 1.0}
        and only.mixed == 1.0
        and only.signal == pytest.approx(mean_advantage((1, 0, 1, 0)))
    )
    assert plain.mixed == pytest.approx(plain.shares["4-terms"]) and plain.mixed == pytest.approx(
        1 / 3, abs=0.1
    )
    assert bandit.mixed > 2 * plain.mixed and bandit.shares["4-terms"] == max(
        bandit.shares.values()
    )
    assert len(bandit.over_time["4-terms"]) == 10 * STEPS
    assert (
        replay(record, "uniform", passes=10)
        == plain
        != replay(record, "uniform", seed=1, passes=10)
    )


def test_the_command_prints_a_table_or_json_and_draws(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    plot = tmp_path / "replay.svg"
    samplers = ["--sampler", "uniform", "--sampler", "{use: sec, alpha: 0.3}"]
    words = ["curriculum", "replay", str(recorded), *samplers, "--plot", str(plot)]
    assert main(words) == 0 and "sec alpha=0.3" in capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["sampler"] for one in found["samplers"]] == ["uniform", "sec alpha=0.3"]
    drawn = xml.dom.minidom.parse(str(plot))
    assert len(drawn.getElementsByTagName("polyline")) == 6
    assert (
        main(["curriculum", "plot", str(recorded), "--out", str(tmp_path / "categories.svg")]) == 0
    )
    assert (
        len(
            xml.dom.minidom.parse(str(tmp_path / "categories.svg")).getElementsByTagName("polyline")
        )
        == 3
    )


def test_what_cannot_be_replayed_is_met_with_a_sentence(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for words, message in (
        ([str(tmp_path)], "is no run folder"),
        ([str(recorded), "--sampler", "unifrom"], "did you mean 'uniform'"),
    ):
        assert main(["curriculum", "replay", *words]) == 2 and message in capsys.readouterr().err
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 1, "stage": "rl", "curriculum/all/frac": 1.0}\n'
    )
    assert (
        not draw_categories(tmp_path, tmp_path / "categories.svg")
        and not (tmp_path / "categories.svg").exists()
    )


def test_points_are_drawn_to_scale() -> None:
    svg = panels_svg(
        {"<one>": {"a": [(0, 0.0), (10, 1.0)]}, "two": {"a": [(5, 0.5)]}},
        x="step",
        y="share",
        high=1.0,
    )
    assert (
        'points="0.0,180.0 640.0,0.0"' in svg
        and 'points="320.0,90.0"' in svg
        and "&lt;one&gt;" in svg
    )


def test_the_sampler_of_the_page_works_and_is_short(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(# my_samplers.py.*?)```", PAGE, flags=re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 25
    (tmp_path / "my_samplers.py").write_text(code)

    def make(seed: int):
        named = {"use": f"{tmp_path}/my_samplers.py:Frontier", "by": "level"}
        return build(named, CURRICULA, tasks(), what="curriculum", seed=seed)

    sampler = make(0)
    rates = {"easy": 0.95, "middle": 0.5, "hard": 0.0}
    counts = play(sampler, tasks(), lambda task, _: rates[task.category], steps=40, batch=12)
    first, last = counts[0], sum(counts[20:], type(counts[0])())
    assert max(first, key=first.get) == "easy" and max(last, key=last.get) == "middle"
    again = make(9)
    again.load_state_dict(json.loads(json.dumps(sampler.state_dict())))
    assert again.draw(20) == sampler.draw(20)


def test_the_page_names_every_sampler_gate_and_budget() -> None:
    from rlcore.curriculum.filter import FILTERS
    from rlcore.curriculum.length_budget import BUDGETS

    for name in [*CURRICULA, *FILTERS, *BUDGETS]:
        assert re.search(rf"\| `({{use: )?{name}\b", PAGE), name
