"""Curves as an SVG without outside assets, light enough to be read as text. It only draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape, quoteattr

_COLOURS: Final = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
)  # told apart by the colour-blind too
_WIDTH, _HEIGHT = 320.0, 200.0
_LEFT, _TOP, _BELOW = 60.0, 56.0, 44.0
_LEGEND: Final = 150.0


@dataclass(frozen=True, slots=True)
class Curve:
    """Points from left to right."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Panel:
    """Curves over one axis, from nothing up."""

    label: str
    curves: Sequence[Curve]


def curves(title: str, across: str, panels: Sequence[Panel]) -> str:
    """Panels side by side; `across` says what is to the right, of all of them."""
    width = len(panels) * (_WIDTH + _LEFT) + _LEGEND
    height = _TOP + _HEIGHT + _BELOW
    drawn = [_text(title, _LEFT, 20, size=15, weight="bold")]
    for number, panel in enumerate(panels):
        drawn += _panel(panel, across, _LEFT + number * (_WIDTH + _LEFT))
    for number, curve in enumerate(panels[0].curves if panels else ()):
        y = _TOP + 14 + 18 * number
        x = width - _LEGEND + 10
        drawn.append(_line([(x, y - 4), (x + 22, y - 4)], number))
        drawn.append(_text(curve.name, x + 28, y))
    body = "\n".join(drawn)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'font-family="sans-serif" fill="currentColor">\n<title>{escape(title)}</title>\n{body}\n</svg>\n'
    )


def _panel(panel: Panel, across: str, left: float) -> list[str]:
    points = [point for curve in panel.curves for point in curve.points]
    places = sorted({x for x, _ in points})
    most_x, most_y = max(places, default=1.0), max((y for _, y in points), default=1.0) or 1.0

    def at(x: float, y: float) -> tuple[float, float]:
        return left + _WIDTH * x / most_x, _TOP + _HEIGHT * (1 - y / most_y)

    drawn = [_text(panel.label, left, _TOP - 12, weight="bold")]
    for part in (0.0, 0.5, 1.0):
        (x0, y), (x1, _) = at(0, part * most_y), at(most_x, 0)
        drawn.append(f'<line x1="{x0:.1f}" y1="{y:.1f}" x2="{x1:.1f}" y2="{y:.1f}" stroke="#9996"/>')
        drawn.append(_text(f"{part * most_y:.3g}", x0 - 6, y + 4, anchor="end"))
    drawn += [_text(f"{x:g}", at(x, 0)[0], _TOP + _HEIGHT + 18, anchor="middle") for x in places]
    drawn.append(_text(across, left + _WIDTH / 2, _TOP + _HEIGHT + 36, anchor="middle"))
    drawn += [
        _line([at(x, y) for x, y in sorted(curve.points)], number)
        for number, curve in enumerate(panel.curves)
    ]
    return drawn


def _line(points: Sequence[tuple[float, float]], number: int) -> str:
    colour = _COLOURS[number % len(_COLOURS)]
    dashes = ' stroke-dasharray="5 4"' if number // len(_COLOURS) % 2 else ""
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>'


def _text(
    words: str, x: float, y: float, *, size: int = 12, anchor: str = "start", weight: str = "normal"
) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor={quoteattr(anchor)}'
    return f"<text {place} font-weight={quoteattr(weight)}>{escape(words)}</text>"
