"""The order in which training reads the rows of a data set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler


class ImageGroupSampler(Sampler[int]):
    """Images in random order, all rows of an image one after the other: a batch has few images and many questions.

    The order depends on seed and epoch alone, so it is the same on every process and after a resume.
    """

    def __init__(self, image_ids: Sequence[Any], seed: int = 0) -> None:
        """Make a sampler of rows whose images have these ids."""
        self.seed, self.epoch = seed, 0
        rows: dict[Any, list[int]] = {}
        for row, image in enumerate(image_ids):
            rows.setdefault(image, []).append(row)
        self.groups, self.num_rows = list(rows.values()), len(image_ids)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which draws another order."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_rows

    def __iter__(self) -> Iterator[int]:
        order = torch.randperm(len(self.groups), generator=torch.Generator().manual_seed(self.seed + self.epoch))
        for group in order.tolist():
            yield from self.groups[group]
