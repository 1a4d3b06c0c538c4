"""From a recipe's corpus section to its tasks: hands the corpus what it needs of a tokenizer or a model."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rlcore.plugin import build
from rlcore.recipe import task_sections
from rlcore.recipe.load import tasks_section
from rlcore.tasks.corpus.prepare import Cleaning, Funnel, Prepared, prepare
from rlcore.tasks.corpus.read import Source
from rlcore.tasks.corpus.segment import segmenter
from rlcore.types import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rlcore.tasks.corpus.positions import Entropies

FORMS = {
    "segments": "rlcore.tasks.corpus.targets:segment_tasks",
    "text": "rlcore.tasks.corpus.targets:text_tasks",
    "positions": "rlcore.tasks.corpus.positions:position_tasks",
    "spans": "rlcore.tasks.corpus.spans:span_tasks",
    "paragraphs": "rlcore.tasks.corpus.spans:paragraph_tasks",
}
"""Name in a recipe -> a function from a prepared corpus to tasks."""


def corpus_tasks(section: task_sections.CorpusTasks, path: str) -> Sequence[Task]:
    """The tasks of a section whose text is at `path`; the corpus is prepared if it was not before."""
    tokenizer = _tokenizer(section.tokenizer)
    prepared = prepare_corpus(section, path, tokenizer).part(section.part)
    entropies = _entropies(section.entropy_model) if section.entropy_model else None
    return build(
        section.form, FORMS, prepared, what="corpus form", tokenizer=tokenizer, entropies=entropies
    )


def prepare_corpus(
    section: task_sections.CorpusTasks,
    path: str,
    tokenizer: PreTrainedTokenizerBase | None = None,
    progress: Callable[[Funnel], None] | None = None,
) -> Prepared:
    """The prepared corpus of a section. Raises `TaskError`."""
    source = Source(path, section.column, section.split, section.subset)
    keep = section.keep.model_dump()
    cleaning = Cleaning(**(keep | {"against": tuple(keep["against"])}))
    label = (
        f"{section.unit}/{section.unit_tokens}/{section.tokenizer}"
        if section.unit == "tokens"
        else section.unit
    )
    segment = segmenter(section.unit, tokenizer=tokenizer, tokens=section.unit_tokens)
    return prepare(source, cleaning, segment, label=label, progress=progress)


def survey(path: str, overrides: Sequence[str]) -> dict[str, Any]:
    """What preparing the text at `path` keeps and drops, how fast it was and what memory the process took at most.

    overrides: `key=value` of a corpus section. What was prepared is kept for the tasks of a recipe with the same settings.
    """
    section = tasks_section({"use": "corpus", "path": path}, overrides)
    prepared = prepare_corpus(section, path, _tokenizer(section.tokenizer))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1024 if sys.platform != "darwin" else 1
    )
    return {
        **asdict(prepared.funnel),
        "seconds": round(prepared.seconds, 2),
        "documents_per_second": round(prepared.funnel.documents / max(prepared.seconds, 1e-9), 1),
        "peak_memory_mb": round(peak / 1e6, 1),
        "folder": str(prepared.folder),
    }


def _tokenizer(name: str | None) -> PreTrainedTokenizerBase | None:
    if name is None:
        return None
    from rlcore.learner.tokenizer import load_tokenizer

    return load_tokenizer(name)


def _entropies(path: str) -> Entropies:
    """Of a model that does not change while the corpus is used, so that a resumed run has the same bins."""
    import torch

    from rlcore.learner.policy import load_policy

    policy = load_policy(path=path, device="cuda" if torch.cuda.is_available() else "cpu")
    return lambda sequences: [values for _, values in policy.read(sequences)]
