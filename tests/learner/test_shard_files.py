"""Shards in files against the full tensor: any cut is read from any other cut, and nothing is made up."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rlcore.errors import RunError
from rlcore.learner.shard_files import ShardFiles, Shards, StoredTensor, with_stored, write
from rlcore.run.shards import wait_for_shards, write_shards

NAME = "learner/average/mean/weight"


def blocks(full: Tensor, cuts: list[list[int]]) -> list[tuple[list[int], Tensor]]:
    """The parts of a tensor that is cut at the given indices of each dimension, and where each begins."""
    edges = [list(zip([0, *places], [*places, size], strict=True)) for places, size in zip(cuts, full.shape, strict=True)]
    return [([low for low, _ in block], full[tuple(slice(*edge) for edge in block)]) for block in product(*edges)]


@pytest.mark.parametrize("written", [[[], []], [[3, 6], []], [[], [2]], [[2, 2, 5], [1, 4]]])
@pytest.mark.parametrize("read", [[[], []], [[4], []], [[1, 2, 3, 4, 5, 6], []], [[3], [2, 3]]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_any_cut_is_read_from_any_other(
    written: list[list[int]], read: list[list[int]], dtype: torch.dtype, tmp_path: Path
) -> None:
    full = torch.arange(35).reshape(7, 5).to(dtype)
    for rank, (start, part) in enumerate(blocks(full, written)):
        write(Shards({NAME: part}, {NAME: start}), tmp_path / f"rank_{rank:05d}.safetensors")
    stored = StoredTensor(NAME, full.shape, dtype, ShardFiles(tmp_path))
    for start, part in blocks(full, read):
        assert torch.equal(stored.part(start, part.shape), part)
    assert torch.equal(stored.full(), full)


def test_a_part_that_no_file_has_is_an_error(tmp_path: Path) -> None:
    full = torch.arange(12.0).reshape(6, 2)
    write(Shards({NAME: full[:3]}, {NAME: [0, 0]}), tmp_path / "rank_00000.safetensors")
    stored = StoredTensor(NAME, full.shape, full.dtype, ShardFiles(tmp_path))
    assert torch.equal(stored.part([1, 0], [2, 2]), full[1:3])
    with pytest.raises(RunError, match=f"only a part of {NAME}"):
        stored.part([2, 0], [2, 2])


def test_empty_tensors_of_a_state_stand_for_what_is_stored(tmp_path: Path) -> None:
    torch.save({"a": [1, {"b": torch.empty(4, device="meta")}], "c": (2, 3)}, tmp_path / "state.pt")
    write(Shards({"a/1/b": torch.arange(4.0)}, {"a/1/b": [0]}), tmp_path / "rank_00000.safetensors")
    state = with_stored(torch.load(tmp_path / "state.pt", weights_only=True), tmp_path)
    assert state["a"][0] == 1 and state["c"] == (2, 3)
    assert torch.equal(state["a"][1]["b"].full(), torch.arange(4.0))


class TestWaiting:
    """The first rank, for the files of the others."""

    def test_all_that_were_written_are_named_with_their_checksums(self, tmp_path: Path) -> None:
        for rank in range(3):
            write_shards(Shards({NAME: torch.ones(2) * rank}, {NAME: [0]}), tmp_path, rank)
        found = wait_for_shards(tmp_path, 3, timeout_s=1)
        assert sorted(found) == sorted(path.name for path in tmp_path.iterdir())
        assert len(set(found.values())) == 3

    def test_one_that_could_not_write_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "rank_00001.safetensors").mkdir()
        write_shards(Shards({NAME: torch.ones(2)}, {NAME: [0]}), tmp_path, 0)
        with pytest.raises(Exception, match=r"rank_00001|directory"):
            write_shards(Shards({NAME: torch.ones(2)}, {NAME: [0]}), tmp_path, 1)
        with pytest.raises(OSError, match="process 1 could not write its part"):
            wait_for_shards(tmp_path, 2, timeout_s=1)

    def test_one_that_does_not_come_is_named_in_time(self, tmp_path: Path) -> None:
        write_shards(Shards({NAME: torch.ones(2)}, {NAME: [0]}), tmp_path, 0)
        with pytest.raises(RunError, match=r"process 1 has not written .* within run.timeout_s=0.2 seconds"):
            wait_for_shards(tmp_path, 2, timeout_s=0.2)
