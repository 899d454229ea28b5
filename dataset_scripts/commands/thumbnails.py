"""Small images for pages and logs."""

from __future__ import annotations

import io
from typing import Any

from processing import open_image

SMALL = 128  # pixels of the longer side up to which JPEG would be seen


def thumbnail(source: Any, side: int) -> bytes:
    """Make a small image.

    Args:
        source: See `processing.open_image`.
        side: Pixels of the longer side, at most.

    Returns:
        A JPEG file, or a PNG file of an image that is small itself.

    Raises:
        UnreadableImageError: There is no image to read.
    """
    image = open_image(source)
    image.thumbnail((side, side))
    data = io.BytesIO()
    image.save(data, "jpeg" if max(image.size) > SMALL else "png", quality=85)
    return data.getvalue()
