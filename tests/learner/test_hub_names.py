"""What is taken for a model's name on the hub where nothing is here."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlcore.errors import ModelError
from rlcore.pretrained import may_be_hub_name, require_model


@pytest.mark.parametrize(
    ("path", "want"),
    [
        ("gpt2", True),
        ("Qwen/Qwen2.5-0.5B", True),
        ("runs/missing", False),  # of a folder that is here
        ("elsewhere/missing", True),
        ("runs/a/b", False),
        ("/tmp/missing", False),
        ("~/missing", False),
        ("./missing", False),
        ("../missing", False),
    ],
)
def test_a_path_into_a_folder_that_is_here_is_no_hub_name(
    path: str, want: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert may_be_hub_name(path) == want
    if not want:
        with pytest.raises(ModelError, match="the path does not exist"):
            require_model(path)
