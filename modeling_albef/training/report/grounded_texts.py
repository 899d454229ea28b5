"""What the report shows of a grounding: images under their maps, with the box that was found and the right one."""

from __future__ import annotations

from typing import Any

from PIL import Image, ImageDraw

from ..grounding.boxes import Box
from ..grounding.evaluator import GroundingResult
from ..rows import image_keys, opened_images
from .examples import Candidate, Example, Queries

SIDE = 320  # pixels of the longer side
FOUND, RIGHT, POINT = (214, 39, 40), (44, 190, 44), (255, 255, 255)  # colors
NOTE = "Green: the right box. Red: the box that was found. White: where the map is largest."
INTROS = ("Least overlap of the box that was found with the right one first.", "Most overlap first.")


class Pictures:
    """Rows whose `image` is the data set's under its map, with boxes; drawn when it is asked for."""

    def __init__(self, result: GroundingResult, dataset: Any) -> None:
        self.result, self.dataset = result, dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Return a row with the `image` alone; raises OSError or ValueError where it cannot be read."""
        (image,) = opened_images([self.dataset[row]])
        return {"image": self.draw(image, row)}

    def draw(self, image: Image.Image, row: int) -> Image.Image:
        """Draw the map of a row over its image, and the boxes."""
        from ...explain.heat_maps import overlay

        result, scale = self.result, SIDE / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        drawn = overlay(image.resize(size, Image.Resampling.BICUBIC), result.maps[row].numpy())
        pen = ImageDraw.Draw(drawn)
        for box, color in ((result.references[row], RIGHT), (result.boxes[row], FOUND)):
            if box is not None:
                pen.rectangle(_corners(box, scale, size), outline=color, width=3)
        if (point := result.points[row]) is not None:
            x, y = (scale * value for value in point)
            pen.ellipse((x - 4, y - 4, x + 4, y + 4), outline=POINT, width=2)
        return drawn


def _corners(box: Box, scale: float, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return the ends of a scaled box within an image of a size."""
    x, y, width, height = (scale * value for value in box)
    right, bottom = min(max(x + width, 1), size[0] - 1), min(max(y + height, 1), size[1] - 1)
    return min(max(x, 0), right), min(max(y, 0), bottom), right, bottom


def grounded_texts(result: GroundingResult, dataset: Any) -> Queries:
    """Return the texts with their boxes, those with the least overlap first; where nobody knows, as they come."""
    scores = result.scores

    def make(row: int) -> Example:
        if scores is None:
            return Example(result.texts[row], row, (Candidate(text=_words(result.boxes[row])),), "")
        pointing, hit, iou = scores[row].tolist()
        found = Candidate(text=_words(result.boxes[row]), credit=hit / 100)
        note = f"overlap {iou:.0f} %; the map is {'' if pointing else 'not '}largest in the box"
        return Example(result.texts[row], row, (found,), note, (_words(result.references[row]),), "Right box")

    order = list(range(len(result.texts)))
    if scores is not None:
        order = scores[:, [2, 0]].sum(dim=1).argsort(stable=True).tolist()
    keys = image_keys(dataset, warn=False)
    return Queries("grounding", "Where texts were found", *INTROS, NOTE, order, keys, make)


def _words(box: Box | None) -> str:
    """Return a box in words."""
    if box is None:
        return "no box"
    x, y, width, height = (round(value) for value in box)
    return f"{width} x {height} pixels at {x}, {y}"
