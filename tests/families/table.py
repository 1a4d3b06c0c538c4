"""The page `docs/models.md`: what every architecture can do here, and why not where it cannot."""

from __future__ import annotations

from collections.abc import Mapping

PAGE = "docs/models.md"
COLUMNS = ("learner", "hf", "vllm", "lora merged", "lora adapter")

_HEAD = """# Models

Which architectures rlcore trains. The table is written by `python -m tests.families`: it makes a
tiny model of every causal language model that the installed transformers has, with large random
weights, and sends it through the load check, the packed and the shared layout, saving and loading,
and each engine, with sequences of up to 60 tokens. The reference is transformers' own forward, one
sequence at a time; log-probabilities may differ by 0.01 nat at any token. "right" means that all of
this agreed, on a CPU in float32. The GPU column of a table would be empty: no architecture but
those of the benchmarks has been run on one.

- learner: forward in both layouts, save and load
- hf, vllm: the engine serves the published weights, twice (equal fingerprints, equal scores), and
  completions carry the learner's log-probabilities
- LoRA merged: `model.peft` with `target_modules: all-linear`, published with `engine.sync: merged`
- LoRA adapter: the same with `engine.sync: adapter` on vLLM

A number refers to the reasons below the tables. `rlcore models check PATH` does the same for one
real model, and says what its tokenizer and its files bring along.
"""

_LIMITS = """
## What the packed layout does not have

The learner puts sequences side by side in one row without padding, and computes a common prefix
once. That is exact for attention with positions, windows, caps, sinks and any feed-forward part. It
is not possible for layers that carry a state from token to token (Mamba, linear attention, short
convolutions, recurrent layers), for attention in chunks, for biases by distance (ALiBi), and for
models that read in both directions. Those are refused when they are loaded.

Frequencies of `longrope` (Phi-3) and `dynamic` rope depend on the length of a sequence. A run takes
one set for all of its sequences: the long one where `engine.max_length` exceeds the length of
pretraining, else the short one, as vLLM does for `longrope`.
"""


def page(rows: Mapping[str, Mapping[str, str]]) -> str:
    """The whole page in Markdown."""
    reasons: dict[str, int] = {}
    supported = {name: row for name, row in rows.items() if row.get("learner") == "right"}
    lines = [
        _HEAD,
        "\n## Architectures that can be trained\n",
        f"| architecture | {' | '.join(COLUMNS)} |",
        f"|---|{'---|' * len(COLUMNS)}",
    ]
    for name, row in sorted(supported.items()):
        cells = [_cell(row.get(column, ""), reasons) for column in COLUMNS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["\n### Reasons\n"]
    lines += [f"{number}. {reason}" for reason, number in reasons.items()]
    lines += [
        _LIMITS,
        "## Architectures that are refused\n",
        "| architecture | sentence |",
        "|---|---|",
    ]
    for name, row in sorted(rows.items()):
        if name not in supported:
            lines.append(f"| {name} | {_reason(row['learner'])} |")
    return "\n".join(lines) + "\n"


def _cell(cell: str, reasons: dict[str, int]) -> str:
    if cell in ("right", ""):
        return cell
    number = reasons.setdefault(_reason(cell), len(reasons) + 1)
    return f"refused ({number})" if cell.startswith("refused") else f"FAULT ({number})"


def _reason(cell: str) -> str:
    text = cell.removeprefix("refused: ").removeprefix("fault: ").replace("|", "\\|")
    return text.replace("\n", " ")
