"""Task set `corpus`: passes a corpus what it needs of a tokenizer or a model."""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import PositiveInt

from rlcore.plugin import build
from rlcore.recipe.build import here
from rlcore.recipe.build_learner import starting_point
from rlcore.recipe.load import override
from rlcore.tasks.corpus.prepare import Prepared, prepare
from rlcore.tasks.corpus.read import Source
from rlcore.tasks.corpus.segment import segmenter
from rlcore.types import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rlcore.tasks.corpus.positions import Entropies

FORMS = {
    "segments": "rlcore.tasks.corpus.targets:segment_tasks",
    "pieces": "rlcore.tasks.corpus.pieces:piece_tasks",
    "blocks": "rlcore.tasks.corpus.pieces:block_tasks",
    "text": "rlcore.tasks.corpus.targets:text_tasks",
    "positions": "rlcore.tasks.corpus.positions:position_tasks",
    "spans": "rlcore.tasks.corpus.spans:span_tasks",
    "paragraphs": "rlcore.tasks.corpus.spans:paragraph_tasks",
}
"""Name in a recipe -> a function from a prepared corpus to tasks."""


KEEP = {"corpus": "rlcore.tasks.corpus.prepare:Cleaning"}
"""Where the keys of `keep` are declared."""

Unit = Literal["sentence", "paragraph", "tokens"]


def corpus(
    path: str | list[str],
    *,
    part: Literal["all", "train", "heldout"] = "all",
    form: str | dict[str, Any] = "segments",
    entropy_model: str | None = None,
    column: str = "text",
    subset: str | None = None,
    split: str = "train",
    unit: Unit = "sentence",
    unit_tokens: PositiveInt = 32,
    tokenizer: str | list[str] | None = None,
    keep: dict[str, Any] | None = None,
) -> Sequence[Task]:
    """Tasks made of raw text; the corpus is prepared if it was not before.

    path: txt, jsonl or parquet file, folder, hub name or package.module:function; of a list, the first that exists.
    part: heldout is one document in 16, train the others.
    form: tasks made of it: segments, positions, spans, paragraphs, text, pieces, blocks, or {use: name, parameter: value}.
    entropy_model: hub name or folder of the model whose entropy bins positions.
    column: where the text is.
    subset: configuration name of a hub data set.
    split: split of a hub data set.
    unit: what a segment is, sentence, paragraph or tokens.
    unit_tokens: length of a segment, for unit tokens.
    tokenizer: hub name, folder or 'bytes', for tokens, positions, pieces and blocks; of a list, the first that exists.
    keep: what is dropped and cut; its keys are listed under keep.corpus.
    """
    name = None if tokenizer is None else starting_point(tokenizer)
    prepared = prepare_corpus(
        path,
        column=column,
        subset=subset,
        split=split,
        unit=unit,
        unit_tokens=unit_tokens,
        tokenizer=name,
        keep=keep,
    )
    return build(
        form,
        FORMS,
        prepared.part(part),
        what="corpus form",
        tokenizer=_tokenizer(name),
        entropies=_entropies(starting_point(entropy_model)) if entropy_model else None,
    )


def prepare_corpus(
    path: str | list[str],
    *,
    column: str = "text",
    subset: str | None = None,
    split: str = "train",
    unit: Unit = "sentence",
    unit_tokens: PositiveInt = 32,
    tokenizer: str | list[str] | None = None,
    keep: dict[str, Any] | None = None,
) -> Prepared:
    """The prepared text, for the parameters of `corpus` that it depends on. Raises `TaskError`."""
    cleaning = build({"use": "corpus", **(keep or {})}, KEEP, what="keep of a")
    cleaning = replace(cleaning, against=tuple(cleaning.against))
    name = None if tokenizer is None else starting_point(tokenizer)
    label = f"{unit}/{unit_tokens}/{name}" if unit == "tokens" else unit
    segment = segmenter(unit, tokenizer=_tokenizer(name), tokens=unit_tokens)
    source = Source(here(path), column, split, subset)
    return prepare(source, cleaning, segment, label=label)


def survey(path: str, overrides: Sequence[str]) -> dict[str, Any]:
    """What preparing the text at `path` keeps and drops, how fast it was and what memory the process took at most.

    overrides: `key=value` of `prepare_corpus`. The prepared text is kept for recipes with the same settings.
    """
    settings: dict[str, Any] = {}
    override(settings, overrides)
    named = {"use": "corpus", "path": path, **settings}
    prepared = build(named, {"corpus": "rlcore.recipe.corpus:prepare_corpus"}, what="task set")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1024 if sys.platform != "darwin" else 1
    )
    return {
        **asdict(prepared.funnel),
        "seconds": round(prepared.seconds, 2),
        "documents_per_second": round(
            prepared.funnel.documents / max(prepared.seconds, 1e-9), 1
        ),
        "peak_memory_mb": round(peak / 1e6, 1),
        "folder": str(prepared.folder),
    }


def _tokenizer(name: str | None) -> PreTrainedTokenizerBase | None:
    if name is None:
        return None
    from rlcore.tokenizer import load_tokenizer

    return load_tokenizer(name)


def _entropies(path: str) -> Entropies:
    """Of a model that does not change while the corpus is used, so that a resumed run has the same bins."""
    import torch

    from rlcore.learner.policy import load_policy

    policy = load_policy(path=path, device="cuda" if torch.cuda.is_available() else "cpu")
    return lambda sequences: [values for _, values in policy.read(sequences)]
