"""The geometry of curves: one quantity against the training step, with axes, ticks and values that can be read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from operator import itemgetter

Point = tuple[float, float]  # step and value, or where they are drawn
LEFT, RIGHT, TOP, BOTTOM = 58, 340, 26, 170  # edges of the area of the curve, in the units of the template's viewBox
MAX_POINTS = 500  # that are drawn of a curve
MARKED_POINTS = 60  # up to which every point is marked, and tells its value


@dataclass(frozen=True)
class Axis:
    """A linear map of values, `low` to `high`, to positions on the page, `start` to `stop`; ticks are round values."""

    ticks: tuple[float, ...]
    low: float
    high: float
    start: float
    stop: float

    def position(self, value: float) -> float:
        """Return where a value is drawn."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.stop - self.start), 2)


@dataclass(frozen=True)
class Chart:
    """A quantity against the step, which a template draws; values that are not finite leave a gap in its points."""

    name: str
    points: Sequence[Point]

    @cached_property
    def finite(self) -> list[Point]:
        """The points that have a value."""
        return [point for point in self.points if math.isfinite(point[1])]

    @property
    def summary(self) -> str:
        """Last, lowest and highest value in words, and how many are not finite."""
        lowest, highest = min(self.finite, key=itemgetter(1)), max(self.finite, key=itemgetter(1))
        words = f"last {self.finite[-1][1]:.4g}"
        if lowest[1] < highest[1]:
            words += f", lowest {lowest[1]:.4g} at step {lowest[0]:g}, highest {highest[1]:.4g} at step {highest[0]:g}"
        lost = len(self.points) - len(self.finite)
        return words + (f", {lost} not finite" if lost else "")

    @property
    def across(self) -> Axis:
        """The axis of the steps."""
        last = max(1.0, self.finite[-1][0])
        ticks = tuple(tick for tick in round_ticks(0.0, last, whole=True) if tick <= last)
        return Axis(ticks, 0.0, last, LEFT, RIGHT)

    @property
    def up(self) -> Axis:
        """The axis of the values."""
        values = [value for _, value in self.finite]
        ticks = round_ticks(min(values), max(values))
        return Axis(ticks, ticks[0], ticks[-1], BOTTOM, TOP)

    def lines(self) -> Iterator[str]:
        """Yield the `points` of a polyline for each run of finite values."""
        across, up = self.across, self.up
        for is_finite, run in groupby(self.points, key=lambda point: math.isfinite(point[1])):
            if is_finite:
                yield " ".join(f"{across.position(step)},{up.position(value)}" for step, value in thin_out(list(run)))

    def marked(self) -> list[Point]:
        """Return the points that are marked: all where there are few, else the last."""
        return self.finite if len(self.finite) <= MARKED_POINTS else self.finite[-1:]


def round_ticks(low: float, high: float, count: int = 4, whole: bool = False) -> tuple[float, ...]:
    """Return at least two values about a range, in about `count` steps of 1, 2 or 5 times a power of ten."""
    if low == high:
        low, high = (low - abs(low) / 2, high + abs(high) / 2) if low else (0.0, 1.0)
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    step = max(1.0, step) if whole else step
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, 1 - math.floor(math.log10(step)))  # hides what 3 * 0.1 has too much
    return tuple(round(number * step, digits) for number in range(first, max(last, first + 1) + 1))


def thin_out(points: Sequence[Point], limit: int = MAX_POINTS) -> list[Point]:
    """Return at most `limit` of the points (>= 4), in order: the first, the last, and the extremes of stretches."""
    if len(points) <= limit:
        return list(points)
    stretches, kept = (limit - 2) // 2, {0, len(points) - 1}
    for number in range(stretches):
        rows = range(number * len(points) // stretches, (number + 1) * len(points) // stretches)
        kept |= {min(rows, key=lambda row: points[row][1]), max(rows, key=lambda row: points[row][1])}
    return [points[row] for row in sorted(kept)]
