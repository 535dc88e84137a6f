"""Curves as inline SVG, with the colors of the surrounding page."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_WIDTH, _HEIGHT = 640.0, 300.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 56.0, 14.0, 30.0, 40.0
"""Margins around the curves, in the units of the drawing."""

_MOST_POINTS = 200
"""Largest number of points of a curve; more would not be visible."""


@dataclass(frozen=True)
class Curve:
    """One line of a chart."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Level:
    """A dashed horizontal line."""

    name: str
    y: float


@dataclass(frozen=True)
class Mark:
    """A dotted vertical line that marks a beginning."""

    name: str
    x: float


@dataclass(frozen=True)
class _Axes:
    """Maps values to the drawing; on a logarithmic axis heights are exponents."""

    x_high: float
    y_low: float
    y_high: float
    logarithmic: bool

    def across(self, x: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * x / self.x_high

    def down(self, y: float) -> float:
        value = math.log10(y) if self.logarithmic else y
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1.0 - (value - self.y_low) / (self.y_high - self.y_low))


def line_chart(
    curves: Sequence[Curve],
    *,
    title: str,
    x_label: str,
    logarithmic: bool = False,
    level: Level | None = None,
    marks: Sequence[Mark] = (),
) -> str:
    """Draw curves with axes and, for more than one, a legend.

    The classes of the drawing are ``c0``, ``c1``, ..., ``axis``, ``grid``, ``level`` and ``mark``.

    Args:
        curves: drawn in order; points that are not finite, or not positive on a logarithmic axis, are skipped.
        title: above the chart.
        x_label: below the axis.
        logarithmic: powers of ten on the vertical axis.
        level: a height to compare the curves with.
        marks: starts of sections of the horizontal axis.
    """
    drawn = [_thinned(_drawable(curve, logarithmic)) for curve in curves]
    drawn = [curve for curve in drawn if len(curve.x) > 0]
    if not drawn:
        return f'<p class="note">{html.escape(title)}: nothing was recorded.</p>'
    heights = [y for curve in drawn for y in curve.y] + ([level.y] if level else [])
    y_low, y_high = min(heights), max(heights)
    if logarithmic:
        y_low, y_high = float(math.floor(math.log10(y_low))), float(math.ceil(math.log10(y_high)))
    if y_high - y_low < 1e-9:
        y_low, y_high = y_low - 0.5, y_high + 0.5
    x_high = max(1e-9, *(max(curve.x) for curve in drawn))
    y_ticks = _ticks(y_low, y_high, integers=logarithmic)
    axes = _Axes(x_high, min(y_low, y_ticks[0]), max(y_high, y_ticks[-1]), logarithmic)
    parts = [
        f'<svg class="chart" viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img" aria-label="{html.escape(title)}">',
        f'<text class="title" x="{_LEFT:.0f}" y="18">{html.escape(title)}</text>',
        *(_horizontal_line(axes, tick) for tick in y_ticks),
        *(_x_tick(axes, tick) for tick in _ticks(0.0, x_high) if tick <= x_high),
        _text(_WIDTH - _RIGHT, _HEIGHT - 5, html.escape(x_label), "end"),
        *(_vertical_line(axes, mark) for mark in marks if mark.x <= x_high),
        "" if level is None else _dashed_line(axes, level),
        *(_polyline(axes, curve, number) for number, curve in enumerate(drawn)),
        "</svg>",
    ]
    return "".join(parts) + (_legend(drawn) if len(drawn) > 1 else "")


def _text(x: float, y: float, inner: str, anchor: str) -> str:
    return f'<text class="axis" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{inner}</text>'


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/>'


def _horizontal_line(axes: _Axes, tick: float) -> str:
    y = axes.down(10.0**tick if axes.logarithmic else tick)
    label = f'10<tspan dy="-5">{tick:.0f}</tspan>' if axes.logarithmic else f"{tick:g}"
    return _line("grid", _LEFT, y, _WIDTH - _RIGHT, y) + _text(_LEFT - 7, y + 4, label, "end")


def _x_tick(axes: _Axes, tick: float) -> str:
    return _text(axes.across(tick), _HEIGHT - _BOTTOM + 17, f"{tick:g}", "middle")


def _dashed_line(axes: _Axes, level: Level) -> str:
    y = axes.down(level.y)
    return _line("level", _LEFT, y, _WIDTH - _RIGHT, y) + _text(_WIDTH - _RIGHT, y - 6, html.escape(level.name), "end")


def _vertical_line(axes: _Axes, mark: Mark) -> str:
    x = axes.across(mark.x)
    return _line("mark", x, _TOP, x, _HEIGHT - _BOTTOM) + _text(x + 4, _HEIGHT - _BOTTOM - 6, html.escape(mark.name), "start")


def _polyline(axes: _Axes, curve: Curve, number: int) -> str:
    points = " ".join(f"{axes.across(x):.1f},{axes.down(y):.1f}" for x, y in zip(curve.x, curve.y, strict=True))
    return f'<polyline class="curve c{number % 8}" points="{points}"><title>{html.escape(curve.name)}</title></polyline>'


def _legend(curves: Sequence[Curve]) -> str:
    names = "".join(f'<span><i class="c{number % 8}"></i>{html.escape(curve.name)}</span>' for number, curve in enumerate(curves))
    return f'<div class="legend">{names}</div>'


def _drawable(curve: Curve, logarithmic: bool) -> Curve:
    pairs = [(x, y) for x, y in zip(curve.x, curve.y, strict=True) if math.isfinite(y) and (y > 0.0 or not logarithmic)]
    return Curve(curve.name, [x for x, _ in pairs], [y for _, y in pairs])


def _thinned(curve: Curve) -> Curve:
    """Replace groups of neighboring points by their mean if there are too many."""
    if len(curve.x) <= _MOST_POINTS:
        return curve
    groups = np.array_split(np.arange(len(curve.x)), _MOST_POINTS)
    x, y = np.asarray(curve.x), np.asarray(curve.y)
    return Curve(curve.name, [float(x[group].mean()) for group in groups], [float(y[group].mean()) for group in groups])


def _ticks(low: float, high: float, *, integers: bool = False) -> list[float]:
    """Choose about five round numbers that cover [low, high].

    >>> _ticks(0.0, 100.0)
    [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]
    """
    raw = max(high - low, 1e-9) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(multiple * power for multiple in (1.0, 2.0, 2.5, 5.0, 10.0) if multiple * power >= raw * 0.999)
    step = float(max(1, math.ceil(step))) if integers else step
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 10) for k in range(first, last + 1)]
