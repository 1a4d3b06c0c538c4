"""Reports of real runs in a real browser: the quickstart, an environment, and SmolLM2 killed twice. Slow tier: run with -m slow."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlcore.analysis.diagnose import diagnose, steps_of
from rlcore.analysis.report.page import Report
from rlcore.run.folder import read_rows
from tests.report.browser import browser_session, opened

pytestmark = pytest.mark.slow

SMOLLM2 = Path("~/.cache/rlcore/models/smollm2").expanduser()
DEADLINE_S = 900
SEVERAL = ("num_samples=4", "greedy=true")


@pytest.fixture(scope="module")
def browser():
    with browser_session() as session:
        yield session


def command(recipe: str, folder: Path, *settings: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "rlcore",
        "train",
        recipe,
        f"run.folder={folder}",
        "engine.use=hf",
        *settings,
    ]


def kill_after(arguments: list[str], metrics: Path, rows: int) -> None:
    """Start a run, and kill it without warning when it has logged this many steps."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + DEADLINE_S
        while not metrics.exists() or metrics.read_bytes().count(b"\n") < rows:
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline, "the run takes too long"
            time.sleep(0.2)
    finally:
        process.kill()
        process.wait(timeout=60)


def check_page(browser, run: Path, rollouts: int, name: str) -> None:
    """Everything drawn, no complaint, filters answer, at both widths."""
    page = run / "report.html"
    Report([run], page).write()
    assert page.stat().st_size < 3_000_000
    for size in ("desktop", "phone"):
        with opened(browser, page, size=size) as shown:
            tab = shown.page
            assert tab.evaluate("charts") > 15
            assert (
                tab.evaluate("document.documentElement.scrollWidth")
                <= tab.viewport_size["width"]
            )
            assert shown.count() == f"{rollouts:,} of {rollouts:,} rollouts"
            best = max(
                row["value"] for path in (run / "rollouts").iterdir() for row in read_rows(path)
            )
            tab.fill("#reward-from", str(best))
            tab.click(".list .row >> nth=0")
            tab.wait_for_selector(".detail .token")
            assert f"{best:.4g}" in tab.inner_text(".list .row >> nth=0")
            tab.click("#clear")
            check_colours(tab)
            tab.click("#clear")
            shown.screenshot(f"{name}_{size}")
            assert shown.problems == []


def check_colours(tab) -> None:
    """Trained rollouts, unlike those of evaluations and of groups of equal rewards, have the colours of what the learner computed."""
    tab.select_option("#in-stage", "rl")
    offered = "!document.querySelector('#colouring option[value=entropy]').disabled"
    opened_one = (
        f"(async () => {{ for (const at of Viewer.matches) {{ await Viewer.open(at); if ({offered}) return true }} "
        "return false })()"
    )
    assert tab.evaluate(opened_one)
    tab.select_option("#colouring", "gap")
    tab.select_option("#colouring", "entropy")
    coloured = tab.locator(".detail .token[style*='142,84,201']")
    assert 0 < coloured.count() <= tab.locator(".detail .token").count()
    title = coloured.first.get_attribute("title")
    assert "entropy" in title and "log-probability" in title
    tab.select_option("#colouring", "advantage")


def test_the_quickstart(browser, tmp_path: Path) -> None:
    short = ("stages.sft.steps=200", "stages.rl.steps=12", "stages.rl.groups_per_step=16")
    short += ("tasks.eval_set.size=128",)
    subprocess.run(
        command("quickstart", tmp_path, *short),
        check=True,
        timeout=DEADLINE_S,
        stdout=subprocess.DEVNULL,
    )
    check_page(browser, tmp_path / "quickstart", 12 * 16 * 16 + 2 * 128, "quickstart")
    assert diagnose(steps_of(tmp_path / "quickstart")) == []


def test_an_environment(browser, tmp_path: Path) -> None:
    """Turns as they were generated, and evaluations with several completions a task."""
    short = ("stages.sft.steps=60", "stages.rl.steps=3", "stages.rl.groups_per_step=4")
    several = [f"stages.{name}.{key}" for name in ("before", "after") for key in SEVERAL]
    short += ("tasks.eval_set.size=24", *several)
    subprocess.run(
        command("environments/number_guessing", tmp_path, *short),
        check=True,
        timeout=DEADLINE_S,
        stdout=subprocess.DEVNULL,
    )
    run = tmp_path / "number-guessing"
    trained, evaluated = 3 * 4 * 16, 2 * 24 * (4 + 1)
    check_page(browser, run, trained + evaluated, "environment")
    with opened(browser, run / "report.html") as shown:
        evaluations = shown.page.inner_text("#evaluations")
        for column in ("pass@2", "pass@4", "greedy"):
            assert column in evaluations
        shown.page.click(".list .row >> nth=0")
        shown.page.wait_for_selector(".detail .turn.observation")
        turns = shown.page.locator(".detail .turn small").all_inner_texts()
        assert len(turns) >= 4, "a prompt, a guess, a reply and a second guess"
        kinds = [text.rpartition(": ")[2] for text in turns[1:]]
        assert kinds[::2] == ["completion"] * len(kinds[::2])
        assert kinds[1::2] == ["observation"] * len(kinds[1::2])


@pytest.mark.skipif(
    not SMOLLM2.is_dir(), reason="no SmolLM2 here: rlcore models get smollm2 brings it"
)
def test_smollm2_killed_twice(browser, tmp_path: Path) -> None:
    short = (
        "stages.rl.steps=5",
        "stages.rl.groups_per_step=3",
        "stages.rl.group_size=4",
        "sampling.max_tokens=24",
    )
    short += (
        "stages.before.limit=4",
        "stages.after.limit=4",
        "run.checkpoint_every=1",
        "run.keep_checkpoints=1",
        # groups of equal rewards count, so that every step trains its tokens
        "stages.rl.credit.zero_variance=keep",
    )
    arguments = command("instruct", tmp_path, *short)
    run = tmp_path / "instruct"
    kill_after(arguments, run / "metrics.jsonl", 2)
    kill_after([*arguments, "--resume"], run / "metrics.jsonl", 4)
    subprocess.run(
        [*arguments, "--resume"], check=True, timeout=DEADLINE_S, stdout=subprocess.DEVNULL
    )
    resumed_after = [row["after_step"] for row in read_rows(run / "starts.jsonl")]
    assert len(resumed_after) == 3 and 0 < resumed_after[1] < resumed_after[2]
    check_page(browser, run, 5 * 12 + 2 * 4, "smollm2")
    with opened(browser, run / "report.html") as shown:
        assert shown.page.evaluate("RlcoreReport.data.runs[0].resumes") == resumed_after[1:]
