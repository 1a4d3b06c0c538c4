"""`rlcore diagnose` names mistakes that were planted through recipes, and is silent on runs that learn."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from rlcore.analysis.diagnose import diagnose, steps_of
from rlcore.cli.main import main
from rlcore.recipe.load import load
from rlcore.run.dead_states import PAGE, dead_states
from rlcore.run.driver import train
from rlcore.run.folder import read_rows
from rlcore.run.rules import STAGE_RULES, STEP_RULES
from rlcore.terminal import SafeConsole
from tests.report.planted import FAILURES, HEALTHY, write_planted

ROOT = Path(__file__).resolve().parents[2]
RULES = {rule.name for rule in (*STEP_RULES, *STAGE_RULES)}


def trained(folder: Path, change: dict, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    recipe = write_planted(folder, change, "planted")
    train(load(str(recipe)), console=SafeConsole(quiet=True))
    return folder / "runs/planted"


def names(run: Path) -> set[str]:
    return {finding.rule for finding in diagnose(steps_of(run))}


def test_every_rule_has_its_paragraph_and_every_paragraph_its_rule() -> None:
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    assert set(re.findall(r"^## (.+)$", text, flags=re.MULTILINE)) == RULES


def test_a_mistake_is_planted_for_nearly_every_rule() -> None:
    # steps of these are in tests/run/test_metrics.py and below
    assert RULES - set(FAILURES) == {"zero-advantages", "calls-unreadable"}
    assert len(FAILURES) >= 10 and len(HEALTHY) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("rule", list(FAILURES))
def test_a_planted_mistake_is_named(
    rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rule in names(trained(tmp_path, FAILURES[rule], monkeypatch))


@pytest.mark.slow
@pytest.mark.parametrize("name", list(HEALTHY))
def test_a_healthy_run_has_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(tmp_path, HEALTHY[name], monkeypatch)
    rewards = [
        row["reward/mean"] for row in read_rows(run / "metrics.jsonl") if "reward/mean" in row
    ]
    assert sum(rewards[-5:]) > sum(rewards[:5])  # it does learn
    assert names(run) == set()


def test_the_command_says_what_where_and_with_which_numbers(
    ill: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diagnose", str(ill)]) == 1
    said = capsys.readouterr().out
    assert "All completions are cut (rl, steps 1 to 4)" in said
    assert re.search(
        r"in 4 of 4 steps; at step 4: (every completion was|9[5-9]% of the completions were) cut",
        said,
    )
    assert "docs/not_learning.md#all-truncated" in said
    assert main(["diagnose", str(ill), "--json"]) == 1
    assert "all-truncated" in {row["rule"] for row in json.loads(capsys.readouterr().out)}
    # the warnings of the first steps are of the same rules, and lead to the same page
    first = read_rows(ill / "metrics.jsonl")[0]
    assert any(f"[{PAGE}#all-truncated]" in sentence for sentence in dead_states(first))


@pytest.mark.parametrize(("malformed", "called", "said"), [(3.0, 1.0, True), (1.0, 3.0, False), (0.0, 0.0, False)])
def test_unreadable_calls_are_named(malformed: float, called: float, said: bool) -> None:
    row = {"stage": "rl", "reward/frac_unscored": 0.0, "env/malformed_calls": malformed, "env/tool_calls": called}
    rows = [{"step": step, **row} for step in range(1, 11)]
    assert ("calls-unreadable" in {finding.rule for finding in diagnose(rows)}) == said


def test_a_consequence_is_not_named_beside_its_cause() -> None:
    row = {
        "stage": "rl",
        "reward/mean": 0.0,
        "reward/std": 0.0,
        "reward/frac_zero_std": 1.0,
        "tokens/frac_wasted": 1.0,
    }
    row |= {"reward/frac_unscored": 0.0, "reward/frac_wrong_format": 1.0, "tokens/trained": 0}
    rows = [{"step": step, **row} for step in range(1, 11)]
    assert [finding.rule for finding in diagnose(rows)] == ["wrong-format"]


def broken(steps: int, *, first: float = 0.5) -> list[dict]:
    """A policy that its first update destroys: cut completions and equal rewards from step 2 on."""
    well = {"stage": "rl", "reward/mean": first, "reward/std": 0.5, "reward/frac_zero_std": 0.1, "reward/frac_unscored": 0.0}
    well |= {"completions/frac_truncated": 0.0, "tokens/frac_wasted": 0.1, "completions/length/mean": 17.0}
    lost = {**well, "reward/mean": 0.0, "reward/std": 0.0, "reward/frac_zero_std": 1.0, "tokens/frac_wasted": 1.0}
    lost |= {"completions/frac_truncated": 1.0, "completions/length/mean": 32.0}
    return [{"step": step, **(well if step == 1 else lost)} for step in range(1, steps + 1)]


@pytest.mark.parametrize("steps", [4, 10, 14, 40])
def test_a_policy_that_breaks_at_once_is_not_taken_for_hard_tasks(steps: int) -> None:
    [finding] = diagnose(broken(steps))
    assert finding.rule == "reward-falls" and "fell from 0.5 in the first step" in finding.sentence


def test_hard_tasks_are_not_taken_for_a_policy_that_breaks() -> None:
    """One completion of sixteen was right in the first step, and none after it."""
    assert "reward-falls" not in {finding.rule for finding in diagnose(broken(10, first=0.06))}


def test_first_steps_say_that_it_was_not_so_before() -> None:
    first, second = broken(2)
    [said] = [text for text in dead_states(second, first=first) if "all-truncated" in text]
    assert "so lower optim.lr first" in said
    assert not any("lower optim.lr" in text for text in dead_states(second, first=second))


def test_few_steps_are_not_called_sound(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.yaml").write_text("name: x\n")
    row = broken(1)[0]
    for steps, said in ((3, "or waste, which takes 4"), (5, "which takes 12\n"), (12, "")):
        rows = [json.dumps({**row, "step": step}) + "\n" for step in range(1, steps + 1)]
        (tmp_path / "metrics.jsonl").write_text("".join(rows))
        assert main(["diagnose", str(tmp_path)]) == 0
        out = capsys.readouterr().out
        assert said in out and ("too few" in out) == bool(said)


def test_a_run_without_an_rl_step_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diagnose", str(tmp_path)]) == 2
    assert "no run folder" in capsys.readouterr().err
    (tmp_path / "recipe.yaml").write_text("name: x\n")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "stage": "sft", "loss": 1.0}\n')
    assert main(["diagnose", str(tmp_path)]) == 2
    assert "no step of an rl stage yet" in capsys.readouterr().err
