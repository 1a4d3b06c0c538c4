"""A mixture of experts as reward model (DMoERM): its phases, its router, and a whole run against one shared reward model."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from rlcore.errors import RlcoreError
from rlcore.learner.policy_experts import ExpertMixture, GroupExperts, load_mixture, padded
from rlcore.recipe.check import check
from rlcore.recipe.load import load
from rlcore.recipe.optim_sections import UpdateSection
from rlcore.run.folder import RunFolder, read_rows
from rlcore.run.reward_model import ModelReward
from rlcore.stages.reward_experts import RewardExpertsStage
from rlcore.stages.reward_experts_trainer import split_group, train_mixer
from rlcore.stages.reward_model_trainer import reward_trainer
from rlcore.types import Group, Rollout, Task, Verdict
from tests.run.test_reward_models import classifier, rows_of
from tests.run.whole import finish, kill_when, start

RECIPES = Path(__file__).parents[2] / "recipes/preferences"
LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}


def stage_with(**keys: Any) -> RewardExpertsStage:
    defaults = {
        "kind": "reward_experts", "data": "-", "experts": {"a": ["x", "y"]}, "steps": 3, "expert_steps": 3, "mixture_steps": 5,
        "batch_size": 4, "lora": LORA, "optim": UpdateSection(lr=1e-2), "expert_optim": UpdateSection(lr=1e-2),
        "mixture_optim": UpdateSection(lr=1e-2),
    }  # fmt: skip
    return RewardExpertsStage(**{**defaults, **keys})


def hash_of(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def base_of(group: GroupExperts) -> dict[str, Tensor]:
    return {name: p for name, p in group.base.named_parameters() if "lora_" not in name}


def adapter_of(group: GroupExperts, number: int) -> dict[str, Tensor]:
    return {name: p for name, p in group.base.named_parameters() if f".expert_{number}." in name}


def train_expert(group: GroupExperts, capability: str, rows: list[dict[str, Any]], folder: Path) -> dict[str, Tensor]:
    """Phase 2 of one expert; returns its value head before and after."""
    stage = stage_with()
    plain = stage.plain(steps=stage.expert_steps, optim=stage.expert_optim)
    with group.expert(capability) as expert:
        heads = {"before": expert.score.weight.detach().clone()}
        run = SimpleNamespace(policy=SimpleNamespace(arithmetic=torch.float32, model=expert), accelerator=SimpleNamespace(num_processes=1))
        reward_trainer(run, plain, expert, rows, seed=0, log=lambda row: None, scratch=str(folder)).train()
        heads["after"] = expert.score.weight.detach().clone()
    return heads


def test_phase_two_leaves_the_base_and_phase_three_the_experts(tmp_path: Path) -> None:
    rows = rows_of(random.Random(1), 8, sides=(1, 1))
    group = GroupExperts(classifier(), ["x", "y"], LORA)
    base, mixer = hash_of(base_of(group)), hash_of(dict(group.mixer.named_parameters()))
    first, second = (hash_of(adapter_of(group, number)) for number in range(2))
    heads = train_expert(group, "x", rows, tmp_path)
    assert torch.equal(heads["before"], group.base.score.weight) and not torch.equal(heads["after"], heads["before"]), "a copy is trained"
    assert hash_of(base_of(group)) == base
    assert hash_of(adapter_of(group, 1)) == second, "and not the other expert"
    trained = hash_of(adapter_of(group, 0))
    assert trained != first
    train_expert(group, "y", rows, tmp_path)
    second_trained = hash_of(adapter_of(group, 1))
    assert hash_of(base_of(group)) == base and hash_of(adapter_of(group, 0)) == trained and second_trained != second
    logged: list[Any] = []
    train_mixer(stage_with(), group, rows, seed=0, log=logged.append)
    assert hash_of(base_of(group)) == base
    assert (hash_of(adapter_of(group, 0)), hash_of(adapter_of(group, 1))) == (trained, second_trained)
    assert hash_of(dict(group.mixer.named_parameters())) != mixer and len(logged) == 5


def test_phase_three_follows_the_gradient_of_bradley_terry() -> None:
    """One step on all rows against autograd over sequences one at a time."""
    rows = rows_of(random.Random(2), 4, sides=(1, 1))
    group, other = (GroupExperts(classifier(), ["x", "y"], LORA, seed=3) for _ in range(2))
    stage = stage_with(mixture_steps=1, mixture_optim=UpdateSection(use="sgd", lr=0.1, clip_norm=1e6))
    logged: list[Any] = []
    train_mixer(stage, group, rows, seed=0, log=logged.append)

    def score(ids: list[int]) -> Tensor:
        states = []
        for capability in ("x", "y"):
            other._activate(capability)
            states.append(other.base.model(torch.tensor([ids])).last_hidden_state[0, -1])
        return other.mixer(torch.cat(states).detach())[0]

    losses = [-torch.log(torch.sigmoid(score(row["chosen"][0]) - score(row["rejected"][0]))) for row in rows]
    torch.stack(losses).mean().backward()
    assert logged[0]["loss"] == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)
    for after, before in zip(group.mixer.parameters(), other.mixer.parameters(), strict=True):
        torch.testing.assert_close(after, before - 0.1 * before.grad, rtol=0, atol=1e-6)


def test_with_one_group_and_one_expert_it_is_a_plain_reward_model_up_to_the_mlp(tmp_path: Path) -> None:
    rows = rows_of(random.Random(3), 8, sides=(1, 1))
    sequences = [ids for row in rows for side in ("chosen", "rejected") for ids in row[side]]

    def plain_scores(model: Any) -> Tensor:
        with torch.no_grad():
            return torch.stack([model(torch.tensor([ids])).logits[0, 0] for ids in sequences])

    def as_mlp(group: GroupExperts, head: Tensor) -> None:
        """An MLP that is the linear head: identity, a PReLU of slope 1, and the head."""
        first, slope, last = group.mixer
        for tensor, value in ((first.weight, torch.eye(32)), (first.bias, 0.0), (slope.weight, 1.0), (last.weight, head), (last.bias, 0.0)):
            tensor.data.copy_(torch.as_tensor(value).expand_as(tensor))

    plain = plain_scores(classifier())
    group = GroupExperts(classifier(), ["all"], LORA)
    as_mlp(group, group.base.score.weight)
    mixture = ExpertMixture({"a": group})
    scores = torch.tensor(mixture.scores([("a", ids) for ids in sequences], batch_size=5))
    torch.testing.assert_close(scores, plain, rtol=0, atol=1e-5)
    assert plain.std() > 0.01
    # and so it is of a trained expert: the same as its own classifier
    with group.expert("all") as expert:
        for name, parameter in expert.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.3)
        head = expert.score.weight.detach().clone()
        of_expert = plain_scores(expert)
    as_mlp(group, head)
    scores = torch.tensor(mixture.scores([("a", ids) for ids in sequences]))
    torch.testing.assert_close(scores, of_expert, rtol=0, atol=1e-5)
    assert (of_expert - plain).abs().max() > 0.01


def test_only_the_experts_of_a_prompt_s_group_run() -> None:
    groups = {name: GroupExperts(classifier(), ["x", "y", "z"], LORA) for name in ("a", "b")}
    mixture = ExpertMixture(groups)
    ran: list[tuple[str, str]] = []
    for name, group in groups.items():
        layer = group.base.model.layers[0].self_attn.q_proj
        layer.register_forward_hook(lambda module, *_, name=name: ran.append((name, module.active_adapters[0])))
    experts = ["expert_0", "expert_1", "expert_2"]
    assert mixture.scores([("a", [1, 2, 3]), ("a", [4])])[0] is not None
    assert ran == [("a", expert) for expert in experts]
    ran.clear()
    scores = mixture.scores([("c", [1]), ("b", [1, 2, 3]), ("a", [4])])
    assert sorted(ran) == [(name, expert) for name in "ab" for expert in experts]
    assert scores[0] is None and None not in scores[1:]
    assert mixture.scores([("a", [4])])[0] == pytest.approx(scores[2], abs=1e-6)


def test_the_phases_share_no_task() -> None:
    tasks = [str(i) for i in range(103)]
    for seed in range(5):
        splits = split_group(tasks, base_fraction=0.6, heldout=0.1, seed=seed)
        assert sorted(sum(splits, [])) == sorted(tasks), "each task is in one of the three"
        assert len(splits.heldout) == 10 and len(splits.base) == 56
    assert split_group(tasks, base_fraction=0.6, heldout=0.1, seed=0) == split_group(set(tasks), base_fraction=0.6, heldout=0.1, seed=0)
    assert not split_group(tasks, base_fraction=0.6, heldout=0, seed=0).heldout
    with pytest.raises(ValueError, match="2 tasks with pairs cannot be divided"):
        split_group(tasks[:2], base_fraction=0.6, heldout=0.1, seed=0)


# A whole run --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experts")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(RECIPES)
        finish(start("train", "reward_experts.yaml", f"run.folder={folder}"))
    return folder / "reward_experts"


def facts_of(done: Path, name: str) -> dict[str, Any]:
    return json.loads((done / "reward_models" / name / "reward_model.json").read_text())


@pytest.mark.slow
def test_the_mixture_beats_one_shared_reward_model(done: Path) -> None:
    shared, experts = (facts_of(done, name) for name in ("shared", "experts"))
    assert experts["heldout/accuracy"] > 0.85 > 0.75 > shared["heldout/accuracy"]
    assert min(experts[f"heldout/accuracy/{name}"] for name in ("formal", "casual")) > 0.8
    by_shared, by_experts = RunFolder(done).evaluations()
    assert by_experts["rm@4"] > by_shared["rm@4"] + 0.1
    rows = [row for row in read_rows(done / "metrics.jsonl") if row["stage"] == "experts"]
    assert [row["phase"] for row in rows] == ([1] * 60 + [2] * 60 + [3] * 60) * 2
    assert rows[-1]["heldout/accuracy"] == experts["heldout/accuracy"] and "heldout/accuracy" not in rows[0]


@pytest.mark.slow
def test_the_run_s_phases_share_no_task(done: Path) -> None:
    category = {row["task"]: row["category"] for row in read_rows(done / "samples/drawn/rank0.jsonl")}
    splits = json.loads((done / "reward_models/experts/splits.json").read_text())
    assert splits.keys() == {"formal", "casual"}
    for name, phases in splits.items():
        tasks = sum(phases.values(), [])
        assert len(tasks) == len(set(tasks)) and {category[task] for task in tasks} == {name}
        trained = len(phases["base"]) + len(phases["mixture"])
        assert len(phases["base"]) == pytest.approx(0.6 * trained, abs=1)


def merged(folder: Path, number: int, lora: dict[str, Any]) -> Any:
    """The base with an expert's W + alpha / r B A put in by hand."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    state = load_file(folder / "experts.safetensors")
    for index, layer in enumerate(model.model.layers):
        for name in ("q_proj", "v_proj"):
            place = f"base.model.layers.{index}.self_attn.{name}"
            a, b = (state[f"{place}.lora_{side}.expert_{number}.weight"] for side in "AB")
            getattr(layer.self_attn, name).weight.data += lora["lora_alpha"] / lora["r"] * b @ a
    return model


@torch.no_grad()
@pytest.mark.slow
def test_the_reward_is_the_mlp_over_merged_experts(done: Path) -> None:
    folder, facts = done / "reward_models/experts", facts_of(done, "experts")
    kept = [row for path in RunFolder(done).evaluation_files(RunFolder(done).evaluations()[1]) for row in read_rows(path)]
    for number, name in enumerate(facts["experts"]):
        own = folder / f"group_{number}"
        models = [merged(own, expert, facts["lora"]) for expert in range(2)]
        state = load_file(own / "experts.safetensors")
        rows = [row for row in kept if row["category"] == name][:8]
        assert rows
        for row in rows:
            ids = torch.tensor([row["token_ids"]])
            x = torch.cat([model.model(ids).last_hidden_state[0, -1] for model in models])
            x = state["mixer.0.weight"] @ x + state["mixer.0.bias"]
            x = torch.where(x > 0, x, state["mixer.1.weight"] * x)
            score = state["mixer.2.weight"] @ x + state["mixer.2.bias"]
            assert row["parts"]["reward_model"] == pytest.approx(score.item(), abs=1e-4)


@pytest.mark.slow
def test_a_prompt_without_experts_has_no_score(done: Path) -> None:
    reward = ModelReward(SimpleNamespace(model=SimpleNamespace(device="cpu")), model=str(done / "reward_models/experts"), sigmoid=True)
    groups = []
    for category in ("formal", "other"):
        rollout = Rollout.from_tokens(id=category, task_id="t", token_ids=[50, 120, 120], mask=[False, True, True], logprobs=[0.0] * 3)
        groups.append(Group(task=Task(id="t", prompt="2", category=category), rollouts=[rollout], verdicts=[Verdict(value=0.0)]))
    [[formal], [other]] = reward(groups)
    assert 0 < formal.value < 1 and other.value is None
    raw = load_mixture(done / "reward_models/experts", facts_of(done, "experts")["experts"], facts_of(done, "experts")["lora"])
    [score] = raw.scores([("formal", [50, 120, 120])])
    assert formal.value == pytest.approx(1 / (1 + torch.tensor(-score).exp().item()), abs=1e-6)
    ids, mask = padded([[1, 2, 3], [4]], "cpu")
    assert ids.tolist() == [[1, 2, 3], [4, 0, 0]] and mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_a_killed_stage_starts_again_and_ends_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(RECIPES)
    small = (
        "tasks.words.size=60", "stages.sft.steps=40", "stages.shared.steps=1", "stages.experts.steps=6", "stages.experts.expert_steps=4",
        "stages.experts.mixture_steps=4", "stages.experts.batch_size=8", "tasks.test.size=4",
    )  # fmt: skip
    found = []
    for name in ("whole", "killed"):
        folder = tmp_path / name
        words = ("train", "reward_experts.yaml", *small, f"run.folder={folder}")
        if name == "killed":
            metrics = folder / "reward_experts/metrics.jsonl"
            kill_when(start(*words), lambda metrics=metrics: metrics.exists() and '"phase": 2' in metrics.read_text())
            words = (*words, "--resume")
        finish(start(*words))
        model = folder / "reward_experts/reward_models/experts"
        found.append([load_file(path) for path in sorted(model.rglob("*.safetensors"))])
    assert len(found[0]) == 4
    for one, other in zip(*found, strict=True):
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("experts={}", "experts names no category"),
        ("experts={formal: []}", "needs at least one capability, and each once"),
        ("experts={formal: [ends, ends]}", "needs at least one capability, and each once"),
        ("pairs=given", "pairs that are given have no category"),
        ("base_fraction=1.0", "base_fraction"),
        ("experts={formel: [starts]}", "no task of stage drawn has the category 'formel'; did you mean 'formal'?"),
        ("experts={formal: [starts, end]}", "stage drawn has no reward 'end'; did you mean 'ends'?"),
    ],
)
def test_what_cannot_work_is_refused(override: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(RECIPES)
    with pytest.raises(RlcoreError) as error:
        check(load("reward_experts.yaml", [f"stages.experts.{override}"]))
    assert sentence in str(error.value), error.value


def test_what_pairs_need_of_the_stage_that_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(RECIPES)
    for options, sentence in (
        (["stages.drawn.num_samples=1"], "shared.pairs: the pairs are of completions of one task, and stage drawn samples one"),
        (["stages.drawn.sampling.temperature=0"], "num_samples is 4, and at sampling.temperature 0"),
        (["stages.shared.heads=[starts, bends]", "stages.shared.pairs=answers"], "stages.shared.heads: stage drawn has no reward 'bends'"),
    ):
        with pytest.raises(RlcoreError) as error:
            check(load("reward_experts.yaml", options))
        assert sentence in str(error.value), error.value


def test_categories_without_experts_are_named_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training stage would learn nothing of them; an evaluation leaves them out of rm@k."""
    monkeypatch.chdir(RECIPES)
    formal_only = "stages.experts.experts={formal: [starts, ends]}"
    facts = check(load("reward_experts.yaml", [formal_only]))
    [said] = [fact for fact in facts if "rm@k" in fact]
    assert said.startswith("by_experts: the reward model experts has experts for formal, and none for casual of test")
    last = "{kind: rl, tasks: words, steps: 1, groups_per_step: 2, group_size: 2, rewards: [{use: reward_model, model: experts%s}]}"
    with pytest.raises(RlcoreError, match="none for casual of words: train experts for it"):
        check(load("reward_experts.yaml", [formal_only, f"stages.by_experts={last % ''}"]))
    check(load("reward_experts.yaml", [formal_only, f"stages.by_experts={last % ', optional: true'}"]))
    check(load("reward_experts.yaml", [f"stages.by_experts={last % ''}"]))


def test_lora_that_does_not_fit_is_refused() -> None:
    with pytest.raises(RlcoreError, match="lora.target_modules"):
        GroupExperts(classifier(), ["x"], {**LORA, "target_modules": ["nothing"]})
    with pytest.raises(RlcoreError, match="lora does not describe an adapter"):
        GroupExperts(classifier(), ["x"], {"rank": 4})
