"""Ask, then ask to reconsider: confidence and critique ("Confidence v.s. Critique", Yang et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Reconsidered:
    """What a second turn did to the answers; a rate without a case is None."""

    accuracy_before: float
    accuracy_after: float
    confidence: float | None
    """CL = P(right after | right before)."""
    critique: float | None
    """CS = P(right after | wrong before)."""

    @property
    def relative_score(self) -> float | None:
        """RSS = (Acc2 - Acc1^2) / (2 Acc1 (1 - Acc1)); 1/2 is no change. None where Acc1 is 0 or 1."""
        first = self.accuracy_before
        if first in (0, 1):
            return None
        return (self.accuracy_after - first**2) / (2 * first * (1 - first))


def reconsidered(before: Sequence[bool], after: Sequence[bool]) -> Reconsidered:
    """Rates from whether each answer was right before and after. Raises `ValueError` unless they come in pairs."""
    if len(before) != len(after) or not before:
        raise ValueError(f"{len(before)} first answers, but {len(after)} second ones")
    kept = [second for first, second in zip(before, after, strict=True) if first]
    mended = [second for first, second in zip(before, after, strict=True) if not first]
    return Reconsidered(
        accuracy_before=sum(before) / len(before),
        accuracy_after=sum(after) / len(after),
        confidence=sum(kept) / len(kept) if kept else None,
        critique=sum(mended) / len(mended) if mended else None,
    )
