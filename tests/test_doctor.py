"""`rlcore doctor` fails when a needed part is missing, and only then."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import save_file

from rlcore.cli import doctor, machine
from rlcore.cli.doctor import Finding
from rlcore.cli.main import main
from rlcore.recipe.build_learner import build_policy
from rlcore.recipe.load import load


@pytest.mark.parametrize(
    "works, needed, status", [(True, True, 0), (False, False, 0), (False, True, 1)]
)
def test_the_exit_status(
    works: bool, needed: bool, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    findings = [Finding("torch", works, "pip install torch", "learner", needed)]
    monkeypatch.setattr(doctor, "examine", lambda recipe=None: findings)
    assert main(["doctor"]) == status


def test_a_package_that_is_absent_is_needed_unless_it_says_otherwise() -> None:
    assert doctor._package("no-such-package", "nothing").needed
    assert not doctor._package("no-such-package", "nothing", needed=False).works
    assert not doctor._probe("broken", "raise SystemExit('no')", "nothing", "remedy").needed


class TestMachine:
    """Findings about the machine, each with its good and its bad case."""

    def test_disk_space_is_compared_with_the_checkpoints_to_come(
        self, tmp_path, monkeypatch
    ) -> None:
        recipe = load("quickstart")
        parameters = machine.count_parameters(recipe)
        built = build_policy(recipe, None, Accelerator(cpu=True)).model
        assert parameters == sum(weights.numel() for weights in built.parameters())
        enough = parameters * machine.BYTES_OF_WEIGHT * (recipe.run.keep_checkpoints + 2)
        for free, works in ((enough + 1, True), (enough - 1, False)):
            usage = SimpleNamespace(free=free)
            monkeypatch.setattr(machine.shutil, "disk_usage", lambda _, usage=usage: usage)
            finding = machine.disk_space(tmp_path, recipe)
            assert finding.works == works and ("keep_checkpoints" in finding.state) == (
                not works
            )

    def test_parameters_of_a_folder_are_read_from_its_files(self, tmp_path) -> None:
        """Whatever the type of its numbers."""
        for number, kind in enumerate((torch.float32, torch.bfloat16)):
            weights = {f"a{number}": torch.zeros(7, 11, dtype=kind), f"b{number}": torch.zeros(3, dtype=kind)}
            save_file(weights, tmp_path / f"model-{number}.safetensors")
        places = {f"{name}{number}": f"model-{number}.safetensors" for name in "ab" for number in (0, 1)}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
        for path in (tmp_path, f"[no/where, {tmp_path}]"):
            recipe = load("quickstart", [f"model={{path: {path}}}"])
            assert machine.count_parameters(recipe) == 160
        (tmp_path / "model-1.safetensors").write_bytes(b"x" * 1000)
        assert machine.count_parameters(recipe) is None
        for nowhere in ("no/where", "[./no, ./where]"):
            lacking = load("quickstart", [f"model={{path: {nowhere}}}"])
            assert machine.count_parameters(lacking) is None

    def test_where_nothing_can_be_written(self, tmp_path) -> None:
        assert machine.write_speed(tmp_path).works
        assert "cannot be written" in machine.write_speed(tmp_path / "absent").state

    @pytest.mark.parametrize(
        ("line", "sentence"),
        [
            ("0, NVIDIA H100, 40, 10, 81559, 0", ""),
            ("0, NVIDIA H100, 40, 10, 81559, [N/A]", ""),
            ("0, NVIDIA H100, 40, 10, 81559, 2", "2 memory errors"),
            ("0, NVIDIA H100, 95, 10, 81559, 0", "95 degrees: it will slow down"),
            ("0, NVIDIA H100, 40, 70000, 81559, 0", "others hold over half"),
        ],
    )
    def test_what_a_gpu_says_of_itself(self, line: str, sentence: str) -> None:
        finding = machine.gpu_finding(line)
        assert finding.works == (not sentence) and sentence in finding.state

    def test_all_of_them_are_looked_at(self) -> None:
        parts = [finding.part for finding in machine.machine_findings(load("quickstart"))]
        assert parts[:4] == ["disk", "write speed", "clock", "shared memory"]
