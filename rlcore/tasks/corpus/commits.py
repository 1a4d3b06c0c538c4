"""What preparing a corpus leaves on disk: shards of documents, filters, and how far it has come."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import pyarrow as pa

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("ends", pa.list_(pa.int32())),
        ("targets", pa.list_(pa.int32())),
    ]
)


@dataclass(kw_only=True)
class Funnel:
    """What became of the rows, step by step.

    A row is cut into one or more documents; each is kept or dropped once.
    """

    rows: int = 0
    without_text: int = 0
    documents: int = 0
    too_short: int = 0
    few_letters: int = 0
    odd_words: int = 0
    repeated_lines: int = 0
    listed: int = 0
    duplicate: int = 0
    contaminated: int = 0
    few_segments: int = 0
    kept: int = 0
    characters_read: int = 0
    characters_kept: int = 0
    segments: int = 0
    targets: int = 0
    """Segments with two neighbours that can be asked for: not too short or long, and said only once in the document."""
    target_too_short: int = 0
    target_too_long: int = 0
    target_repeated: int = 0

    @property
    def dropped(self) -> int:
        """Documents that are not kept, by any step."""
        return self.documents - self.kept


@dataclass(kw_only=True)
class State:
    """How far the stream was read, and what came of it."""

    shards: int = 0
    done: bool = False
    seconds: float = 0.0
    funnel: Funnel = field(default_factory=Funnel)


def read_state(folder: Path, key: str) -> State:
    """Where the work stands; a folder of another corpus or other settings is begun anew."""
    file = folder / "state.json"
    saved = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if saved.pop("key", None) != key:
        for old in [*folder.glob("*.arrow"), *folder.glob("*.bloom")]:
            old.unlink()
        return State()
    known = {item.name for item in fields(Funnel)}
    funnel = Funnel(
        **{name: count for name, count in saved.pop("funnel").items() if name in known}
    )
    return State(**saved, funnel=funnel)


def commit(folder: Path, key: str, state: State) -> None:
    """Replace the state in one move: before it the old commit holds, after it the new one."""
    new = folder / "state.json.new"
    new.write_text(json.dumps({"key": key, **asdict(state)}), encoding="utf-8")
    new.replace(folder / "state.json")


def write_shard(file: Path, batch: list[dict[str, Any]]) -> None:
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as stream:
        stream.write_table(pa.Table.from_pylist(batch, schema=SCHEMA))


def shard_file(folder: Path, number: int) -> Path:
    return folder / f"documents-{number:06d}.arrow"


def filter_file(folder: Path, shards: int) -> Path:
    return folder / f"seen-{shards:06d}.bloom"
