"""All tasks alike: a new random order every epoch, without replacement."""

from __future__ import annotations

from rlcore.curriculum.epochs import Epochs


class Uniform(Epochs):
    """Example: `Uniform(tasks, seed=0).draw(8)` gives eight different positions."""
