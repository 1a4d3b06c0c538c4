"""The rules that all sections of a recipe keep."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Strict and frozen: unknown keys, wrong types and later changes are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
