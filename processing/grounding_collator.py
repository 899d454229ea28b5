"""Batches of images with texts that refer to parts of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from .collators import RetrievalCollator, get_field
from .image_keys import image_path
from .image_processing_albef import ProcessingError, open_image


@dataclass
class GroundingCollator(RetrievalCollator):
    """Batches for grounding; B rows, the longest of them L tokens long. It has the attributes of its base, too.

    Attributes:
        with_boxes: Whether the batch has `boxes`.
    """

    with_boxes: bool = False

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Make a batch of rows.

        Args:
            rows: As those of `RetrievalCollator`, with `text` in place of `caption`, and perhaps a `box`.

        Returns:
            What `RetrievalCollator` does, and, with `with_boxes`, `boxes` (B, 4) float32: left, top, right and bottom
            in shares of the image's width and height; not a number where a row has no box.

        Raises:
            KeyError: A row lacks image or text.
            ProcessingError: A text is no string, or a box is not four numbers or comes with stored image states.
            UnreadableImageError: An image cannot be read.
        """
        rows = [{**row, "caption": get_field(row, "text")} for row in rows]
        if not self.with_boxes:
            return super().__call__(rows)
        for row in rows:
            if "image_hidden_states" in row:
                raise ProcessingError("A row has stored image states, in which its box is lost: leave boxes out.")
            if not isinstance(row["image"], Image.Image):
                row["image_name"] = row.get("image_name") or image_path(row["image"])
                row["image"] = open_image(row["image"])
        return {**super().__call__(rows), "boxes": torch.tensor([_shares(row) for row in rows])}


def _shares(row: Mapping[str, Any]) -> list[float]:
    """Return left, top, right and bottom of a row's box in shares of its image."""
    box, image = row.get("box"), row["image"]
    if box is None:
        return [float("nan")] * 4
    if len(box) != 4:
        raise ProcessingError(f"A row has the box {box!r:.80}, but x, y, width, height are expected.")
    x, y, width, height = box
    return [x / image.width, y / image.height, (x + width) / image.width, (y + height) / image.height]
