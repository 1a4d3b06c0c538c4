"""How often the ranks of a run look at a server."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from rlcore.rollout import server_pool
from rlcore.rollout.server_pool import LOOKS, WATCH_S, ServerPool


class Awake(Exception):
    """Ends a watch."""


@pytest.mark.parametrize("ranks", [1, 8, 50, 51, 512])
def test_many_ranks_look_less_often_each(ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        raise Awake

    async def watch() -> None:
        async with httpx.AsyncClient() as http:
            pool = ServerPool(["http://127.0.0.1:9"], http, max_length=8, dtype="float32", rank=0, ranks=ranks)
            await pool.watch(lambda server: sleep(0))

    monkeypatch.setattr(server_pool.asyncio, "sleep", sleep)
    with pytest.raises(Awake):
        asyncio.run(watch())
    (pause,) = slept
    assert pause >= WATCH_S and ranks / pause <= LOOKS
    assert pause == WATCH_S or ranks > LOOKS
