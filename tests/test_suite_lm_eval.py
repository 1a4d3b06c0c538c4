"""lm-evaluation-harness with our engine as its model gives what its own transformers model gives, on tasks in local files."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from rlcore.analysis.suites import tasks_of
from rlcore.cli.main import main
from rlcore.errors import RecipeError
from tests.families.configs import make_model

TASKS = {
    "choice": """
output_type: multiple_choice
doc_to_text: "Which is a {{question}}? Answer:"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "sums": """
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n", "+"], max_gen_toks: 6, do_sample: false}
metric_list: [{metric: exact_match}]
""",
    "text": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list: [{metric: bits_per_byte}]
""",
}
LENGTH = 48


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tasks and their data."""
    folder = tmp_path_factory.mktemp("tasks")
    rng = random.Random(0)
    words = "cat dog sun moon red blue tree river stone light".split()
    rows = [
        {"question": " ".join(rng.choices(words, k=12 if i % 4 == 0 else 2)), "answer": 1,
         "choices": [f" {word}" for word in rng.sample(words, 3)]}
        for i in range(12)
    ]  # fmt: skip
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in TASKS.items():
        head = f"task: tiny_{name}\ndataset_path: json\ntest_split: test\n"
        data = f"dataset_kwargs: {{data_files: {{test: {folder / 'rows.jsonl'}}}}}"
        (folder / f"{name}.yaml").write_text(head + data + text)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_model("qwen2", folder)
    return folder


def numbers(results: dict[str, dict[str, Any]]) -> dict[tuple[str, str], float]:
    return {
        (task, name): value
        for task, metrics in results.items()
        for name, value in metrics.items()
        if "," in name and value != "N/A"
    }


@pytest.mark.slow
def test_the_harness_gives_the_numbers_of_its_own_model(
    tasks: Path, model: Path, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("lm_eval")
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    names = [f"tiny_{name}" for name in TASKS]
    engine = ("engine.use=hf", f"engine.max_length={LENGTH}", "engine.max_sequences=8")
    command = ["eval", str(model), "--suite", f"lm-eval:{','.join(names)}", "--tasks-from", str(tasks)]
    assert main([*command, "--json", *engine]) == 0
    ours = numbers(json.loads(capsys.readouterr().out.splitlines()[-1]))
    reference = simple_evaluate(
        model=HFLM(pretrained=str(model), max_length=LENGTH - 2, dtype="float32", batch_size=4, device="cpu"),
        tasks=names,
        bootstrap_iters=1000,
        task_manager=TaskManager(include_path=str(tasks)),
    )
    expected = numbers(reference["results"])
    assert len(expected) == 7 and ours == pytest.approx(expected, rel=1e-5)
    capsys.readouterr()
    assert main(["eval", str(model), "--suite", "lm-eval:no_such_task", *engine]) == 2
    assert "lm-eval has no task 'no_such_task'" in capsys.readouterr().err


def test_what_a_suite_does_not_take_is_named(
    model: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(RecipeError, match="--suite is 'gsm8k': write lm-eval:TASK"):
        tasks_of("gsm8k")
    assert main(["eval", str(model)]) == 2
    assert "is a model, which does not say what to evaluate" in capsys.readouterr().err
    assert main(["eval", "quickstart", "--few-shot", "3"]) == 2
    assert "--few-shot has no effect without --suite" in capsys.readouterr().err
