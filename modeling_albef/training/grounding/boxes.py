"""From heat maps to boxes, and how right they are: pure functions of maps and boxes.

Boxes are x, y, width, height in pixels, x to the right and y downwards from the upper left corner of the image. The
rules of `box_scores`, `best_box` and `box_iou` are those of salesforce/ALBEF `dataset/utils.py`. Shapes: K boxes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

AREA_EXPONENT = 0.5  # of the published ranking
HIT_IOU = 0.5
BOX_THRESHOLD = 0.5  # share of a map's largest value that belongs to the box which is drawn round it
BOX_SIDE = 96  # cells of the longer side of the map that a box is drawn round, at most
Box = Sequence[float]
Point = tuple[float, float]


def resize_map(heat: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resize a map (rows, columns) to (height, width) as published: bicubic, corners not aligned; float32."""
    enlarged = torch.nn.functional.interpolate(
        heat[None, None].float(), size=(height, width), mode="bicubic", align_corners=False
    )
    return enlarged[0, 0]


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


def peak(heat: torch.Tensor) -> Point | None:
    """Return x and y of the center of a map's largest pixel (height, width), the first of equals; None if empty."""
    if not heat.max() > 0:
        return None
    row, column = divmod(int(heat.argmax()), heat.shape[1])
    return column + 0.5, row + 0.5


def points_at(point: Point | None, box: Box) -> bool:
    """Return whether a point lies in a box: the pointing game (Zhang et al., 2016, arXiv 1608.00507), no tolerance."""
    if point is None:
        return False
    (x, y), (left, top, width, height) = point, box
    return left <= x <= left + width and top <= y <= top + height


def box_round_peak(
    heat: torch.Tensor, height: int, width: int, threshold: float = BOX_THRESHOLD
) -> tuple[float, float, float, float] | None:
    """Return the box round a map's largest value, for images of which no boxes to choose from are known.

    It is the least box round the connected part of the map that holds the largest value and nowhere falls below a share
    of it (as for class activation maps: Zhou et al., 2016, arXiv 1512.04150); None where the map is empty.

    Args:
        heat: (rows, columns).
        height: Of the image, pixels.
        width: Of the image, pixels.
        threshold: The share, 0..1.
    """
    scale = min(1.0, BOX_SIDE / max(height, width))
    grid = resize_map(heat, max(1, round(height * scale)), max(1, round(width * scale)))
    if not grid.max() > 0:
        return None
    above = grid >= threshold * grid.max()
    part = torch.zeros_like(above)
    part.view(-1)[grid.argmax()] = True
    while not torch.equal(part, grown := _grow(part, above)):
        part = grown
    rows, columns = part.any(dim=1).nonzero()[:, 0], part.any(dim=0).nonzero()[:, 0]
    down, across = height / grid.shape[0], width / grid.shape[1]  # pixels of a cell
    top, left = int(rows[0]), int(columns[0])
    return left * across, top * down, (int(columns[-1]) + 1 - left) * across, (int(rows[-1]) + 1 - top) * down


def _grow(part: torch.Tensor, above: torch.Tensor) -> torch.Tensor:
    """Add to a part of a mask, both (rows, columns), all cells that rows and then columns of the mask join to it."""
    for axis in (1, 0):
        runs = (~above).cumsum(axis) + (above.shape[axis] + 1) * torch.arange(above.shape[1 - axis]).unsqueeze(axis)
        part = above & torch.isin(runs, runs[part])
    return part
