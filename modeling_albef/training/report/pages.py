"""What the templates of the report use: small images, and how numbers and verdicts read. Jinja2 escapes all texts."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..rows import IMAGES

QUERY_SIDE, RESULT_SIDE = 320, 160  # pixels of a thumbnail's longer side
LONGEST = 400  # characters of a text that are shown
Thumbnail = Callable[[Any, int], bytes]  # image of a row, and pixels of the longer side -> a PNG or JPEG file


class ThumbnailCache:
    """Small images of a data set's rows for a page, each read once."""

    def __init__(self, dataset: Any, thumbnail: Thumbnail) -> None:
        """Make a cache for rows of images, best not decoded: a decoded image has no file name."""
        self.dataset, self.thumbnail = dataset, thumbnail
        self.source = cache(self._source)

    def columns(self, row: int) -> list[str]:
        """Return the columns of a row that hold its images, one or two."""
        return image_columns_of(self.dataset, row)

    def name(self, row: int, column: str = "image") -> str:
        """Return the name of the image's file without its folder, or the number of its row."""
        words = f"row {row}" if column == "image" else f"{column} of row {row}"
        try:
            source = self.dataset[row][column]
        except (OSError, ValueError):
            return words
        path = source.get("path") if isinstance(source, Mapping) else None
        return os.path.basename(path) if path else words

    def _source(self, row: int, side: int, column: str = "image") -> str | None:
        """Return a data URI of an image, `side` pixels long, or None where it cannot be read any more."""
        try:
            data = self.thumbnail(self.dataset[row][column], side)
        except (OSError, ValueError):
            return None
        kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
        return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def image_columns_of(dataset: Any, row: int) -> list[str]:
    """Return the columns of a row that hold its images; of a row that cannot be read the first alone."""
    try:
        found = dataset[row]
    except (OSError, ValueError):
        return list(IMAGES[:1])
    return [name for name in IMAGES if name in found]


def rounded(value: float) -> str:
    """Return a number rounded for reading."""
    small_or_large = isinstance(value, float) and value != 0 and not 1e-3 <= abs(value) < 1e7
    return (f"{value:.4g}" if small_or_large else f"{round(value, 4)}").removesuffix(".0")


def verdict(credit: float | None) -> tuple[str, str]:
    """Return the CSS class of a credit, and its words."""
    if credit is None:
        return "unknown", ""
    if credit >= 1:
        return "right", "✓ right"
    return ("wrong", "✗ wrong") if credit <= 0 else ("partly", f"◐ partly right ({100 * credit:.0f} %)")


TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
TEMPLATES.filters |= {"rounded": rounded, "verdict": verdict}
TEMPLATES.globals |= {"query_side": QUERY_SIDE, "result_side": RESULT_SIDE, "longest": LONGEST}
