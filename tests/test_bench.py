"""The benchmarks at toy size: that they run and what their JSON holds, never how fast."""

import importlib.util
import json

import pytest

from tests.run.whole import finish, start

TOY = (
    "--prompts 2 --group-size 2 --prompt-tokens 20 --answer-min 3 --answer-max 6 --hidden-size 64 --layers 1".split()
    + [
        "--repeats",
        "2",
    ]
)
TRL = pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="trl is not installed")


def bench(*arguments):
    return json.loads(finish(start("bench", *arguments, "--json")).splitlines()[-1])


def check(result, against):
    assert result["against"] == against and {"torch", "transformers"} <= result["versions"].keys()
    assert result["threads"] >= 1 and result["shape"] and result["date"]


@TRL
@pytest.mark.parametrize("shape", ["ragged", "shared"])
def test_learner_against_trl(shape):
    result = bench("learner", "--against", "trl", "--shape", shape, *TOY)
    check(result, "trl")
    assert result["spread"][0] <= result["ratio"] <= result["spread"][1] and result["repeats"] == 2
    assert result["ours"] > 0 and result["theirs"] > 0
    assert result["gradient_difference"] < 1e-5


@TRL
def test_train_against_trl():
    result = bench("train", "--against", "trl", "--shape", "shared", *TOY)
    check(result, "trl")
    assert result["ours"] > 0 and result["theirs"] > 0 and result["repeats"] == 2


def test_head():
    result = bench("head", *"--vocabulary 300 --tokens 40 --hidden-size 16 --repeats 1".split())
    check(result, "full")
    for way in ("full", "one_pass", "recompute"):
        assert result[way]["ours"] > 0 and result[way]["difference"] < 1e-5


def test_rewards():
    result = bench("rewards", *"--samples 64 --group-size 8 --workers 1 --repeats 1".split())
    assert result["verdicts_per_s"] > 0 and result["shape"] == {
        "samples": 64,
        "group_size": 8,
        "workers": 1,
    }
    assert result["not_as_expected"] == 0 and result["slow"]["lost"] == result["stuck"]["lost"] == 1
    assert all(result[name]["seconds"] >= result[name]["deadline_s"] for name in ("slow", "stuck"))


def test_any_result_is_shown_in_100_columns_and_in_words(monkeypatch, capsys):
    """Of the benchmarks whose ratio has no two sides in seconds, or no spread, too."""
    from rlcore.bench import run
    from rlcore.cli.main import main

    sided = {
        "ratio": 1.26,
        "spread": [1.1, 1.4],
        "cpu_ratio": 1.2,
        "ours": 0.5,
        "theirs": 0.63,
        "repeats": 3,
        "extra_gb": 0.25,
    }
    results = {
        "head": {
            "against": "full",
            "full": sided,
            "one_pass": sided,
            "versions": {"python": "3.11.7"},
        },
        "rewards": {
            "against": "no hang",
            "spread": [60, 70],
            "slow": {"deadline_s": 2.0, "ratio": 0.9},
        },
        "credit": {
            "against": "prefix caching off",
            "ratio": 1.9,
            "spread": [1.8, 2.0],
            "on": {"answers_s": 0.1},
        },
    }
    monkeypatch.setattr(run, "run", lambda what, sizes: results[what])
    said = {what: (main(["bench", what]), capsys.readouterr().out)[1] for what in results}
    assert all(len(line) <= 100 for out in said.values() for line in out.splitlines())
    assert (
        "one_pass: 0.5 s, full 0.63 s: 1.26 times as fast (1.1 to 1.4), 0.25 GB beyond its inputs"
        in said["head"]
    )
    assert "deadline s 2.0, ratio 0.9" in said["rewards"] and "times" not in said["rewards"]
    assert said["credit"].splitlines()[-1] == "1.9 times as fast as prefix caching off (1.8 to 2)"


def test_an_impossible_shape_is_met_with_a_sentence(capsys):
    from rlcore.cli.main import main

    assert main(["bench", "learner", "--answer-min", "9", "--answer-max", "3"]) == 2
    assert "there is no batch like" in capsys.readouterr().err


@pytest.mark.vllm
def test_rollout_against_vllm():
    pytest.importorskip("vllm")
    sizes = "--prompts 2 --group-size 2 --prompt-tokens 8 --answer-max 4 --repeats 2".split()
    result = bench("rollout", *sizes)
    check(result, "vllm")
    low, high = result["overhead_spread"]
    assert low <= result["overhead"] <= high and result["shape"]["answer_tokens"] == 4


@pytest.mark.vllm
@pytest.mark.slow
def test_publishes_to_servers_in_three_ways():
    pytest.importorskip("vllm")
    result = bench("publish", "--servers", "1", "--repeats", "2")
    assert result["servers"] == 1 and result["gigabytes"] > 0
    for way in ("read", "fetched", "broadcast"):
        low, high = result["spread"][way]
        assert 0 < low <= result[f"{way} s"] <= high


def test_models_that_a_benchmark_does_not_know(tmp_path):
    from rlcore.bench.workload import make_model
    from rlcore.errors import RecipeError

    with pytest.raises(RecipeError, match="did you mean 'qwen3-0.6b'"):
        make_model(tmp_path / "model", "qwen3-0.6")
    with pytest.raises(RecipeError, match="change the model tiny only"):
        make_model(tmp_path / "model", str(tmp_path), layers=3)


def test_credit_counts_answers_and_continuations_of_the_same_shape():
    """Without vLLM, which the runs of tests/run/test_step_credit_runs.py start: what is measured, on an engine that replays."""
    from rlcore.bench.credit import STEPS, _compared, _Step
    from rlcore.rollout.scripted import ScriptedEngine
    from rlcore.types import Sampling

    def script(request):
        return request.prefix_ids + [ord("a") + request.seed % 20] * (
            2 * STEPS - len(request.prefix_ids)
        )

    def steps():
        sampling = Sampling(max_tokens=2 * STEPS, ignore_eos=True)
        return [
            _Step(ScriptedEngine(script), sampling, seed, 2, 8, 10, 3, 0.2) for seed in range(2)
        ]

    on, off = steps(), steps()
    for step in on:
        answers = step.cost.completions
        assert step.written == 2 * 8 * 2 * STEPS and 2 <= answers <= 4
        assert step.cost.prefixes == answers * (STEPS - 1)
        assert step.cost.tokens == answers * 3 * sum(2 * i for i in range(1, STEPS))
    result = _compared(on, off)
    assert result["share_tokens"] == pytest.approx(
        on[0].cost.tokens / (on[0].cost.tokens + on[0].written), abs=0.1
    )
    assert (
        result["spread"][0] <= result["ratio"] <= result["spread"][1]
        and 0 < result["on"]["share_s"] < 1
    )


def test_checkpoints_are_timed_against_a_step():
    result = bench("checkpoint", *TOY)
    check(result, "plain")
    assert result["spread"][0] <= result["ratio"] <= result["spread"][1] and result["repeats"] == 2
    assert result["step"] > 0 and result["theirs"] > 0 and result["gigabytes"] > 0
    for side in ("plain", "thread"):
        low, high = result[side]["share"]["interval"]
        assert 0 < result[side]["share"]["median"] and low < high
