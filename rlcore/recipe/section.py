"""The rules that all sections of a recipe keep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """Strict and frozen: unknown keys, wrong types and later changes are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class PartSection(Section):
    """`{use: name, **parameters}`, or the name alone.

    Keys that are not declared are parameters of the part. Its signature declares them, and they are
    checked when the part is built.
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    renamed: ClassVar[Mapping[str, str]] = {}
    """Key of version 1 -> what takes its place."""

    use: str = Field(description="built-in name, package.module:object, or file.py:object")

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"use": value}
        if isinstance(value, Mapping) and "kind" in value and "use" not in value:
            raise ValueError("the key 'kind' is now 'use'")
        if isinstance(value, Mapping):
            for key, successor in cls.renamed.items():
                if key in value:
                    raise ValueError(f"the key {key!r} is now {successor!r}")
        if isinstance(value, Mapping) and isinstance(value.get("params"), Mapping):
            raise ValueError("the keys of 'params' now stand beside 'use'")
        return value

    @property
    def parameters(self) -> dict[str, Any]:
        """The keys that belong to the part."""
        return dict(self.model_extra or {})
