"""Environments: what a policy talks to in multi-turn rollouts. `base` says what one is."""

from rlcore.env.base import Environment, Observation, environment

__all__ = ["Environment", "Observation", "environment"]
