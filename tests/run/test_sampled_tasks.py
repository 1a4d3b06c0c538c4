"""Task sets that are made of what a stage of the run has sampled, and the rounds of BoLT that need them."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from rlcore.errors import LearnerError, RlcoreError
from rlcore.learner.policy import Policy, load_policy
from rlcore.recipe.check import check
from rlcore.recipe.load import load
from rlcore.rollout.engine import generate
from rlcore.rollout.hf import HfEngine
from rlcore.run.driver import train
from rlcore.run.folder import read_rows
from rlcore.run.latent_weight import LatentWeight
from rlcore.stages.eval_recipe import evaluation_recipe
from rlcore.tasks.latent_thoughts import MARKS
from rlcore.types import Group, Request, Rollout, Sampling, Task, Verdict
from tests.run.whole import finish, kill_when, run_folder, start, story, weights

METHODS = Path(__file__).parents[2] / "recipes/methods"
RECIPE = f"""
name: tiny
model:
  tokenizer: bytes
  control_tokens: {json.dumps(MARKS)}
  config: {{model_type: qwen2, hidden_size: 32, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2,
           num_key_value_heads: 1, max_position_embeddings: 64, tie_word_embeddings: true}}
engine: {{use: hf, max_length: 48, max_sequences: 64}}
tasks:
  texts: {{use: "{METHODS}/latent_tasks.py:texts", size: 24}}
  shown: {{use: "{METHODS}/latent_tasks.py:shown", size: 16}}
  thoughts_1: {{use: sampled, data: e_1, make: latent_thoughts}}
  thoughts_2: {{use: sampled, data: e_2, make: latent_thoughts}}
sampling: {{max_tokens: 3, temperature: 0.8}}
optim: {{lr: 1e-2}}
stages:
  - {{kind: sft, name: warm, tasks: shown, steps: 2, batch_size: 8}}
  - &e {{kind: sample, name: e_1, tasks: texts, num_samples: 3, rewards: [{{use: latent_weight}}]}}
  - &m {{kind: sft, name: m_1, tasks: thoughts_1, steps: 3, batch_size: 8}}
  - {{<<: *e, name: e_2}}
  - {{<<: *m, name: m_2, tasks: thoughts_2}}
run: {{checkpoint_every: 1, keep_checkpoints: 20}}
"""


def write(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "tiny.yaml"
    path.write_text(RECIPE + f"run.folder: {folder / 'runs'}\n")
    return path


def ran(folder: Path, *overrides: str) -> Path:
    recipe = write(folder)
    train(load(str(recipe), list(overrides)))
    return run_folder(recipe)


def test_a_killed_run_makes_the_same_tasks_and_ends_alike(tmp_path: Path) -> None:
    """Killed between two stages of a round and in the middle of the M-step."""
    whole = ran(tmp_path / "whole")
    rows = read_rows(whole / "metrics.jsonl")
    assert [row["stage"] for row in rows] == ["warm"] * 2 + ["m_1"] * 3 + ["m_2"] * 3
    recipe = write(tmp_path / "killed")
    for step, *words in ((3,), (6, "--resume")):
        process = start("train", recipe, *words)
        kill_when(process, (run_folder(recipe) / f"checkpoints/step_{step:06d}").exists)
    finish(start("train", recipe, "--resume"))
    assert story(run_folder(recipe)) == story(whole)


def test_rounds_begin_with_the_recipes_own_model(tmp_path: Path) -> None:
    """By default nothing of the stages before an M-step is left in it but what they wrote."""
    first = ran(tmp_path / "first")
    sources = [f"tasks.thoughts_{i}.data={first / 'samples/e_1'}" for i in (1, 2)]
    stages = (
        "stages=[{{kind: sft, name: warm, tasks: shown, steps: 2, batch_size: 8, optim: {{lr: {lr}}}}}, "
        "{{kind: sft, name: m_1, tasks: thoughts_1, steps: 3, batch_size: 8{start}}}]"
    )
    ends = {}
    for name, lr, begin in (
        ("default", "1e-2", ""),
        ("other", "1e-4", ""),
        ("model", "1e-4", ", start: model"),
        ("policy", "1e-4", ", start: policy"),
    ):
        folder = ran(tmp_path / name, *sources, "sampling=null", stages.format(lr=lr, start=begin))
        ends[name] = weights(folder)
    assert ends["default"] == ends["other"] == ends["model"] != ends["policy"]


def test_a_made_set_is_that_of_its_stage(tmp_path: Path) -> None:
    """The rows of e_1, read again, give the texts, each once, behind the mark of its form."""
    folder = ran(tmp_path)
    rows = read_rows(folder / "samples/e_1/rank0.jsonl")
    assert {len(row["parts"]) for row in rows} == {4}
    for row in rows:
        parts = {name.rpartition("/")[2]: value for name, value in row["parts"].items()}
        assert parts["latent_weight"] == pytest.approx(parts["joint"] - parts["sampled"], abs=1e-9)
        assert parts["sampled"] == pytest.approx(sum(row["logprobs"]), abs=1e-9)
        assert row["temperature"] == 0.8
    summary = json.loads((folder / "samples/e_1/summary.json").read_text())
    assert summary["reward/latent_weight/bound"] > summary["reward/latent_weight"]


def test_correct_completions_as_demonstrations(tmp_path: Path) -> None:
    """RFT by an sft stage: the policy goes on, and transforms that change tasks are open to stored completions."""
    folder = ran(
        tmp_path,
        "tasks.thoughts_1.make={use: completions, keep: all}",
        "tasks.thoughts_2.data=e_1",
        "stages.e_2=null",
        "stages.m_2=null",
        "stages.m_1.transform={use: filter, column: reward, threshold: -1000}",
    )
    rows = read_rows(folder / "metrics.jsonl")
    assert [row["stage"] for row in rows] == ["warm"] * 2 + ["m_1"] * 3


# the weight -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def policy() -> Policy:
    config = {
        "model_type": "qwen2", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 64, "tie_word_embeddings": True, "initializer_range": 0.2,
    }  # fmt: skip
    return load_policy(config=config, tokenizer="bytes", control_tokens=MARKS)


def written(policy: Policy, folder: Path, temperature: float, **sampling: float) -> Group:
    """Three thoughts about a text, by the engine."""
    policy.save(folder)
    task = Task(id="t", prompt="<|posterior|>abcab<|thought|>")
    prompt = policy.tokenizer(task.prompt).input_ids
    settings = Sampling(max_tokens=4, temperature=temperature, **sampling)
    requests = [Request(id=f"t#{k}", prompt_ids=prompt, sampling=settings, seed=k) for k in range(3)]
    done = generate(HfEngine(folder, max_length=48), requests, 60)
    rollouts = [
        Rollout.from_tokens(
            id=one.request_id, task_id="t", token_ids=[*prompt, *one.token_ids], mask=[False] * len(prompt) + [True] * len(one.token_ids),
            logprobs=[0.0] * len(prompt) + one.logprobs, finish=one.finish, temperature=temperature,
        )
        for one in done
    ]  # fmt: skip
    return Group(task=task, rollouts=rollouts, verdicts=[Verdict(value=0.0)] * 3)


def log_softmax(model: PreTrainedModel, ids: list[int], temperature: float = 1.0, banned: tuple[int, ...] = ()) -> torch.Tensor:
    """[T, V] of the next token, by transformers."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0].double() / temperature
    logits[:, list(banned)] = -torch.inf
    return logits.log_softmax(-1)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_the_weight_against_plain_forwards(policy: Policy, tmp_path: Path, temperature: float) -> None:
    """p at temperature 1 over thought and text, q at the temperature of the sampling, among the tokens that may be sampled."""
    group = written(policy, tmp_path, temperature)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    prior, text, _, _ = marks = policy.tokenizer.convert_tokens_to_ids(list(MARKS))
    x = list(b"abcab") + [policy.tokenizer.eos_token_id]
    log_weights = []
    for rollout in group.rollouts:
        z, before = rollout.completion_ids, len(rollout.prompt_ids)
        joint_ids = [prior, *z, text, *x]
        p = log_softmax(model, joint_ids)
        joint = sum(p[i - 1, token] for i, token in enumerate(joint_ids) if i and token != text)
        q = log_softmax(model, rollout.token_ids, temperature, tuple(marks))
        sampled = sum(q[before + i - 1, token] for i, token in enumerate(z))
        log_weights.append(float(joint - sampled))
    [gains] = LatentWeight(policy)([group])
    assert [gain.value for gain in gains] == pytest.approx(log_weights, abs=1e-4)
    want = float(torch.tensor(log_weights).logsumexp(0)) - torch.log(torch.tensor(3.0)).item()
    assert {gain.bound for gain in gains} == {gains[0].bound}
    assert gains[0].bound == pytest.approx(want, abs=1e-4)


def test_greedy_thoughts_have_no_weight(policy: Policy, tmp_path: Path) -> None:
    with pytest.raises(LearnerError, match=r"written greedily.*set sampling.temperature above 0"):
        LatentWeight(policy)([written(policy, tmp_path, 0.0)])


# what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("tasks.thoughts_1.data=e_9", "neither a sample stage of the recipe nor a file or folder here; did you mean"),
        ("tasks.thoughts_1.data=e_2", "made of what stage e_2 samples: it must run before this one"),
        ("tasks.thoughts_1.make=latent", "there is no maker of tasks 'latent'; did you mean 'latent_thoughts'"),
        ("tasks.thoughts_1.make={use: latent_thoughts, prior: 2.0}", "the parameter 'prior' must"),
        ("tasks.thoughts_1={use: joined, of: [texts, thoughts_2]}", "whose tasks are not there before a stage has sampled them"),
        ("stages.e_1.sampling.temperature=0", "latent_weight needs thoughts that are drawn"),
        ("tasks.thoughts_1.make=MAKERS:keyword_only", "is called with 1 argument by position, and takes 0"),
        ("stages.e_1.tasks=thoughts_1", "made of what stage e_1 samples: it must run before this one"),
        ("stages.m_1.transform={use: filter, column: reward, threshold: 0}", "reads the column 'reward', which the tasks do not have"),
        ("stages.e_1={kind: sft, tasks: shown, steps: 2, start: model, optim: continue}", "begins with the weights of the recipe's model"),
    ],
)
def test_what_cannot_be_made_is_one_sentence(tmp_path: Path, override: str, said: str) -> None:
    with pytest.raises(RlcoreError) as error:
        check(load(str(write(tmp_path)), [override.replace("MAKERS", own_makers(tmp_path))]))
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("maker", "said"),
    [
        ("nothing_said", "must give a list of rlcore.Task, or yield them, not a NoneType"),
        ("one_task", "must give a list of rlcore.Task, or yield them, not a Task"),
        ("equal_ids", "gave 24 ids to several tasks"),
    ],
)
def test_a_maker_s_mistake_is_one_sentence(tmp_path: Path, maker: str, said: str) -> None:
    make = f"{own_makers(tmp_path)}:{maker}"
    short = ("stages.e_1.rewards=[{use: length, max_tokens: 3}]", "stages.e_2=null", "stages.m_2=null", "tasks.thoughts_2.data=e_1")
    with pytest.raises(RlcoreError, match=said):
        ran(tmp_path, f"tasks.thoughts_1.make={make}", *short)


def own_makers(folder: Path) -> str:
    path = folder / "own_makers.py"
    path.write_text(
        "def keyword_only(*, draw): return []\n"
        "def nothing_said(group): pass\n"
        "def one_task(group): return group.task\n"
        "def equal_ids(group): return [group.task, group.task]\n"
    )
    return str(path)


@pytest.mark.slow
def test_the_recipe_of_latent_thoughts_tightens_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Held-out texts: log mean w rises from round to round, and the thoughts are more often those that made the text."""
    monkeypatch.chdir(METHODS)
    small = ("tasks.texts.size=512", "tasks.heldout.size=128", "stages.m_1.steps=120", "stages.m_2.steps=120")
    finish(start("train", "latent_thoughts.yaml", *small, f"run.folder={tmp_path}"), timeout_s=500)
    folder = tmp_path / "latent_thoughts"
    bounds = [
        json.loads((folder / f"samples/bound_{i}/summary.json").read_text())["reward/latent_weight/bound"] for i in range(3)
    ]
    assert bounds[0] + 10 < bounds[1] < bounds[2] + 0.5 and bounds[2] > -12, bounds
    accuracy = {row["stage"]: row["accuracy"] for row in read_rows(folder / "eval.jsonl")}
    assert accuracy["read_2"] > 0.7, accuracy


@pytest.mark.slow
def test_the_recipe_of_self_lengthen_answers_at_greater_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each macro-round raises the median length of answers to held-out requests, and their quality does not fall with it."""
    monkeypatch.chdir(METHODS)
    small = ("tasks.requests.size=128", "tasks.heldout.size=128", f"run.folder={tmp_path}")
    finish(start("train", "self_lengthen.yaml", *small), timeout_s=500)
    folder = tmp_path / "self_lengthen"
    medians, quality = [], []
    for row in read_rows(folder / "eval.jsonl"):
        written = read_rows(folder / f"evaluations/{row['rollouts']}.jsonl")
        medians.append(statistics.median(len(one["text"].split()) for one in written))
        quality.append(row["reward/quality"])
    assert medians[0] < medians[1] < medians[2] and medians[2] > 2 * medians[0], medians
    assert min(quality) > 0.95, quality


def test_two_processes_make_the_same_tasks(tmp_path: Path) -> None:
    """Each sampled half of the texts; the set is in the order of the texts, and its draws do not depend on who sampled what."""
    rows = []
    for processes in (1, 2):
        recipe = write(tmp_path / str(processes))
        finish(start("train", recipe, processes=processes))
        rows.append(read_rows(run_folder(recipe) / "metrics.jsonl"))
    for one, two in zip(*rows, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)


def test_evaluations_alone_need_no_set_of_another_stage(tmp_path: Path) -> None:
    recipe = evaluation_recipe(str(METHODS / "latent_thoughts.yaml"), [])
    assert list(recipe.tasks) == ["shown", "texts", "heldout"]
    check(recipe)
