"""Small images for pages and logs."""

from __future__ import annotations

import io
from typing import Any

from processing import open_image

SMALL = 128  # pixels of the longer side up to which JPEG would be seen


def thumbnail(source: Any, side: int) -> bytes:
    """Return a JPEG file of an image, the longer side at most so many pixels, or a PNG file if it is small itself.

    For `source` see `processing.open_image`; raises UnreadableImageError.
    """
    image = open_image(source)
    image.thumbnail((side, side))
    data = io.BytesIO()
    image.save(data, "jpeg" if max(image.size) > SMALL else "png", quality=85)
    return data.getvalue()
