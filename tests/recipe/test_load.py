"""Recipes: strict keys, parents, overrides, and sentences for what is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rlcore.errors import RecipeError
from rlcore.recipe.load import dump, load, recipe_names, validate
from rlcore.recipe.other_names import NAMES_IN_TRL
from rlcore.recipe.schema import Recipe
from rlcore.recipe.stage_names import by_name
from rlcore.recipe.yaml_text import parse_yaml

SMALL = """
name: small
model: {config: {model_type: qwen2}, tokenizer: bytes}
tasks: {train: {use: arithmetic}}
stages:
  - {kind: sft, tasks: train, steps: 3}
  - {kind: rl, tasks: train, steps: 3, rewards: [{use: exact}]}
"""


@pytest.fixture
def small(tmp_path: Path) -> str:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return str(path)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("stages.rl.rollouts=3", "unknown key 'stages.rl.rollouts'"),
        ("stages.rl.objectiv=grpo", "did you mean 'objective'?"),
        ("stages.rl.lr=1e-3", "did you mean 'optim.lr'?"),
        ("stages.rl.num_generations=8", "unknown key 'stages.rl.num_generations'; what TRL calls so is group_size here"),
        ("stages.rl.method=dpo", "it is one of the stage prefer (kind: prefer, method: dpo)"),
        ("stages.rl.steps=many", "stages.rl.steps: must be a valid integer (got 'many')"),
        ("engine=[1]", "engine: must be a mapping, {key: value} (got [1])"),
        ("stages.rl.steps=0", "stages.rl.steps"),
        ("stages.rl.tasks=eval_set", "the recipe's task sets are: train"),
        ("stages.3.steps=2", "use one of 0 (sft), 1 (rl)"),
        ("stages.rl.kind=rlhf", "stages.rlhf"),
        ("model.path=x", "exactly one of path"),
        ("seed", "has no '='"),
        ("seed=[1", "is not valid YAML"),
        ("stages.rl.sampling.max_tokens=5000", "leaves no room for a prompt"),
    ],
)
def test_a_wrong_value_gets_one_sentence(small: str, override: str, said: str) -> None:
    with pytest.raises(RecipeError) as error:
        load(small, [override])
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_names_of_trl_lead_to_keys_that_there_are() -> None:
    stage = load("quickstart").stages[2]
    for name, words in NAMES_IN_TRL.items():
        section, _, key = re.match(r"[a-z_]+(\.[a-z_]+)?", words)[0].partition(".")
        assert section in {*type(stage).model_fields, *Recipe.model_fields}, name
        if section in ("sampling", "optim", "credit"):
            assert hasattr(getattr(stage, section), key), name


def test_overrides_reach_stages_by_name_and_by_number(small: str) -> None:
    recipe = load(small, ["stages.rl.optim.lr=1e-6", "stages.0.steps=7", "seed=5"])
    assert (recipe.stages[1].optim.lr, recipe.stages[0].steps, recipe.seed) == (1e-6, 7, 5)


def test_a_stage_that_is_set_to_null_is_removed(small: str, tmp_path: Path) -> None:
    stages = load(small).stages
    rest = [stage.label for stage in stages if stage.label != "rl"]
    assert [stage.label for stage in load(small, ["stages.rl=null"]).stages] == rest
    child = tmp_path / "child.yaml"
    child.write_text("extends: small\nname: child\nstages.rl: null\n")
    assert [stage.label for stage in load(str(child)).stages] == rest


def test_a_stage_is_added_behind_another(small: str, tmp_path: Path) -> None:
    before = [stage.label for stage in load(small).stages]
    added = "{kind: eval, name: %s, tasks: train, rewards: [{use: exact}]}"
    for place, name in enumerate(before, start=1):
        expected = [*before[:place], "new", *before[place:]]
        override = f"stages.{name}+={added % 'new'}"
        assert [stage.label for stage in load(small, [override]).stages] == expected
    child = tmp_path / "child.yaml"
    child.write_text(
        "extends: small\nname: child\n"
        f"stages.sft+: [{added % 'one'}, {added % 'two'}]\nstages.two.limit: 3\n"
    )
    stages = load(str(child)).stages
    assert [stage.label for stage in stages] == ["sft", "one", "two", *before[1:]]
    assert stages[2].limit == 3
    with pytest.raises(RecipeError, match=r"'rll' in 'stages.rll\+' names no item"):
        load(small, ["stages.rll+={kind: sft}"])


def test_a_child_changes_its_parent_and_keeps_the_rest(small: str, tmp_path: Path) -> None:
    child = tmp_path / "child.yaml"
    child.write_text(
        "extends: small\nname: child\nmodel: {config: {hidden_size: 32}}\nstages.rl.group_size: 4\n"
    )
    recipe = load(str(child))
    assert recipe.name == "child"
    assert recipe.model.config == {"model_type": "qwen2", "hidden_size": 32}
    assert recipe.stages[1].group_size == 4 and recipe.stages[1].steps == 3


def test_a_recipe_that_extends_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b\n")
    (tmp_path / "b.yaml").write_text("extends: a\n")
    with pytest.raises(RecipeError, match="extends itself"):
        load(str(tmp_path / "a.yaml"))


def test_broken_yaml_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("name: x\nmodel: {config: [\n")
    with pytest.raises(RecipeError, match="line 3"):
        load(str(path))


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("name: x\nname: y\n")
    with pytest.raises(RecipeError, match="'name' is given twice"):
        load(str(path))


def test_a_missing_key_is_named() -> None:
    with pytest.raises(RecipeError, match="the key 'model' is required"):
        validate({"name": "x", "tasks": {"t": {"use": "arithmetic"}}, "stages": []}, where="here")


def test_an_unknown_recipe_gets_the_nearest_name() -> None:
    with pytest.raises(RecipeError, match="nearest: quickstart"):
        load("quickstrat")


def test_a_resolved_recipe_loads_as_the_same(small: str, tmp_path: Path) -> None:
    recipe = load(small)
    (tmp_path / "again.yaml").write_text(dump(recipe))
    assert load(str(tmp_path / "again.yaml")) == recipe


@pytest.mark.parametrize("name", sorted(recipe_names()))
def test_every_shipped_recipe_loads(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also beside runs of others: that the run which it begins from is missing is for `recipes check` to say."""
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load(name).stages


def test_numbers_without_a_point_are_numbers() -> None:
    assert parse_yaml("[1e-6, 2E3, -1e+2, 7, x1e5]") == [1e-6, 2e3, -1e2, 7, "x1e5"]


def test_every_key_is_documented_once() -> None:
    from rlcore.recipe.keys import all_keys

    keys = all_keys()
    names = [key.key for key in keys]
    assert len(set(names)) == len(names)
    assert {"seed", "optim.lr", "stages[rl].optim", "engine.use"} <= set(names)
    assert not [key.key for key in keys if key.type and not key.meaning]


def test_a_message_names_a_stage_where_one_alone_has_the_name() -> None:
    raw = {"stages": [{"kind": "sft"}, {"kind": "rl", "name": "first"}, {"kind": "sft"}, {"kind": "own.py:Mine"}]}
    said = "stages.1.steps: 0; stages.2.optim; stages.3; stages.9; stages.rl"
    assert by_name(said, raw) == "stages.first.steps: 0; stages.2.optim; stages.Mine; stages.9; stages.rl"
    assert by_name(said, {}) == said == by_name(said, {"stages": 3})


def test_files_are_found_here_and_then_beside_the_recipe_that_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also through `extends`, each file from its own recipe; and the resolved recipe, saved elsewhere, still finds them."""
    parent, child, here = tmp_path / "parent", tmp_path / "child", tmp_path / "here"
    for folder in (parent, child, here):
        folder.mkdir()
    monkeypatch.chdir(here)
    (parent / "base.yaml").write_text(
        SMALL.replace("exact", "mine.py:score").replace(
            "use: arithmetic", "use: dataset, path: [no.jsonl, rows.jsonl, org/hub]"
        )
    )
    (child / "mine.yaml").write_text(
        "extends: ../parent/base\nprompt.system: rows.jsonl is a name\nstages.rl.filter: 'filter.py:own'\n"
    )
    for place in (
        parent / "mine.py",
        parent / "rows.jsonl",
        parent / "filter.py",
        child / "filter.py",
        child / "rows.jsonl",
    ):
        place.write_text("")
    recipe = load(str(child / "mine.yaml"))
    assert recipe.stages[1].rewards[0].use == f"{child}/../parent/mine.py:score"
    assert (
        recipe.stages[1].filter == f"{child}/filter.py:own"
        and recipe.prompt.system == "rows.jsonl is a name"
    )
    assert recipe.tasks["train"].parameters["path"] == [
        "no.jsonl",
        f"{child}/../parent/rows.jsonl",
        "org/hub",
    ]
    (here / "recipe.yaml").write_text(dump(recipe))
    assert load("recipe.yaml") == recipe
    (here / "mine.py").write_text("")
    assert load("../child/mine.yaml").stages[1].rewards[0].use == "mine.py:score"
    # what is typed on the command line is looked up here first too, and then beside the recipe
    typed = ("../child/mine.yaml", ["stages.rl.filter=filter.py:own"])
    assert load(*typed).stages[1].filter == "../child/filter.py:own"
    (here / "filter.py").write_text("")
    assert load(*typed).stages[1].filter == "filter.py:own"


def test_keys_of_a_section_or_with_a_word() -> None:
    from rlcore.recipe.keys import find_keys

    def names(word: str) -> set[str]:
        return {key.key for key in find_keys(word)}

    assert {"stages[sft].optim.lr", "stages[prefer].optim.use"} <= names(
        "optim"
    ) and "engine.use" not in names("optim")
    assert (
        names("rl.optim")
        == names("stages[rl].optim")
        == {key for key in names("optim") if key.startswith("stages[rl].optim")}
    )
    assert {"stages[rl].group_size", "stages[rl].groups_per_step"} <= names(
        "group"
    )  # no section: part of a name
    in_stages = {f"stages[{kind}].sampling.top_p" for kind in ("rl", "eval", "sample")}
    assert names("NUCLEUS") == {"sampling.top_p"} | in_stages  # of a meaning
    with pytest.raises(
        RecipeError, match="no key of a recipe has 'rl.optm' .* did you mean 'optim'"
    ):
        find_keys("rl.optm")


def test_a_mix_is_checked_before_a_run(small: str) -> None:
    from rlcore.recipe.check import check

    assert check(load(small, ["stages.rl.aggregate={use: unless_unfinished, penalty: -5.0}"]))
    for override, said in [
        (
            "stages.rl.aggregate={use: ranked, right: exact, score: judge}",
            "asks for a reward 'judge'; there are: exact",
        ),
        ("stages.rl.aggregate=summ", "there is no aggregate 'summ'; did you mean 'sum'?"),
    ]:
        with pytest.raises(RecipeError) as error:
            check(load(small, [override]))
        assert said in str(error.value)
    with pytest.raises(RecipeError, match="needs `aggregate: sum`"):
        check(
            load(
                small,
                ["stages.rl.aggregate=unless_unfinished", "stages.rl.credit.normalise_parts=true"],
            )
        )
