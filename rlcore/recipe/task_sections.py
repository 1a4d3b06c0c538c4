"""The keys of task sets: what makes them, with its parameters."""

from __future__ import annotations

from rlcore.recipe.section import PartSection


class TaskSection(PartSection):
    """A function that makes tasks: arithmetic, countdown, dataset, gym, corpus, or one of a file."""
