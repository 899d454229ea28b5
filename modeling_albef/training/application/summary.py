"""What a run says before it starts, and how long it will take once ten steps are done."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sized
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..report.formats import duration, percent
from ..trainer import AlbefTrainer

MAX_LINES = 12
STEPS_TO_TIME = 10
UNTIMED = 2  # first steps, which are slower


def summary(trainer: AlbefTrainer, record: Mapping[str, Any], first_step: int = 0) -> str:
    """Return what a run is about to do, in at most `MAX_LINES` lines.

    Args:
        trainer: The trainer of the run.
        record: What is known of it; see `RunRecord.begin`.
        first_step: Steps that are done already.
    """
    args, model = trainer.args, record["model"]
    facts = [("run", f"in {args.output_dir}, recorded in {record['file']}")]
    for split, counts in record["data"].items():
        words = [f"{value:,} {name}" for name, value in counts.items() if isinstance(value, int)]
        facts.append((f"{split} data", ", ".join(words) or "streamed"))
    if mixture := record.get("mixture"):
        shares = [f"{percent(100 * share)} {source}" for source, share in mixture["shares"].items()]
        facts.append(("mixture", f"{', '.join(shares)}; {mixture['stopping_strategy']}"))
    parameters = f"{_millions(model['parameters'])} parameters"
    if model["trained_parameters"] != model["parameters"]:
        parameters += f", {_millions(model['trained_parameters'])} of them trained"
    if sum(map(bool, record["data"].values())) > 1 and not record["overlap"]:
        facts.append(("overlap", "none: no image and no text is in two splits"))
    facts.append(("model", f"{model['class']}, {parameters}, {model['image_size']} pixels, {model['start']}"))
    if args.do_train:
        facts.append(("training", _plan(trainer, first_step)))
    many = [_counted(record[name], name) for name in ("processes", "threads")]
    facts.append(("device", ", ".join([record["device"], *many, record["precision"]])))
    if args.do_train:
        facts.append(("time", f"is estimated after {STEPS_TO_TIME} steps"))
    width = max(len(name) for name, _ in facts)
    return "\n".join(" ".join(f"{name.ljust(width)}  {words}".split("\n")) for name, words in facts[:MAX_LINES])


def _counted(number: int, name: str) -> str:
    return f"{number} {name}" if number != 1 else f"1 {name.removesuffix('es' if name == 'processes' else 's')}"


def _plan(trainer: AlbefTrainer, first_step: int) -> str:
    args, steps = trainer.args, planned_steps(trainer)
    rows = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
    words = f"{steps:,} steps of {rows:,} rows" + (f", {args.num_train_epochs:g} epochs" if args.max_steps < 1 else "")
    return words + (f", from step {first_step:,}" if first_step else "")


def planned_steps(trainer: AlbefTrainer) -> int:
    """Return how many steps a trainer is to train, as the library counts them."""
    args, rows = trainer.args, trainer.train_dataset
    if args.max_steps > 0 or not isinstance(rows, Sized):
        return max(args.max_steps, 0)
    whole = math.floor if args.dataloader_drop_last else math.ceil
    batches = whole(whole(len(rows) / args.train_batch_size) / args.world_size)
    return math.ceil(args.num_train_epochs * max(math.ceil(batches / args.gradient_accumulation_steps), 1))


def _millions(count: int) -> str:
    return f"{count / 1e6:,.1f} million" if count >= 1e6 else f"{count:,}"


class TimeEstimateCallback(TrainerCallback):
    """Says once, after ten steps, how long the others will take."""

    def __init__(self) -> None:
        self._steps, self._start = 0, 0.0

    def on_train_begin(self, *_: Any, **kwargs: Any) -> None:
        """Start anew."""
        self._steps = 0

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Measure, and print on the first process."""
        self._steps += 1
        if self._steps == UNTIMED:
            self._start = time.monotonic()
        remaining = state.max_steps - state.global_step
        if self._steps == STEPS_TO_TIME and remaining > 0 and state.is_world_process_zero:
            seconds = (time.monotonic() - self._start) / (STEPS_TO_TIME - UNTIMED)
            tqdm.write(
                f"About {duration(seconds * remaining)} for the other {remaining:,} steps, {seconds:.2g} s each, "
                "evaluations not counted."
            )
