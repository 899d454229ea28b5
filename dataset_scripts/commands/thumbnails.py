"""Small images for pages and logs."""

from __future__ import annotations

import base64
import io
from typing import Any

from processing import open_image

SMALL = 128  # pixels of the longer side up to which JPEG would be seen


def thumbnail(source: Any, side: int) -> bytes:
    """Return a JPEG file of an image whose longer side has at most `side` pixels; a PNG file where that is small.

    For `source` see `processing.open_image`; raises UnreadableImageError.
    """
    image = open_image(source)
    image.thumbnail((side, side))
    data = io.BytesIO()
    image.save(data, "jpeg" if max(image.size) > SMALL else "png", quality=85)
    return data.getvalue()


def image_source(source: Any, side: int) -> str:
    """Return the `src` of an image of a page that needs no other file; for arguments and errors see `thumbnail`."""
    data = thumbnail(source, side)
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
