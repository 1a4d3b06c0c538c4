"""Lines over time as one SVG file: no library, no fonts, opens in any browser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from rlcore.run.disk import writing
from rlcore.run.folder import read_rows

Line = Sequence[tuple[float, float]]

COLOURS = (
    "#4269d0",
    "#efb118",
    "#ff725c",
    "#6cc5b0",
    "#3ca951",
    "#ff8ab7",
    "#a463f2",
    "#97bbf5",
    "#9c6b4e",
    "#9498a0",
)
WIDTH, HEIGHT, LEFT, TOP, BOTTOM, LEGEND = 640, 180, 56, 28, 34, 150


def panels_svg(
    panels: Mapping[str, Mapping[str, Line]],
    *,
    x: str,
    y: str,
    low: float = 0.0,
    high: float = 0.0,
) -> str:
    """One panel below another: title -> {name of a line: its points}. All panels share both axes; a line keeps its colour.

    The vertical axis reaches from `low` to `high`, and further where values do.
    """
    points = [
        point for lines in panels.values() for line in lines.values() for point in line
    ] or [(0.0, 0.0)]
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    start, end = min(p[0] for p in points), max(p[0] for p in points)
    bottom, top = min(low, *(p[1] for p in points)), max(high, *(p[1] for p in points))
    scale = _Scale(start, max(end, start + 1e-9), bottom, max(top, bottom + 1e-9))
    height = len(panels) * (HEIGHT + TOP + BOTTOM)
    body = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH + LEFT + LEGEND} {height}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for i, (title, lines) in enumerate(panels.items()):
        body.append(f'<g transform="translate({LEFT},{i * (HEIGHT + TOP + BOTTOM) + TOP})">')
        body += [
            f'<text x="0" y="-10" font-weight="bold">{escape(title)}</text>',
            *_axes(scale, x, y),
        ]
        for k, (name, line) in enumerate(lines.items()):
            colour = COLOURS[names.index(name) % len(COLOURS)]
            path = " ".join(f"{scale.x(a):.1f},{scale.y(b):.1f}" for a, b in line)
            body.append(
                f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{path}"/>'
            )
            body.append(
                f'<text x="{WIDTH + 8}" y="{12 + 15 * k}" fill="{colour}">{escape(name)}</text>'
            )
        body.append("</g>")
    return "\n".join([*body, "</svg>", ""])


def draw_categories(folder: Path, place: Path) -> bool:
    """Write the share, pass rate and value of each category of a run to `place`; False, and nothing, if it has fewer than two categories."""
    rows = read_rows(folder / "metrics.jsonl")
    panels: dict[str, dict[str, Line]] = {}
    for kind, title in (
        ("frac", "fraction of the groups"),
        ("pass_rate", "pass rate"),
        ("value", "value to the task sampler"),
    ):
        lines: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            for key, value in row.items():
                if key.startswith("curriculum/") and key.endswith(f"/{kind}"):
                    lines.setdefault(
                        key.removeprefix("curriculum/").removesuffix(f"/{kind}"), []
                    ).append((row["step"], value))
        if lines:
            panels[title] = dict(sorted(lines.items()))
    if not any(len(lines) > 1 for lines in panels.values()):
        return False
    with writing(place.name, folder):
        place.write_text(panels_svg(panels, x="step", y="", high=1.0), encoding="utf-8")
    return True


class _Scale:
    """From values to pixels of one panel."""

    def __init__(self, start: float, end: float, low: float, high: float) -> None:
        self.start, self.end, self.low, self.high = start, end, low, high

    def x(self, value: float) -> float:
        return (value - self.start) / (self.end - self.start) * WIDTH

    def y(self, value: float) -> float:
        return HEIGHT - (value - self.low) / (self.high - self.low) * HEIGHT


def _axes(scale: _Scale, x: str, y: str) -> list[str]:
    body = [f'<path d="M0,0 V{HEIGHT} H{WIDTH}" fill="none" stroke="#555"/>']
    for part in (0, 0.5, 1):
        value = scale.low + part * (scale.high - scale.low)
        at = scale.y(value)
        body.append(f'<text x="-6" y="{at + 4:.1f}" text-anchor="end">{value:.3g}</text>')
        body.append(f'<path d="M0,{at:.1f} H{WIDTH}" stroke="#eee"/>')
        time = scale.start + part * (scale.end - scale.start)
        body.append(
            f'<text x="{scale.x(time):.1f}" y="{HEIGHT + 15}" text-anchor="middle">{time:.6g}</text>'
        )
    body.append(
        f'<text x="{WIDTH / 2}" y="{HEIGHT + 29}" text-anchor="middle">{escape(x)}</text>'
    )
    body.append(
        f'<text transform="translate(-42,{HEIGHT / 2}) rotate(-90)" text-anchor="middle">{escape(y)}</text>'
    )
    return body
