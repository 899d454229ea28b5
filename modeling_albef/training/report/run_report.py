"""The report of a run: one HTML file with what was measured, of what, and the queries that went worst and best.

It stays in the output folder. Nothing of it is pushed to the Hub, since it shows images of the data.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import logging

from ..classification.result import ClassificationResult
from ..evaluation.results import EvaluationRecord, RetrievalResult, VQAResult
from ..grounding.evaluator import GroundingResult
from . import result_table
from .charts import Chart
from .confusion import confusion
from .examples import example_galleries
from .pages import TEMPLATES, Thumbnail, ThumbnailCache
from .queries import queries_of, shown_rows
from .ranks import directions

if TYPE_CHECKING:
    from ..trainer import AlbefTrainer

logger = logging.get_logger(__name__)
REPORT_FILE = "report.html"
FIRST_CURVES = (
    "loss",
    "itc_loss",
    "itm_loss",
    "mlm_loss",
    "box_loss",
    "answer_loss",
    "classification_loss",
    "learning_rate",
    "alpha",
    "temperature",
)
NO_CURVES = {"epoch", "step", "total_flos"}
Table = tuple[Sequence[str], list[tuple[Any, ...]]]  # titles of the columns, and rows; the first cell is a title


class RunReport:
    """Collects what a run was and what came of it, and writes its report.

    Attributes:
        metrics: Split -> its metrics, as they are in `all_results.json`.
        evaluations: Split -> the evaluation that they are of; the galleries show the last one.
        history: Log lines of the training.
        record: What `run.yaml` says of the run: command, versions, device, data, model, overlap.
        arguments: Arguments that are not at their defaults.
    """

    def __init__(self, trainer: AlbefTrainer, thumbnail: Thumbnail | None = None) -> None:
        """Start a report; without a `thumbnail` (see `ThumbnailCache`) it has no images."""
        self.trainer, self.thumbnail = trainer, thumbnail
        self.metrics: dict[str, dict[str, Any]] = {}
        self.evaluations: dict[str, EvaluationRecord] = {}
        self.history: list[dict[str, Any]] = []
        self.record: Mapping[str, Any] = {}
        self.arguments: Mapping[str, Any] = {}

    def describe(self, record: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
        """Say what the run is; see the attributes."""
        self.record, self.arguments = record, arguments

    def add(self, split: str, metrics: dict[str, Any], evaluation: EvaluationRecord | None = None) -> None:
        """Add the metrics of a split, train, eval or test; they may grow until the report is written."""
        self.metrics[split] = metrics
        if evaluation is not None:
            self.evaluations[split] = evaluation
        if split == "train":
            self.history = list(self.trainer.state.log_history)

    def result(self) -> result_table.Table:
        """Return the table of what was measured, in words."""
        return result_table.result_table(*self._numbers(), self.trainer.args.METRICS)

    def _numbers(self) -> tuple[result_table.Metrics, dict[str, dict[str, Any]]]:
        splits = result_table.test_first(self.evaluations)
        details = {split: getattr(self.evaluations[split].result, "details", {}) for split in splits}
        return result_table.without_split(self.metrics), details

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
        args, (metrics, details) = self.trainer.args, self._numbers()
        evaluation = next(reversed(self.evaluations.values()), None)
        history = self.history or _saved_history(args.output_folder)
        best_step = self.trainer.state.best_global_step if "train" in self.metrics else None
        deciding = (args.metric_for_best_model or "").removeprefix("eval_")
        split = None if evaluation is None else evaluation.split
        return TEMPLATES.get_template("page.html.j2").render(
            title=f"Report of {args.output_folder.absolute().name}",
            facts=self._facts(),
            warnings=self.record.get("overlap", []),
            verdicts=result_table.verdicts(metrics.get(split, {}), details.get(split, {})) if split else [],
            result=self.result(),
            details=result_table.details_table(details),
            times=result_table.times_table(metrics, details),
            split=result_table.split_title(split or ""),
            splits={name: result_table.split_title(name) for name in (*metrics, *self.record.get("data", ()))},
            curves=curves(history),
            is_own_history=bool(self.history),
            evaluations=evaluations_table(history, self._measured(), deciding, best_step),
            deciding_curve=deciding_curve(history, deciding),
            progress=lambda gallery: tqdm(gallery.examples, f"Report: {gallery.title}", leave=False, disable=None),
            record=self.record,
            arguments=[(name, _one_value(value)) for name, value in (self.arguments or args.recipe()).items()],
            **self._shown(evaluation),
        )

    def _shown(self, evaluation: EvaluationRecord | None) -> dict[str, Any]:
        """Return what the page shows of the last evaluation."""
        shown: dict[str, Any] = dict.fromkeys(("directions", "captions", "types", "labels", "galleries"), ())
        shown |= {"confusion": None, "images": None}
        result: Any = None if evaluation is None else evaluation.result
        known_results = RetrievalResult | VQAResult | ClassificationResult | GroundingResult
        if evaluation is None or not isinstance(result, known_results):
            return shown
        if isinstance(result, RetrievalResult):
            shown |= {"directions": directions(result), "captions": result.captions}
        elif isinstance(result, ClassificationResult):
            known = ((name, facts["f1"]) for name, facts in result.by_label.items() if facts["f1"] is not None)
            shown |= {"labels": sorted(known, key=itemgetter(1)), "confusion": confusion(result, evaluation.dataset)}
        elif isinstance(result, VQAResult):
            types = sorted(result.by_question_type.items(), key=itemgetter(1))  # the worst first
            shown |= {"types": types, "confusion": confusion(result, evaluation.dataset)}
        if (count := self.trainer.args.report_items) and self.thumbnail is not None:
            galleries = example_galleries(queries_of(result, evaluation.dataset), count)
            shown |= {
                "galleries": galleries,
                "images": ThumbnailCache(shown_rows(result, evaluation.dataset), self.thumbnail),
            }
        return shown

    def _measured(self) -> list[str]:
        """Return the metrics of evaluations during training, without the split."""
        names, rows = self.trainer.args.METRICS, self.trainer.eval_dataset
        return [f"{one}_{name}" for one in rows for name in names] if isinstance(rows, Mapping) else list(names)

    def _facts(self) -> list[str]:
        trainer = self.trainer
        facts = [type(trainer.model).__name__]
        start = trainer.base_model if isinstance(trainer.base_model, list) else filter(None, [trainer.base_model])
        facts += [f"from {' and '.join(start)}"] if trainer.base_model else []
        facts += [f"on {', '.join(trainer.dataset_names)}"] if trainer.dataset_names else []
        facts += [f"{trainer.state.global_step} steps"] if "train" in self.metrics else []
        return [*facts, datetime.now().strftime("%d %b %Y %H:%M").replace(" ", "\N{NO-BREAK SPACE}")]


def evaluations_table(
    history: Sequence[dict[str, Any]], metrics: Sequence[str], deciding: str, best_step: int | None
) -> Table | None:
    """Tabulate the evaluations during training, a row each; None where there was none.

    The metric that chooses the best checkpoint comes first, for a phone shows few columns at a time. The best step is
    marked; it is None where this run did not train.
    """
    names = [name for name in metrics if any(f"eval_{name}" in line for line in history)]
    names.sort(key=lambda name: name != deciding)
    rows, lines = [], dict[Any, dict[str, Any]]()
    for line in history:
        if any(f"eval_{name}" in line for name in names):
            lines.setdefault(line.get("step"), {}).update(line)  # one of several data sets has a line each
    for line in lines.values():
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


def _one_value(value: Any) -> Any:
    return str(value) if isinstance(value, Mapping | list) else value


def _saved_history(folder: Path) -> list[dict[str, Any]]:
    """Return the log of the training that left a folder, where this run did not train."""
    try:
        history = json.loads((folder / TRAINER_STATE_NAME).read_text(encoding="utf-8"))["log_history"]
    except (OSError, ValueError, KeyError):
        return []
    return [line for line in history if isinstance(line, dict) and math.isfinite(line.get("step", math.nan))]
