"""Curves as inline SVG: one quantity against the training step, with axes, ticks and values that can be read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 360, 210  # of a chart, in units of about a pixel on a phone
LEFT, RIGHT, TOP, BOTTOM = 58, 20, 26, 40  # margins that hold the labels
MAX_POINTS = 500  # that are drawn of a curve
MARKED_POINTS = 60  # up to which every point is marked, and tells its value


@dataclass(frozen=True)
class Axis:
    """A linear map from values to places on the page.

    Attributes:
        ticks: Round values, rising.
        low: Value at its start.
        high: Value at its end.
        start: Place of `low`.
        stop: Place of `high`.
    """

    ticks: tuple[float, ...]
    low: float
    high: float
    start: float
    stop: float

    def place(self, value: float) -> float:
        """Where a value is drawn."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.stop - self.start), 2)


def round_ticks(low: float, high: float, count: int = 4, whole: bool = False) -> tuple[float, ...]:
    """Round values around a range.

    Args:
        low: Least value of the range.
        high: Largest.
        count: About how many steps there are to be, >= 1.
        whole: Only whole numbers.

    Returns:
        At least two values, rising by one, two or five times a power of ten, from `low` or below to `high` or above.
    """
    if low == high:
        low, high = (low - abs(low) / 2, high + abs(high) / 2) if low else (0.0, 1.0)
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    step = max(1.0, step) if whole else step
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, 1 - math.floor(math.log10(step)))  # hides what 3 * 0.1 has too much
    return tuple(round(number * step, digits) for number in range(first, max(last, first + 1) + 1))


def thin_out(points: Sequence[tuple[float, float]], limit: int = MAX_POINTS) -> list[tuple[float, float]]:
    """The lowest and the highest point of each of several stretches, so that no peak is lost.

    Args:
        points: Step and value, by step.
        limit: How many points may remain, >= 4.

    Returns:
        Some of the points, in order; the first and the last are among them.
    """
    if len(points) <= limit:
        return list(points)
    stretches, kept = (limit - 2) // 2, {0, len(points) - 1}
    for number in range(stretches):
        places = range(number * len(points) // stretches, (number + 1) * len(points) // stretches)
        kept |= {min(places, key=lambda place: points[place][1]), max(places, key=lambda place: points[place][1])}
    return [points[place] for place in sorted(kept)]


def chart(name: str, steps: Sequence[float], values: Sequence[float]) -> str:
    """Draws a quantity against the step.

    Args:
        name: Of the quantity.
        steps: Never falling.
        values: One a step; values that are not finite leave a gap and are counted in the caption.

    Returns:
        A `<figure>` with an `<svg>`, and the last, lowest and highest value in words.
    """
    points = list(zip(steps, values, strict=True))
    finite = [point for point in points if math.isfinite(point[1])]
    if not finite:
        return f'<figure class="chart"><figcaption><b>{escape(name)}</b>: no value is finite.</figcaption></figure>'
    last = max(1.0, finite[-1][0])
    steps_shown = tuple(tick for tick in round_ticks(0.0, last, whole=True) if tick <= last)
    across = Axis(steps_shown, 0.0, last, LEFT, WIDTH - RIGHT)
    ticks = round_ticks(min(value for _, value in finite), max(value for _, value in finite))
    up = Axis(ticks, ticks[0], ticks[-1], HEIGHT - BOTTOM, TOP)
    words = _in_words(name, finite, len(points) - len(finite))
    label = escape(f"{name} against step: {words}")
    return (
        f'<figure class="chart"><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        f"{_axes(name, across, up)}{_curve(points, across, up)}</svg>"
        f"<figcaption><b>{escape(name)}</b> {escape(words)}</figcaption></figure>"
    )


def _in_words(name: str, finite: list[tuple[float, float]], lost: int) -> str:
    lowest, highest = min(finite, key=lambda point: point[1]), max(finite, key=lambda point: point[1])
    words = f"last {finite[-1][1]:.4g}"
    if lowest[1] < highest[1]:
        words += f", lowest {lowest[1]:.4g} at step {lowest[0]:g}, highest {highest[1]:.4g} at step {highest[0]:g}"
    return words + (f", {lost} not finite" if lost else "")


def _axes(name: str, across: Axis, up: Axis) -> str:
    """Grid, ticks with their values, and what the axes mean."""
    parts = []
    for tick in up.ticks:
        y = up.place(tick)
        parts.append(f'<path class="rule" d="M{LEFT} {y}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="y" x="{LEFT - 6}" y="{y + 4:g}" text-anchor="end">{tick:g}</text>')
    for tick in across.ticks:
        x = across.place(tick)
        parts.append(f'<path class="rule" d="M{x} {HEIGHT - BOTTOM}v4"/>')
        parts.append(f'<text class="x" x="{x}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{tick:.10g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="label" x="{middle:g}" y="{HEIGHT - 6}" text-anchor="middle">step</text>')
    parts.append(f'<text class="label" x="4" y="13">{escape(name)}</text>')
    return "".join(parts)


def _curve(points: list[tuple[float, float]], across: Axis, up: Axis) -> str:
    """A line for each run of finite values, and marks on the points where there are few."""
    runs: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if math.isfinite(point[1]):
            runs[-1].append(point)
        elif runs[-1]:
            runs.append([])
    parts = []
    for run in filter(None, runs):
        places = " ".join(f"{across.place(step)},{up.place(value)}" for step, value in thin_out(run))
        parts.append(f'<polyline points="{places}"/>')
    finite = [point for run in runs for point in run]
    for step, value in finite if len(finite) <= MARKED_POINTS else finite[-1:]:
        title = f"<title>step {step:g}: {value:.6g}</title>"
        parts.append(f'<circle cx="{across.place(step)}" cy="{up.place(value)}" r="2.2">{title}</circle>')
    return "".join(parts)
