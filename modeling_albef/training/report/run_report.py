"""The report of a run: one HTML file with curves, metrics and the queries that went worst.

It stays in the output folder. Nothing of it is pushed to the Hub, since it shows pictures of the data.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm
from transformers.utils import logging

from ..checkpoints.push import CARD_ARGUMENTS
from ..checkpoints.whole_checkpoints import STATE_FILE
from ..evaluation.base import Assessment
from ..evaluation.vqa import VQAResult
from ..trainer import AlbefTrainer
from .charts import chart
from .examples import Gallery, hardest_examples
from .pages import Pictures, Thumbnail, card, folded, page, section, table

logger = logging.get_logger(__name__)
REPORT_FILE = "report.html"
SPLIT_TITLES = {"train": "training", "eval": "validation", "test": "test"}
FIRST_CURVES = ("loss", "itc_loss", "itm_loss", "answer_loss", "learning_rate", "alpha", "temperature")
NO_CURVES = {"epoch", "step", "total_flos"}
RETRIEVAL_INTRO = "The hardest first: the first right result is furthest down, or a wrong one is furthest ahead of it."
RESULT_NOTE = "Recalls and accuracies are in %."
RANKS_INTRO = "Below a picture: its place and its matching score."
QUESTIONS_INTRO = "The worst first: wrong answers, the surest before the others, then right ones that were not sure."


class RunReport:
    """Collects what happens in a run, and writes it down at its end.

    Attributes:
        metrics: Split -> its metrics, as they are in `all_results.json`.
        history: Log lines of the training.
        assessed: The evaluation that the galleries show: the last one that was added.
    """

    def __init__(self, trainer: AlbefTrainer, thumbnail: Thumbnail | None = None) -> None:
        """Starts a report.

        Args:
            trainer: Of the run.
            thumbnail: See `Pictures`; without it there are no galleries.
        """
        self.trainer, self.thumbnail = trainer, thumbnail
        self.metrics: dict[str, dict[str, float]] = {}
        self.history: list[dict[str, Any]] = []
        self.assessed: Assessment | None = None

    def add(self, split: str, metrics: dict[str, float], assessed: Assessment | None = None) -> None:
        """Adds an outcome.

        Args:
            split: train, eval or test.
            metrics: As they are saved; may grow until the report is written.
            assessed: What was evaluated.
        """
        self.metrics[split] = metrics
        self.assessed = assessed or self.assessed
        if split == "train":
            self.history = list(self.trainer.state.log_history)

    def write(self) -> Path | None:
        """Writes the report.

        Returns:
            The file; None where it is not wanted, there is nothing to tell, or the disk does not take it, which is
            logged: a finished run is worth more than its report.
        """
        args, folder = self.trainer.args, Path(self.trainer.args.output_dir)
        if not (args.write_report and self.metrics and self.trainer.is_world_process_zero()):
            return None
        path = folder / REPORT_FILE
        unfinished = path.with_name(f"{path.name}.{os.getpid()}.incomplete")
        try:
            unfinished.write_text(self.html(), encoding="utf-8", errors="replace")
            unfinished.replace(path)
        except OSError as error:
            logger.warning(f"The report {path} could not be written ({error}); the run itself is complete.")
            unfinished.unlink(missing_ok=True)
            return None
        return path

    def html(self) -> str:
        """The page."""
        history = self.history or _saved_history(Path(self.trainer.args.output_dir))
        parts = [
            f'<p class="faint">{escape(self._facts())}</p>',
            section(
                "Result", metrics_table(self.metrics, self.trainer.args.METRICS), "Recalls and accuracies are in %."
            ),
            section("Accuracy by type of question", self._types_table()),
            section("Training", curves(history), "" if self.history else "Of the run that trained in this folder."),
            section("Evaluations during training", self._evaluations(history)),
            *self._galleries(),
            section("Settings", folded("Arguments of the run", self._settings())),
        ]
        return page(f"Report of {Path(self.trainer.args.output_dir).absolute().name}", "\n".join(filter(None, parts)))

    def _facts(self) -> str:
        trainer, state = self.trainer, self.trainer.state
        facts = [type(trainer.model).__name__]
        if trainer.base_model:
            facts.append(f"from {trainer.base_model}")
        if trainer.dataset_names:
            facts.append(f"on {', '.join(trainer.dataset_names)}")
        if "train" in self.metrics:
            facts.append(f"{state.global_step} steps")
        written = datetime.now().strftime("%d %b %Y %H:%M").replace(" ", "\N{NO-BREAK SPACE}")
        return " · ".join([*facts, written])

    def _types_table(self) -> str:
        result = None if self.assessed is None else self.assessed.result
        if not isinstance(result, VQAResult):
            return ""
        by_type = sorted(result.by_question_type.items(), key=lambda item: item[1])
        return table(("question type", "accuracy"), by_type)

    def _evaluations(self, history: Sequence[dict[str, Any]]) -> str:
        """A row an evaluation, the best one marked, and the curve of the metric that decided."""
        deciding = (self.trainer.args.metric_for_best_model or "").removeprefix("eval_")
        names = [name for name in self.trainer.args.METRICS if any(f"eval_{name}" in line for line in history)]
        names.sort(key=lambda name: name != deciding)  # first: a phone shows few columns at a time
        lines = [line for line in history if any(f"eval_{name}" in line for name in names)]
        if not lines:
            return ""
        best = self.trainer.state.best_global_step if "train" in self.metrics else None
        rows = [
            (
                line.get("step"),
                round(line.get("epoch") or 0.0, 2),
                *(line.get(f"eval_{name}") for name in names),
                *([] if best is None else ["★ best" if line.get("step") == best else ""]),
            )
            for line in lines
        ]
        drawn = ""
        if deciding in names and len(lines) > 1:
            known = [line for line in lines if f"eval_{deciding}" in line]
            drawn = chart(deciding, [line["step"] for line in known], [line[f"eval_{deciding}"] for line in known])
            drawn = f'<div class="grid">{drawn}</div><br>'
        return drawn + table(("step", "epoch", *names, *([] if best is None else [""])), rows)

    def _galleries(self) -> list[str]:
        count, assessed = self.trainer.args.report_items, self.assessed
        if not count or assessed is None or self.thumbnail is None:
            return []
        pictures = Pictures(assessed.dataset, self.thumbnail)
        title = SPLIT_TITLES.get(assessed.split, assessed.split)
        intro = QUESTIONS_INTRO if isinstance(assessed.result, VQAResult) else f"{RETRIEVAL_INTRO} {RANKS_INTRO}"
        return [
            section(f"{gallery.title}, {title} data", _cards(gallery, pictures), intro)
            for gallery in hardest_examples(assessed.result, assessed.dataset, count)
        ]

    def _settings(self) -> str:
        args = self.trainer.args
        return table((), [(name, getattr(args, name)) for name in CARD_ARGUMENTS if hasattr(args, name)])


def _cards(gallery: Gallery, pictures: Pictures) -> str:
    shown = tqdm(gallery.examples, f"Report: {gallery.title}", leave=False, disable=None)
    return f'<div class="cards">{"".join(card(example, pictures) for example in shown)}</div>'


def metrics_table(metrics: dict[str, dict[str, float]], first: Sequence[str] = ()) -> str:
    """All metrics of all splits.

    Args:
        metrics: Split -> names with the split as prefix -> values.
        first: Names without prefix that come first.

    Returns:
        A table with a row a metric and a column a split; the last split, the test, comes first, which is what a phone
        shows of a wide table.
    """
    plain = {
        split: {name.removeprefix(f"{split}_"): value for name, value in values.items()}
        for split, values in reversed(metrics.items())
    }
    names = list(dict.fromkeys(name for values in plain.values() for name in values))
    names = [name for name in first if name in names] + [name for name in names if name not in first]
    rows = [(name, *(values.get(name) for values in plain.values())) for name in names]
    return table(("", *(SPLIT_TITLES.get(split, split) for split in plain)), rows)


def curves(history: Sequence[dict[str, Any]]) -> str:
    """A chart for each quantity of the training's log.

    Args:
        history: Log lines, by step; those with a `loss` count.

    Returns:
        HTML; empty where nothing was logged.
    """
    lines = [line for line in history if "loss" in line and "step" in line]
    names = [name for line in lines for name, value in line.items() if isinstance(value, int | float)]
    others = sorted(set(names) - {*FIRST_CURVES, *NO_CURVES})
    charts = []
    for name in (*FIRST_CURVES, *others):
        known = [(line["step"], float(line[name])) for line in lines if isinstance(line.get(name), int | float)]
        if known:
            charts.append(chart(name, [step for step, _ in known], [value for _, value in known]))
    return f'<div class="grid">{"".join(charts)}</div>' if charts else ""


def _saved_history(folder: Path) -> list[dict[str, Any]]:
    """Log of the training that left a folder, where this run did not train."""
    try:
        history = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))["log_history"]
    except (OSError, ValueError, KeyError):
        return []
    return [line for line in history if isinstance(line, dict) and math.isfinite(line.get("step", math.nan))]
