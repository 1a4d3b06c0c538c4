"""Whole runs through the real command: files, metrics, exact resume after SIGKILL, two processes, real vLLM, proof of sync."""

from __future__ import annotations

import importlib.util
import json
import re
import signal
import time
from pathlib import Path

import pytest

from rlcore.credit.estimator import Cost
from rlcore.run.folder import read_rows
from rlcore.run.metrics import Effort, effort_metrics
from rlcore.run.step_values import step_metrics
from rlcore.run.stored import read_stored
from tests.run.whole import finish, run_folder, start, story, untimed

needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vllm is not installed"
)

RL_METRICS = set(
    "step stage reward/mean reward/std reward/length loss grad_norm entropy mismatch/kl mismatch/ratio_max clip_frac completions/length/mean "
    "completions/frac_truncated reward/frac_zero_std reward/frac_unscored policy_version staleness/mean time/rollout time/reward "
    "time/credit time/learn time/publish time/total tokens/prompt tokens/completion tokens/trained".split()
)


def test_a_run_leaves_what_the_contract_says(whole_story: dict) -> None:
    folder = whole_story["folder"]
    rl = [row for row in read_rows(folder / "metrics.jsonl") if row["stage"] == "rl"]
    assert [row["step"] for row in rl] == list(range(7, 13))
    assert set(rl[0]) >= RL_METRICS
    assert rl[0]["policy_version"] == 6
    assert [row["stage"] for row in read_rows(folder / "eval.jsonl")] == ["before", "after"]
    first = json.loads((folder / "rollouts" / "000007.jsonl").read_text().splitlines()[0])
    assert len(first["token_ids"]) == len(first["mask"]) == len(first["logprobs"])
    last_line = json.loads(whole_story["out"].splitlines()[-1])
    assert (
        last_line["recipe"] == "tiny"
        and last_line["engine"] == "hf"
        and last_line["accuracy_after"] is not None
    )


def test_every_metric_is_explained(whole_story: dict) -> None:
    table = (Path(__file__).parents[2] / "docs/metrics.md").read_text(encoding="utf-8")
    named = [
        name
        for cell in re.findall(r"^\| (`.*?) \|", table, flags=re.MULTILINE)
        for name in re.findall(r"`(.+?)`", cell)
    ]
    explained = set()
    for name in named:
        head, choice, tail = re.fullmatch(r"([^{]*)(?:\{(.*)\})?(.*)", name).groups()
        explained |= {f"{head}{one}{tail}" for one in (choice or "").split(",")}
    patterns = [re.sub(r"<\w+>", "[^/]+", name) for name in explained]
    keys = {key for row in read_rows(whole_story["folder"] / "metrics.jsonl") for key in row}
    keys |= (
        effort_metrics([Effort(1, 1, 1, 1, 1, 0)]).keys() | step_metrics([Cost()], written=1).keys()
    )
    assert {
        key for key in keys if not any(re.fullmatch(pattern, key) for pattern in patterns)
    } == set()


def test_on_policy_the_sampler_and_the_learner_agree(whole_story: dict) -> None:
    rl = [row for row in read_rows(whole_story["folder"] / "metrics.jsonl") if row["stage"] == "rl"]
    assert all(
        abs(row["mismatch/ratio_max"] - 1) < 1e-3 and row["mismatch/kl"] < 1e-6 for row in rl
    )


def test_stored_rollouts_of_an_rl_run_can_be_read(whole_story: dict) -> None:
    stored = read_stored(whole_story["folder"] / "rollouts")
    assert len(stored) == 6 * 4 and all(
        len(one.group.rollouts) == 4 and not one.unrecorded for one in stored
    )


def test_the_last_checkpoint_loads_with_transformers(whole_story: dict) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = sorted((whole_story["folder"] / "checkpoints").glob("step_*"))[-1]
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(path),
        AutoTokenizer.from_pretrained(path),
    )
    assert tokenizer.decode(tokenizer("1+2=").input_ids) == "1+2="
    assert model.config.eos_token_id == tokenizer.eos_token_id


@pytest.mark.parametrize("kill_after", [1, 6, 9])
def test_a_killed_run_resumes_bit_for_bit(tiny: Path, whole_story: dict, kill_after: int) -> None:
    folder = run_folder(tiny)
    process = start("train", tiny)
    deadline = time.monotonic() + 120
    while len(read_rows(folder / "metrics.jsonl")) < kill_after:
        assert time.monotonic() < deadline and process.poll() is None, (
            "the run ended before it could be killed"
        )
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finish(start("train", tiny, "--resume"))
    resumed = story(folder)
    for part, left in resumed.items():
        assert left == whole_story[part], f"{part} differ after kill and resume"


def test_a_finished_run_resumed_changes_nothing_and_goes_on_with_more_steps(
    tiny: Path, whole_story: dict
) -> None:
    finish(start("train", tiny, "stages.rl.steps=3"))
    before = story(run_folder(tiny))
    evaluated = read_rows(run_folder(tiny) / "eval.jsonl")
    finish(start("train", tiny, "stages.rl.steps=3", "--resume"))
    assert story(run_folder(tiny)) == before
    # with the seconds they took: no evaluation was made again
    assert read_rows(run_folder(tiny) / "eval.jsonl") == evaluated
    for ended, why in (
        ("rl.steps=2", "it has made 3 steps"),
        ("sft.steps=9", "it has ended, and others went on from it"),
    ):
        process = start("train", tiny, "stages.rl.steps=3", f"stages.{ended}", "--resume")
        assert why in process.communicate(timeout=240)[1] and process.returncode == 2
    finish(
        start("train", run_folder(tiny), "stages.rl.steps=6", "--resume")
    )  # a run's folder names its recipe
    for part, left in story(run_folder(tiny)).items():
        assert left == whole_story[part], (
            f"{part} differ from those of a run that had all its steps at once"
        )


def test_two_processes_train_as_one(tiny: Path, whole_story: dict) -> None:
    out = finish(start("train", tiny, processes=2))
    assert "2 process(es)" in out
    alone, both = whole_story["metrics"], untimed(read_rows(run_folder(tiny) / "metrics.jsonl"))
    assert len(alone) == len(both)
    for one, two in zip(alone, both, strict=True):
        for key in ("loss", "grad_norm", "tokens/trained"):
            assert two[key] == pytest.approx(one[key], rel=2e-3, abs=1e-5), (one["step"], key)
    assert both[6]["reward/mean"] == pytest.approx(alone[6]["reward/mean"], abs=1e-6)


@needs_vllm
def test_real_vllm_trains(tiny: Path) -> None:
    out = finish(start("train", tiny, "engine.use=vllm_local", "stages.rl.steps=3", "--json"))
    assert json.loads(out.splitlines()[-1])["engine"] == "vllm_local"
    rl = [row for row in read_rows(run_folder(tiny) / "metrics.jsonl") if row["stage"] == "rl"]
    assert len(rl) == 3 and rl[-1]["policy_version"] == 8
    assert all(abs(row["mismatch/ratio_max"] - 1) < 1e-3 for row in rl), (
        "vLLM serves other weights than the learner trains"
    )


@needs_vllm
def test_with_vllm_a_resumed_run_starts_from_the_same_state(tiny: Path) -> None:
    overrides = ("engine.use=vllm_local", "run.keep_checkpoints=9")
    folder = run_folder(tiny)
    process = start("train", tiny, *overrides)
    deadline = time.monotonic() + 120
    while not (folder / "checkpoints" / "step_000008").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    files = {
        path: path.read_bytes()
        for path in (folder / "checkpoints" / "step_000008").rglob("*")
        if path.is_file()
    }
    finish(start("train", tiny, *overrides, "--resume"))
    assert all(path.read_bytes() == content for path, content in files.items())
    assert [row["step"] for row in read_rows(folder / "metrics.jsonl")] == list(range(1, 13))


@needs_vllm
def test_one_corrupt_served_tensor_stops_the_run(tiny: Path, tmp_path: Path) -> None:
    """The run must notice by itself: the engine is real, only its memory is tampered with after the third publish."""
    (tmp_path / "tampering.py").write_text(
        "import sys, torch\n"
        "from rlcore.rollout.vllm_local import VllmEngine as S\n"
        "load = S.load\n"
        "def tampered(self, weights, version):\n"
        "    load(self, weights, version)\n"
        "    if version == 8:\n"
        "        model = self._engine.apply_model(lambda model: model)[0]\n"
        "        model.model.layers[1].mlp.down_proj.weight.data.view(-1)[7] += 1e-6\n"
        "S.load = tampered\n"
        "from rlcore.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    process = start("train", tiny, "engine.use=vllm_local", script=tmp_path / "tampering.py")
    out, err = process.communicate(timeout=240)
    assert process.returncode == 2, out + err
    assert re.search(r"error: proof of sync failed at version 8: .*fingerprint", err)
    assert read_rows(run_folder(tiny) / "metrics.jsonl")[-1]["step"] >= 7, (
        "what was computed before is kept"
    )
