"""The launch files can be read by what reads them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import FullyShardedDataParallelPlugin

LAUNCH = Path(__file__).parents[2] / "launch"


@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_accelerate_reads_every_key_of_its_configs(name: str) -> None:
    path = LAUNCH / f"accelerate/{name}.yaml"
    config = load_config_from_file(str(path))
    assert config.num_processes == 8 and config.mixed_precision == "no"
    assert set(yaml.safe_load(path.read_text())) <= set(vars(config))


def test_the_sharding_of_the_config_is_that_of_the_slurm_script(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """accelerate hands its config on by environment variables; under torchrun the script sets the same ones."""
    fsdp = yaml.safe_load((LAUNCH / "accelerate/fsdp2.yaml").read_text())["fsdp_config"]
    script = (LAUNCH / "slurm/train.sbatch").read_text()
    for key in ("version", "auto_wrap_policy", "reshard_after_forward", "state_dict_type"):
        value = str(fsdp[f"fsdp_{key}"])
        assert f"FSDP_{key.upper()}={value.lower() if value == 'True' else value}" in script
        monkeypatch.setenv(f"FSDP_{key.upper()}", value.lower() if value == "True" else value)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2 and plugin.reshard_after_forward is True
    assert plugin.auto_wrap_policy.__name__ == "transformer_auto_wrap_policy"


@pytest.mark.parametrize("path", sorted(LAUNCH.glob("slurm/*")), ids=lambda path: path.name)
def test_scripts_are_bash(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)
    if shutil.which("shellcheck"):
        ignored = "SC1090,SC1091,SC2016,SC2317"
        subprocess.run(["shellcheck", "--exclude", ignored, str(path)], check=True)


def test_a_division_that_leaves_no_learner_is_refused(tmp_path: Path) -> None:
    environment = {**os.environ, "SLURM_JOB_NUM_NODES": "2", "SERVE": "2"}
    command = ["bash", str(LAUNCH / "slurm/train.sbatch"), "quickstart"]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "SERVE=2 leaves no node of 2 to the learner" in done.stderr
