"""Raw text -> documents that are clean, new, worth reading and cut into segments, written once and
read when asked for.

The work goes from one commit to the next: a shard of documents, the state of the duplicate filter,
and a small file that says how far the stream was read. Killed at any moment, it goes on after the
last commit and leaves the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import datasets
import xxhash
from filelock import FileLock, Timeout
from pydantic import Field, NonNegativeInt, PositiveInt

from rlcore.errors import TaskError
from rlcore.tasks.corpus.clean import clean, pieces
from rlcore.tasks.corpus.commits import (
    Funnel,
    State,
    commit,
    filter_file,
    read_state,
    shard_file,
    write_shard,
)
from rlcore.tasks.corpus.filters import reason_to_drop
from rlcore.tasks.corpus.overlap import Contamination, SeenBefore, words
from rlcore.tasks.corpus.read import Source
from rlcore.tasks.corpus.segment import Segmenter, cut

VERSION = 1
"""Of what these steps do: a change makes prepared corpora anew."""
COMMIT_CHARS = 8_000_000
"""Read between two commits; what a kill can cost, and what is held in memory."""
LOCK_S = 3600.0
HELD_OUT_ONE_IN = 16


@dataclass(frozen=True, kw_only=True)
class Cleaning:
    """What is kept of a corpus.

    min_chars: shorter documents are dropped.
    quality: drop tables, menus, lists and documents of odd words, by Gopher's rules.
    max_chars: longer documents are cut at paragraph breaks.
    min_segments: documents of fewer segments are dropped.
    target_chars: shorter segments are read, but never asked for.
    longest_target: longer segments are not asked for either.
    capacity: documents that the filter of near-duplicates is made for, about 58 bytes each; 0 keeps duplicates.
    against: evaluation files; documents that share an n-gram with them are dropped.
    ngram: words of such an n-gram.
    documents: maximum number of rows that are read.
    """

    min_chars: PositiveInt = 200
    quality: bool = True
    max_chars: PositiveInt = 30_000
    min_segments: PositiveInt = 3
    target_chars: PositiveInt = 20
    longest_target: PositiveInt = 1000
    capacity: NonNegativeInt = 1_000_000
    against: tuple[str, ...] = ()
    ngram: Annotated[int, Field(ge=5)] = 13
    documents: PositiveInt | None = None


@dataclass(frozen=True)
class Prepared:
    """Documents on disk.

    `table` has the columns id, text, ends (of the segments) and targets (segments to ask for).
    """

    folder: Path
    table: datasets.Dataset
    funnel: Funnel
    seconds: float
    """Of the work, over all its runs."""

    def part(self, name: Literal["all", "train", "heldout"]) -> Prepared:
        """The documents of one part: a hash of the row's id puts one row in 16 into "heldout", the others into "train"."""
        if name == "all":
            return self
        chosen = []
        for i, id in enumerate(self.table["id"]):
            row = id.rpartition("/")[0].encode()
            is_held_out = xxhash.xxh3_64_intdigest(row) % HELD_OUT_ONE_IN == 0
            if is_held_out == (name == "heldout"):
                chosen.append(i)
        if not chosen:
            raise TaskError(
                f"no document of {self.folder.name} is in its {name} part: it has {len(self.table)} in all"
            )
        return replace(self, table=self.table.select(chosen))


def prepare(
    source: Source,
    cleaning: Cleaning,
    segment: Segmenter,
    *,
    label: str = "sentence",
    folder: Path | None = None,
    progress: Callable[[Funnel], None] | None = None,
) -> Prepared:
    """The prepared corpus, from `folder` (default: the cache, `$RLCORE_CACHE` or ~/.cache/rlcore)
    where it is there already.

    label: names the segmenter, whose code cannot be compared. progress: told after every commit.
    Memory is that of the duplicate filter plus one shard. Raises `TaskError` where nothing can be
    read or nothing is kept."""
    key = _key(source, cleaning, label)
    folder = (
        folder
        or Path(os.environ.get("RLCORE_CACHE", "~/.cache/rlcore")).expanduser()
        / "corpora"
        / key
    )
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(str(folder / ".lock"), timeout=LOCK_S):
            state = read_state(folder, key)
            if not state.done:
                _work(
                    source,
                    cleaning,
                    segment,
                    folder,
                    key,
                    state,
                    progress or (lambda funnel: None),
                )
    except Timeout as error:
        raise TaskError(
            f"another process has been preparing {folder} for {LOCK_S:g} s: wait for it or remove it"
        ) from error
    if not state.funnel.kept:
        reasons = {name: count for name, count in asdict(state.funnel).items() if count}
        raise TaskError(
            f"nothing of {source.path} is kept ({reasons}): check column {source.column!r} and what `keep` asks for"
        )
    table = datasets.concatenate_datasets(
        [datasets.Dataset.from_file(str(shard_file(folder, i))) for i in range(state.shards)]
    )
    return Prepared(folder, table, state.funnel, state.seconds)


def _work(
    source: Source,
    cleaning: Cleaning,
    segment: Segmenter,
    folder: Path,
    key: str,
    state: State,
    progress: Callable[..., None],
) -> None:
    seen = (
        SeenBefore(
            cleaning.capacity, filter_file(folder, state.shards) if state.shards else None
        )
        if cleaning.capacity
        else None
    )
    pipeline = _Pipeline(
        cleaning, segment, seen, Contamination(cleaning.against, cleaning.ngram), state.funnel
    )
    left = None if cleaning.documents is None else cleaning.documents - state.funnel.rows
    rows = islice(source.rows(skip=state.funnel.rows, max_chars=cleaning.max_chars), left)
    started, before = time.monotonic(), state.seconds
    while not state.done:
        batch, state.done = _fill(rows, pipeline)
        write_shard(shard_file(folder, state.shards), batch)
        if seen:
            seen.save(filter_file(folder, state.shards + 1))
        state.shards += 1
        state.seconds = before + time.monotonic() - started
        commit(folder, key, state)
        filter_file(folder, state.shards - 1).unlink(missing_ok=True)
        progress(state.funnel)
    filter_file(folder, state.shards).unlink(missing_ok=True)


def _fill(rows: Iterator[Any], pipeline: _Pipeline) -> tuple[list[dict[str, Any]], bool]:
    """The documents of the next rows, and whether the stream has ended."""
    batch: list[dict[str, Any]] = []
    until = pipeline.funnel.characters_read + COMMIT_CHARS
    for row in rows:
        batch += pipeline(row.id, row.text)
        if pipeline.funnel.characters_read >= until:
            return batch, False
    return batch, True


class _Pipeline:
    """The steps from a row to its documents."""

    def __init__(
        self,
        cleaning: Cleaning,
        segment: Segmenter,
        seen: SeenBefore | None,
        contaminated: Contamination,
        funnel: Funnel,
    ) -> None:
        self.funnel = funnel
        self._cleaning = cleaning
        self._segment = segment
        self._seen = seen
        self._contaminated = contaminated

    def __call__(self, id: str, text: str | None) -> list[dict[str, Any]]:
        self.funnel.rows += 1
        if text is None or not text.strip():
            self.funnel.without_text += 1
            return []
        self.funnel.characters_read += len(text)
        kept = []
        for number, piece in enumerate(pieces(clean(text), self._cleaning.max_chars)):
            self.funnel.documents += 1
            dropped, ends = self._judge(piece)
            if dropped:
                setattr(self.funnel, dropped, getattr(self.funnel, dropped) + 1)
                continue
            self.funnel.kept += 1
            self.funnel.characters_kept += len(piece)
            self.funnel.segments += len(ends)
            kept.append(
                {
                    "id": f"{id}/{number}",
                    "text": piece,
                    "ends": ends,
                    "targets": self._targets(piece, ends),
                }
            )
        return kept

    def _judge(self, text: str) -> tuple[str | None, list[int]]:
        """Which step drops the document, and where its segments end if none does."""
        if len(text) < self._cleaning.min_chars:
            return "too_short", []
        if self._cleaning.quality and (reason := reason_to_drop(text)):
            return reason, []
        tokens = words(text)
        if self._seen and self._seen(tokens):
            return "duplicate", []
        if self._contaminated(tokens):
            return "contaminated", []
        ends = self._segment(text)
        return ("few_segments", []) if len(ends) < self._cleaning.min_segments else (None, ends)

    def _targets(self, text: str, ends: list[int]) -> list[int]:
        """Segments that can be asked for: not the first and the last, long enough, and said nowhere else in the document."""
        targets = []
        segments = cut(text, ends)
        for position in range(1, len(segments) - 1):
            segment = segments[position].strip()
            if len(segment) < self._cleaning.target_chars:
                self.funnel.target_too_short += 1
            elif len(segment) > self._cleaning.longest_target:
                self.funnel.target_too_long += 1
            elif text.count(segment) > 1:
                self.funnel.target_repeated += 1
            else:
                targets.append(position)
        self.funnel.targets += len(targets)
        return targets


def _key(source: Source, cleaning: Cleaning, label: str) -> str:
    against = [Source(path).fingerprint() for path in cleaning.against]
    described = json.dumps(
        [VERSION, source.fingerprint(), asdict(cleaning), against, label, COMMIT_CHARS]
    )
    stem = "".join(
        letter
        for letter in Path(source.path).name.partition(".")[0]
        if letter.isalnum() or letter in "-_"
    )
    return (
        f"{stem or 'corpus'}-{hashlib.blake2b(described.encode(), digest_size=8).hexdigest()}"
    )
