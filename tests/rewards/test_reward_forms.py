"""Reward functions as people write them: TRL's batch form, the short form, how they are named and found."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import pytest

from rlcore import RewardSpec, Rollout, Task, Verdict, reward
from rlcore.errors import RewardError
from rlcore.scoring.kit import describe_rewards
from rlcore.scoring.load import find_reward, load_reward, registered_rewards
from rlcore.scoring.scorer import Scorer

# Written as for TRL: nothing here knows of rlcore.
TRL_STYLE = """
    import re

    def num_unique_letters(completions, **kwargs):
        completion_contents = [completion[0]["content"] for completion in completions]
        return [float(len(set(content))) for content in completion_contents]

    def length_by_ids(completion_ids, **kwargs):
        return [float(len(ids)) for ids in completion_ids]

    def with_ground_truth(prompts, completions, ground_truth, **kwargs):
        matches = [re.search(r"\\\\boxed\\{(.*?)\\}", completion) for completion in completions]
        return [1.0 if m and m.group(1) == c else 0.0 for m, c in zip(matches, ground_truth)]

    def only_math(prompts, completions, task, **kwargs):
        return [1.0 if t == "math" and c == "4" else None for c, t in zip(completions, task)]

    async def later(prompts, completions, **kwargs):
        import asyncio
        async def one(text):
            await asyncio.sleep(0.01)
            return len(text)
        return await asyncio.gather(*[one(text) for text in completions])

    def named_only(completions, answer):
        return [text == right for text, right in zip(completions, answer)]

    def with_params(prompts, completions, *, scale, offset=0.0, **kwargs):
        return [scale * len(text) + offset for text in completions]

    def odd_values(completions, **kwargs):
        import numpy
        values = {"nan": float("nan"), "inf": float("inf"), "numpy": numpy.float32(0.5), "bool": True, "none": None, "text": "1"}
        return [values[text] for text in completions]

    def too_few(completions, **kwargs):
        return [1.0]

    def not_a_list(completions, **kwargs):
        return 1.0

    def echo(prompts, completions, finished, level, **kwargs):
        assert prompts == ["p"] * 2 and level == [3, 3], (prompts, level)
        assert kwargs["answer"] == ["4", "4"] and "prompt" not in kwargs, kwargs
        return [float(f) for f in finished]
"""
SHORT = """
    from rlcore import Verdict, reward

    @reward
    def graded(completion: str, answer: str, **columns):
        return {"right": 1.0, "half": True, "none": None}.get(completion, Verdict(value=0.0, status="wrong-format", reason="what?"))

    @reward
    async def sees(completion, answer, level, finished, prompt, completion_ids, bonus=0):
        return level + bonus + (10 if finished else 0) + 100 * len(completion_ids) + (1000 if prompt == "p" else 0)

    @reward
    def needs(completion, answer, rubric):
        return 1.0

    not_a_function = 3
"""
TASK = Task(
    id="t",
    prompt="p",
    answer="4",
    columns={"level": 3, "ground_truth": "4", "task": "math", "answer": "raw", "prompt": "raw"},
)


def _score(spec: RewardSpec, rollouts, task: Task = TASK):
    with Scorer([spec], workers=1) as scorer:
        return scorer.score([(task, rollouts)])[0]


@pytest.mark.parametrize(
    ("function", "texts", "expected"),
    [
        ("length_by_ids", ["a", "b"], [3.0, 3.0]),
        ("with_ground_truth", ["\\boxed{4}", "4"], [1.0, 0.0]),
        ("only_math", ["4", "5"], [1.0, None]),
        ("later", ["abc", "a"], [3.0, 1.0]),
        ("named_only", ["4", "5"], [1.0, 0.0]),
        ("echo", ["a", "b"], [1.0, 1.0]),
    ],
)
def test_trl_functions_work_unchanged(function, texts, expected, plugin, rollout):
    verdicts = _score(
        RewardSpec(f"{plugin(TRL_STYLE)}:{function}"), [rollout(text) for text in texts]
    )
    assert [verdict.value for verdict in verdicts] == expected, verdicts
    assert [verdict.status for verdict in verdicts] == [
        "unscorable" if value is None else "ok" for value in expected
    ]


def test_chat_prompts_give_chat_completions(plugin, rollout):
    task = Task(id="t", prompt=[{"role": "user", "content": "hi"}])
    assert (
        _score(RewardSpec(f"{plugin(TRL_STYLE)}:num_unique_letters"), [rollout("aab")], task)[
            0
        ].value
        == 2.0
    )


def test_params_become_keyword_arguments(plugin, rollout):
    spec = RewardSpec(f"{plugin(TRL_STYLE)}:with_params", params={"scale": 2, "offset": 0.5})
    assert _score(spec, [rollout("abc")])[0].value == 6.5
    missing = _score(RewardSpec(spec.use), [rollout("abc")])[0]
    assert missing.status == "crashed" and "asks for 'scale'" in missing.reason


def test_odd_values_are_told_apart(plugin, rollout):
    texts = ["nan", "inf", "numpy", "bool", "none", "text"]
    verdicts = _score(
        RewardSpec(f"{plugin(TRL_STYLE)}:odd_values"), [rollout(text) for text in texts]
    )
    assert [verdict.status for verdict in verdicts] == [
        "unscorable",
        "unscorable",
        "ok",
        "ok",
        "unscorable",
        "crashed",
    ]
    assert [verdict.value for verdict in verdicts[2:4]] == [0.5, 1.0]
    assert (
        "gave nan" in verdicts[0].reason
        and "gave None" in verdicts[4].reason
        and "a str" in verdicts[5].reason
    )


@pytest.mark.parametrize(("function", "got"), [("too_few", "1 values"), ("not_a_list", "a float")])
def test_a_wrong_number_of_results_is_a_crash_and_is_not_retried(function, got, plugin, rollout):
    verdicts = _score(RewardSpec(f"{plugin(TRL_STYLE)}:{function}"), [rollout("a"), rollout("b")])
    assert [verdict.status for verdict in verdicts] == [
        "crashed"
    ] * 2  # one by one, too_few would look right
    assert f"expected 2, got {got}" in verdicts[0].reason


def test_short_form_values_and_statuses(plugin, rollout):
    verdicts = _score(
        RewardSpec(f"{plugin(SHORT)}:graded"),
        [rollout(text) for text in ("right", "half", "none", "other")],
    )
    assert [(verdict.value, verdict.status) for verdict in verdicts] == [
        (1.0, "ok"),
        (1.0, "ok"),
        (None, "unscorable"),
        (0.0, "wrong-format"),
    ]


def test_short_form_sees_columns_and_the_state_of_the_answer(plugin, rollout):
    spec = RewardSpec(f"{plugin(SHORT)}:sees", params={"bonus": 4})
    assert [
        verdict.value for verdict in _score(spec, [rollout("x"), rollout("x", finish="length")])
    ] == [1317.0, 1307.0]


def test_a_missing_column_is_named(plugin, rollout):
    verdict = _score(RewardSpec(f"{plugin(SHORT)}:needs"), [rollout("x")])[0]
    assert verdict.status == "crashed" and "asks for 'rubric'" in verdict.reason


def test_the_mark_leaves_the_function_callable():
    @reward
    def f(completion: str, answer: str) -> float:
        return float(completion == answer)

    assert f("4", "4") == 1.0


@pytest.mark.parametrize(
    ("use", "params", "message"),
    [
        ("FILE:gradet", {}, "did you mean 'graded'"),
        ("FILE:not_a_function", {}, "is of type int, not a function"),
        ("FILE:sees", {"bonos": 1}, "no parameter 'bonos'; did you mean 'bonus'"),
        ("FILE:sees", {"answer": 1}, "the engine itself passes 'answer'"),
        ("no/such_file.py:f", {}, "there is no reward file .*such_file.py"),
        ("no_such_package.module:f", {}, "cannot import no_such_package.module"),
        ("rewards.text:exakt", {}, "did you mean 'exact'"),
        ("no_such_name", {}, "there is no reward 'no_such_name'"),
    ],
)
def test_bad_names_are_met_with_a_sentence(use, params, message, plugin):
    use = use.replace("FILE", plugin(SHORT))
    with pytest.raises(RewardError, match=message):
        load_reward(RewardSpec(use, params=params))


def test_a_function_of_the_old_form_is_told_the_new_names(plugin):
    source = """
        from rlcore import reward

        @reward
        def old(answer, gold, **columns):
            return float(answer == gold)

        @reward
        class Old:
            def __call__(self, answer, gold):
                return 1.0

        @reward
        def column(completion, answer, gold):
            return 1.0
    """
    path = plugin(source)
    for function in ("old", "Old"):
        with pytest.raises(RewardError, match=r"asks for 'gold': name its parameters \(completion"):
            load_reward(RewardSpec(f"{path}:{function}"))
    load_reward(RewardSpec(f"{path}:column"))


def test_the_first_reward_decides_what_passed():
    parts = {"math": 1.0, "style": -3.0}
    assert Verdict(value=-2.0, parts=parts).passed()
    assert not Verdict(value=5.0, parts={"math": 0.0, "style": 5.0}).passed()
    assert Verdict(value=None, status="crashed", parts={"math": 1.0, "style": None}).passed()
    assert not Verdict(value=None, status="crashed", parts={"math": None, "style": 1.0}).passed()
    assert Verdict(value=0.5).passed() and not Verdict(value=0.5).passed(0.6)
    assert not Verdict(value=None, status="timed-out").passed()


def test_a_multi_turn_rollout_is_offered_all_tokens_of_the_policy(plugin):
    source = """
        from rlcore import reward

        @reward
        def count(completion, answer, completion_ids):
            return float(len(completion_ids))
    """
    rollout = Rollout.from_tokens(
        id="r",
        task_id="t",
        token_ids=[1, 10, 11, 2, 3, 12],
        mask=[False, True, True, False, False, True],
        logprobs=[0.0] * 6,
        text="last",
    )
    assert _score(RewardSpec(f"{plugin(source)}:count"), [rollout])[0].value == 3.0


def test_a_file_may_import_its_neighbours(plugin, rollout):
    plugin("def double(x): return 2 * x", name="neighbour_of_rewards.py")
    path = plugin(
        "from neighbour_of_rewards import double\ndef f(completions): return [double(len(c)) for c in completions]"
    )
    assert _score(RewardSpec(f"{path}:f"), [rollout("abc")])[0].value == 6.0


def test_entry_points_of_installed_packages(tmp_path: Path, monkeypatch, rollout):
    info = tmp_path / "someones_rewards-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: someones-rewards\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[rlcore.rewards]\nsomeones = someones_module:f\nbroken = someones_module:nothing\n"
    )
    source = (
        'def f(completions):\n    """Counts letters."""\n    return [len(c) for c in completions]\n'
    )
    (tmp_path / "someones_module.py").write_text(source)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert _score(RewardSpec("someones"), [rollout("abc")])[0].parts == {"someones": 3.0}
    with pytest.raises(RewardError, match="did you mean 'someones'"):
        load_reward(RewardSpec("someone"))
    listed = {info.name: info for info in describe_rewards()}
    assert (
        listed["someones"].summary == "Counts letters."
        and listed["someones"].signature == "(completions)"
    )
    assert "has no 'nothing'" in listed["broken"].summary


CLASSES = """
    from rlcore import reward

    @reward
    class Marked:
        def __init__(self, *, pay: float = 1.0):
            self.pay = pay
        async def __call__(self, completion, answer, **columns):
            return self.pay * (completion.encode() == answer.encode())

    class MarkedCall:
        def __init__(self, *, pay: float = 1.0):
            self.pay = pay
        @reward
        async def __call__(self, completion, answer, **columns):
            return self.pay * (completion.encode() == answer.encode())

    class Unmarked:
        async def __call__(self, completion, answer, **columns):
            return float(completion.encode() == answer.encode())

    def unmarked(completion, answer, **columns):
        return float(completion.strip() == answer)
"""


@pytest.mark.parametrize("name", ["Marked", "MarkedCall"])
def test_a_class_may_be_marked_or_its_call(name, plugin, rollout):
    spec = RewardSpec(f"{plugin(CLASSES)}:{name}", params={"pay": 0.5})
    assert [verdict.value for verdict in _score(spec, [rollout("4"), rollout("5")])] == [0.5, 0.0]


@pytest.mark.parametrize("name", ["Unmarked", "unmarked"])
def test_a_forgotten_mark_is_named(name, plugin, rollout):
    (verdict,) = _score(RewardSpec(f"{plugin(CLASSES)}:{name}"), [rollout("4")])
    assert verdict.status == "crashed" and "mark the function or class with @reward" in verdict.reason


def test_a_checkout_that_is_not_installed_has_its_rewards(monkeypatch):
    installed = registered_rewards()
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: ())
    assert registered_rewards() == installed
    assert find_reward(RewardSpec("exact")).__module__ == "rewards.text"
