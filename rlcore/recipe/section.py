"""The rules that all sections of a recipe keep."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

MAX_NAME = 100
"""Bytes of a name: file systems take 255, and suffixes are added."""

Count = Annotated[int, Field(gt=0, le=10**9)]
"""How many of something: at least one."""
Amount = Annotated[float, Field(gt=0, le=1e9)]
Seconds = Annotated[float, Field(gt=0, le=1e7)]
"""A waiting time; the largest is 115 days, which every clock and socket takes."""


def _as_name(text: str) -> str:
    if re.fullmatch(r"\w[\w.-]*", text) and len(text.encode()) <= MAX_NAME:
        return text
    raise ValueError(
        f"{text[:60]!r} names files and metrics: use up to {MAX_NAME} letters, digits, "
        "'.', '_' and '-', the first of them no '.' or '-'"
    )


Name = Annotated[str, AfterValidator(_as_name)]
"""What becomes a part of a path: it can never lead out of its folder."""


def _as_metric(text: str) -> str:
    for part in text.split("/") if text else ():
        _as_name(part)
    return text


MetricName = Annotated[str, AfterValidator(_as_metric)]
"""Names with slashes between them, as metrics are grouped; or "" for the default."""
OptionalName = Annotated[str, AfterValidator(lambda text: _as_name(text) if text else "")]
"""A `Name`, or "" for the default."""


class Section(BaseModel):
    """Strict and frozen: unknown keys, wrong types and later changes are errors."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
    )


class PartSection(Section):
    """`{use: name, **parameters}`, or the name alone.

    Keys that are not declared are parameters of the part. Its signature declares them, and they are
    checked when the part is built.
    """

    model_config = ConfigDict(extra="allow")

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
