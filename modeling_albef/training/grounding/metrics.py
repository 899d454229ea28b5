"""Figures of a grounding: pure functions of what each text was given and of what it refers to. Shapes: N texts."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..evaluation.bootstrap import bootstrap_means, interval
from .boxes import HIT_IOU, Box, Point, box_iou, points_at

MODES = ("itm", "itc")  # whose maps are taken: of the match, or of the similarity
GROUNDING_METRICS = ("pointing_accuracy", "box_accuracy", "box_iou")


def grounding_scores(
    points: Sequence[Point | None], boxes: Sequence[Box | None], references: Sequence[Box]
) -> torch.Tensor:
    """Return (N, 3), per cent, in the order of `GROUNDING_METRICS`.

    Args:
        points: x, y where each map is largest; None counts as wrong.
        boxes: What each text was given; None counts as wrong.
        references: The right boxes.

    Returns:
        Whether the point lies in the right box, whether the intersection by the union is at least 0.5, and the
        intersection by the union itself.
    """
    rows = []
    for point, box, reference in zip(points, boxes, references, strict=True):
        iou = 0.0 if box is None else box_iou(box, reference)
        rows.append((float(points_at(point, reference)), float(iou >= HIT_IOU), iou))
    return 100 * torch.tensor(rows, dtype=torch.float64).view(-1, len(GROUNDING_METRICS))


def grounding_metrics(scores: torch.Tensor, subsets: Sequence[str | None]) -> dict[str, float]:
    """Return the means of scores (N, 3), and those of the texts of each subset, as `box_accuracy_testA`."""
    groups: dict[str, list[int]] = {}
    for row, subset in enumerate(subsets):
        if subset:
            groups.setdefault(subset, []).append(row)
    means = dict(zip(GROUNDING_METRICS, scores.mean(dim=0).tolist(), strict=True))
    for subset, rows in sorted(groups.items()):
        names = (f"{name}_{subset}" for name in GROUNDING_METRICS)
        means |= zip(names, scores[rows].mean(dim=0).tolist(), strict=True)
    return means


def grounding_details(
    scores: torch.Tensor,
    images: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    references: Sequence[Box],
    candidates: Sequence[Sequence[Box]],
) -> dict[str, float | list[float]]:
    """Return intervals of the metrics, and what chance gives.

    Args:
        scores: (N, 3), see `grounding_scores`.
        images: A number for the image of each text; texts of an image are drawn together.
        sizes: Height and width of each text's image, pixels.
        references: The right boxes.
        candidates: The boxes that each text was chosen from; empty where the box was drawn round the map.

    Returns:
        `NAME_interval` for each metric; `chance_pointing_accuracy`, that of a point drawn evenly over the image; and,
        where all texts have candidates, `chance_box_accuracy`, that of a candidate drawn evenly.
    """
    samples = bootstrap_means([(scores, torch.tensor(images))])[0]
    details: dict[str, float | list[float]] = {
        f"{name}_interval": interval(samples[:, column]) for column, name in enumerate(GROUNDING_METRICS)
    }
    shares = [box[2] * box[3] / (height * width) for box, (height, width) in zip(references, sizes, strict=True)]
    details["chance_pointing_accuracy"] = 100 * sum(shares) / len(shares)
    if all(candidates):
        right = [
            sum(box_iou(box, reference) >= HIT_IOU for box in boxes) / len(boxes)
            for boxes, reference in zip(candidates, references, strict=True)
        ]
        details["chance_box_accuracy"] = 100 * sum(right) / len(right)
    return details
