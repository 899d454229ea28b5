"""The report of a run: one HTML file with curves, metrics and the queries that went worst.

It stays in the output folder. Nothing of it is pushed to the Hub, since it shows images of the data.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from datetime import datetime
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import logging

from ..evaluation.results import EvaluationRecord
from .charts import Chart
from .examples import Gallery, hardest_examples
from .pages import TEMPLATES, Thumbnail, ThumbnailCache

if TYPE_CHECKING:
    from ..trainer import AlbefTrainer

logger = logging.get_logger(__name__)
REPORT_FILE = "report.html"
SPLIT_TITLES = {"train": "training", "eval": "validation", "test": "test"}
FIRST_CURVES = ("loss", "itc_loss", "itm_loss", "answer_loss", "learning_rate", "alpha", "temperature")
NO_CURVES = {"epoch", "step", "total_flos"}
Table = tuple[Sequence[str], list[tuple[Any, ...]]]  # titles of the columns, and rows; the first cell is a title


class RunReport:
    """Collects the metrics and the log of a run, and writes its report.

    Attributes:
        metrics: Split -> its metrics, as they are in `all_results.json`.
        history: Log lines of the training.
        last_evaluation: The evaluation that the galleries show.
    """

    def __init__(self, trainer: AlbefTrainer, thumbnail: Thumbnail | None = None) -> None:
        """Start a report; without a `thumbnail` (see `ThumbnailCache`) it has no galleries."""
        self.trainer, self.thumbnail = trainer, thumbnail
        self.metrics: dict[str, dict[str, float]] = {}
        self.history: list[dict[str, Any]] = []
        self.last_evaluation: EvaluationRecord | None = None

    def add(self, split: str, metrics: dict[str, float], evaluation: EvaluationRecord | None = None) -> None:
        """Add the metrics of a split, train, eval or test; they may grow until the report is written."""
        self.metrics[split] = metrics
        self.last_evaluation = evaluation or self.last_evaluation
        if split == "train":
            self.history = list(self.trainer.state.log_history)

    def write(self) -> Path | None:
        """Write the report and return its file; None where it is not wanted or there are no metrics.

        It is also None where it cannot be written: that is logged and does not fail a finished run.
        """
        args = self.trainer.args
        if not (args.write_report and self.metrics and self.trainer.is_world_process_zero()):
            return None
        path = args.output_folder / REPORT_FILE
        unfinished = path.with_name(f"{path.name}.{os.getpid()}.incomplete")
        page = self.html()
        try:
            unfinished.write_text(page, encoding="utf-8", errors="replace")
            unfinished.replace(path)
        except OSError as error:
            logger.warning(f"The report {path} could not be written ({error}); the run itself is complete.")
            unfinished.unlink(missing_ok=True)
            return None
        return path

    def html(self) -> str:
        """Return the page."""
        args, evaluation = self.trainer.args, self.last_evaluation
        history = self.history or _saved_history(args.output_folder)
        best_step = self.trainer.state.best_global_step if "train" in self.metrics else None
        deciding = (args.metric_for_best_model or "").removeprefix("eval_")
        by_question_type = getattr(evaluation and evaluation.result, "by_question_type", {})
        return TEMPLATES.get_template("page.html.j2").render(
            title=f"Report of {args.output_folder.absolute().name}",
            facts=self._facts(),
            result=metrics_table(self.metrics, args.METRICS),
            question_types=sorted(by_question_type.items(), key=itemgetter(1)),  # the worst first
            curves=curves(history),
            is_own_history=bool(self.history),
            evaluations=evaluations_table(history, args.METRICS, deciding, best_step),
            deciding_curve=deciding_curve(history, deciding),
            galleries=self._galleries(),
            images=evaluation and self.thumbnail and ThumbnailCache(evaluation.dataset, self.thumbnail),
            split=evaluation and SPLIT_TITLES.get(evaluation.split, evaluation.split),
            progress=lambda gallery: tqdm(gallery.examples, f"Report: {gallery.title}", leave=False, disable=None),
            settings=list(args.recipe().items()),
        )

    def _facts(self) -> list[str]:
        trainer = self.trainer
        facts = [type(trainer.model).__name__]
        facts += [f"from {trainer.base_model}"] if trainer.base_model else []
        facts += [f"on {', '.join(trainer.dataset_names)}"] if trainer.dataset_names else []
        facts += [f"{trainer.state.global_step} steps"] if "train" in self.metrics else []
        return [*facts, datetime.now().strftime("%d %b %Y %H:%M").replace(" ", "\N{NO-BREAK SPACE}")]

    def _galleries(self) -> list[Gallery]:
        count, evaluation = self.trainer.args.report_items, self.last_evaluation
        if not count or evaluation is None or self.thumbnail is None:
            return []
        return hardest_examples(evaluation.result, evaluation.dataset, count)


def metrics_table(metrics: dict[str, dict[str, float]], first: Sequence[str] = ()) -> Table:
    """Tabulate all metrics, a row a metric and a column a split, those named in `first` first.

    The last split, the test, comes first, which is what a phone shows of a wide table.
    """
    plain = {
        split: {name.removeprefix(f"{split}_"): value for name, value in values.items()}
        for split, values in reversed(metrics.items())
    }
    names = list(dict.fromkeys(name for values in plain.values() for name in values))
    names = [name for name in first if name in names] + [name for name in names if name not in first]
    rows = [(name, *(values.get(name) for values in plain.values())) for name in names]
    return ("", *(SPLIT_TITLES.get(split, split) for split in plain)), rows


def evaluations_table(
    history: Sequence[dict[str, Any]], metrics: Sequence[str], deciding: str, best_step: int | None
) -> Table | None:
    """Tabulate the evaluations during training, a row each; None where there was none.

    The metric that chooses the best checkpoint comes first, for a phone shows few columns at a time. The best step is
    marked; it is None where this run did not train.
    """
    names = [name for name in metrics if any(f"eval_{name}" in line for line in history)]
    names.sort(key=lambda name: name != deciding)
    rows = []
    for line in history:
        if any(f"eval_{name}" in line for name in names):
            mark = () if best_step is None else ("★ best" if line.get("step") == best_step else "",)
            values = (line.get(f"eval_{name}") for name in names)
            rows.append((line.get("step"), round(line.get("epoch") or 0.0, 2), *values, *mark))
    return (("step", "epoch", *names, *([] if best_step is None else [""])), rows) if rows else None


def deciding_curve(history: Sequence[dict[str, Any]], name: str) -> Chart | None:
    """Chart the metric that chooses the best checkpoint; None where there are not two values of it."""
    points = [(line["step"], line[f"eval_{name}"]) for line in history if f"eval_{name}" in line]
    return Chart(name, points) if len(points) > 1 else None


def curves(history: Sequence[dict[str, Any]]) -> list[Chart]:
    """Chart each quantity of the training's log lines: those with a `loss`."""
    series: dict[str, list[tuple[float, float]]] = {name: [] for name in FIRST_CURVES}
    others: dict[str, list[tuple[float, float]]] = {}
    for line in (line for line in history if "loss" in line and "step" in line):
        for name in line.keys() - NO_CURVES:
            if isinstance(line[name], int | float):
                points = series[name] if name in series else others.setdefault(name, [])
                points.append((line["step"], float(line[name])))
    return [Chart(name, points) for name, points in [*series.items(), *sorted(others.items())] if points]


def _saved_history(folder: Path) -> list[dict[str, Any]]:
    """Return the log of the training that left a folder, where this run did not train."""
    try:
        history = json.loads((folder / TRAINER_STATE_NAME).read_text(encoding="utf-8"))["log_history"]
    except (OSError, ValueError, KeyError):
        return []
    return [line for line in history if isinstance(line, dict) and math.isfinite(line.get("step", math.nan))]
