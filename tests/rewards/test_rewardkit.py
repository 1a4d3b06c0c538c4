"""The kit: what `rlcore rewards` says of good, wrong, naive and fragile rewards, and what it leaves as exit status."""

from __future__ import annotations

import doctest
import importlib.util
import json
import re
import time
import tomllib
from pathlib import Path

import pytest
import yaml

from rlcore import RewardSpec, Verdict
from rlcore.cli.main import main
from rlcore.errors import RewardError
from rlcore.recipe.shared_sections import RewardSection
from rlcore.scoring.kit import (
    FAULTS,
    PROBES,
    Case,
    compare,
    describe_rewards,
    examine,
    markdown,
    probe,
    read_cases,
)
from rlcore.scoring.kit.faults import PROCESS_FAULTS
from rlcore.scoring.kit.probes import HEDGES, look_alike
from rlcore.scoring.kit.standard import EXAMPLES, Standard
from rlcore.scoring.load import load_reward

ROOT = Path(__file__).resolve().parents[2]

REWARDS = """
    import os
    from rlcore import reward

    @reward
    def naive(completion, answer, **columns):
        return answer in completion

    @reward
    def fragile(completion, answer, **columns):
        if not completion:
            return 1.0
        return float(completion.split()[-1] == answer)

    @reward
    def forgetful(completion, answer, *, note, **columns):
        '''Another value in every process.'''
        return float(os.getpid())

    def broken(prompts, completions, **columns):
        raise RuntimeError("no server")

    @reward
    def unbounded(completion, answer):
        return completion == answer
    unbounded.memory_gb = None
"""
CASES = [
    Case(answer="4", completion="it is 4", expected=1.0),
    Case(answer="4", completion="it is 5", expected=0.0),
    Case(answer="4", completion="4 it is", expected=1.0, name="planted"),
]


def test_a_fragile_reward_is_found_out(plugin):
    found = examine(f"{plugin(REWARDS)}:fragile", CASES, deadline_s=1.0)
    assert found.accuracy == pytest.approx(2 / 3) and [
        trial.name for trial in found.cases if trial.right is False
    ] == ["planted"]
    said = " | ".join(found.problems)
    assert "1 of 3 cases did not get the expected value, first planted" in said
    assert (
        "the fault 'empty' earns 1, and a right completion 1" in said
        and len(found.problems) == 2
    )
    statuses = {trial.name: trial.verdict.status for trial in found.faults}
    assert list(statuses) == list(FAULTS) and statuses["spaces"] == "crashed"
    assert set(found.milliseconds) == {"p50", "p90", "p99", "max"}
    assert found.milliseconds["p50"] <= found.milliseconds["p90"] <= found.milliseconds["max"]
    row = json.loads(json.dumps(found.as_dict()))["disagreements"][0]
    assert (row["name"], row["value"], row["expected"]) == ("planted", 0.0, 1.0)


def test_its_process_may_die_in_every_way_and_the_pool_is_as_before(plugin):
    found = examine("rewards.text:exact", [], deadline_s=1.0)
    assert [(trial.name, trial.verdict.status) for trial in found.process] == [
        ("infinite loop", "timed-out"), ("exit", "crashed"), ("segmentation fault", "crashed"), ("memory hog", "crashed")
    ]  # fmt: skip
    assert all(
        trial.contained and trial.next_is_right and trial.workers == 2
        for trial in found.process
    )
    reasons = {trial.name: trial.verdict.reason for trial in found.process}
    assert "exit code 3" in reasons["exit"] and "SIGSEGV" in reasons["segmentation fault"]
    assert "MemoryError" in reasons["memory hog"] and found.problems == []


def test_a_reward_that_is_not_itself_after_a_fault_is_reported(plugin):
    found = examine(f"{plugin(REWARDS)}:forgetful", [], {"note": "n"}, deadline_s=1.0)
    assert not any(trial.next_is_right for trial in found.process) and all(
        trial.workers == 2 for trial in found.process
    )
    assert "after the fault 'exit' the pool is not as before" in found.problems


def test_a_reward_without_memory_bound_is_spared_the_hog_and_one_that_only_crashes_is_a_problem(
    plugin,
):
    path = plugin(REWARDS)
    found = examine(f"{path}:unbounded", [], deadline_s=1.0)
    assert {trial.name for trial in found.process} == set(PROCESS_FAULTS) - {
        "memory hog"
    } and found.problems == []
    found = examine(f"{path}:broken", [], deadline_s=1.0)
    assert found.problems[-1].startswith(
        "the reward crashed on every completion: RuntimeError: no server"
    )


def test_a_naive_reward_is_caught_and_careful_ones_are_not(plugin):
    caught = {result.name for result in probe(f"{plugin(REWARDS)}:naive") if result.earned}
    assert {
        "prompt echoed",
        "all candidates",
        "numbers counted up",
        "right, then taken back",
        "denied",
    } <= caught
    assert not caught & {"empty", "empty box", "format only", "very long"}
    assert not [result for result in probe("rewards.text:exact") if result.earned]
    assert not [
        result
        for result in probe("rewards.text:exact", params={"after": "####"})
        if result.earned
    ]
    naive = [
        Case(answer="4", completion="It is 4", expected=1, prompt="2+2=?"),
        Case(answer="4", completion="It is 5", expected=0),
    ]
    (counted,) = [
        result
        for result in probe(f"{plugin(REWARDS)}:naive", naive)
        if result.name == "numbers counted up"
    ]
    assert (counted.earned, counted.tasks) == (1, 1)


@pytest.mark.parametrize("use", ["rewards.math:math_answer", "rewards.text:match"])
def test_shipped_verifiers_pay_for_no_exploit(use):
    assert [result.name for result in probe(use) if result.earned] == []


def test_rewards_of_form_and_rewards_that_cannot_be_measured(plugin):
    form_only = probe("rewards.text:tags")
    assert {(result.earned, result.tasks) for result in form_only} == {(0, 0)}, (
        "a right answer earns no more than a wrong one"
    )
    with pytest.raises(RewardError, match="give `--cases FILE.jsonl`"):
        probe(f"{plugin(REWARDS)}:broken")
    with pytest.raises(
        RewardError, match="right completion of a earned 0, no more than the 0 of wrong ones"
    ):
        probe(
            f"{plugin(REWARDS)}:fragile",
            [
                Case(completion="4.", answer="4", expected=1, name="a"),
                Case(completion="5", expected=0),
            ],
        )
    with pytest.raises(RewardError, match="right completion of a got no score"):
        probe(
            f"{plugin(REWARDS)}:broken",
            [
                Case(completion="4", answer="4", expected=1, name="a"),
                Case(completion="", expected=0),
            ],
        )


def test_no_probe_is_a_right_answer():
    """Each hedge leaves the choice open or ends elsewhere; a strict reading, the whole text, never finds the reference answer."""
    from rlcore.scoring.kit.probes import Target

    for prompt, answer, decoys in EXAMPLES:
        for name, make in {**PROBES, **HEDGES}.items():
            assert make(Target(prompt, answer, decoys)).strip() != answer, name
        assert look_alike(answer) != answer
    assert look_alike("17") == "17\u0663" and look_alike("Paris") == "\u0420\u0430ris"
    standard = Standard(case=Case(completion="4"), decoys=(), right=1.0, wrong=0.0)
    assert standard.earns(Verdict(value=0.6)) and not standard.earns(Verdict(value=0.5))
    assert not standard.earns(Verdict(value=None, status="crashed"))


def test_a_new_reward_passes_everything_as_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["rewards", "new", "is_capital.py"]) == 0
    assert (
        "next: rlcore rewards test is_capital.py --cases is_capital.jsonl"
        in capsys.readouterr().out
    )
    spec = importlib.util.spec_from_file_location("is_capital", tmp_path / "is_capital.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.test_cases()
    assert doctest.testmod(module) == (0, 1)
    assert (
        main(
            [
                "rewards",
                "test",
                "is_capital.py",
                "--cases",
                "is_capital.jsonl",
                "--deadline",
                "1",
                "--json",
            ]
        )
        == 0
    )
    said = json.loads(capsys.readouterr().out)
    assert said["accuracy"] == 1.0 and said["cases"] == 7 and said["problems"] == []
    assert main(["rewards", "probe", "is_capital.py", "--cases", "is_capital.jsonl"]) == 0
    assert "0 of 27 exploits earned credit" in capsys.readouterr().out
    (line,) = re.findall(r"In a recipe: +(.*)", module.__doc__)
    (named,) = yaml.safe_load(line)["rewards"]
    section = RewardSection.model_validate(named)
    assert (section.use, section.parameters) == ("is_capital.py", {"ignore_case": False})
    assert (
        main(["rewards", "new", "is_capital.py"]) == 2 and "exists" in capsys.readouterr().err
    )
    assert (
        main(["rewards", "new", "Is-Capital.txt"]) == 2
        and "cannot name" in capsys.readouterr().err
    )


def test_exit_statuses_tell_a_bad_reward_from_a_bad_command(tmp_path, plugin, capsys):
    use = f"{plugin(REWARDS)}:naive"
    cases = tmp_path / "cases.jsonl"
    cases.write_text(
        '{"answer": "4", "completion": "4", "expected": 1}\n{"answer": "4", "completion": "14", "expected": 0}\n'
    )
    assert main(["rewards", "test", use, "--cases", str(cases), "--deadline", "1"]) == 1
    out = capsys.readouterr().out
    assert (
        "1: yes" in out
        and "0: NO" in out
        and "accuracy 0.5 on 2 cases" in out
        and "problem: 1 of 2 cases" in out
    )
    assert main(["rewards", "probe", use, "--json"]) == 1
    assert "all candidates" in json.loads(capsys.readouterr().out)["earned"]
    cases.write_text('{"answer": "4"}\n')
    assert (
        main(["rewards", "test", use, "--cases", str(cases)]) == 2
        and "line 1 of" in capsys.readouterr().err
    )
    assert (
        main(["rewards", "test", f"{use}x"]) == 2 and "did you mean" in capsys.readouterr().err
    )


def test_cases_carry_prompts_and_columns(tmp_path):
    (tmp_path / "c.jsonl").write_text(
        '{"completion": "a", "prompt": "q", "expected": true, "tests": [1]}\n'
    )
    (case,) = read_cases(tmp_path / "c.jsonl")
    assert (case.prompt, case.expected, case.columns) == ("q", 1.0, {"tests": [1]})


def test_cases_with_the_names_of_public_data_sets(tmp_path):
    (tmp_path / "c.jsonl").write_text('{"pred": "a", "gold": "b", "expected": 0}\n')
    (case,) = read_cases(tmp_path / "c.jsonl")
    assert (case.completion, case.answer, case.expected, case.columns) == ("a", "b", 0.0, {})


# Two rewards side by side


GRADED = """
{"pred": "\\\\boxed{1, 2}", "gold": "2, 1", "expected": true, "cause": "lists"}
{"pred": "\\\\boxed{5 kg}", "gold": "5 \\\\text{ g}", "expected": false, "cause": "<units>"}
{"pred": "\\\\boxed{7}", "gold": "7", "expected": 1, "cause": "lists", "columns": {"note": "n"}}
{"pred": "x", "gold": "y", "expected": "unscorable", "cause": "odd"}
"""


@pytest.fixture
def graded(tmp_path):
    (tmp_path / "graded.jsonl").write_text(GRADED.strip())
    return tmp_path / "graded.jsonl"


def test_rewards_are_compared_by_cause(graded, tmp_path, capsys):
    ours, theirs = "math", "rewards.math_plain:math_verify"
    options = ["--cases", str(graded), "--html", str(tmp_path / "page.html")]
    for where, status in (("cause=<units>", 0), ("cause=lists", 0)):
        assert main(["rewards", "compare", ours, theirs, *options, "--where", where]) == status
    assert main(["rewards", "compare", theirs, ours, *options, "--where", "cause=<units>"]) == 1
    shown = capsys.readouterr().out
    assert "they differ on 1 of 1 cases" in shown and "they differ on 0 of 2 cases" in shown
    page = (tmp_path / "page.html").read_text()
    assert "&lt;units&gt;" in page and "<units>" not in page and "\\boxed{5 kg}" in page


def test_a_comparison_counts_who_is_right(graded):
    cases = read_cases(graded, {"cause": "lists"}) + read_cases(graded, {"cause": "<units>"})
    result = compare("rewards.math_plain:math_verify", "math", cases)
    counts = {g.group: (g.cases, g.differ, g.left_right, g.right_right) for g in result.groups}
    assert counts == {"<units>": (1, 1, 0, 1), "lists": (2, 0, 0, 0)}
    assert result.as_dict()["disagreements"][0]["winner"] == "right"
    assert cases[1].columns["note"] == "n"
    with pytest.raises(RewardError, match="no cases"):
        compare("math", "math", [])


def test_trl_rewards_and_rewards_of_your_own_can_be_compared(graded, plugin):
    own = plugin("def own(completions, solution, **columns): return [0.5] * len(completions)")
    cases = read_cases(graded, {"cause": "lists"})
    result = compare(f"{own}:own", "trl.rewards:accuracy_reward", cases)
    assert [row.left.value for row in result.disagreements] == [0.5, 0.5]
    assert [row.right.value for row in result.disagreements] == [0.0, 1.0]


def test_a_row_that_is_no_case_is_named(graded):
    with pytest.raises(RewardError, match="line 4 of .* is no case"):
        read_cases(graded)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ('{"completion": 5}', "line 1 of .* is no case .*type int, not a text"),
        ('{"completion": [{"role": "assistant", "content": "5"}]}', "line 1 .*type list"),
        ('{"completion": "5", "expected": NaN}', "line 1 .*expected value is nan"),
        ('{"completion": "5"}\n{"completion": null}', "line 2 .*type NoneType"),
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("\udcff\udcfe\x00", "no text in UTF-8"),
    ],
)
def test_bad_cases_are_named(tmp_path, row, problem, capsys):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(row.encode("utf-8", "surrogateescape"))
    with pytest.raises(RewardError, match=problem):
        read_cases(path)
    assert main(["rewards", "compare", "math", "exact", "--cases", str(path)]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_byte_order_mark_is_no_part_of_a_case(tmp_path):
    (tmp_path / "c.jsonl").write_text('\ufeff{"completion": "a"}', encoding="utf-8")
    assert read_cases(tmp_path / "c.jsonl")[0].completion == "a"


def test_a_comparison_is_grouped_by_keys_that_exist(graded):
    cases = read_cases(graded, {"cause": "lists"})
    with pytest.raises(RewardError, match="no case has the key 'nokey' .*columns: cause, note"):
        compare("math", "exact", cases, by="nokey")
    assert {group.group for group in compare("math", "exact", cases, by="note").groups} == {
        "all",
        "n",
    }


def test_a_reward_that_hangs_or_scores_nothing_is_told_soon(plugin, capsys):
    path = plugin("""
        import time
        from rlcore import reward

        @reward
        def hangs(completion, answer, **columns):
            time.sleep(60)
    """)
    started = time.monotonic()
    found = examine(f"{path}:hangs", [], deadline_s=0.5)
    assert len(found.faults) == 3 and "3 calls timed out" in found.problems[0]
    assert time.monotonic() - started < 30
    assert main(["rewards", "test", "code"]) == 1
    assert "no completion got a value" in capsys.readouterr().out


# Documentation


POINTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][
    "rlcore.rewards"
]


def test_the_page_about_the_shipped_rewards_is_up_to_date():
    page = markdown(describe_rewards(POINTS))
    wanted = "run: rlcore rewards list --markdown > docs/rewards.md"
    assert (ROOT / "docs/rewards.md").read_text(encoding="utf-8") == page, wanted
    assert page.count("\n## ") == len(POINTS) and page.count("```python") >= 2


@pytest.mark.parametrize("info", describe_rewards(POINTS), ids=lambda info: info.name)
def test_every_shipped_reward_says_what_it_is(info):
    assert info.form, f"{info.name} cannot be imported: {info.summary}"
    assert info.summary.endswith(".") and len(info.text) > 60


def test_the_page_shows_parameters_examples_and_what_cannot_be_imported(plugin):
    source = '''
        from rlcore import reward

        @reward
        def shown(completion, answer, *, limit: int = 2, finished=True, **columns):
            """Says something.

            >>> shown("4", "4")
            1.0
            >>> shown("5", "4")    # doctest: +SKIP
            0.0

            More text.
            """
            return 1.0
    '''
    (info, broken) = describe_rewards(
        {"shown": f"{plugin(source)}:shown", "zz": "no_such_module:f"}
    )
    assert (info.form, info.params, info.summary) == (
        "short",
        ("limit = 2",),
        "Says something.",
    )
    page = markdown([info, broken])
    assert (
        '```python\n>>> shown("4", "4")\n1.0\n>>> shown("5", "4")\n0.0\n```\n\nMore text.'
        in page
    )
    assert "cannot import no_such_module" in page and "Recipe parameters: `limit = 2`." in page
    assert load_reward(RewardSpec(f"{plugin(source)}:shown")).params == {}


@pytest.mark.parametrize("command", [["test", "math"], ["compare", "math", "exact"]])
@pytest.mark.parametrize("deadline", ["nan", "0", "-1"])
def test_a_deadline_that_is_no_time_is_a_sentence(command, deadline, tmp_path, capsys):
    cases = tmp_path / "cases.jsonl"
    cases.write_text('{"completion": "5", "answer": "5", "expected": 1}\n')
    with pytest.raises(SystemExit):
        main(["rewards", *command, "--cases", str(cases), f"--deadline={deadline}"])
    assert "is no time above" in capsys.readouterr().err
