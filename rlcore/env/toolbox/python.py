"""The tool `python`: an interpreter in the sandbox, which keeps its names between the calls of one episode."""

from __future__ import annotations

from functools import cache

from rewards.sandbox import Limits, SandboxError, SessionEnded, open_session
from rlcore.errors import RecipeError

MOST_OUTPUT = 10_000
"""Characters of a reply."""


class Python:
    """One interpreter for an episode, confined as the programs that the reward `code` runs (docs/sandbox.md)."""

    name = "python"

    def __init__(self, cpu_s: int = 20, wall_s: float = 8.0, memory_mb: int = 512) -> None:
        """cpu_s: for all calls of an episode. wall_s: for one call. memory_mb: of address space."""
        _check_sandbox()
        self._limits = Limits(cpu_s=cpu_s, wall_s=wall_s, memory_mb=memory_mb)
        self._session = None

    def __call__(self, code: str) -> str:
        """Run Python code and see what it prints, and the value of a last expression. Variables are kept for later calls.

        Args:
            code: Python code; only the standard library can be imported.
        """
        if self._session is None:
            self._session = open_session(self._limits)
        try:
            output = self._session.run(code)
        except SessionEnded as ended:
            self._session = None
            raise RuntimeError(f"{ended}; the next call starts a new interpreter") from None
        if len(output) > MOST_OUTPUT:
            half = MOST_OUTPUT // 2
            output = f"{output[:half]}\n[... {len(output) - MOST_OUTPUT:,} characters cut]\n{output[-half:]}"
        return output.rstrip("\n") or "(no output)"

    def close(self) -> None:
        """End the interpreter."""
        if self._session is not None:
            self._session.close()
            self._session = None


@cache
def _check_sandbox() -> None:
    """Raise `RecipeError` where programs cannot be confined: else the policy would be told so, call after call."""
    try:
        session = open_session()
        session.run("")
        session.close()
    except (SandboxError, SessionEnded) as error:
        raise RecipeError(f"the tool python cannot run here: {error}") from None
