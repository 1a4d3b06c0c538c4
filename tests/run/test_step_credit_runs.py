"""Whole runs with per-step credit: every scheme by name, exact resume, two processes, the picture."""

from __future__ import annotations

import json
import re
import shutil
from html import unescape
from pathlib import Path

import pytest

from rlcore.cli.main import main
from rlcore.run.folder import read_rows
from tests.run.test_train import needs_vllm
from tests.run.whole import TINY, finish, run_folder, start, story

SCHEMES = ("per_step", "vine", "first_pit", "negative_only")
STAGE = """  - {{kind: rl, name: {name}, tasks: demonstrations, steps: 2, groups_per_step: 2, group_size: 4, rewards: *length,
     sampling: *short, optim: {{lr: 1e-3}},
     credit: {{steps: {{scheme: {name}, split: {{use: tokens, n: 2}}, rollouts: 4, passing: 0.9, {more}}}}}}}
"""
MORE = {
    "per_step": "keep: all",
    "vine": "start: rollouts",
    "first_pit": "search: bisect",
    "negative_only": "search: until_dead",
}


def write_stages(folder: Path) -> Path:
    """The tiny recipe with one stage of two steps for each scheme in place of its own."""
    head, _ = TINY.split("  - {kind: rl")
    path = folder / "tiny.yaml"
    stages = "".join(STAGE.format(name=name, more=MORE[name]) for name in SCHEMES)
    path.write_text(
        f"{head}{stages}run: {{checkpoint_every: 1, keep_checkpoints: 99, folder: {folder / 'runs'}}}\n"
    )
    return path


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = write_stages(tmp_path_factory.mktemp("schemes"))
    finish(start("train", recipe, cold=True))
    return recipe


def test_every_scheme_trains_and_says_what_it_costs(told: Path) -> None:
    rows = {row["stage"]: row for row in read_rows(run_folder(told) / "metrics.jsonl")}
    for name in SCHEMES:
        row = rows[name]
        assert (
            row["credit/completions"] > 0
            and row["credit/prefixes"] > 0
            and row["tokens/trained"] > 0
        ), name
        assert row["credit/frac_tokens"] == row["credit/tokens"] / (
            row["credit/tokens"] + row["tokens/completion"]
        )
        assert row["grad_norm"] > 0
    assert (
        rows["per_step"]["tokens/trained"] > rows["per_step"]["tokens/completion"]
    )  # continuations were kept
    assert all(
        0 <= row["tokens/frac_wasted"] <= 1 for row in rows.values() if "tokens/frac_wasted" in row
    )  # and are not counted as answers


def token_advantages_of(row: dict) -> list[float | None]:
    return [advantage for advantage, tokens in row["advantages"] for _ in range(tokens)]


def test_rollouts_say_what_their_steps_were_worth(told: Path) -> None:
    rows = [
        row for path in sorted((run_folder(told) / "rollouts").iterdir()) for row in read_rows(path)
    ]
    valued = [row for row in rows if "steps" in row]
    assert valued and len(valued) < len(rows)
    for row in valued:
        spans, values = row["steps"]["spans"], row["steps"]["values"]
        assert (
            spans[0][0] == 0 and spans[-1][1] == sum(row["mask"]) and len(values) == len(spans) + 1
        )
        assert values[-1] == row["value"]
        if "advantages" in row:
            assert len(token_advantages_of(row)) == sum(row["mask"])


def test_a_run_stopped_in_the_middle_resumes_bit_for_bit(told: Path, tmp_path: Path) -> None:
    folder = run_folder(told)
    wanted = story(folder)
    recipe = write_stages(tmp_path)
    shutil.copytree(folder, run_folder(recipe))
    checkpoints = sorted((run_folder(recipe) / "checkpoints").iterdir())
    assert [path.name for path in checkpoints][:3] == ["step_000001", "step_000002", "step_000003"]
    for path in checkpoints[7:]:  # what is left is the first of per_step's two steps
        shutil.rmtree(path)
    text = (run_folder(recipe) / "recipe.yaml").read_text()
    (run_folder(recipe) / "recipe.yaml").write_text(text.replace(str(told.parent), str(tmp_path)))
    finish(start("train", recipe, "--resume"))
    for part, left in story(run_folder(recipe)).items():
        assert left == wanted[part], f"{part} differ after resuming"


def only_per_step(folder: Path) -> Path:
    recipe = write_stages(folder)
    text = recipe.read_text()
    recipe.write_text(
        text[: text.index("  - {kind: rl, name: vine")] + text[text.index("run: {checkpoint") :]
    )
    return recipe


@needs_vllm
def test_real_vllm_continues_answers_without_prefix_caching_too(tmp_path: Path) -> None:
    recipe = only_per_step(tmp_path)
    finish(start("train", recipe, "engine.use=vllm_local", "engine.prefix_caching=false"))
    rows = [
        row for row in read_rows(run_folder(recipe) / "metrics.jsonl") if row["stage"] == "per_step"
    ]
    assert all(
        row["credit/tokens"] > 0 and abs(row["mismatch/ratio_max"] - 1) < 1e-3 for row in rows
    )  # log-probabilities are its own


def test_two_processes_continue_their_own_groups(tmp_path: Path) -> None:
    recipe = only_per_step(tmp_path)
    finish(start("train", recipe, processes=2))
    folder = run_folder(recipe)
    [_, row] = [row for row in read_rows(folder / "metrics.jsonl") if row["stage"] == "per_step"]
    ranks = [folder / "rollouts" / f"{row['step']:06d}{suffix}.jsonl" for suffix in ("", ".rank1")]
    valued = [
        sum("steps" in json.loads(line) for line in path.read_text().splitlines()) for path in ranks
    ]
    assert sum(valued) == row["credit/completions"] > 0


def test_the_picture_shows_every_token_and_value(
    told: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, page = run_folder(told), tmp_path / "page.html"
    first_pit = [
        row["step"] for row in read_rows(folder / "metrics.jsonl") if row["stage"] == "first_pit"
    ]
    rows = [
        row
        for row in read_rows(folder / "rollouts" / f"{first_pit[-1]:06d}.jsonl")
        if "steps" in row and "advantages" in row
    ]
    row = next(row for row in rows if None in token_advantages_of(row))
    assert (
        main(
            [
                "credit",
                "show",
                str(folder),
                "--step",
                str(first_pit[-1]),
                "--rollout",
                row["id"],
                "--html",
                str(page),
            ]
        )
        == 0
    )
    text, out = page.read_text(encoding="utf-8"), capsys.readouterr().out
    tokens = re.findall(
        r'<span style="([^"]*)" title="([^"]*)">(.*?)</span>', text, flags=re.DOTALL
    )
    assert (
        unescape("".join(shown for _, _, shown in tokens))
        .replace("<br>", "")
        .replace("⏎", "\n")
        .startswith(row["text"])
    )
    assert [title == "not trained" for _, title, _ in tokens] == [
        a is None for a in token_advantages_of(row)
    ]
    for (style, _, _), advantage in zip(tokens, token_advantages_of(row), strict=True):
        if advantage:
            red, _, blue = map(int, re.findall(r"\d+", style))
            assert (red > blue) == (advantage < 0)
    assert (
        text.count('class="step"') == len(row["steps"]["values"])
        and "Q_0" in out
        and row["id"] in out
    )
    assert "http" not in text  # nothing is fetched


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--step", "99"], "has no rollouts of step 99"),
        (["--step", "1"], "has no rollouts of step 1"),
        (["--rollout", "nobody"], "has no a rollout 'nobody'"),
    ],
)
def test_what_cannot_be_shown_is_said(
    told: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["credit", "show", str(run_folder(told)), *arguments]) == 2
    assert message.replace("has no a", "has no") in capsys.readouterr().err
