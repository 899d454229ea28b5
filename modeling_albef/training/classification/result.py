"""Outcome of a classification, and its file of predictions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..rows import as_rows, image_names


@dataclass
class ClassificationResult:
    """Outcome of an evaluation of classification (N rows, C labels).

    Attributes:
        metrics: See `classification_metrics`; empty where not all rows have a label.
        predictions: Of each row the name of its label, the list of its labels, or a number (a list of several).
        scores: (N, C) probabilities of the labels; of a regression the numbers.
        names: Names of the C labels.
        truths: The labels of the data, in the form of the predictions; None where not all rows have one.
        by_label: Name -> its F1 and AUROC, per cent, and how many rows have it.
        image_columns: Columns of the images of a row.
        details: What stands beside the metrics in the file of results: `accuracy_interval`.
    """

    metrics: dict[str, float]
    predictions: list[Any]
    scores: torch.Tensor
    names: list[str]
    truths: list[Any] | None = None
    by_label: dict[str, dict[str, float | int | None]] = field(default_factory=dict)
    image_columns: Sequence[str] = ("image",)
    details: dict[str, Any] = field(default_factory=dict)

    def credit(self, row: int) -> float | None:
        """Return how right a row's prediction is, 0..1; None where nobody knows, or it is a number."""
        if self.truths is None or not isinstance(self.predictions[row], str | list):
            return None
        return float(self.predictions[row] == self.truths[row])

    def sureness(self, row: int) -> float:
        """Return the probability of a row's prediction; of several labels that of the least sure one."""
        scores = self.scores[row]
        if isinstance(self.predictions[row], str):
            return float(scores.max())
        return float(torch.maximum(scores, 1 - scores).min())

    def write(self, dataset: Any, folder: Path) -> dict[str, Path]:
        """Write `predictions.jsonl`, a line a row, and `labels.json`; return both by what they hold."""
        rows = as_rows(dataset)
        path, texts = folder / "predictions.jsonl", rows["text"]
        images = zip(*(image_names(rows, range(len(rows)), name) for name in self.image_columns), strict=True)
        with path.open("w", encoding="utf-8") as file:
            for number, (names, text, label) in enumerate(zip(images, texts, self.predictions, strict=True)):
                scores = dict(zip(self.names, self.scores[number].tolist(), strict=True))
                line = {"row": number, **dict(zip(self.image_columns, names, strict=True)), "text": text}
                line |= {"prediction": label, "scores": scores}
                if self.truths is not None:
                    line["label"] = self.truths[number]
                file.write(json.dumps(line) + "\n")
        written = {"predictions": path}
        if self.by_label:
            written["metrics by label"] = folder / "labels.json"
            written["metrics by label"].write_text(json.dumps(self.by_label, indent=1), encoding="utf-8")
        return written
