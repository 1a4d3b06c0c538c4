"""What `rlcore doctor` says of one part."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    part: str
    works: bool
    state: str
    """The version if it works, else what is wrong and what to do."""
    use: str
    needed: bool = True
    """Whether rlcore cannot run without it."""

    @property
    def text(self) -> str:
        if self.works:
            return self.state
        return f"{'MISSING' if self.needed else 'missing (optional)'}: {self.state}"
