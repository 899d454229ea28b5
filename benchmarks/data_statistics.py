"""How long `check --statistics` takes, and how much memory.

    python -m benchmarks.data_statistics --output statistics.json

Writes 3,000 made-up JPEG files of 640 x 480 pixels with five captions each into a temporary folder. Runs the command on
a third of them and on all, without and with `--decode`: from the difference follows what a further image costs. Then
searches 120,000 made-up thumbnails for those that look the same.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dataset_scripts.contents.near_duplicates import SIDE, near_identical

ROOT = Path(__file__).parent.parent
NUM_IMAGES, NUM_THUMBNAILS, COPIES = 3_000, 120_000, 100
CAPTIONS = 5
QUICK = 100  # divides all sizes


def write_images(folder: Path, count: int) -> None:
    """Smooth images with noise, of about 120 kB."""
    draw = np.random.default_rng(0)
    for number in range(count):
        colors = draw.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(colors).resize((640, 480), Image.Resampling.BICUBIC))
        noisy = smooth + draw.normal(0, 8, (480, 640, 1))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.jpg", quality=90)


def run_command(folder: Path, count: int, *words: str) -> dict[str, float]:
    """Run the command on some images in a process of its own."""
    names = [f"{number}.jpg" for number in range(count)]
    rows = [{"image": name, "caption": [f"image {name} in {n} words" for n in range(CAPTIONS)]} for name in names]
    (folder / f"{count}.json").write_text(json.dumps(rows))
    command = [sys.executable, "-m", "dataset_scripts", "check", "own_data", "--data_dir", str(folder), *words]
    command += ["--statistics", "--train_files", f"{count}.json"]
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, env=os.environ)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)} ended with status {status}")
    seconds, cpu_seconds = time.perf_counter() - start, used.ru_utime + used.ru_stime
    return {"images": count, "seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mb": used.ru_maxrss / 1024}


def search(count: int) -> dict[str, float]:
    """Search thumbnails, some of which are there twice with a little noise."""
    draw = np.random.default_rng(1)
    colors = draw.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    thumbnails = np.empty((count, SIDE, SIDE, 3), np.uint8)
    for index, one in enumerate(colors):
        thumbnails[index] = np.asarray(Image.fromarray(one).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    copies = max(1, COPIES * count // NUM_THUMBNAILS)
    noise = draw.integers(-2, 3, (copies, SIDE, SIDE, 3))
    thumbnails[-copies:] = np.clip(thumbnails[:copies] + noise, 0, 255)
    start, cpu_start = time.perf_counter(), time.process_time()
    found = near_identical(thumbnails)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    return {"images": count, "seconds": seconds, "cpu_seconds": cpu_seconds, "groups": len(found), "copies": copies}


def measure(quick: bool) -> dict[str, Any]:
    """All runs, printed as they end."""
    parts, results = QUICK if quick else 1, dict[str, Any]()
    count = NUM_IMAGES // parts
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder, count)
        for words in ((), ("--decode",)):
            few, many = (run_command(folder, some, *words) for some in (count // 3, count))
            more = many["images"] - few["images"]
            cost = {key: (many[key] - few[key]) / more for key in ("seconds", "cpu_seconds", "peak_mb")}
            what = " ".join(("statistics", *words))
            results[what] = many | {f"{key}_an_image": value for key, value in cost.items()}
            show(what, results[what])
    results["search"] = search(NUM_THUMBNAILS // parts)
    show("search", results["search"])
    return results


def show(what: str, values: dict[str, float]) -> None:
    """Print figures."""
    print(f"{what}: " + ", ".join(f"{name} {value:,.4g}" for name, value in values.items()), flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a hundredth of the size")
    parser.add_argument("--output", help="JSON file to write")
    options = parser.parse_args()
    results = measure(options.quick)
    if options.output:
        machine = {"python": platform.python_version(), "cores": os.cpu_count()}
        Path(options.output).write_text(json.dumps({"machine": machine, "results": results}, indent=1))


if __name__ == "__main__":
    main()
