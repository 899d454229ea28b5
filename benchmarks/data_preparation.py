"""How long annotation files of full size take to prepare, and how much memory.

    python -m benchmarks.data_preparation --output preparation.json

Writes made-up annotations into a temporary folder: 600,000 captions of 120,000 images, as COCO has, and 1.4 million
questions, as VQA v2 and Visual Genome have together; the images are links to a few real files. Each preparation runs in
a process of its own, whose peak of resident memory is taken, with that of its child processes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).parent.parent
WORDS = "a the man woman dog cat bus train sits stands on in near red blue small large street table field water".split()
CAPTIONS_AN_IMAGE, REAL_FILES, ANNOTATORS = 5, 10, 10
QUICK = 100  # divides all sizes


def make_images(folder: Path, count: int) -> list[str]:
    """Write a few images and links to them; gives the links' paths from the folder."""
    (folder / "images").mkdir()
    for number in range(REAL_FILES):
        Image.new("RGB", (64, 48), (20 * number, 90, 120)).save(folder / f"real_{number}.jpg")
    paths = [f"images/COCO_train2014_{number:012d}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        os.symlink(folder / f"real_{number % REAL_FILES}.jpg", folder / path)
    return paths


def write_list(path: Path, rows: Iterable[dict[str, Any]]) -> str:
    """Write a JSON list row by row: a process passes the peak of its memory on to those that it starts."""
    with path.open("w") as stream:
        for number, row in enumerate(rows):
            stream.write(("," if number else "[") + json.dumps(row))
        stream.write("]")
    return str(path)


def write_captions(folder: Path, images: list[str], rng: random.Random) -> str:
    """ALBEF's layout of `coco_train.json`, the captions of an image scattered over the file."""
    rows = (
        {"image": image, "caption": " ".join(rng.choices(WORDS, k=11)), "image_id": f"coco_{number}"}
        for _ in range(CAPTIONS_AN_IMAGE)
        for number, image in enumerate(images)
    )
    return write_list(folder / "coco_train.json", rows)


def write_questions(folder: Path, images: list[str], count: int, rng: random.Random) -> list[str]:
    """ALBEF's layout of `vqa_train.json`, with ten answers a row, and of `vg_qa.json`, with one, about half each."""

    def rows(source: str, number: int) -> Iterator[dict[str, Any]]:
        for index in range(number):
            answers = rng.choices(WORDS, k=ANNOTATORS)
            row = {"dataset": source, "image": images[index % len(images)], "question_id": index}
            row["question"] = " ".join(rng.choices(WORDS, k=7)) + "?"
            yield row | {"answer": answers if source == "vqa" else answers[0]}

    with_ten = count * 47 // 100
    files = {"vqa_train": rows("vqa", with_ten), "vg_qa": rows("vg", count - with_ten)}
    return [write_list(folder / f"{name}.json", content) for name, content in files.items()]


def prepare(request: dict[str, Any]) -> dict[str, Any]:
    """Prepare once in this process; return seconds, of the clock and of all processors, and megabytes."""
    from dataset_scripts import load_dataset_script

    before = _peak()
    start, cpu_start = time.perf_counter(), sum(os.times()[:4])
    dataset = load_dataset_script(**request, split="train")
    seconds, cpu_seconds = time.perf_counter() - start, sum(os.times()[:4]) - cpu_start
    return {
        "rows": len(dataset),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "peak_mb": round(_peak()),
        "peak_before_mb": round(before),
    }


def _peak() -> float:
    """Peak of resident memory, MB: of this process, and for each of its ended children that of the largest."""
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return max(kilobytes, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024


def in_process(request: dict[str, Any]) -> dict[str, Any]:
    """Prepare in a process of its own."""
    command = [sys.executable, __file__, "--request", json.dumps(request)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(quick: bool) -> dict[str, Any]:
    """All preparations, printed as they end."""
    parts, results, rng = QUICK if quick else 1, {}, random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = make_images(folder, 120_000 // parts)
        captions = write_captions(folder, images, rng)
        questions = write_questions(folder, images, 1_400_000 // parts, rng)
        common = {"data_dir": name, "cache_dir": str(folder / "cache")}
        requests = {
            "captions": {"name": "coco_retrieval", "train_files": [captions], **common},
            "questions": {"name": "vqa_v2", "train_files": questions, **common},
        }
        for what, request in requests.items():
            two = {**request, "cache_dir": str(folder / "cache_of_two"), "num_proc": 2}
            for manner, asked in (("", request), (", from the cache", request), (", two processes", two)):
                results[what + manner] = values = in_process(asked)
                times = f"{values['seconds']:7.1f} s ({values['cpu_seconds']:6.1f} s of processor)"
                print(
                    f"{what + manner:>28}: {values['rows']:9,} rows, {times}, peak {values['peak_mb']:5,} MB",
                    flush=True,
                )
    return results


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a hundredth of the size")
    parser.add_argument("--output", help="JSON file to write")
    parser.add_argument("--request", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.request:
        print(json.dumps(prepare(json.loads(options.request))))
        return
    results = measure(options.quick)
    if options.output:
        machine = {"python": platform.python_version(), "cores": os.cpu_count()}
        Path(options.output).write_text(json.dumps({"machine": machine, "results": results}, indent=1))


if __name__ == "__main__":
    main()
