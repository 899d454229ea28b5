"""Whether a long run grows or slows down: memory, open files and time, by least squares over its second half.

    python -m benchmarks.slopes --output slopes.json
    python -m benchmarks.slopes --only retrieval vqa --steps 2000
    python -m benchmarks.slopes --only mapped streamed --rows 300000

`retrieval` and `vqa` train a tiny model in one process with an evaluation and a checkpoint every 250 steps, which the
time of a step leaves out. `mapped` and `streamed` read a table of captions once, as training does: images are opened
and augmented, captions become tokens; the time is that of a batch of 100 rows. Each case has a process of its own, with
one thread. Resident memory counts pages of mapped files that the system keeps at hand; anonymous memory is what the
process holds beside them, with what it has freed and keeps for later; allocated memory is what it has asked for and not
freed, where a leak shows. Times are those of the processor, so that other work on the machine disturbs them little.
Linux with glibc only.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import importlib
import itertools
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.utils.data import DataLoader
from transformers import TrainerCallback, trainer

from benchmarks.data_preparation import CAPTIONS_AN_IMAGE, WORDS, make_images
from benchmarks.measure import report
from benchmarks.soak import CONFIG
from modeling_albef import AlbefForImageTextRetrieval
from modeling_albef.training import RetrievalTrainingArguments
from modeling_albef.training.application import (
    DataArguments,
    ModelArguments,
    load_model,
    load_splits,
    parse_arguments,
    training_rows,
)
from processing import AlbefImageProcessor, AlbefProcessor, RetrievalCollator, build_tokenizer

BATCH = 100  # rows between two samples of a table
SIDE = 32  # pixels
STEPS_BETWEEN_CHECKPOINTS = 250
QUICK = 50  # divides all sizes
FIGURES = ("resident MB", "anonymous MB", "allocated MB", "open files", "CPU milliseconds")


class _MallocInfo(ctypes.Structure):
    """What `mallinfo2` of the C library returns (glibc from 2.33)."""

    _fields_ = [(name, ctypes.c_size_t) for name in ("a", "b", "c", "d", "mapped", "e", "f", "in_use", "g", "h")]


class Samples(TrainerCallback):
    """What a process holds after each step, and what the step took.

    Attributes:
        taken: For each sample the values of `FIGURES`.
    """

    def __init__(self) -> None:
        self.taken: list[tuple[float, ...]] = []
        self.malloc_info = ctypes.CDLL(None).mallinfo2
        self.malloc_info.restype = _MallocInfo
        self.since = time.process_time()

    def take(self) -> None:
        """Take a sample; the time is that since the last one, or since an interruption."""
        milliseconds = 1000 * (time.process_time() - self.since)
        resident, shared = map(int, Path("/proc/self/statm").read_text(encoding="ascii").split()[1:3])
        megabytes = [pages * os.sysconf("SC_PAGE_SIZE") / 1e6 for pages in (resident, resident - shared)]
        allocated = self.malloc_info()
        megabytes.append((allocated.mapped + allocated.in_use) / 1e6)
        self.taken.append((*megabytes, len(os.listdir("/proc/self/fd")), milliseconds))
        self.since = time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Take a sample."""
        self.take()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Leave out what was before."""
        self.since = time.process_time()

    on_evaluate = on_save = on_train_begin


def slopes(taken: Sequence[tuple[float, ...]], distance: int, per: int, unit: str) -> dict[str, float]:
    """Return median and slope of each figure over the second half of the samples.

    Args:
        taken: For each sample the values of `FIGURES`.
        distance: Steps, or rows, from one sample to the next.
        per: Number of steps, or rows, that slopes are stated for.
        unit: "steps" or "rows".
    """
    half = taken[len(taken) // 2 :]
    positions = [number * distance / per for number in range(len(half))]
    found: dict[str, float] = {}
    for figure, values in zip(FIGURES, zip(*half, strict=True), strict=True):
        found[f"{figure}, median"] = statistics.median(values)
        found[f"{figure} per {per:,} {unit}"] = statistics.linear_regression(positions, values).slope
    return found


def write_config(folder: Path, **fields: Any) -> str:
    """Write the configuration of a tiny run."""
    config = CONFIG | {"use_cpu": True, "output_dir": str(folder / "out")} | fields
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return str(path)


def train(task: str, steps: int) -> dict[str, float]:
    """Run the script of a task."""
    often = min(STEPS_BETWEEN_CHECKPOINTS, steps // 4)
    samples = Samples()
    callbacks: list[Any] = trainer.DEFAULT_CALLBACKS  # the script has no place for one
    callbacks.append(samples)
    with tempfile.TemporaryDirectory(prefix="albef-slopes-") as name:
        config = write_config(Path(name), max_steps=steps, save_steps=often, eval_steps=often, save_total_limit=2)
        importlib.import_module(f"run_{task}").main([config])
    return slopes(samples.taken, 1, 1_000, "steps")


def read(streaming: bool, rows: int) -> dict[str, float]:
    """Read a table of captions as for training."""
    with tempfile.TemporaryDirectory(prefix="albef-slopes-") as name:
        folder = Path(name)
        with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(("image", "caption"))
            for number, image in enumerate(make_images(folder, rows // CAPTIONS_AN_IMAGE)):
                for shift in range(CAPTIONS_AN_IMAGE):
                    words = [WORDS[(number // 23**place + 5 * shift) % len(WORDS)] for place in range(4)]
                    table.writerow((image, f"{' '.join(words)} {number}"))
        own = {"dataset": None, "dataset_config": None, "train_files": [str(folder / "captions.csv")]}
        config = write_config(folder, **own, image_root=name, streaming=streaming)
        classes = (ModelArguments, DataArguments, RetrievalTrainingArguments)
        given = [config, "--max_steps", "1", "--eval_strategy", "no"]
        model_args, data_args, args = parse_arguments(classes, given)
        image_processor = AlbefImageProcessor(size={"height": SIDE, "width": SIDE})
        processor = AlbefProcessor(image_processor, build_tokenizer(WORDS))
        model, _ = load_model(AlbefForImageTextRetrieval, model_args, processor.tokenizer)
        captions = load_splits(data_args, args, task="retrieval")["train"]
        dataset = training_rows(captions, data_args, args, model, processor)
        loader: DataLoader[Any] = DataLoader(dataset, BATCH, collate_fn=RetrievalCollator(processor))
        samples = Samples()
        for batch in itertools.islice(loader, rows // BATCH):  # a stream has no end
            if len(batch["input_ids"]) != BATCH:
                raise SystemExit(f"A batch has {len(batch['input_ids'])} rows, not {BATCH}.")
            samples.take()
    if len(samples.taken) != rows // BATCH:
        raise SystemExit(f"{len(samples.taken) * BATCH:,} rows were read of {rows:,}.")
    return slopes(samples.taken, BATCH, 100_000, "rows")


def in_process(case: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Measure in a process of its own."""
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawned, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return pool.submit(case).result()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=["retrieval", "vqa", "mapped", "streamed"], help="default: all")
    parser.add_argument("--steps", type=int, default=2_000, help="of a run")
    parser.add_argument("--rows", type=int, default=300_000, help="of a table, a multiple of 100")
    parser.add_argument("--quick", action="store_true", help="a fiftieth of the sizes: shows that it runs")
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    args = parser.parse_args()
    parts = QUICK if args.quick else 1
    cases: dict[str, Callable[[], dict[str, float]]] = {
        "retrieval": partial(train, "retrieval", args.steps // parts),
        "vqa": partial(train, "vqa", args.steps // parts),
        "mapped": partial(read, False, args.rows // parts),
        "streamed": partial(read, True, args.rows // parts),
    }
    with tempfile.TemporaryDirectory(prefix="albef-slopes-") as cache:
        os.environ["HF_DATASETS_CACHE"] = cache  # for the processes that are started from here
        results = {name: in_process(cases[name]) for name in args.only or cases}
    report(results, args.output)


if __name__ == "__main__":
    main()
