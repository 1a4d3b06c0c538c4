"""Environments of OpenEnv, served over HTTP (`pip install openenv-core`).

    env: {use: openenv, url: "http://localhost:8000", action: message, shown: echoed_message}

Every episode is a session of the server, so it must serve as many at once as there are rollouts. The client is OpenEnv's
generic one. An environment that has tools is better wrapped in a class with a method for each, as TRL's users do: it is
read by its form (`rlcore.env.forms`), and needs no adapter.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from rlcore.env.adapters.library import imported
from rlcore.env.base import Observation
from rlcore.env.forms import Loaded, adapter
from rlcore.types import Message


@adapter
def openenv(
    *, url: str, action: str, shown: str = "", params: Mapping[str, Any] | None = None
) -> Loaded:
    """An environment on a server of OpenEnv.

    action: the field of an action that holds the completion; params: its other fields. shown: the field of an observation that the
    policy reads; all of it as JSON if empty.
    """
    client = partial(
        imported("openenv.core", package="openenv-core").GenericEnvClient, base_url=url
    )
    return Loaded("openenv", lambda: _Session(client, action, shown, dict(params or {})))


class _Session:
    """An episode."""

    def __init__(self, client: Any, action: str, shown: str, params: dict[str, Any]) -> None:
        self._make_client, self._action, self._shown, self._params = (
            client,
            action,
            shown,
            params,
        )
        self._client: Any = None

    async def reset(self, seed: int) -> Observation:
        self._client = self._make_client()
        await self._client.connect()
        result = await self._client.reset(seed=seed)
        return Observation(self._text(result.observation))

    async def step(self, message: Message) -> Observation:
        result = await self._client.step({**self._params, self._action: message["content"]})
        return Observation(
            self._text(result.observation),
            reward=float(result.reward or 0.0),
            done=bool(result.done),
        )

    def close(self) -> None:
        """End the session; the server frees its environment."""
        if self._client is not None:
            self._closing = asyncio.ensure_future(self._client.close())

    def _text(self, observation: Any) -> str:
        if not self._shown:
            return json.dumps(observation, ensure_ascii=False)
        if self._shown not in observation:
            raise KeyError(
                f"the observation has no field {self._shown!r}; it has {', '.join(observation)}"
            )
        return str(observation[self._shown])
