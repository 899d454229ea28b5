"""Numbers with their units, as people write them."""

from __future__ import annotations


def percent(value: float) -> str:
    """Return per cent with one decimal, or with as many as a small number needs."""
    return f"{value:.1f} %" if value == 0 or abs(value) >= 0.095 else f"{value:.1g} %"


def duration(seconds: float) -> str:
    """Return a time in words: "4.2 s", "3 min 20 s", "2 h 5 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"
