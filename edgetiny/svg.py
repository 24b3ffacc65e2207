"""Line charts as SVG text, for a report that needs nothing but a browser."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 640, 280
LEFT, RIGHT, TOP, BOTTOM = 56, 24, 12, 40
_LINE_HEIGHT = 16
# About what a character of the legend takes, and what stands before and behind a name.
_CHARACTER_WIDTH, _ENTRY_WIDTH = 6.5, 44


@dataclass(frozen=True, slots=True)
class Series:
    """One curve: points (x, y) in data units, and its name in the legend.

    has_marks: also a dot at each point, which shows a single one too. has_line: False leaves the
    dots alone, for points in no order.
    """

    name: str
    points: Sequence[tuple[float, float]]
    has_marks: bool = False
    has_line: bool = True


def line_chart(series: Sequence[Series], x_label: str, y_label: str) -> str:
    """Return an `<svg>` with axes, grid, legend and one colour (class s0, s1, ...) per curve."""
    legend, n_lines = _legend([one.name for one in series]) if len(series) > 1 else ([], 0)
    frame = _Frame(series, TOP + _LINE_HEIGHT * n_lines)
    title = html.escape(f"{y_label} against {x_label}")
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">']
    parts += legend + _axes(frame)
    for index, one in enumerate(series):
        path = " ".join(f"{frame.across(x):.1f},{frame.up(y):.1f}" for x, y in one.points)
        if one.has_line:
            parts.append(f'<polyline class="s{index}" points="{path}"/>')
        if one.has_marks or not one.has_line:
            places = [(frame.across(x), frame.up(y)) for x, y in one.points]
            parts += [f'<circle class="s{index}" cx="{x:.1f}" cy="{y:.1f}"/>' for x, y in places]
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x_label, "middle"))
    turned = f'transform="translate(12 {(frame.top + HEIGHT - BOTTOM) / 2}) rotate(-90)"'
    parts.append(f'<text {turned} text-anchor="middle">{html.escape(y_label)}</text></svg>')
    return "\n".join(parts)


class _Frame:
    """Where data units stand in the picture: the axes end on round numbers."""

    def __init__(self, series: Sequence[Series], top: float) -> None:
        self.top = top
        xs = [x for one in series for x, _ in one.points]
        ys = [y for one in series for _, y in one.points]
        assert xs, "a chart without points"
        self.x_ticks, self.y_ticks = ticks(min(xs), max(xs)), ticks(min(ys), max(ys))

    def across(self, x: float) -> float:
        low, high = self.x_ticks[0], self.x_ticks[-1]
        return LEFT + (x - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def up(self, y: float) -> float:
        low, high = self.y_ticks[0], self.y_ticks[-1]
        return HEIGHT - BOTTOM - (y - low) / (high - low) * (HEIGHT - self.top - BOTTOM)


def _axes(frame: _Frame) -> list[str]:
    parts = []
    for y in frame.y_ticks:
        at = frame.up(y)
        parts.append(_line("grid", LEFT, at, WIDTH - RIGHT, at))
        parts.append(_text(LEFT - 6, at + 4, tick_text(y), "end"))
    for x in frame.x_ticks:
        parts.append(_text(frame.across(x), HEIGHT - BOTTOM + 16, tick_text(x), "middle"))
    return parts


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Return round numbers from at or below `low` to at or above `high`, about `wanted` of them."""
    span = high - low or abs(high) or 1.0
    rough = span / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    return [round(step * index, 12) for index in range(first, last + 1)]


def tick_text(value: float) -> str:
    """Return a tick's label: 1.5k and 2M rather than long numbers."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _legend(names: Sequence[str]) -> tuple[list[str], int]:
    """Return the names above the plot, where they cover no curve, and how many lines they take."""
    parts, n_lines, x = [], 1, float(LEFT)
    for index, name in enumerate(names):
        width = _ENTRY_WIDTH + _CHARACTER_WIDTH * len(name)
        if x > LEFT and x + width > WIDTH:
            n_lines, x = n_lines + 1, float(LEFT)
        y = _LINE_HEIGHT * n_lines - 4
        parts.append(_line(f"s{index}", x, y - 4, x + 18, y - 4))
        parts.append(_text(x + 24, y, name, "start"))
        x += width
    return parts, n_lines
