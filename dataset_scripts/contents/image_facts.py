"""What is known of an image without looking at it for long: its bytes' hash, its size, a tiny thumbnail."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image

from .near_duplicates import SIDE

DECODED_SIDE = 48  # pixels that the shorter side of a JPEG is decoded to at least, which skips most of the work
MAX_CHROMA = 8  # levels between the channels of a pixel up to which it is grey
NUM_THREADS = 4
IMAGES_AT_ONCE = 128
FACTS = np.dtype(
    [
        ("is_read", np.bool_),  # False: the image cannot be opened, and nothing else is known of it
        ("is_grey", np.bool_),
        ("width", np.int32),  # pixels, as stored
        ("height", np.int32),
        ("digest", np.uint64, 2),  # half of the SHA-256 of the file's bytes
        ("thumbnail", np.uint8, (SIDE, SIDE, 3)),  # RGB
    ]
)


def image_facts(images: Iterable[dict[str, Any] | None]) -> Iterator[np.ndarray]:
    """Open images, as `datasets.Image(decode=False)` gives them, and yield what is known of each, a `FACTS`, in order.

    A JPEG is decoded to an eighth of its size where that leaves enough for a thumbnail.
    """
    remaining = iter(images)
    with warnings.catch_warnings(), ThreadPoolExecutor(NUM_THREADS) as pool:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        while batch := list(islice(remaining, IMAGES_AT_ONCE)):
            yield from pool.map(_facts, batch)


def _facts(image: dict[str, Any] | None) -> np.ndarray:
    from processing.image_processing_albef import open_image  # brings in transformers: not for reading text

    facts, sizes = np.zeros((), FACTS), []

    def least_size(width: int, height: int) -> tuple[int, int]:
        sizes.append((width, height))
        return DECODED_SIDE, DECODED_SIDE

    try:
        data = _data(image)
        small = open_image({"bytes": data, "path": None}, least_size)
    except (OSError, ValueError):  # of files, and of images: the check of images says what is wrong
        return facts
    facts["is_read"], (facts["width"], facts["height"]) = True, sizes[0]
    facts["digest"] = np.frombuffer(hashlib.sha256(data).digest()[:16], np.uint64)
    facts["thumbnail"] = np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BOX))
    small.thumbnail((DECODED_SIDE, DECODED_SIDE), Image.Resampling.BOX)
    pixels = np.asarray(small)
    facts["is_grey"] = int((pixels.max(2) - pixels.min(2)).max()) <= MAX_CHROMA
    return facts


def _data(image: dict[str, Any] | None) -> bytes:
    if image is None or (image["bytes"] is None and not image["path"]):
        raise ValueError("holds no image")
    if image["bytes"] is not None:
        return image["bytes"]
    with open(image["path"], "rb") as stream:
        return stream.read()
