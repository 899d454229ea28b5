"""Evaluation of grounding: a heat map for each text, the box that it chooses, and where it is largest.

Shapes: N texts, B of a batch, L text tokens.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ...configuration_albef import AlbefError
from ...index_albef import check_finite
from ..evaluation.base import Evaluator
from ..rows import as_rows, column, image_names, image_numbers, opened_images, optional_column
from .boxes import Box, Point, best_box, box_scores, grounding_details, grounding_metrics, grounding_scores


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
    points: list[Point | None] = field(default_factory=list)
    boxes: list[Box | None] = field(default_factory=list)
    references: Sequence[Box | None] = ()
    scores: torch.Tensor | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def write(self, dataset: Any, folder: Path) -> dict[str, Path]:
        """Write `predictions.json`, a row a text; return the file by what it holds."""
        rows = as_rows(dataset)
        names = image_names(rows, range(len(self.texts)))
        ids = optional_column(rows, "ref_id")
        written = []
        for row, (name, number, text) in enumerate(zip(names, ids, self.texts, strict=True)):
            number = row if number is None else number
            one = {"ref_id": number, "image": name, "text": text, "box": self.boxes[row], "point": self.points[row]}
            if self.scores is not None:
                pointing, hit, iou = self.scores[row].tolist()
                one |= {"reference": self.references[row], "iou": iou / 100, "correct": hit > 0, "points": pointing > 0}
            written.append(one)
        path = folder / "predictions.json"
        path.write_text(json.dumps(written, indent=1), encoding="utf-8")
        return {"predictions": path}


@dataclass(eq=False)
class GroundingEvaluator(Evaluator):
    """Grounds texts in their images with an `AlbefForImageTextRetrieval`, on one process or many.

    Attributes:
        gradcam_mode: "itm" takes maps of the match, the mean over the tokens; "itc" those of the similarity.
        gradcam_layer: Text layer of "itm", layer of the vision tower of "itc"; None: as published, or its equal.
        batch_size: Texts that are grounded together.
        max_words: Words of a text that are read; published: 30.
    """

    _: KW_ONLY
    gradcam_mode: str = "itm"
    gradcam_layer: int | None = None
    batch_size: int = 32
    max_words: int = 30

    def __post_init__(self) -> None:
        from ...explain.text_maps import check_mode

        check_mode(self.model.config, self.gradcam_mode, self.gradcam_layer)

    def __call__(self, dataset: Any) -> GroundingResult:
        """Evaluate.

        Args:
            dataset: Rows with `image`, `text`, and perhaps `box`, the right one (x, y, width, height in pixels of the
                upright image), `boxes`, from which one is chosen, by default one is drawn round the map, `subset`,
                whose metrics are told apart, and `image_id`.

        Returns:
            Maps, points and boxes, the same on every process; metrics where all rows have a box.

        Raises:
            AlbefError: There is no row.
        """
        from ...explain.text_maps import box_round_peak, peak, resize_map

        rows = as_rows(dataset)
        if not len(rows):
            raise AlbefError("The data set has no row: there is nothing to ground.")
        references, candidates, subsets = (optional_column(rows, name) for name in ("box", "boxes", "subset"))
        maps, sizes = self.maps(rows)
        result = GroundingResult({}, list(column(rows, "text")), maps, references=references)
        for heat, size, boxes in zip(maps, sizes, candidates, strict=True):
            resized = resize_map(heat, *size)
            result.points.append(peak(resized))
            if boxes:
                best = best_box(box_scores(resized, boxes))
                result.boxes.append(None if best is None else list(boxes[best]))
            else:
                result.boxes.append(box_round_peak(heat, *size))
        if all(reference is not None for reference in references):
            result.scores = grounding_scores(result.points, result.boxes, references)
            result.metrics = grounding_metrics(result.scores, subsets)
            result.details = grounding_details(result.scores, image_numbers(rows), sizes, references, candidates)
        result.details |= {"gradcam_mode": self.gradcam_mode}
        return result

    def maps(self, dataset: Any) -> tuple[torch.Tensor, list[tuple[int, int]]]:
        """Return the maps (N, rows, columns) of a data set's texts, and height and width of their images."""
        from ...explain.text_maps import text_maps

        rows, vision_config = as_rows(dataset), self.model.config.vision_config
        batches = [batch.tolist() for batch in torch.arange(len(rows)).split(self.batch_size)]
        grid = vision_config.image_size // vision_config.patch_size
        maps, sizes = torch.zeros(len(rows), grid, grid), torch.zeros(len(rows), 2, dtype=torch.int64)
        collate = partial(_collate, self.processor, self.max_words)
        with self.inference():
            for batch, inputs in self.own_batches(rows, batches, collate, "Grounding"):
                sizes[batch] = inputs.pop("sizes").cpu()
                maps[batch] = text_maps(self.model, inputs, self.gradcam_mode, self.gradcam_layer).cpu()
        maps, sizes = self.sum_over_processes(maps), self.sum_over_processes(sizes)
        check_finite(maps, "maps", "text {}".format)
        return maps, [(height, width) for height, width in sizes.tolist()]


def _collate(processor: Any, max_words: int, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Return the model's inputs for some rows, and `sizes` (B, 2): height and width of their images."""
    images, texts = opened_images(rows), [row["text"] for row in rows]
    inputs = processor(images=images, text=texts, max_words=max_words, padding=True, return_tensors="pt")
    return {**inputs, "sizes": torch.tensor([(image.height, image.width) for image in images])}
