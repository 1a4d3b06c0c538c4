"""What the report is made of: columns, intervals, the index and chunks of rollouts; and the commands on the terminal."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from rlcore.analysis.report.charts import sections
from rlcore.analysis.report.curves import series
from rlcore.analysis.report.page import Report, page_with
from rlcore.analysis.report.rollouts import as_script_json
from rlcore.analysis.token_texts import TokenTexts
from rlcore.cli.main import main
from rlcore.measures.intervals import wilson
from rlcore.recipe.load import load
from rlcore.run.driver import train
from rlcore.run.folder import read_rows
from rlcore.terminal import BARS, sparkline
from rlcore.tokenizer import byte_tokenizer
from rlcore.types import Task
from tests.report.stories import new_run, write_group
from tests.run.whole import write_recipe


def test_wilson_intervals_are_those_of_the_textbook() -> None:
    # Agresti and Coull 1998: 0 of 10, 5 of 10, 81 of 263 (Newcombe 1998, case a)
    assert wilson(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(1.0, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert wilson(1.2, 10) is None and wilson(-0.1, 10) is None


def test_a_long_run_is_thinned_to_means_within_stages() -> None:
    rows = [
        {"step": step, "stage": "a" if step < 501 else "b", "x": float(step), "flag": True}
        for step in range(1, 1001)
    ]
    thin = series(rows, max_points=100)
    assert (
        thin["per_point"] == 10 and len(thin["step"]) == 100 and list(thin["columns"]) == ["x"]
    )
    assert thin["step"][:2] == [10, 20] and thin["columns"]["x"][:2] == [5.5, 15.5]
    gaps = series(
        [{"step": 1, "stage": "a", "x": 1.0}, {"step": 2, "stage": "a", "y": float("nan")}],
        max_points=9,
    )
    assert gaps["columns"] == {"x": [1.0, None], "y": [None, None]}


def documented_metrics() -> set[str]:
    """The keys in the first cells of the tables, `a/{b,c}` as a/b and a/c."""
    table = (Path(__file__).parents[2] / "docs/metrics.md").read_text(encoding="utf-8")
    named = set()
    for cell in re.findall(r"^\| (`.*?) \|", table, flags=re.MULTILINE):
        for name in re.findall(r"`([^`]+)`", cell):
            head, choice, tail = re.fullmatch(r"([^{]*)(?:\{(.*)\})?(.*)", name).groups()
            named |= {f"{head}{one}{tail}" for one in (choice or "").split(",")}
    return named


def test_every_metric_is_drawn_or_left_out_on_purpose() -> None:
    named = documented_metrics()
    drawn = {
        key
        for section in sections(named)
        for chart in section["charts"]
        for key in chart["lines"]
    }
    assert not [section for section in sections(named) if section["title"] == "Other metrics"]
    assert {
        "reward/mean",
        "entropy",
        "mismatch/kl",
        "clip_frac",
        "tokens/frac_wasted",
        "mfu",
    } <= drawn
    [other] = sections({"probe/value"})
    assert other["title"] == "Other metrics" and other["charts"][0]["lines"] == {
        "probe/value": "probe/value"
    }


def test_no_text_ends_a_script() -> None:
    hostile = {"</script>": "<!--<script>", "x": "\u2028"}
    text = as_script_json(hostile)
    assert "<" not in text and json.loads(text) == hostile
    page = page_with(f"RlcoreReport.show({text})", "</title><script>1</script>{{RECORDS}}")
    assert page.count("<script>") == page.count("</script>") and "</title><script>" not in page


def test_the_pieces_of_tokens_add_up() -> None:
    texts = TokenTexts(byte_tokenizer())
    for text in ("2+2=4", "Grüße, 数学 🙂 x", ""):
        assert "".join(texts(list(text.encode()))) == text
    end = byte_tokenizer().convert_tokens_to_ids("<|eos|>")
    assert texts([*b"4", end]) == ["4", "<|eos|>"]
    assert "".join(texts([0xF0, 0x9F])) != ""  # an unfinished character is shown as such


def test_a_growing_run_is_read_on_and_a_rewritten_one_anew(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", steps=3)
    task = Task(id="t", prompt="1+1=", answer="2")
    for step in (1, 2, 3):
        write_group(run, step, task, ["2", "3", "4"])
    report = Report([run.path], tmp_path / "live/report.html")
    first = report.data(live=True)["runs"][0]["rollouts"]
    assert first["count"] == 9 and first["columns"]["step"] == [[1, 3], [2, 3], [3, 3]]
    assert first["columns"]["group"] == [[0, 3], [1, 3], [2, 3]]
    write_group(run, 4, task, ["5"])  # its step is not logged yet
    assert report.data(live=True)["runs"][0]["rollouts"]["count"] == 9
    run.log_metrics({"step": 4, "stage": "rl"})
    assert report.data(live=True)["runs"][0]["rollouts"]["count"] == 10
    run.forget_after(step=2, stage=1)
    assert report.data(live=True)["runs"][0]["rollouts"]["count"] == 6


def test_a_resumed_run_and_its_report_and_its_commands(
    ill: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ill: killed after step 2 and resumed."""
    assert [row["after_step"] for row in read_rows(ill / "starts.jsonl")] == [0, 2]
    assert main(["report", str(ill)]) == 0
    page = (ill / "report.html").read_text(encoding="utf-8")
    assert capsys.readouterr().out.strip() == str(ill / "report.html")
    assert (
        '"resumes":[2]' in page and "RlcoreReport.chunk(0,0," in page and len(page) < 1_000_000
    )
    rows = [row for path in sorted((ill / "rollouts").iterdir()) for row in read_rows(path)]
    of_group = [row["advantages"] for row in rows if "advantages" in row]
    for runs in of_group:
        assert sum(tokens for _, tokens in runs) == 4 and any(value for value, _ in runs)
    assert of_group
    assert main(["rollouts", str(ill), "--step", "3", "--limit", "3"]) == 0
    said = capsys.readouterr().out
    assert "step 3" in said and "3 of 64 completions" in said and "reward" in said
    assert main(["rollouts", str(ill), "--step", "9"]) == 2
    assert "steps 1 to 4" in capsys.readouterr().err
    assert main(["watch", str(ill)]) == 0
    said = capsys.readouterr().out
    assert "not running" in said and "4/4" in said and "reward/mean" in said
    assert main(["report", str(ill.parent)]) == 2
    assert "no run folder" in capsys.readouterr().err


def test_watch_shows_evaluations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = new_run(tmp_path / "run", steps=6)
    assert main(["watch", str(run.path), "--once"]) == 0
    said = capsys.readouterr().out
    assert "accuracy, eval_set  75.0%" in said and "completions/length/mean" in said


def test_completions_are_chosen_by_what_became_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = new_run(tmp_path / "run", steps=1)
    write_group(
        run,
        1,
        Task(id="t", prompt="p", answer="a", category="hard"),
        ["zero", "one", "two", "three", "four"],
    )
    for arguments, texts in {
        "--failed": ["zero", "one", "four"],
        "--status timed-out": ["four"],
        "--truncated": ["three"],
        "--search TWO": ["two"],
        "--category hard --limit 1": ["zero"],
    }.items():
        assert main(["rollouts", str(run.path), *arguments.split()]) == 0
        said = capsys.readouterr().out
        printed = re.findall(r"^  (?!reason)(\w+)$", said, flags=re.MULTILINE)
        assert printed == texts, arguments


def test_names_that_a_run_does_not_have_are_met_with_those_it_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = new_run(tmp_path / "run", steps=1)
    write_group(run, 1, Task(id="t", prompt="p", answer="a", category="hard"), ["zero"])
    for words, said in {
        f"{run.path} --category easy": "has the category 'easy': there are hard",
        f"{run.path} --eval nope": "evaluation called 'nope': there are ",
        f"{tmp_path / 'none'}": "is no run folder",
    }.items():
        assert main(["rollouts", *words.split()]) == 2
        assert said in capsys.readouterr().err


def test_a_terminal_shows_each_character_and_the_ends_of_long_texts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """rich leaves bells, backspaces, form feeds and carriage returns out of the texts that it is given."""
    run = new_run(tmp_path / "run", steps=1)
    texts = ["a\rb\x00c\x08\x0c\x07", "x" * 300_000 + "end"]
    write_group(run, 1, Task(id="t", prompt="p", answer="a"), texts)
    assert main(["rollouts", str(run.path)]) == 0
    said = capsys.readouterr().out
    assert "a␍b␀c␈␌␇" in said
    assert len(said) < 45_000 and "[... 280,003 characters;" in said and "xend" in said


def test_a_rollout_that_lacks_a_key_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = new_run(tmp_path / "run", steps=1)
    write_group(run, 1, Task(id="t", prompt="p", answer="a"), ["zero"])
    [path] = run.rollouts.iterdir()
    row = json.loads(path.read_text().splitlines()[0])
    del row["mask"]
    path.write_text(json.dumps(row) + "\n")
    assert main(["report", str(run.path)]) == 2
    assert "000001.jsonl has no 'mask': repair its line" in capsys.readouterr().err
    assert main(["report", str(run.path), "--out", str(tmp_path)]) == 2
    assert "is a folder: name the file of the page" in capsys.readouterr().err


def test_sparklines() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == BARS
    assert (
        sparkline([0.5], low=0.0, high=1.0) in BARS[3:5]
        and sparkline([2.0, 2.0]) == BARS[0] * 2
    )
    assert len(sparkline(list(range(1000)))) <= 48


def test_the_bar_of_a_running_stage(tmp_path: Path) -> None:
    """On a terminal: steps, time left, tokens a second, and sparklines of the reward and of the accuracy."""
    shown = io.StringIO()
    terminal = Console(file=shown, force_terminal=True, width=220, color_system=None)
    short = ("stages.sft.steps=1", "stages.rl.steps=4", "stages.rl.eval_every=2")
    train(load(str(write_recipe(tmp_path)), short), console=terminal)
    # how the bar stood at last: four rewards, and the accuracy before, after two and after four steps
    bars = f"[{BARS}]"
    last = re.findall(
        rf"rl .* 4/4 (\S+) reward \S+.*  ([\d,]+) tokens/s  reward ({bars}+)  accuracy ({bars}+)",
        shown.getvalue(),
    )[-1]
    assert re.fullmatch(r"[\d:-]+", last[0]) and int(last[1].replace(",", "")) > 0
    rows = [row for row in read_rows(tmp_path / "runs/tiny/metrics.jsonl") if row["stage"] == "rl"]
    assert last[2] == sparkline([row["reward/mean"] for row in rows])
    accuracies = [row["accuracy"] for row in read_rows(tmp_path / "runs/tiny/eval.jsonl")]
    # the bar is drawn before the evaluation after its step
    assert last[3] == sparkline(accuracies[: len(last[3])], low=0.0, high=1.0) and len(last[3]) >= 2
