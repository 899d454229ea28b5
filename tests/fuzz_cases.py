"""What the fuzz tests share: how many cases, a limit on the time of each, and damaged bytes."""

from __future__ import annotations

import faulthandler
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest

COUNTS = [50, pytest.param(2000, marks=pytest.mark.slow)]
SECONDS = 20  # no case may take longer
TEXT = st.one_of(st.text(max_size=8), st.sampled_from(["\ud800", "a\udfffb", "\0", "a" * 3000, "é\u200b", "😀"]))
NUMBERS = st.one_of(
    st.integers(-2, 9),
    st.sampled_from([2**31, 2**63, -(2**70), 10**400, 1e-5, -1e-5, 1e308, float("nan"), float("inf"), -float("inf")]),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=6,
)


def mostly(usual: st.SearchStrategy[Any], other: st.SearchStrategy[Any], one_in: int = 6) -> st.SearchStrategy[Any]:
    """The other strategy in one of so many cases."""
    return st.integers(1, one_in).flatmap(lambda number: other if number == one_in else usual)


def fuzz(count: int, strategy: st.SearchStrategy[Any], check: Callable[[Any], None]) -> None:
    """Tries at least so many cases of a strategy; one that fails is made small and shown.

    The same ones each time, but that constants of the modules that are imported are tried, too; others by
    `pytest -m slow --hypothesis-seed 7`.
    """
    tried = 0

    @hypothesis.settings(
        max_examples=count,
        deadline=None,
        derandomize=hypothesis.core.global_force_seed is None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(strategy)
    def run(case: Any) -> None:
        nonlocal tried
        tried += 1
        with time_limit():
            check(case)

    run()
    assert tried >= count


@contextmanager
def time_limit() -> Iterator[None]:
    """Ends a case that hangs with an error; where no Python code has a turn, the process (`pytest -s` shows where)."""

    def stop(*_: Any) -> None:
        raise AssertionError(f"A case takes longer than {SECONDS} s.")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    faulthandler.dump_traceback_later(3 * SECONDS, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@st.composite
def damaged(draw: st.DrawFn, data: bytes, most: int = 3) -> bytes:
    """Bytes after up to so many changes: cut short, a byte changed, bytes put in, taken out, repeated, overwritten."""
    for _ in range(draw(st.integers(0, most))):
        start = draw(st.integers(0, len(data)))
        stop = start + draw(st.integers(0, 32))
        change = draw(st.sampled_from(["cut", "change", "put in", "take out", "repeat", "overwrite"]))
        if change == "cut":
            data = data[:start]
        elif change == "change" and start < len(data):
            data = data[:start] + bytes([data[start] ^ draw(st.integers(1, 255))]) + data[start + 1 :]
        elif change == "put in":
            data = data[:start] + draw(st.binary(max_size=16)) + data[start:]
        elif change == "take out":
            data = data[:start] + data[stop:]
        elif change == "repeat":
            data = data[:stop] + data[start:]
        elif change == "overwrite":
            data = data[:start] + draw(st.sampled_from([b"\0", b"\xff", b"\x7f"])) * (stop - start) + data[stop:]
    return data
