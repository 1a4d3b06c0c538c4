"""How long to wait for an engine: until a deadline, then for what was aborted to come back, then no longer."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

from rlcore.errors import EngineError
from rlcore.rollout.engine import Engine
from rlcore.types import Completion

ABORT_GRACE_S = 60.0
"""How long an engine may take to hand back aborted requests."""
POLL_S = 0.2


class Clock:
    """Polls the engine until a deadline, and then aborts once what is still being written."""

    def __init__(self, engine: Engine, deadline: float) -> None:
        self._engine, self._deadline, self._aborted = engine, deadline, False

    @property
    def passed(self) -> bool:
        return self._aborted or time.monotonic() > self._deadline

    def poll(self, waiting: Collection[str]) -> list[Completion]:
        """What finished; nothing, at the latest after `POLL_S`. Raises `EngineError` if aborted requests do not come back."""
        if time.monotonic() > self._deadline:
            if self._aborted:
                raise EngineError(
                    f"the engine did not hand back {len(waiting)} aborted requests within {ABORT_GRACE_S:g} s "
                    f"(first: {min(waiting)!r}); it is stuck or dead, restart the run from its last checkpoint"
                )
            self.abort(sorted(waiting))
        return self._engine.poll(min(POLL_S, max(0.0, self._deadline - time.monotonic())))

    def abort(self, ids: Sequence[str]) -> None:
        """Stop these requests now; what is still written has the grace to come back."""
        if ids:
            self._engine.abort(ids)
            self._aborted, self._deadline = True, time.monotonic() + ABORT_GRACE_S
