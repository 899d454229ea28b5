"""Another checkout of this project beside this one: the same work in turn, and this one's share of the machine's limit.

    git worktree add old COMMIT
    python -m benchmarks.beside old [--quick] [--only training] [--output results.json]

Base size, 384 pixels, float32, random weights of one seed. Cases: a training step for retrieval (4 pairs of 14 tokens,
a queue of 65,536) and for visual question answering (4 questions, 10 answers), as the trainers do them, with teacher,
optimizer and all; the vision tower for 8 images; 64 texts of an image ranked, and encoded and ranked. Each checkout has
processes of its own; they take turns, and medians count. The limit is that of `limits.py`. `difference` is that of the
sum of embeddings or scores, as a share of it; trainings draw dropout at random and have none.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from benchmarks.limits import Products, least_seconds
from benchmarks.measure import arguments, report

HERE = Path(__file__).parents[1]
CASES = ("training for retrieval", "training for questions", "encoding images", "ranking", "encoding and ranking")
TURNS = 99  # more than are asked for


class Turns(TrainerCallback):
    """Lets a step begin when the parent asks for one, and says how long it took."""

    def __init__(self) -> None:
        self.products: Products | None = None
        self.rests = ExitStack()
        self.start = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The end of a step, optimizer and teacher included, which is the start of the next."""
        seconds = time.perf_counter() - self.start
        self.rests.close()
        answer(seconds, None, self.products)
        self.products = None
        if (line := sys.stdin.readline().strip()) == "count":
            self.products = self.rests.enter_context(Products())
        control.should_training_stop = not line
        self.start = time.perf_counter()


def answer(seconds: float, value: float | None, products: Products | None) -> None:
    """Tells the parent what it measures."""
    limit = {} if products is None else {"limit": products.seconds(), "gflop": products.flops / 1e9}
    print(json.dumps({"seconds": seconds, "value": value, **limit}), flush=True)


def train(case: str, quick: bool) -> None:
    """Trains on one batch, a step a turn."""
    from benchmarks.retrieval_evaluation import make_model
    from benchmarks.vqa_training_step import draw_batch
    from modeling_albef import AlbefForImageTextRetrieval, AlbefForQuestionAnswering  # of either checkout
    from modeling_albef.training import (
        RetrievalTrainer,
        RetrievalTrainingArguments,
        VQATrainer,
        VQATrainingArguments,
    )
    from processing import AlbefImageProcessor, AlbefProcessor, build_tokenizer

    torch.manual_seed(0)
    config = make_model(quick).config
    batch = draw_batch(4, config.vision_config.image_size)
    options: Any = {"max_steps": TURNS, "per_device_train_batch_size": 4, "use_cpu": True, "report_to": "none"}
    options |= {"disable_tqdm": True, "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    options |= {"remove_unused_columns": False, "logging_steps": 1}
    rows: Any = [{"number": number} for number in range(4)]
    given: dict[str, Any] = {"train_dataset": rows, "callbacks": [Turns()]}
    with tempfile.TemporaryDirectory() as folder:
        if "questions" in case:
            args: Any = VQATrainingArguments(folder, **options)
            processor = AlbefProcessor(AlbefImageProcessor(), build_tokenizer(["yes", "no"]))
            given |= {"processing_class": processor, "answer_list": ["yes", "no"], "data_collator": lambda _: batch}
            trainer: Any = VQATrainer(AlbefForQuestionAnswering(config), args, **given)
        else:
            args = RetrievalTrainingArguments(folder, queue_size=1024 if quick else 65_536, **options)
            batch = {"pixel_values": batch["pixel_values"], "input_ids": torch.randint(1000, 30_000, (4, 14))}
            batch |= {"attention_mask": torch.ones(4, 14, dtype=torch.long), "image_ids": torch.arange(4)}
            trainer = RetrievalTrainer(AlbefForImageTextRetrieval(config), args, data_collator=lambda _: batch, **given)
        trainer.train()


def evaluate(case: str, quick: bool) -> None:
    """Encodes or ranks, once a turn."""
    from benchmarks.retrieval_evaluation import DrawnTexts, Gallery, make_model
    from modeling_albef.training import RetrievalEvaluator

    model = make_model(quick)
    images, texts = (8, 8) if case == "encoding images" else (1, 64)
    gallery = Gallery(images, texts, model.config.vision_config.image_size)
    captions = [caption for row in gallery.captions for caption in row]
    evaluator = RetrievalEvaluator(model, DrawnTexts(texts), k_test=64)
    with evaluator.inference():
        known, read = evaluator.encode_images(gallery), evaluator.encode_texts(captions)

    def run() -> float:
        with evaluator.inference():
            if case == "encoding images":
                encoded: Any = evaluator.encode_images(gallery)
                return float(encoded.embeds.double().sum())
            again = evaluator.encode_texts(captions) if case.startswith("encoding") else read
            by_image, _ = evaluator.rank(gallery, replace(known, states=dict(known.states)), again)
            return float(by_image.scores.double().sum())

    value = run()
    answer(0.0, value, None)
    while line := sys.stdin.readline().strip():
        products = None
        if line == "count":
            with Products() as products:
                run()
        answer(least_seconds(run, 1), value, products)


class Worker:
    """A checkout's process, which does a case's work once a turn."""

    def __init__(self, root: Path, case: str, quick: bool) -> None:
        command = [sys.executable, "-m", "benchmarks.beside", str(root), "--work", case]
        command += ["--quick"] if quick else []
        environment, pipe = {**os.environ, "HF_HUB_OFFLINE": "1"}, subprocess.PIPE
        self.process = subprocess.Popen(command, cwd=HERE, env=environment, stdin=pipe, stdout=pipe, text=True)
        self.first = self._read()

    def _read(self) -> dict[str, float]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith('{"seconds"'):
                return dict(json.loads(line))
        raise SystemExit(f"The process of a checkout ended with {self.process.wait()}.")

    def turn(self, word: str = "go") -> dict[str, float]:
        """What one turn of the work gave."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """Ends the process."""
        self.process.communicate()


def alone(root: Path, case: str, quick: bool, word: str = "go") -> dict[str, float]:
    """One turn, after one that warms up, of a process that ends: there is no memory for both checkouts' trainings."""
    worker = Worker(root, case, quick)
    figures = worker.turn(word)
    worker.close()
    return figures


def compare(case: str, old: Path, quick: bool, runs: int) -> dict[str, float]:
    """Both checkouts in turn."""
    if "training" in case:
        pairs = [[alone(root, case, quick)["seconds"] for root in (old, HERE)] for _ in range(runs)]
        counted, values = alone(HERE, case, quick, "count"), []
    else:
        workers = [Worker(root, case, quick) for root in (old, HERE)]
        pairs = [[worker.turn()["seconds"] for worker in workers] for _ in range(runs)]
        counted, values = workers[1].turn("count"), [worker.first["value"] for worker in workers]
        for worker in workers:
            worker.close()
    seconds = statistics.median(own for _, own in pairs)
    return {
        "speedup": statistics.median(theirs / own for theirs, own in pairs),
        "old_seconds": statistics.median(theirs for theirs, _ in pairs),
        "seconds": seconds,
        "limit_seconds": counted["limit"],
        "share_of_limit": counted["limit"] / seconds,
        "gflop": counted["gflop"],
        **({} if not values else {"difference": abs(values[0] / values[1] - 1)}),
    }


def cases_of(only: list[str]) -> Iterator[str]:
    """The cases that hold one of the words."""
    yield from (case for case in CASES if not only or any(word in case for word in only))


def main() -> None:
    """Runs the cases, or, in a process of a checkout, the work of one."""
    parser = arguments(__doc__)
    parser.add_argument("old", nargs="?", type=Path, help="the other checkout")
    parser.add_argument("--work", choices=CASES, help="for the processes that this one starts")
    args = parser.parse_args()
    if args.old is None:
        parser.error("Give the folder of another checkout.")
    old = args.old.resolve()
    if args.work is not None:
        sys.path.insert(0, str(old))  # these benchmarks, with the packages of that checkout
        (train if "training" in args.work else evaluate)(args.work, args.quick)
        return
    report({case: compare(case, old, args.quick, args.runs) for case in cases_of(args.only)}, args.output)


if __name__ == "__main__":
    main()
