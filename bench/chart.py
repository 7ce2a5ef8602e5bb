"""Charts as SVGs of their own: groups of horizontal bars with their values, and lines. Knows nothing of benchmarks.

Colours are readable on light and on dark pages, and told apart without colour by their order in the legend.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_WIDTH, _LABELS, _VALUES = 760, 210, 60
_BAR, _GAP, _HEAD, _FOOT = 15, 12, 64, 14
_COLOURS = ("#2a78c8", "#d9822b", "#8a8f98", "#5a9e5a", "#a05ac8", "#c84a4a", "#3aa6a6", "#b0912a")
# A panel of lines: its box, what stands left of it and below it.
_PANEL_WIDTH, _PANEL_HEIGHT, _LEFT, _BELOW = 320, 220, 46, 40
_DASHES = ("none", "7 3", "2 3", "7 3 2 3", "12 4")


@dataclass(frozen=True, slots=True)
class Group:
    """Bars under one label: a value a series, None where there is none."""

    label: str
    values: Sequence[float | None]


def bars(title: str, series: Sequence[str], groups: Sequence[Group]) -> str:
    """The chart. Bars begin at 0, and the longest is that of the greatest value."""
    most = max((value for group in groups for value in group.values if value is not None), default=1.0)
    scale = (_WIDTH - _LABELS - _VALUES) / most
    lines, y = [], _HEAD
    for group in groups:
        shown = [(place, value) for place, value in enumerate(group.values) if value is not None]
        middle = y + _BAR * len(shown) / 2
        lines.append(_text(group.label, _LABELS - 10, middle + 4, anchor="end"))
        for place, value in shown:
            width = value * scale
            box = {"x": _LABELS, "y": y, "width": round(width, 1), "height": _BAR - 2}
            lines.append(_element("rect", {**box, "rx": 2, "fill": _COLOURS[place % len(_COLOURS)]}))
            lines.append(_text(f"{value:.0f}", _LABELS + width + 5, y + _BAR - 4))
            y += _BAR
        y += _GAP
    height = y - _GAP + _FOOT
    return _drawing(title, height, [*_legend(series), *lines])


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines under one label: for each series its values in percent, one a place of the horizontal axis."""

    label: str
    values: Sequence[Sequence[float | None]]


def curves(
    title: str, series: Sequence[str], places: Sequence[str], across: str, panels: Sequence[Panel]
) -> str:
    """Panels side by side, from 0 to 100 percent; places are evenly spaced, and `across` says what they are."""
    drawn = []
    for number, panel in enumerate(panels):
        drawn += _panel(panel, places, across, _LEFT + number * (_PANEL_WIDTH + _LEFT + 10))
    height = _HEAD + 24 + _PANEL_HEIGHT + _BELOW
    return _drawing(title, height, [*_legend(series, _LEFT), *drawn])


def _panel(panel: Panel, places: Sequence[str], across: str, left: float) -> list[str]:
    top = _HEAD + 24
    step = _PANEL_WIDTH / max(1, len(places) - 1)
    drawn = [_text(panel.label, left, top - 8, weight="bold")]
    for percent in (0, 50, 100):
        y = top + _PANEL_HEIGHT * (1 - percent / 100)
        rule = {"x1": left, "y1": y, "x2": left + _PANEL_WIDTH, "y2": y, "stroke": "#9996"}
        drawn += [_element("line", rule), _text(f"{percent} %", left - 6, y + 4, anchor="end")]
    for place, name in enumerate(places):
        drawn.append(_text(name, left + place * step, top + _PANEL_HEIGHT + 18, anchor="middle"))
    drawn.append(_text(across, left + _PANEL_WIDTH / 2, top + _PANEL_HEIGHT + 34, anchor="middle"))
    for number, values in enumerate(panel.values):
        points = [
            (left + place * step, top + _PANEL_HEIGHT * (1 - min(100.0, value) / 100))
            for place, value in enumerate(values)
            if value is not None
        ]
        line = {
            "points": " ".join(f"{x:.1f},{y:.1f}" for x, y in points),
            "fill": "none",
            "stroke": _COLOURS[number % len(_COLOURS)],
            "stroke-width": 3 if number == 0 else 2,
            "stroke-dasharray": _DASHES[number % len(_DASHES)],
        }
        drawn.append(_element("polyline", line))
    return drawn


@dataclass(frozen=True, slots=True)
class Spot:
    """One of many, both values from 0 to 100; `series` is its place in the legend."""

    across: float
    up: float
    series: int


def scatter(title: str, series: Sequence[str], spots: Sequence[Spot], across: str, up: str) -> str:
    """Spots over a square from 0 to 100, with the line on which both values are equal."""
    side, left, top = 420, _LEFT + 14, 44
    drawn = []
    for percent in (0, 25, 50, 75, 100):
        x, y = left + side * percent / 100, top + side * (1 - percent / 100)
        rules = (
            {"x1": left, "y1": y, "x2": left + side, "y2": y},
            {"x1": x, "y1": top, "x2": x, "y2": top + side},
        )
        drawn += [_element("line", {**rule, "stroke": "#9994"}) for rule in rules]
        drawn.append(_text(f"{percent}", left - 6, y + 4, anchor="end"))
        drawn.append(_text(f"{percent}", x, top + side + 16, anchor="middle"))
    equal = {"x1": left, "y1": top + side, "x2": left + side, "y2": top}
    drawn.append(_element("line", {**equal, "stroke": "#999", "stroke-dasharray": "5 4"}))
    for spot in spots:
        at = {
            "cx": round(left + side * spot.across / 100, 1),
            "cy": round(top + side * (1 - spot.up / 100), 1),
        }
        colour = _COLOURS[spot.series % len(_COLOURS)]
        drawn.append(_element("circle", {**at, "r": 4, "fill": colour, "fill-opacity": 0.65}))
    drawn.append(_text(across, left + side / 2, top + side + 34, anchor="middle"))
    drawn.append(_text(up, left - 6, top - 8, anchor="end"))
    for place, name in enumerate(series):
        at = {"cx": left + side + 30, "cy": top + 20 + 24 * place, "r": 5}
        drawn.append(_element("circle", {**at, "fill": _COLOURS[place % len(_COLOURS)]}))
        drawn.append(_text(name, left + side + 42, top + 24 + 24 * place))
    return _drawing(title, top + side + 48, drawn)


def _drawing(title: str, height: float, parts: Sequence[str]) -> str:
    """A whole SVG file: its frame and title around what is drawn."""
    return "\n".join(
        [
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
                f'font-family="sans-serif" font-size="13" fill="#777">'
            ),
            f"<title>{escape(title)}</title>",
            _text(title, 10, 22, weight="bold"),
            *parts,
            "</svg>\n",
        ]
    )


def _legend(series: Sequence[str], left: float = _LABELS) -> list[str]:
    lines, x = [], left
    for place, name in enumerate(series):
        box = {"x": x, "y": 36, "width": 12, "height": 12, "rx": 2, "fill": _COLOURS[place % len(_COLOURS)]}
        lines += [_element("rect", box), _text(name, x + 17, 47)]
        # Seven pixels a letter are enough at this size.
        x += 17 + 7 * len(name) + 18
    return lines


def _text(words: str, x: float, y: float, *, anchor: str = "start", weight: str = "normal") -> str:
    at = {"x": round(x, 1), "y": round(y, 1), "text-anchor": anchor, "font-weight": weight}
    return _element("text", at, words)


def _element(name: str, attributes: Mapping[str, object], words: str = "") -> str:
    told = " ".join(f'{key}="{escape(str(value))}"' for key, value in attributes.items())
    return f"<{name} {told}>{escape(words)}</{name}>" if words else f"<{name} {told}/>"
