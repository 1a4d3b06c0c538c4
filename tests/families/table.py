"""The page `docs/models.md`: what every architecture can do here, and why not where it cannot."""

from __future__ import annotations

import re
from collections.abc import Mapping

PAGE = "docs/models.md"
COLUMNS = ("learner", "hf", "vllm", "lora merged", "lora adapter")

MARK = "<!-- Everything below is written by python -m tests.families -->"
_HEAD = """
## Architectures

Written by `python -m tests.families`, which makes a tiny model of every causal language model that
the installed transformers has, with large random weights, and sends it through the load check, both
layouts, saving and loading, and each engine, with sequences of up to 60 tokens. The reference is
transformers' own forward, one sequence at a time. "right" means that all of that agreed within 0.01
nat at every token, on a CPU in float32. No column says GPU: none of these families was run on one.
The folders hold what text needs and no image processor, and torchvision is not installed; both are
why vLLM refuses models for images here.

- learner: forward in both layouts, save and load; mixtures of experts are among the families
- hf, vllm: the engine serves the published weights, twice and with proof of sync, and completions
  carry the learner's log-probabilities
- lora merged: `model.peft` with `target_modules: all-linear`, published with `engine.sync: merged`
- lora adapter: the same with `engine.sync: adapter`, on vLLM

A number refers to the reasons below the table.
"""


def page(rows: Mapping[str, Mapping[str, str]], before: str) -> str:
    """The page in Markdown. before: as it is now; what stands above `MARK` stays."""
    reasons: dict[str, int] = {}
    supported = {name: row for name, row in rows.items() if row.get("learner") == "right"}
    lines = [
        before.partition(MARK)[0] + MARK,
        _HEAD,
        f"| architecture | {' | '.join(COLUMNS)} |",
        f"|---|{'---|' * len(COLUMNS)}",
    ]
    for name, row in sorted(supported.items()):
        cells = [_cell(row.get(column, ""), reasons) for column in COLUMNS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["\n### Reasons\n"]
    lines += [f"{number}. {reason}" for reason, number in reasons.items()]
    refused = {
        name: row["learner"] for name, row in sorted(rows.items()) if name not in supported
    }
    lines += [
        "\n### Refused when they are loaded\n",
        "| architecture | sentence |",
        "|---|---|",
    ]
    for name, cell in refused.items():
        if not cell.startswith("not made"):
            fault = "FAULT: " if cell.startswith("fault") else ""
            lines.append(f"| {name} | {fault}{_reason(cell)} |")
    lines += [
        "\n### Not examined\n",
        "No tiny model of these could be made from the sizes that the script sets, or they were left out.\n",
        "| architecture | why |",
        "|---|---|",
    ]
    for name, cell in refused.items():
        if cell.startswith("not made"):
            lines.append(f"| {name} | {_reason(cell.removeprefix('not made: '))} |")
    return "\n".join(lines) + "\n"


def _cell(cell: str, reasons: dict[str, int]) -> str:
    if cell in ("right", ""):
        return cell
    number = reasons.setdefault(_reason(cell), len(reasons) + 1)
    return f"refused ({number})" if cell.startswith("refused") else f"FAULT ({number})"


def _reason(cell: str) -> str:
    text = cell.removeprefix("refused: ").removeprefix("fault: ").replace("|", "\\|")
    text = re.sub(r"/tmp/\w+(/\w+)*", "MODEL", text.replace("\n", " "))
    return re.sub(r"\b(?:model\.)?layers\.[\w.]+", "one of its layers", text)
