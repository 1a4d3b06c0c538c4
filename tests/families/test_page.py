"""`docs/models.md` says of every architecture what works, or why not; the table is run by `python -m tests.families`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.families.configs import families
from tests.families.table import COLUMNS, PAGE

TEXT = (Path(__file__).resolve().parents[2] / PAGE).read_text(encoding="utf-8")
ROWS = {
    cells[0]: dict(zip(COLUMNS, cells[1:], strict=True))
    for line in TEXT.splitlines()
    if len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == len(COLUMNS) + 1
    and cells[0] not in ("architecture", "---")
}
MIXTURES = ("qwen3_moe", "mixtral")
DENSE = (
    "llama",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3_text",
    "phi3",
    "mistral",
    "granite",
    "olmo2",
    "smollm3",
)


@pytest.mark.parametrize("family", [*DENSE, *MIXTURES])
def test_the_common_families_are_right(family: str) -> None:
    assert ROWS[family]["learner"] == ROWS[family]["hf"] == ROWS[family]["vllm"] == "right"


def test_every_architecture_is_right_or_refused_with_a_sentence() -> None:
    refused = re.findall(r"^\| ([^|]+) \| .{40,} \|$", TEXT.partition("### Refused")[2], re.M)
    assert sorted(families()) == sorted({*ROWS, *refused} - {"architecture", "---"})
    assert "FAULT" not in TEXT and "Traceback" not in TEXT
    reasons = set(re.findall(r"^(\d+)\. .{20,}", TEXT, re.M))
    cells = [cell for row in ROWS.values() for cell in row.values()]
    numbers = [re.fullmatch(r"refused \((\d+)\)", cell) for cell in cells]
    for cell, number in zip(cells, numbers, strict=True):
        assert cell in ("right", "") or (number and number[1] in reasons), cell
