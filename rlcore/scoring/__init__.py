"""Reward functions: what they are, how they run and how their values become one verdict."""
