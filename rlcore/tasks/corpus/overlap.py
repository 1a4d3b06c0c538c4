"""Text seen before: near-duplicates of earlier documents, and n-grams of evaluation sets."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import xxhash

from rlcore.errors import TaskError
from rlcore.tasks.corpus.read import Source

BANDS, ROWS = 16, 8
"""Of a MinHash signature: documents of Jaccard similarity s share a band with probability 1 - (1 - s^8)^16: 0.95 at 0.8."""
SHINGLE = 5
"""Words; what the similarity is taken over."""
ERROR_RATE = 1e-6
"""Chance that a band which was never seen counts as seen, while the filter holds no more than it was made for."""

SHORTEST = 8
"""Words of the shortest evaluation text that counts."""

_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """Casefolded words, punctuation left out."""
    return _WORD.findall(text.casefold())


class SeenBefore:
    """MinHash signatures of all earlier documents, in a Bloom filter: memory is fixed by `capacity`, not by what was read."""

    def __init__(self, capacity: int, saved: Path | None = None) -> None:
        """capacity: documents it is made for; beyond it, with a warning, more and more are wrongly taken for duplicates."""
        try:
            import rbloom
            from rensa import RMinHash
        except ImportError as error:
            raise TaskError(
                "near-duplicates are found with rensa and rbloom: pip install 'rlcore[corpus]'"
            ) from error
        self._minhash, self._capacity, self._added = RMinHash, capacity, 0
        self._seen = (
            rbloom.Bloom.load(str(saved), _hash)
            if saved
            else rbloom.Bloom(capacity * BANDS, ERROR_RATE, _hash)
        )

    def __call__(self, tokens: Sequence[str]) -> bool:
        """Whether a document of these words resembles an earlier one; if not, it is one of the earlier ones from now on."""
        shingles = list(
            map(" ".join, zip(*(tokens[i:] for i in range(SHINGLE)), strict=False))
        ) or [" ".join(tokens)]
        signature = self._minhash(num_perm=BANDS * ROWS, seed=1)
        signature.update(shingles)
        digest = signature.digest()
        bands = [(i, *digest[i * ROWS : (i + 1) * ROWS]) for i in range(BANDS)]
        if any(band in self._seen for band in bands):
            return True
        self._seen.update(bands)
        self._added += 1
        if self._added == self._capacity + 1:
            warnings.warn(
                f"more than {self._capacity:,} documents: raise the corpus's `capacity`",
                stacklevel=2,
            )
        return False

    def save(self, file: Path) -> None:
        """Write the filter, for `saved`."""
        self._seen.save(str(file))


def _hash(band: tuple[int, ...]) -> int:
    return xxhash.xxh3_128_intdigest(repr(band).encode()) - 2**127


class Contamination:
    """The n-grams of evaluation sets. A document that holds one of them is not for training."""

    def __init__(self, paths: Sequence[str], n: int) -> None:
        """Every text in the rows of the files counts; one of fewer than n words counts whole, unless it has fewer than 8."""
        self._head = min(n, SHORTEST)
        self._heads: set[int] = set()
        self._grams: dict[int, set[int]] = {}
        for path in paths:
            for text in _texts(path):
                tokens = words(text)
                size = min(n, len(tokens))
                if size >= self._head:
                    self._grams.setdefault(size, set()).update(_grams(tokens, size))
                    self._heads.update(
                        _grams(tokens[: len(tokens) - size + self._head], self._head)
                    )

    def __call__(self, tokens: Sequence[str]) -> bool:
        """Whether a document of these words holds one of them."""
        if self._heads.isdisjoint(_grams(tokens, self._head)):  # nearly always, and quick
            return False
        return any(
            not grams.isdisjoint(_grams(tokens, size)) for size, grams in self._grams.items()
        )


def _grams(tokens: Sequence[str], n: int) -> Iterator[int]:
    """Hashes of all runs of n words; of this process only."""
    return map(hash, zip(*(tokens[i:] for i in range(n)), strict=False))


def _texts(path: str) -> Iterator[str]:
    """All texts in a file of rows, whatever the columns are called; of a text file, its pieces."""
    files = Source(path).files()
    if not files:
        raise TaskError(
            f"the evaluation set {path} must be a file here, so that its n-grams can be kept out of the corpus"
        )
    for file in files:
        if file.name.endswith((".jsonl", ".jsonl.gz")):
            for row in _json(file):
                yield from _strings(row)
        else:
            yield from (row.text for row in Source(str(file)).rows() if row.text)


def _json(file: Path) -> Iterator[Any]:
    import gzip

    with (
        gzip.open(file, "rt", encoding="utf-8")
        if file.suffix == ".gz"
        else open(file, encoding="utf-8") as stream
    ):
        for number, line in enumerate(stream, start=1):
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise TaskError(
                    f"{file}, line {number}: this is not JSON ({error.msg})"
                ) from error


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)
