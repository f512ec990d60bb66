"""Results as pictures: SVG made by hand, readable without colour and without any library."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from html import escape

import attrs

from .running import Result

_STYLE = (
    "text{font:13px sans-serif;fill:#222}.small{font-size:11px;fill:#555}"
    ".title{font-size:16px;font-weight:bold}.grid{stroke:#ddd}.one{stroke:#888}"
    ".good{fill:#2f7d4f}.bad{fill:#b5532b}.target{stroke:#111;stroke-width:2}"
)
_LEFT, _RIGHT, _TOP, _ROW = 450, 70, 70, 24
_WIDTH = 1060


def bars(results: Sequence[Result]) -> str:
    """How many times better than the vendor's client, one bar for each target against it."""
    rows = [
        (result.case.title, verdict)
        for result in results
        for verdict in result.verdicts()
        if verdict.target.than == "vendor" and verdict.target.least is not None
    ]
    values = [verdict.value for _, verdict in rows] + [verdict.target.least for _, verdict in rows]
    least, most = min([0.8, *values]), max([2.0, *values]) * 1.1  # type: ignore[type-var]
    scale = _Log(least, most, _LEFT, _WIDTH - _RIGHT)
    lines = [
        _text(20, 28, "Ours against the vendor's client: how many times better", "title"),
        _text(20, 48, "Logarithmic. A bar is what was measured, a black mark what was asked for; "
                      "green reached it, orange did not.", "small"),
    ]  # fmt: skip
    bottom = _TOP + _ROW * len(rows)
    for tick in scale.ticks():
        x = scale.at(tick)
        kind = "one" if tick == 1 else "grid"
        lines.append(_line(x, _TOP - 6, x, bottom, kind))
        lines.append(_text(x, bottom + 16, f"{tick:g}x", "small", "middle"))
    for number, (title, verdict) in enumerate(rows):
        y = _TOP + _ROW * number
        left, right = sorted((scale.at(1), scale.at(verdict.value)))
        kind = "good" if verdict.reached else "bad"
        lines.append(
            f'<rect class="{kind}" x="{left:.1f}" y="{y + 3}" '
            f'width="{max(right - left, 1):.1f}" height="{_ROW - 8}"/>'
        )
        assert verdict.target.least is not None
        mark = scale.at(verdict.target.least)
        lines.append(_line(mark, y + 1, mark, y + _ROW - 3, "target"))
        who = "" if verdict.target.of == "ours" else f" ({verdict.target.of})"
        label = f"{title}{who}: {_METRICS[verdict.target.metric]}"
        # To the left of everything, but for bars that go there: worse than the vendor's.
        lines.append(_text(min(_LEFT, left, mark) - 10, y + 16, label, "", "end"))
        lines.append(_text(max(right, mark) + 6, y + 16, f"{verdict.value:.2f}x"))
    return _document(_WIDTH, bottom + 30, lines)


_METRICS = {"wall": "time", "p50": "median time", "cpu": "CPU", "peak": "memory", "kept": "memory"}


@attrs.frozen
class Curve:
    """One line of a growth chart.

    :ivar points: what was asked for, and what it cost.
    """

    name: str
    points: Sequence[tuple[float, float]]


@attrs.frozen
class Panel:
    """One growth chart."""

    title: str
    across: str
    up: str
    curves: Sequence[Curve]


_COLOURS = ("#2f7d4f", "#b5532b", "#35609c", "#7a4d8f")
_PANEL_WIDTH, _PANEL_HEIGHT = 460, 330


def panels(shown: Sequence[Panel]) -> str:
    """Growth charts, both axes logarithmic: what grows in step with its cause is a straight
    line at 45 degrees of the scale, what does not grow is a level one."""
    lines: list[str] = []
    for number, panel in enumerate(shown):
        dx, dy = number % 2 * _PANEL_WIDTH, number // 2 * _PANEL_HEIGHT
        lines.append(f'<g transform="translate({dx},{dy})">')
        lines += _panel(panel)
        lines.append("</g>")
    rows = (len(shown) + 1) // 2
    return _document(_PANEL_WIDTH * min(len(shown), 2), _PANEL_HEIGHT * rows, lines)


def _panel(panel: Panel) -> Iterator[str]:
    points = [point for curve in panel.curves for point in curve.points]
    across = _Log(min(x for x, _ in points), max(x for x, _ in points), 75, _PANEL_WIDTH - 25)
    low, high = min(y for _, y in points), max(y for _, y in points)
    up = _Log(low / 1.5, high * 1.5, _PANEL_HEIGHT - 55, 62)
    yield _text(20, 24, panel.title, "title")
    yield _text(20, 42, f"{panel.up}, by {panel.across}", "small")
    for tick in across.ticks():
        x = across.at(tick)
        yield _line(x, 62, x, _PANEL_HEIGHT - 55, "grid")
        yield _text(x, _PANEL_HEIGHT - 38, _short(tick), "small", "middle")
    for tick in up.ticks():
        y = up.at(tick)
        yield _line(75, y, _PANEL_WIDTH - 25, y, "grid")
        yield _text(70, y + 4, _short(tick), "small", "end")
    for number, curve in enumerate(panel.curves):
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join(f"{across.at(x):.1f},{up.at(y):.1f}" for x, y in curve.points)
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
        for x, y in curve.points:
            yield f'<circle cx="{across.at(x):.1f}" cy="{up.at(y):.1f}" r="3" fill="{colour}"/>'
        place = 80 + number * 125
        yield f'<rect x="{place}" y="{_PANEL_HEIGHT - 24}" width="12" height="12" fill="{colour}"/>'
        yield _text(place + 17, _PANEL_HEIGHT - 13, curve.name, "small")


class _Log:
    """Values to places, logarithmically."""

    def __init__(self, least: float, most: float, start: float, end: float) -> None:
        self._least, self._most = least, max(most, least * 1.01)
        self._start, self._end = start, end

    def at(self, value: float) -> float:
        part = math.log(value / self._least) / math.log(self._most / self._least)
        return self._start + part * (self._end - self._start)

    def ticks(self) -> Iterable[float]:
        decades = math.log10(self._most / self._least)
        steps = (1, 2, 5) if decades < 2.5 else (1,)
        first, last = math.floor(math.log10(self._least)), math.ceil(math.log10(self._most))
        stride = max(1, round(decades / 6))
        for power in range(first, last + 1, stride):
            for step in steps:
                tick = step * 10.0**power
                if self._least <= tick <= self._most:
                    yield tick


def _short(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    shape = f'class="{kind}" ' if kind else ""
    return f'<text {shape}x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _document(width: float, height: float, lines: Iterable[str]) -> str:
    body = "\n".join(lines)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}">\n<style>{_STYLE}</style>\n'
        f'<rect width="{width}" height="{height}" fill="#fff"/>\n{body}\n</svg>\n'
    )
