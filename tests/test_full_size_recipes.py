"""The papers' recipes at full size: each hyper-parameter that the papers state is set to their value, and a node of 8 GPUs holds them.

Values are of the papers and the code that their authors published; what a paper leaves open is said in the recipe's first lines.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlcore.cli.main import main
from rlcore.recipe.load import load

PAPERS = Path(__file__).resolve().parents[1] / "recipes/papers"
ON_POLICY = {"minibatches": 1, "update_epochs": 1, "max_staleness": 0}
NO_KL = {"objective.kl": 0}
VALUES: dict[str, dict[str, dict[str, Any]]] = {
    # SEC, its repository's commands for Countdown
    "sec/qwen2.5_3b": {"rl": {
        "steps": 240, "groups_per_step": 256, "group_size": 8, "minibatches": 4, "optim.lr": 1e-6, "optim.schedule": "constant",
        "sampling.temperature": 1.0, "sampling.max_tokens": 4096, "curriculum.use": "sec", "curriculum.temperature": 1.0,
        "curriculum.alpha": 0.5, "method": "grpo", **NO_KL,
    }},
    # RLPT, section 3.1
    "rlpt/qwen3_4b": {"rl": {
        "groups_per_step": 512, "group_size": 8, "sampling.temperature": 1.0, "sampling.max_tokens": 8192, "optim.lr": 1e-6,
        "optim.schedule": "constant", "method": "grpo", **NO_KL, **ON_POLICY,
    }},
    # RLP, its experimental setup
    "rlp/qwen3_1.7b": {"rl": {
        "steps": 200, "groups_per_step": 512, "group_size": 16, "sampling.temperature": 0.7, "sampling.max_tokens": 2048,
        "optim.lr": 1e-6, "optim.schedule": "constant", "credit.baseline": "leave_one_out", **NO_KL,
    }},
    # PretrainZero, section 4.1
    "pretrain_zero/qwen3_4b": {"rl": {
        "steps": 2000, "groups_per_step": 32, "group_size": 8, "sampling.max_tokens": 4096, "optim.lr": 5e-7,
        "optim.schedule": "cosine", "credit.zero_variance": "drop", "method": "grpo", **NO_KL,
    }},
    # RMT: lambda, the budget from B_0 by gamma, and the thirds of the curriculum
    "rmt/deepseek_r1_14b": {"rl": {
        "groups_per_step": 128, "group_size": 8, "optim.lr": 1e-6, "objective.next_token": 0.1, "budget.use": "smooth",
        "budget.start": 800, "budget.factor": 0.2, "curriculum.hold": 300, "curriculum.until": 700, "steps": 1000,
    }},
    # Train Long, Think Short: main run, length-heavy weights
    "train_long_think_short/qwen2.5_7b": {"rl": {
        "steps": 600, "group_size": 8, "budget.use": "exponential", "budget.start": 256, "budget.factor": 0.7, "budget.every": 150,
        "rewards.0.weight": 0.3, "rewards.1.weight": 0.6, "rewards.1.shape": "triangle",
    }},
    # Tülu 3 8B, table 21 and the trainer's code; 100,000 episodes
    "tulu3/tulu3_8b": {"rl": {
        "method": "ppo", "groups_per_step": 224, "group_size": 1, "optim.lr": 3e-7, "optim.schedule": "linear", "objective.kl": 0.05,
        "objective.kl_kind": "reward", "objective.clip_low": 0.2, "objective.clip_high": 0.2, "update_epochs": 4, "minibatches": 1,
        "sampling.max_tokens": 2048, "sampling.temperature": 1.0, "critic.gamma": 1.0, "critic.gae_lambda": 0.95,
        "critic.value_clip": 0.2, "critic.whiten": True, "critic.optim.lr": 3e-7, "rewards.0.weight": 10, "rewards.1.weight": 10,
        "aggregate": "unless_unfinished",
    }},
    # OLMo 2 1B: a mixed stage, then MATH alone; no penalty
    "tulu3/olmo2_1b": {name: {
        "method": "grpo", "groups_per_step": 48, "group_size": 16, "optim.lr": 5e-7, "optim.schedule": "constant", "objective.kl": 0.01,
        "objective.kl_kind": "k3", "sampling.temperature": 1.0, "rewards.0.weight": 10,
    } for name in ("mixed", "math_alone")},
}  # fmt: skip
DEFAULTS = {"objective.kl": 0, "optim.schedule": "constant", "aggregate": "sum"}
"""Where a key is left out."""


def setting(stage: Any, key: str) -> Any:
    """The value of a dotted key; parts that are named alone have no parameters."""
    node: Any = stage.model_dump()
    for part in key.split("."):
        if isinstance(node, str):
            node = {"use": node}
        node = node[int(part)] if part.isdecimal() else node.get(part, DEFAULTS.get(key))
    return node.get("use", node) if isinstance(node, dict) else node


@pytest.mark.parametrize("name", VALUES)
def test_what_the_paper_states_is_set(name: str) -> None:
    recipe = load(str(PAPERS / f"{name}.yaml"))
    for label, wanted in VALUES[name].items():
        stage = next(stage for stage in recipe.stages if stage.label == label)
        assert {key: setting(stage, key) for key in wanted} == wanted


def test_every_recipe_of_full_size_is_here() -> None:
    """Those that start from a model of the hub."""
    found = set()
    for path in PAPERS.glob("*/*.yaml"):
        text = path.read_text(encoding="utf-8")
        if "never run" in text or "Needs many GPUs" in text or "at the paper's scale" in text:
            found.add(f"{path.parent.name}/{path.stem}")
    assert found == set(VALUES)




def config(kind: str, vocabulary: int, hidden: int, inner: int, layers: int, heads: int, kv_heads: int, **more: Any) -> dict[str, Any]:
    """As in the model's config.json."""
    return {
        "model_type": kind, "vocab_size": vocabulary, "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "max_position_embeddings": 32768, **more,
    }  # fmt: skip


TIED = {"tie_word_embeddings": True}
QWEN3 = {"head_dim": 128, **TIED}
SIZES: dict[str, tuple[dict[str, Any], float]] = {
    "sec/qwen2.5_3b": (config("qwen2", 151936, 2048, 11008, 36, 16, 2, **TIED), 3.09),
    "rlpt/qwen3_4b": (config("qwen3", 151936, 2560, 9728, 36, 32, 8, **QWEN3), 4.02),
    "rlp/qwen3_1.7b": (config("qwen3", 151936, 2048, 6144, 28, 16, 8, **QWEN3), 1.72),
    "rmt/deepseek_r1_14b": (config("qwen2", 152064, 5120, 13824, 48, 40, 8), 14.77),
    "train_long_think_short/qwen2.5_7b": (config("qwen2", 152064, 3584, 18944, 28, 28, 4), 7.62),
    "tulu3/tulu3_8b": (config("llama", 128264, 4096, 14336, 32, 32, 8), 8.03),
    "tulu3/olmo2_1b": (config("olmo2", 100352, 2048, 8192, 16, 16, 16), 1.48),
}
SIZES["pretrain_zero/qwen3_4b"] = SIZES["rlpt/qwen3_4b"]
"""The model's config without its files, and its parameters in billions."""
SERVED = {"train_long_think_short/qwen2.5_7b": (1, 4), "tulu3/tulu3_8b": (2, 8), "rmt/deepseek_r1_14b": (2, 8)}
"""Nodes of eight, and GPUs among them that serve, where one node with engine and learner on each GPU is too small."""


@pytest.mark.slow
@pytest.mark.parametrize("name", VALUES)
def test_eight_gpus_hold_it_or_two_nodes_of_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the meta device, with FSDP2 over devices of 80 GiB. Prompts are read as bytes: the tokenizers are not here."""
    monkeypatch.chdir(tmp_path)
    shape, billions = SIZES[name]
    words = ["plan", str(PAPERS / f"{name}.yaml"), "model.path=null", f"model.config={json.dumps(shape)}", "model.tokenizer=bytes"]
    if "critic" in load(str(PAPERS / f"{name}.yaml")).stages[0].model_dump(exclude_none=True):
        words.append("stages.rl.critic.path=null")
    words += ["prompt.format=plain", "prompt.system=null", *own_tasks(name, tmp_path)]
    nodes, serving = SERVED.get(name, (1, 0))
    if serving:
        words += ["engine.use=vllm_server", "engine.start=4", "--nodes", str(nodes), "--serve", str(serving)]
    assert main([*words, "--gpus", "8", "--memory", "80", "--sharding", "fsdp", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert found["parameters"] / 1e9 == pytest.approx(billions, rel=0.01)
    assert found["fits"], found


def own_tasks(name: str, folder: Path) -> list[str]:
    """Overrides that put a few rows in place of task sets of the hub."""
    row = {"messages": [{"role": "user", "content": "2+2?"}], "ground_truth": "4", "question": "2+2?", "answer": "#### 4"}
    text = {"text": "One sentence stands here. Another one follows it. A third one ends the text. " * 40}
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\n")
    (folder / "text.jsonl").write_text("".join(json.dumps(text | {"id": i}) + "\n" for i in range(30)))
    if name.startswith("tulu3"):
        return ["tasks.gsm8k.path=rows.jsonl", "tasks.competition.path=rows.jsonl"]
    if name.startswith("train_long"):
        return ["tasks.train.path=rows.jsonl", "tasks.test.path=rows.jsonl", "tasks.train.columns={prompt: question, answer: answer}"]
    if name.startswith("sec"):
        return []
    keys = ["tasks.read.path=text.jsonl", "tasks.read.keep=null"]
    if name.startswith(("rlp/", "rmt/")):
        keys.append("tasks.read.tokenizer=bytes")
    return [*keys, *(["tasks.read.entropy_model=null", "stages.rl.curriculum=uniform"] if "rmt" in name else [])]
