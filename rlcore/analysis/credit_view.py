"""One completion as a picture: its tokens coloured by advantage, with the value of each step above it; on a terminal or as a page."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Group as Lines
from rich.text import Text

from rlcore.errors import RunError
from rlcore.run.folder import RunFolder, read_rows
from rlcore.types import StepValues

UP, DOWN = (33, 102, 172), (178, 24, 43)
"""Blue is pushed up, red down: two colours that most people tell apart."""


def find_row(
    folder: RunFolder, *, step: int | None = None, rollout: str | None = None
) -> dict[str, Any]:
    """The row of a rollout with step values: the one named, or of a step (default: last) that whose values differ most

    Raises `RunError` if there is none.
    """
    if not folder.rollouts.is_dir():
        raise RunError(f"{folder.path} is no run: it has no rollouts/")
    files = sorted(
        folder.rollouts.glob("*.jsonl" if step is None else f"{step:06d}.*jsonl"), reverse=True
    )
    if step is not None and not files:
        raise RunError(f"{folder.path} has no rollouts of step {step}")
    for path in files:
        rows = [
            row for row in read_rows(path) if "steps" in row and rollout in (None, row["id"])
        ]
        if rows:
            widest = max(rows, key=lambda row: _width(row["steps"]["values"]))
            return widest | {"optimiser_step": int(path.name.split(".")[0])}
    wanted = (
        f"rollout {rollout!r} with step values"
        if rollout
        else "rollouts with step values: set credit.steps in the recipe"
    )
    raise RunError(
        f"{folder.path} has no {wanted}" + ("" if step is None else f" in step {step}")
    )


def pieces(row: dict[str, Any], folder: RunFolder) -> list[str]:
    """The text of each completion token, [L]; special tokens by name. Raises `RunError`."""
    from rlcore.analysis.token_texts import TokenTexts, run_tokenizer

    tokenizer = run_tokenizer(folder)
    if tokenizer is None:
        raise RunError(
            f"{folder.path} has no checkpoint, whose tokenizer would say what the tokens are"
        )
    ids = [token for token, wrote in zip(row["token_ids"], row["mask"], strict=True) if wrote]
    return TokenTexts(tokenizer)(ids)


def terminal(row: dict[str, Any], texts: Sequence[str]) -> Lines:
    """For a terminal: a heading, the prompt, then value and text of each step."""
    lines = [Text(_heading(row), style="bold"), Text(_prompt(row), style="dim")]
    advantages, scale = _advantages(row)
    for number, (span, value, worth) in enumerate(_steps(row)):
        if span is None:
            lines.append(Text(f"Q_0 = {value}", style="dim"))
            continue
        lines.append(Text(f"Q_{number} = {value}  A_{number} = {worth}", style="dim"))
        line = Text("  ")
        for text, advantage in zip(texts[slice(*span)], advantages[slice(*span)], strict=True):
            line.append(text.replace("\n", "⏎"), style=_terminal_style(advantage, scale))
        lines.append(line)
    lines.append(Text("blue: pushed up, red: pushed down, dim: not trained", style="dim"))
    return Lines(*lines)


def page(row: dict[str, Any], texts: Sequence[str]) -> str:
    """One self-contained HTML page; a token's advantage shows when the pointer is on it."""
    advantages, scale = _advantages(row)
    blocks = []
    for number, (span, value, worth) in enumerate(_steps(row)):
        if span is None:
            prompt = html.escape(_prompt(row))
            blocks.append(
                f'<div class="step"><small>Q<sub>0</sub> = {value}</small><code>{prompt}</code></div>'
            )
            continue
        tokens = "".join(
            f'<span style="{_html_style(advantage, scale)}" title="{_number(advantage)}">{_visible(text)}</span>'
            for text, advantage in zip(
                texts[slice(*span)], advantages[slice(*span)], strict=True
            )
        )
        blocks.append(
            f'<div class="step"><small>Q<sub>{number}</sub> = {value} &nbsp; A<sub>{number}</sub> = {worth}</small>'
            f"<code>{tokens}</code></div>"
        )
    return _PAGE.format(
        title=html.escape(_heading(row)), blocks="\n".join(blocks), scale=f"{scale:.3g}"
    )


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px system-ui, sans-serif; margin: 2rem; max-width: 70rem; background: #fff; color: #222 }}
.step {{ display: inline-block; vertical-align: top; margin: 0 .6rem 1rem 0 }}
.step small {{ display: block; color: #666; white-space: nowrap }}
code {{ font-size: 1.15rem; white-space: pre-wrap }}
span {{ padding: .1em 0 }}
</style>
<h1 style="font-size: 1.1rem">{title}</h1>
<p>Blue tokens are pushed up, red ones down (full colour: {scale}), crossed-out ones are not trained.
Q: value before and after each step; A: its difference.</p>
{blocks}
</html>
"""


def _heading(row: dict[str, Any]) -> str:
    value = "no score" if row["value"] is None else f"reward {row['value']:g}"
    return f"{row['id']}, step {row['optimiser_step']}: {value}, answer {row['answer']!r}"


def _prompt(row: dict[str, Any]) -> str:
    prompt = row["prompt"]
    return (
        prompt
        if isinstance(prompt, str)
        else "\n".join(f"{message['role']}: {message['content']}" for message in prompt)
    )


def _steps(row: dict[str, Any]) -> list[tuple[list[int] | None, str, str]]:
    """(span, value after it, advantage) of the prompt (no span) and of each step; values that were filled in are marked ~."""
    spans, values = row["steps"]["spans"], row["steps"]["values"]
    steps = StepValues(rollout_id=row["id"], spans=spans, values=values)
    shown = [
        f"{'~' if value is None else ''}{filled:.2f}"
        for value, filled in zip(values, steps.filled, strict=True)
    ]
    worth = ["", *(f"{advantage:+.2f}" for advantage in steps.advantages)]
    return list(zip([None, *spans], shown, worth, strict=True))


def _advantages(row: dict[str, Any]) -> tuple[list[float | None], float]:
    """Of each completion token, [L], and the largest size among them."""
    runs = row.get("advantages") or [(None, sum(row["mask"]))]
    advantages = [advantage for advantage, tokens in runs for _ in range(tokens)]
    return advantages, max(
        (abs(advantage) for advantage in advantages if advantage is not None), default=0.0
    )


def _terminal_style(advantage: float | None, scale: float) -> str:
    if advantage is None:
        return "dim strike"
    if not advantage:
        return ""
    red, green, blue = _blend(advantage, scale)
    return f"#000000 on #{red:02x}{green:02x}{blue:02x}"


def _html_style(advantage: float | None, scale: float) -> str:
    if advantage is None:
        return "color:#999;text-decoration:line-through"
    return "background:rgb({},{},{})".format(*_blend(advantage, scale))


def _blend(advantage: float, scale: float) -> tuple[int, ...]:
    """White for 0, up to 70% of the full colour so that black text stays legible."""
    share = 0.7 * abs(advantage) / scale if scale else 0.0
    return tuple(round(255 + share * (part - 255)) for part in (UP if advantage > 0 else DOWN))


def _visible(text: str) -> str:
    return html.escape(text).replace("\n", "⏎<br>")


def _number(advantage: float | None) -> str:
    return "not trained" if advantage is None else f"advantage {advantage:+.3f}"


def _width(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return max(known) - min(known)


def show(
    run: Path,
    *,
    step: int | None = None,
    rollout: str | None = None,
    page_to: Path | None = None,
) -> Lines:
    """The picture of a run's rollout for a terminal; with `page_to` the page is written there too. Raises `RunError`."""
    folder = RunFolder(run)
    row = find_row(folder, step=step, rollout=rollout)
    texts = pieces(row, folder)
    if page_to is not None:
        page_to.write_text(page(row, texts), encoding="utf-8")
    return terminal(row, texts)
