"""Naming an objective: helpful errors, streams, and no torch."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rlcore.errors import RecipeError
from rlcore.learner.gradient import sums_over_tokens
from rlcore.objective import PRESETS, Objective, Term, objective


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("grop", {}, "no objective 'grop'; did you mean '"),
        ("dapo", {"clip_hihg": 0.3}, "no parameter 'clip_hihg'; did you mean 'clip_high'"),
        ("rloo", {"zzz": 1}, "there are: correction, dual_clip, entropy, kl, kl_kind"),
        ("cispo", {"entorpy": 1}, "did you mean 'entropy'?"),
        ("grpo", {"kl": 0.1, "kl_kind": "k4"}, "no kl_kind 'k4'; use one of k1, k2, k3"),
        ("grpo", {"correction": {"kind": "tis", "high": 2.0}}, "no correction 'tis'; use one of"),
        (
            "grpo",
            {"correction": {"kind": "token_mask", "hihg": 2.0}},
            "has no parameter 'hihg'; did you mean 'high'?",
        ),
        ("grpo", {"correction": {"kind": "token_mask"}}, "the correction needs a value for high"),
        ("grpo", {"correction": {"kind": "token_mask", "high": 0.5}}, "must enclose 1"),
        (
            "grpo",
            {"correction": {"kind": "token_truncate", "high": 2.0, "low": 0.5}},
            "has no lower bound",
        ),
        ("dr_grpo", {}, "needs a value for max_tokens"),
    ],
)
def test_unknown_names_are_met_with_a_sentence(name, params, message):
    with pytest.raises(RecipeError) as caught:
        objective(name, **params)
    assert message in str(caught.value)


def test_reference_is_needed_only_for_a_kl():
    assert not objective("grpo").needs_reference
    assert objective("grpo", kl=0.1).needs_reference


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_takes_what_all_take(name):
    params = {"max_tokens": 9} if name == "dr_grpo" else {}
    made = objective(
        name,
        **params,
        kl=0.1,
        entropy=0.01,
        next_token=0.1,
        dual_clip=3.0,
        correction={"kind": "token_mask", "high": 2.0},
    )
    assert [term.name for term in made.terms][-3:] == ["kl", "entropy", "next_token"]
    assert made.needs_reference and made.streams[-1] == "text"


def test_objectives_add_up_to_more_streams():
    mixed = objective("dapo") + objective("sft", stream="demonstration")
    assert mixed.streams == ("policy", "demonstration")
    assert [term.name for term in mixed.terms] == ["policy", "sft"]


def test_two_terms_of_one_name_are_refused():
    with pytest.raises(RecipeError, match="different name"):
        Objective((Term(), Term()))


def test_objective_and_credit_need_no_torch():
    code = "import sys, rlcore.objective as o, rlcore.credit; o.objective('grpo', kl=0.1); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("lambda: Objective(Term())", "a tuple of terms, as in Objective"),
        ("lambda: None", "must give an Objective, not a NoneType"),
    ],
)
def test_a_loss_that_gives_something_else_is_met_with_a_sentence(part, message, tmp_path):
    (tmp_path / "own.py").write_text(
        f"from rlcore.objective import Objective, Term\nloss = {part}\n"
    )
    with pytest.raises(RecipeError, match=message):
        objective(f"{tmp_path}/own.py:loss")


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("grpo", {"kl": -1.0}),
        ("grpo", {"kl_kind": "k2"}),
        ("grpo", {"clip_low": -0.1}),
        ("awr", {"beta": 0.0}),
        ("awr", {"cap": 0.0}),
    ],
)
def test_values_without_a_meaning_are_refused(name, settings):
    with pytest.raises(RecipeError):
        objective(name, **settings)


def test_the_documents_list_parameters_as_they_are():
    text = (Path(__file__).parents[2] / "docs/objectives.md").read_text()
    for name, preset in PRESETS.items():
        parameters = inspect.signature(preset).parameters.values()
        listed = [p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in parameters]
        assert f"\n{name}({', '.join(listed)})\n" in text
    own = [
        block
        for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
        if "def gentle" in block
    ]
    exec(own[0], names := {})
    assert sums_over_tokens(names["gentle"]())


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_in_the_documents(name):
    root = Path(__file__).parents[2]
    assert f"| `{name}` |" in (root / "docs" / "objectives.md").read_text()
    listed = (root / "docs" / "recipes.md").read_text().split("Objectives: `")[1].split("`")[0].split()
    assert name in listed and set(listed) == set(PRESETS)
