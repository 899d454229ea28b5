"""What the benchmarks share: paired timings, peak memory, the table, the JSON file."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The options of every benchmark."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, under a minute: shows that it runs")
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    parser.add_argument("--runs", type=int, default=3, help="paired runs of which the median counts")
    parser.add_argument("--only", nargs="+", default=[], help="cases to run; default: all")
    return parser


def reset_peak() -> None:
    """Starts counting peak memory anew (Linux)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_megabytes() -> float:
    """The most memory that this process held since `reset_peak`."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1000


def run_once(function: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds, peak megabytes, and what the function gives."""
    reset_peak()
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, peak_megabytes(), result


def compare(
    ours: Callable[[], Any], plain: Callable[[], Any], difference: Callable[[Any, Any], float], runs: int
) -> dict[str, float]:
    """Runs both in turn, ours, plain, ours, plain ...

    Args:
        ours: The engine.
        plain: The published algorithm.
        difference: Largest difference of what the two give.
        runs: Pairs.

    Returns:
        `speedup`, the median of the pairs' ratios, with its lowest and highest; median seconds and peak memory of both;
        `max_score_difference`.
    """
    pairs = [(run_once(ours), run_once(plain)) for _ in range(runs)]
    ratios = [theirs[0] / own[0] for own, theirs in pairs]
    return {
        "speedup": statistics.median(ratios),
        "speedup_lowest": min(ratios),
        "speedup_highest": max(ratios),
        "seconds": statistics.median(own[0] for own, _ in pairs),
        "plain_seconds": statistics.median(theirs[0] for _, theirs in pairs),
        "max_score_difference": max(difference(own[2], theirs[2]) for own, theirs in pairs),
        "peak_memory_mb": max(own[1] for own, _ in pairs),
        "plain_peak_memory_mb": max(theirs[1] for _, theirs in pairs),
    }


def report(cases: dict[str, dict[str, Any]], output: Path | None) -> None:
    """Prints a table of the cases and writes them as JSON."""
    machine = {"torch": torch.__version__, "threads": torch.get_num_threads(), "processor": processor()}
    print("  ".join(f"{name} {value}" for name, value in machine.items()))
    for name, figures in cases.items():
        print(name)
        for figure, value in figures.items():
            print(f"  {figure:24} {value if not isinstance(value, float) else format(value, '.4g')}")
    if output is not None:
        output.write_text(json.dumps({"machine": machine, **cases}, indent=1), encoding="utf-8")
        print(f"written to {output}", file=sys.stderr)


def processor() -> str:
    """Name of the processor, and whether it has bfloat16 instructions."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    names = [line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name")]
    has_bfloat16 = any(flag in text for flag in ("avx512_bf16", "amx_bf16"))
    return f"{names[0] if names else platform.processor()}{'' if has_bfloat16 else ' (no bfloat16 instructions)'}"
