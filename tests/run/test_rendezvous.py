"""Processes that meet in a store where an earlier start has left its keys."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch.distributed as dist

from rlcore.run.rendezvous import agree, init_method

SOON = timedelta(seconds=20)


def meet(store: dist.Store, ranks: list[int], timeout: timedelta = SOON) -> list[str]:
    with ThreadPoolExecutor(len(ranks)) as pool:
        calls = [pool.submit(agree, store, rank, 3, timeout) for rank in ranks]
        return [call.result() for call in calls]


def test_each_start_has_one_name_of_its_own() -> None:
    store = dist.HashStore()
    names = [meet(store, [0, 1, 2]) for _ in range(20)]
    assert all(len(set(start)) == 1 for start in names)
    assert len({start[0] for start in names}) == 20


@pytest.mark.parametrize("late", [0, 1])
def test_who_comes_late_is_waited_for(late: int) -> None:
    """The others see the meeting of the earlier start for a while."""
    store = dist.HashStore()
    before = meet(store, [0, 1, 2])
    early = [rank for rank in range(3) if rank != late]
    names: list[str] = []
    waiting = threading.Thread(target=lambda: names.extend(meet(store, early)))
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive()
    names.append(agree(store, late, 3, SOON))
    waiting.join()
    assert len(names) == 3
    assert len(set(names)) == 1
    assert names[0] != before[0]


def test_a_process_that_answered_and_was_replaced_is_not_taken_for_the_new_one() -> None:
    """The first process believes that the ended one is there: the new one waits for the next meeting."""
    store = dist.HashStore()
    meet(store, [0, 1, 2])
    with pytest.raises(dist.DistError, match="process 0 has not come"):
        agree(store, 1, 3, timedelta(seconds=0.3))


def test_one_process_meets_itself() -> None:
    assert agree(dist.HashStore(), 0, 1, SOON)


def test_only_a_store_that_outlives_its_processes_needs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    assert init_method() == "env://"
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    assert init_method() == "rlcore://"
