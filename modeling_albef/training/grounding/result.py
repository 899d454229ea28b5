"""The outcome of a grounding, as a plain record."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..report.examples import Queries
from ..rows import as_rows, image_names
from .boxes import Box, Point
from .pictures import Pictures, references


@dataclass
class GroundingResult:
    """Outcome of a grounding (N texts).

    Attributes:
        metrics: See `grounding_metrics`; empty where not all texts have a box.
        texts: The texts.
        maps: (N, rows, columns), see `gradcam`.
        points: x, y in pixels where each map is largest; None where it is empty.
        boxes: What each text was given: x, y, width, height in pixels; None where its map is empty.
        references: The right boxes; None where nobody knows.
        scores: (N, 3), see `grounding_scores`; None where not all texts have a box.
        details: Intervals and chance, for the file of results.
    """

    metrics: dict[str, float]
    texts: list[str]
    maps: torch.Tensor
    points: list[Point | None]
    boxes: list[Box | None]
    references: Sequence[Box | None]
    scores: torch.Tensor | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def queries(self, dataset: Any) -> list[Queries]:
        """Return the texts for a report."""
        return [references(self, as_rows(dataset))]

    def pictures(self, dataset: Any) -> Pictures:
        """Return the rows of a data set with their maps and boxes drawn over the images."""
        return Pictures(self, dataset)

    def write(self, dataset: Any, folder: Path) -> dict[str, Path]:
        """Write `predictions.json`, a row a text; return the file by what it holds."""
        rows = as_rows(dataset)
        names = image_names(rows, range(len(self.texts)))
        ids = list(rows["ref_id"]) if "ref_id" in rows.column_names else range(len(rows))
        written = []
        for row, (name, number, text) in enumerate(zip(names, ids, self.texts, strict=True)):
            one = {"ref_id": number, "image": name, "text": text, "box": self.boxes[row], "point": self.points[row]}
            if self.scores is not None:
                pointing, hit, iou = self.scores[row].tolist()
                one |= {"reference": self.references[row], "iou": iou / 100, "correct": hit > 0, "points": pointing > 0}
            written.append(one)
        path = folder / "predictions.json"
        path.write_text(json.dumps(written, indent=1), encoding="utf-8")
        return {"predictions": path}
