"""Box supervision: a loss that asks the map of a text to lie in the text's box, by the gradient of the gradient.

Attention mask consistency (Yang et al., 2023, arXiv 2206.15462, section 3): the map, stretched to 0..1, is to be larger
inside the box than outside, in the mean and at its largest, each by a margin. Shapes: B pairs.
"""

from __future__ import annotations

import torch

MEAN_MARGIN, MAX_MARGIN = 0.1, 0.5  # as published
TINY = 1e-7


def box_masks(boxes: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Return how much of each patch a box covers, by what it covers most of any patch: 0..1, at least one patch is 1.

    Args:
        boxes: (B, 4) left, top, right, bottom in shares of the image.
        rows: Patches of a column.
        columns: Patches of a row.

    Returns:
        (B, rows, columns).
    """

    def along(low: torch.Tensor, high: torch.Tensor, count: int) -> torch.Tensor:
        edges = torch.arange(count + 1, device=boxes.device)
        inner = torch.minimum(high[:, None] * count, edges[1:]) - torch.maximum(low[:, None] * count, edges[:-1])
        return inner.clamp(min=0, max=1)

    left, top, right, bottom = boxes.unbind(dim=1)
    covered = along(top, bottom, rows)[:, :, None] * along(left, right, columns)[:, None, :]
    return covered / covered.amax(dim=(1, 2), keepdim=True).clamp(min=TINY)


def box_attention_loss(maps: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Return the loss (scalar) of maps that are to lie in boxes; it is 0 where all margins are kept.

    Args:
        maps: (B, rows, columns).
        inside: (B, rows, columns), how much of each patch belongs to the box, 0..1; see `box_masks`.
    """
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    heat, outside = (maps - low) / (high - low + TINY), 1 - inside
    mean_inside = (heat * inside).sum(dim=(1, 2)) / inside.sum(dim=(1, 2)).clamp(min=TINY)
    mean_outside = (heat * outside).sum(dim=(1, 2)) / outside.sum(dim=(1, 2)).clamp(min=TINY)
    max_inside, max_outside = (heat * inside).amax(dim=(1, 2)), (heat * outside).amax(dim=(1, 2))
    by_mean = (mean_outside - mean_inside + MEAN_MARGIN).clamp(min=0)
    by_max = (max_outside - max_inside + MAX_MARGIN).clamp(min=0)
    return (by_mean + by_max).mean()
