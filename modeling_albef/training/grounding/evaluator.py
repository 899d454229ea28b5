"""Evaluation of grounding: a heat map for each text, the box that it chooses, and where it is largest.

Shapes: N texts, B of a batch, L text tokens.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any

import torch

from ...configuration_albef import AlbefError
from ...index_albef import check_finite
from ..evaluation.base import Evaluator, progress
from ..rows import as_rows, column, image_keys, opened_images
from .boxes import Box, best_box, box_round_peak, box_scores, peak, resize_map
from .metrics import MODES, grounding_details, grounding_metrics, grounding_scores
from .result import GroundingResult


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
        if self.gradcam_mode not in MODES:
            raise AlbefError(f"gradcam_mode is {self.gradcam_mode!r}, but must be {' or '.join(MODES)}.")
        check_layer(self.model.config, self.gradcam_mode, self.gradcam_layer)

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
        rows = as_rows(dataset)
        if not len(rows):
            raise AlbefError("The data set has no row: there is nothing to ground.")
        texts = list(column(rows, "text"))
        given = {name: self._optional(rows, name) for name in ("box", "boxes", "subset")}
        maps, sizes = self.maps(rows)
        chosen, points = [], []
        for heat, size, boxes in zip(maps, sizes, given["boxes"], strict=True):
            resized = resize_map(heat, *size)
            points.append(peak(resized))
            chosen.append(_choose(heat, resized, size, boxes))
        references = given["box"]
        result = GroundingResult({}, texts, maps, points, chosen, references)
        if all(reference is not None for reference in references):
            result.scores = grounding_scores(points, chosen, references)
            result.metrics = grounding_metrics(result.scores, given["subset"])
            numbers: dict[Any, int] = {}
            images = [numbers.setdefault(key, len(numbers)) for key in image_keys(rows, warn=False)]
            candidates = [boxes or () for boxes in given["boxes"]]
            result.details = grounding_details(result.scores, images, sizes, references, candidates)
        result.details |= {"gradcam_mode": self.gradcam_mode}
        return result

    @staticmethod
    def _optional(rows: Any, name: str) -> list[Any]:
        return list(rows[name]) if name in rows.column_names else [None] * len(rows)

    def maps(self, dataset: Any) -> tuple[torch.Tensor, list[tuple[int, int]]]:
        """Return the maps (N, rows, columns) of a data set's texts, and height and width of their images."""
        rows = as_rows(dataset)
        batches = list(torch.arange(len(rows)).split(self.batch_size))
        own = [batch.tolist() for batch in batches[self.accelerator.process_index :: self.accelerator.num_processes]]
        loader = self.load(rows, own, partial(_collate, self.processor, self.max_words))
        vision_config = self.model.config.vision_config
        grid = vision_config.image_size // vision_config.patch_size
        maps, sizes = torch.zeros(len(rows), grid, grid), torch.zeros(len(rows), 2, dtype=torch.int64)
        with self.inference():
            for batch, (inputs, image_sizes) in zip(own, progress(loader, "Grounding"), strict=True):
                inputs = {name: tensor.to(self.model.device) for name, tensor in inputs.items()}
                maps[batch], sizes[batch] = self._batch_maps(inputs).cpu(), image_sizes
        maps, sizes = self.sum_over_processes(maps), self.sum_over_processes(sizes)
        check_finite(maps, "maps", "text {}".format)
        return maps, [(height, width) for height, width in sizes.tolist()]

    def _batch_maps(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return maps (B, rows, columns)."""
        from ...explain.gradcam import gradcam, similarity_gradcam

        if self.gradcam_mode == "itc":
            return similarity_gradcam(self.model, **inputs, block=self.gradcam_layer)
        return gradcam(self.model, **inputs, layer=self.gradcam_layer, average_tokens=True)


def check_layer(config: Any, mode: str, layer: int | None) -> None:
    """Refuse a layer that a model does not have."""
    from ...explain.gradcam import checked_block, checked_layer

    if mode == "itc":
        checked_block(config.vision_config, layer)
    else:
        checked_layer(config.text_config, layer)


def _choose(heat: torch.Tensor, resized: torch.Tensor, size: tuple[int, int], boxes: Any) -> Box | None:
    """Return the best of some boxes or, where there are none, that round the map's peak."""
    if not boxes:
        return box_round_peak(heat, *size)
    best = best_box(box_scores(resized, boxes))
    return None if best is None else list(boxes[best])


def _collate(
    processor: Any, max_words: int, rows: list[dict[str, Any]]
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return the model's inputs for some rows, and height and width (B, 2) of their images."""
    images = opened_images(rows)
    options = {"max_words": max_words, "padding": True, "return_tensors": "pt"}
    inputs = processor(images=images, text=[row["text"] for row in rows], **options)
    return dict(inputs), torch.tensor([(image.height, image.width) for image in images])
