"""Which box a map chooses, and how right that is: pure functions of maps and boxes.

Boxes are x, y, width, height in pixels, x to the right and y downwards from the upper left corner of the image. The
rules of `box_scores`, `best_box` and `box_iou` are those of salesforce/ALBEF `dataset/utils.py`. Shapes: K boxes, N
texts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..evaluation.bootstrap import bootstrap_means, interval

AREA_EXPONENT = 0.5  # of the published ranking
HIT_IOU = 0.5
GROUNDING_METRICS = ("pointing_accuracy", "box_accuracy", "box_iou")
Box = Sequence[float]
Point = tuple[float, float]


def box_scores(heat: torch.Tensor, boxes: Sequence[Box], area_exponent: float = AREA_EXPONENT) -> torch.Tensor:
    """Return the score (K,) of each box: the sum of the map in it by a power of its area.

    Args:
        heat: (height, width), the map at the size of the image; see `resize_map`.
        boxes: K of them. The ends are cut to whole pixels, and the sum ends where the image ends; the area is that of
            the whole box.
        area_exponent: 0 prefers large boxes, 1 takes means.

    A box without an area has the score 0.
    """
    scores = heat.new_zeros(len(boxes))
    for number, (x, y, width, height) in enumerate(boxes):
        # Differs from ALBEF, where a box that begins left of the image or above it is cut at the wrong end.
        top, left = max(int(y), 0), max(int(x), 0)
        part = heat[top : max(int(y + height), 0), left : max(int(x + width), 0)]
        if width > 0 and height > 0:
            scores[number] = part.sum() / (width * height) ** area_exponent
    return scores


def best_box(scores: torch.Tensor) -> int | None:
    """Return the index of the highest score (K,), the first of equals; None where no score is above 0."""
    # Differs from ALBEF, which takes the box of the text before where no score is above 0.
    if not len(scores) or not scores.max() > 0:
        return None
    return int((scores == scores.max()).int().argmax())


def box_iou(first: Box, second: Box) -> float:
    """Return the intersection of two boxes by their union, 0..1.

    The last pixel of a box counts to the intersection, as published: boxes that share one row or column of pixels, and
    no more, do not intersect.
    """
    (x, y, width, height), (other_x, other_y, other_width, other_height) = first, second
    left, top = max(x, other_x), max(y, other_y)
    right, bottom = min(x + width, other_x + other_width) - 1, min(y + height, other_y + other_height) - 1
    shared = (right - left + 1) * (bottom - top + 1) if left < right and top < bottom else 0.0
    union = width * height + other_width * other_height - shared
    return shared / union if union > 0 else 0.0


def points_at(point: Point | None, box: Box) -> bool:
    """Return whether a point lies in a box: the pointing game (Zhang et al., 2016, arXiv 1608.00507), no tolerance."""
    if point is None:
        return False
    (x, y), (left, top, width, height) = point, box
    return left <= x <= left + width and top <= y <= top + height


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
    groups = {"": list(range(len(subsets)))}
    for subset in sorted({subset for subset in subsets if subset}):
        groups[f"_{subset}"] = [row for row, one in enumerate(subsets) if one == subset]
    means = {suffix: scores[rows].mean(dim=0).tolist() for suffix, rows in groups.items()}
    return {f"{name}{suffix}": means[suffix][n] for suffix in means for n, name in enumerate(GROUNDING_METRICS)}


def grounding_details(
    scores: torch.Tensor,
    images: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    references: Sequence[Box],
    candidates: Sequence[Sequence[Box] | None],
) -> dict[str, float | list[float]]:
    """Return intervals of the metrics, and what chance gives.

    Args:
        scores: (N, 3), see `grounding_scores`.
        images: A number for the image of each text; texts of an image are drawn together.
        sizes: Height and width of each text's image, pixels.
        references: The right boxes.
        candidates: The boxes that each text's was chosen from; None where it was drawn round the map.

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
    choices = [boxes for boxes in candidates if boxes]
    if len(choices) == len(candidates):
        right = [
            sum(box_iou(box, reference) >= HIT_IOU for box in boxes) / len(boxes)
            for boxes, reference in zip(choices, references, strict=True)
        ]
        details["chance_box_accuracy"] = 100 * sum(right) / len(right)
    return details
