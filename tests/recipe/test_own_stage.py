"""A stage of a user's own, in one file: it loads, checks itself, runs, resumes, and stands in the summary."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from rich.console import Console

from rlcore.errors import RecipeError
from rlcore.recipe.check import check
from rlcore.recipe.keys import find_keys
from rlcore.recipe.load import dump, load
from rlcore.run.driver import train
from rlcore.run.folder import read_rows

STAGE = """
from pathlib import Path

from pydantic import Field

from rlcore.errors import RecipeError
from rlcore.stages.base import TaskStage


class Probe(TaskStage):
    headline = ("probe/value",)

    steps: int = Field(description="how often the value is logged")
    scale: float = Field(1.0, description="factor of the value")
    stop_file: str = ""

    def check(self, context):
        facts = super().check(context)
        with context.at("scale"):
            if self.scale < 0:
                raise RecipeError("a probe needs a positive scale")
        return [*facts, f"{self.label}: {self.steps} probes"]

    def run(self, run):
        with run.tracker.stage(self, done=run.cursor.stage_step):
            while run.cursor.stage_step < self.steps:
                if run.cursor.stage_step == 3 and Path(self.stop_file).is_file():
                    raise KeyboardInterrupt
                run.end_step({"probe/value": self.scale * run.cursor.stage_step})
        run.end_stage()
"""

RECIPE = """
name: probing
model:
  tokenizer: bytes
  config: {{model_type: qwen2, hidden_size: 16, intermediate_size: 16, num_hidden_layers: 1,
            num_attention_heads: 2, num_key_value_heads: 2, max_position_embeddings: 32}}
tasks: {{train: {{use: arithmetic, size: 8}}}}
stages:
  - {{kind: "my_stages.py:Probe", tasks: train, steps: 5, scale: 2.0, stop_file: {folder}/stop}}
run: {{folder: {folder}/runs, checkpoint_every: 2}}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    (tmp_path / "my_stages.py").write_text(STAGE)
    (tmp_path / "probing.yaml").write_text(RECIPE.format(folder=tmp_path))
    return str(tmp_path / "probing.yaml")


def test_it_loads_and_checks_itself(recipe: str, tmp_path: Path) -> None:
    loaded = load(recipe, ["stages.Probe.steps=4"])
    assert loaded.stages[0].steps == 4
    assert "Probe: 4 probes" in check(loaded)
    (tmp_path / "again.yaml").write_text(dump(loaded))
    assert dump(load(str(tmp_path / "again.yaml"))) == dump(loaded)
    with pytest.raises(RecipeError, match=r"^stages\.Probe\.scale: a probe needs"):
        check(load(recipe, ["stages.Probe.scale=-1.0"]))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("stages.0.stepz=3", "unknown key 'stages.Probe.stepz'; did you mean 'steps'?"),
        ("stages.0.steps=many", "stages.Probe.steps: must be a valid integer"),
        (
            "stages.0.tasks=test",
            "stages.Probe.tasks is 'test', but the recipe's task sets are: train",
        ),
        ("stages.0.kind=none.py:Probe", "there is no stage file"),
        ("stages.0.kind=my_stages.py:Prob", "did you mean 'Probe'?"),
        ("stages.0.kind=rlcore.types:Task", "is not a subclass of rlcore.stages.base.Stage"),
    ],
)
def test_a_mistake_gets_one_sentence(
    recipe: str, override: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(recipe).parent)
    with pytest.raises(RecipeError) as error:
        load(recipe, [override])
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_its_keys_are_listed(recipe: str) -> None:
    keys = {key.key: key for key in find_keys(f"{Path(recipe).parent}/my_stages.py:Probe")}
    assert {"name", "tasks", "steps", "scale", "stop_file"} <= keys.keys()
    assert keys["scale"].default == "1.0"
    assert keys["scale"].meaning == "factor of the value"


def test_a_stage_without_the_key_steps_runs_and_resumes(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The example of the guide: its key is `rounds`."""
    text = (Path(__file__).parents[2] / "docs/guides/parts.md").read_text(encoding="utf-8")
    example = text[text.index("# my_stages.py") :].partition("```")[0]
    (tmp_path / "my_stages.py").write_text(example)
    monkeypatch.chdir(tmp_path)
    raw = RECIPE.format(folder=tmp_path)
    raw = raw.replace(
        f"tasks: train, steps: 5, scale: 2.0, stop_file: {tmp_path}/stop", "rounds: 5"
    )
    (tmp_path / "probing.yaml").write_text(raw)
    loaded = load("probing.yaml")
    check(loaded)

    def stop(step: int, _: dict) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="after 3 steps, the last 1 are not saved"):
        train(loaded, console=Console(quiet=True), callbacks=[stop])
    text = io.StringIO()
    summary = train(loaded, resume=True, console=Console(file=text, width=120))
    rows = read_rows(Path(summary.run) / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert "resumed after step 2" in text.getvalue()


def test_it_resumes_where_it_was_killed_and_stands_in_the_summary(
    recipe: str, tmp_path: Path
) -> None:
    (tmp_path / "stop").touch()
    with pytest.raises(KeyboardInterrupt):
        train(load(recipe), console=Console(quiet=True))
    os.remove(tmp_path / "stop")
    text = io.StringIO()
    summary = train(load(recipe), resume=True, console=Console(file=text, width=120))
    rows = read_rows(Path(summary.run) / "metrics.jsonl")
    assert [(row["step"], row["probe/value"]) for row in rows] == [
        (step, 2.0 * (step - 1)) for step in range(1, 6)
    ]
    last_line = [line for line in text.getvalue().splitlines() if "Probe" in line][-1]
    assert "probe/value" in last_line
    assert "8" in last_line
