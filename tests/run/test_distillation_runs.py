"""Whole runs with a teacher: resumed, composed with other keys, and refused where a key would have no effect."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from rlcore.errors import ModelError, RlcoreError, RunError
from rlcore.learner.policy import load_policy
from rlcore.learner.teacher import PolicyTeacher
from rlcore.recipe.check import check
from rlcore.recipe.load import load
from rlcore.rollout.hf import HfEngine
from rlcore.run.driver import train
from rlcore.run.folder import read_rows
from rlcore.run.teachers import EngineTeacher, require_same_tokenizer
from rlcore.types import Sample
from tests.run.whole import finish, run_folder, start, story, untimed, write_recipe

SHORT = (
    "stages.sft.steps=2",
    "stages.before.limit=1",
    "stages.after.limit=1",
    "run.checkpoint_every=1",
    "run.keep_checkpoints=9",
    "stages.rl.optim.lr=3e-3",
)
HINT = 'stages.rl.teacher={model: policy, prompt: "{prompt}{answer} "}'
OPD = ("stages.rl.method=opd", HINT)
REPLAY = ("stages.rl.replay={fraction: 0.5, max_age: 2}", "stages.rl.credit.zero_variance=keep")
WITH = {
    "lora": ("model.peft={type: lora, r: 4, target_modules: all-linear}",),
    "minibatches": ("stages.rl.minibatches=2",),
    "staleness": ("stages.rl.max_staleness=1",),
    "processes": (),
}


def rl(folder: Path) -> list[dict]:
    return [row for row in untimed(read_rows(folder / "metrics.jsonl")) if row["stage"] == "rl"]


def go(recipe: Path, *options: str, **settings) -> list[dict]:
    train(load(str(recipe), [*SHORT, *options]), **settings)
    return rl(run_folder(recipe))


def test_all_at_once_and_resumed(tmp_path: Path) -> None:
    """Teacher and verifier, replay, an adapter, minibatches and stale batches in one stage.

    The finished run loses its last checkpoints and goes on: the teacher is still the model the stage began with.
    """
    recipe = write_recipe(tmp_path)
    options = (
        *OPD,
        *REPLAY,
        *(key for keys in WITH.values() for key in keys),
        "stages.rl.credit.baseline=mean_std",
        "stages.rl.objective={divergence: jsd, weight: 0.5}",
        "stages.rl.teacher.top_k=8",
        "stages.rl.steps=3",
    )
    rows = go(recipe, *options)
    assert [row["replay/groups"] for row in rows] == [0, 4, 4]
    assert rows[1]["loss/teacher"] > 0 and rows[1]["staleness/max"] == 1 and rows[1]["updates"] == 2
    assert abs(rows[1]["loss/policy"]) > 0  # the verifier's advantages
    folder = run_folder(recipe)
    want = story(folder)

    def wind_back() -> None:
        for path in (folder / "checkpoints").iterdir():
            if int(path.name.removeprefix("step_")) > 4:  # two steps of this stage are done
                shutil.rmtree(path)

    wind_back()
    go(recipe, *options, resume=True)
    assert story(folder) == want

    wind_back()
    shutil.rmtree(folder / "references" / "stage_02_teacher")
    with pytest.raises(RunError, match="stage_02_teacher, the model this stage began with"):
        go(recipe, *options, resume=True)


def test_a_teacher_that_trained_on_meanwhile_is_read_as_at_the_start(tmp_path: Path) -> None:
    """A run folder as teacher: the resumed run goes on with the checkpoint that it began with, or says that it is gone."""
    recipe = write_recipe(tmp_path)
    saved = tmp_path / "large" / "checkpoints"
    torch.manual_seed(1)
    tiny().save(saved / "step_000001")
    options = ("stages.rl.method=opd", f"stages.rl.teacher.model={tmp_path / 'large'}", "stages.rl.steps=3")
    go(recipe, *options)
    folder = run_folder(recipe)
    want = story(folder)

    torch.manual_seed(2)
    tiny().save(saved / "step_000002")
    for resumed in range(2):
        for path in (folder / "checkpoints").iterdir():
            if int(path.name.removeprefix("step_")) > 3:
                shutil.rmtree(path)
        if resumed:
            shutil.rmtree(saved / "step_000001")
            with pytest.raises(RunError, match="step_000001, which this run reads as .*large, is gone"):
                go(recipe, *options, resume=True)
        else:
            go(recipe, *options, resume=True)
            assert story(folder) == want

    with pytest.raises(RunError, match="as a model to be read, and it is the folder of this run"):
        go(recipe, "stages.rl.method=opd", f"stages.rl.teacher.model={folder}", overwrite=True)


@pytest.mark.slow
@pytest.mark.parametrize("composed", WITH)
@pytest.mark.parametrize("part", ["opd", "gkd", "replay"])
def test_each_pair_trains_two_steps(part: str, composed: str, tmp_path: Path) -> None:
    own = {
        "opd": OPD,
        "gkd": ("stages.rl.method=gkd", HINT, "stages.rl.teacher.top_k=4"),
        "replay": REPLAY,
    }[part]
    recipe = write_recipe(tmp_path)
    processes = 2 if composed == "processes" else 1
    options = (*SHORT, *own, *WITH[composed], "stages.rl.steps=2")
    finish(start("train", recipe, *options, processes=processes))
    rows = rl(run_folder(recipe))
    assert len(rows) == 2 and all(row["updates"] >= 1 for row in rows)
    assert ("replay/groups" if part == "replay" else "teacher/kl") in rows[1]


def tiny(**changes):
    config = {"model_type": "qwen2", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
              "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64}  # fmt: skip
    return load_policy(config=config | changes, tokenizer="bytes")


def test_a_teacher_behind_an_engine_scores_as_the_learner_does(tmp_path: Path) -> None:
    policy = tiny()
    policy.save(tmp_path)
    samples = [
        Sample(id=str(i), token_ids=[5, 9, 40 + i, 7, 30], mask=[False, False, True, i > 0, True], advantages=[0.0] * 5)
        for i in range(2)
    ]  # fmt: skip
    engine = HfEngine(tmp_path, max_length=32)
    by_engine = EngineTeacher(engine, top_k=3, vocabulary=262).score(samples)
    by_learner = PolicyTeacher(policy, top_k=3, vocabulary=262).score(samples)
    for one, other in zip(by_engine, by_learner, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)
        assert torch.equal(one.top_ids, other.top_ids)
        assert torch.allclose(one.top_logprobs.float(), other.top_logprobs, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("stages.rl.method=opd",), "the stage's objective pulls to a teacher: name one"),
        (("stages.rl.teacher={model: policy}",), "zero_variance is drop, so groups of equal rewards"),
        (("stages.rl.teacher={model: policy}", REPLAY[1]), "it has no effect: the stage's objective"),
        (("stages.rl.method=opd", "stages.rl.teacher={model: policy}"), "reads what the policy reads, so there is nothing to learn"),
        (("stages.rl.method=opd", "stages.rl.teacher={model: {a: policy}, prompt: '{prompt} {answer}'}"), "model has no such teacher; there are: a"),
        ((*OPD, "stages.rl.objective={divergence: jsd}"), "set teacher.top_k"),
        ((*OPD, "stages.rl.teacher.top_k=4"), "top_k has no effect: the objective's divergence"),
        ((*OPD, "stages.rl.teacher.base=policy"), "the divergence implicit and the key teacher.base"),
        ((*OPD, "stages.rl.teacher.by=kind"), "by has no effect with one teacher"),
        ((*OPD, "stages.rl.teacher.prompt=no task"), "the teacher would not see the task"),
        ((*OPD, "stages.rl.teacher.prompt='{prompt} {hint}'"), "has no column 'hint'; it has category, answer"),
        ((*OPD, "stages.rl.sampling.top_p=0.9"), "sampling cuts it"),
        ((*OPD, "stages.rl.teacher.engine=hf", "stages.rl.sampling.temperature=0.5"), "scores at temperature 1"),
        (("stages.rl.method=gkd", HINT, "stages.rl.teacher.top_k=4", "stages.rl.credit.demonstrations=none"),
         "set credit.demonstrations to gated, mixed, all or solved"),
        ((*REPLAY, "stages.rl.old_logprobs=trainer"), "replay.max_age is 2 and old_logprobs is trainer"),
        (("stages.rl.replay={fraction: 1.0}",), "fraction"),
    ],
)  # fmt: skip
def test_what_has_no_effect_is_refused(options, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(RlcoreError, match=sentence):
        check(load(str(write_recipe(tmp_path)), list(options)))


def test_checking_compares_tokenizers_that_it_can_read(tmp_path: Path) -> None:
    """Of teacher, critic and a reward model's base; before any model is loaded."""
    other = tiny().tokenizer
    tiny().save(tmp_path / "alike")
    tiny().save(tmp_path / "other")
    other.add_tokens(["<|hint|>"])
    other.save_pretrained(tmp_path / "other")
    judge = f"{{kind: reward_model, data: {tmp_path}, pairs: given, steps: 1, batch_size: 1, base: %s}}"
    for options, place in (
        (("stages.rl.method=opd", "stages.rl.teacher.model=%s"), "stages.rl.teacher"),
        (("stages.rl.method=ppo", "stages.rl.critic.path=%s"), "stages.rl.critic.path"),
        ((f"stages=[{judge}]",), "stages.reward_model.base"),
    ):
        recipe = str(write_recipe(tmp_path))
        check(load(recipe, [option.replace("%s", str(tmp_path / "alike")) for option in options]))
        with pytest.raises(RlcoreError, match=rf"{place}: the model .*other has another tokenizer than the policy"):
            check(load(recipe, [option.replace("%s", str(tmp_path / "other")) for option in options]))


def test_a_teacher_with_another_tokenizer_is_refused() -> None:
    other = tiny().tokenizer
    other.add_tokens(["<|hint|>"])
    with pytest.raises(ModelError, match=r"another tokenizer than the policy \('<\|hint\|>' is token"):
        require_same_tokenizer("other", other, tiny().tokenizer)
