"""Engines, the generator that keeps them busy, and publishing of weights."""
