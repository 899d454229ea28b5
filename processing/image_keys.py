"""Which rows show the same image: keys that tell images apart, and numbers of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Hashable, Mapping
from numbers import Integral
from typing import Any

import numpy as np
from PIL import Image

from .image_processing_albef import ProcessingError

UNKNOWN_IMAGE = -100  # number of the images in the trainers' queues that nothing is known of
_HIGHEST = 2**63


def image_path(image: Any) -> str | None:
    """Return the path of an image source of `open_image`, or None where it has none."""
    if isinstance(image, Mapping):
        image = image.get("path")
    elif isinstance(image, Image.Image):
        image = getattr(image, "filename", None)
    return os.fspath(image) or None if isinstance(image, (str, os.PathLike)) else None


def image_key(row: Mapping[str, Any]) -> Hashable:
    """Return what tells the image of a row from others: its `image_id`, else its path, else its content.

    An `image_id` may be anything hashable; None and NaN count as missing. A path that comes with the file's bytes,
    which may be a name without a folder, counts together with them. The result is None where an image is of a type
    that `open_image` does not know.

    Raises:
        ProcessingError: The `image_id` is not hashable.
    """
    key = _plain(row.get("image_id"))
    if key is not None:
        try:
            hash(key)
        except TypeError as error:
            raise ProcessingError(
                f"image_id is {key!r:.60}, which is not hashable: give a number, a text, or a tuple of them."
            ) from error
        return key
    image = row.get("image")
    path = image_path(image) or row.get("image_name")  # the latter of an image that was opened before
    content = _content(image) if path is None or isinstance(image, Mapping) else None
    return None if path is None and content is None else ("image", path, content)


def image_number(key: Hashable) -> int:
    """Return the number of an image by its key: whole numbers stay as they are, others get 63 bits of a digest.

    It is the same in every process and run; `UNKNOWN_IMAGE` and numbers beyond 64 bits are replaced, too.
    """
    whole = _whole(key)
    if whole is not None and -_HIGHEST <= whole < _HIGHEST and whole != UNKNOWN_IMAGE:
        return whole
    return int.from_bytes(hashlib.blake2b(_words(key).encode(), digest_size=8).digest()) % _HIGHEST


def _plain(value: Any) -> Any:
    """Return a value as Python's own type, None for NaN."""
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):  # of numpy and torch
        value = value.item()
    return None if isinstance(value, float) and value != value else value


def _words(key: Any) -> str:
    """Return the same words for equal keys, whatever the order in which a set lists its members."""
    if isinstance(key, tuple):
        return f"({','.join(map(_words, key))})"
    if isinstance(key, frozenset):
        return f"{{{','.join(sorted(map(_words, key)))}}}"
    whole = _whole(key)
    return repr(key if whole is None else whole)


def _whole(key: Any) -> int | None:
    """Return a whole number, which may come as a float or a bool, as an int; None for all else."""
    is_whole = isinstance(key, Integral) or (isinstance(key, float) and key.is_integer())
    return int(key) if is_whole else None


def _content(image: Any) -> str | None:
    """Return a digest of what an image source holds; None where it is a path alone, or not known."""
    if isinstance(image, Mapping):
        data = image.get("bytes")
    elif isinstance(image, Image.Image):
        data = b"%a%a" % (image.mode, image.size) + image.tobytes()
    elif isinstance(image, np.ndarray) or (hasattr(image, "numpy") and hasattr(image, "shape")):
        array = np.ascontiguousarray(np.asarray(image))
        data = b"%a%a" % (str(array.dtype), array.shape) + array.tobytes()
    else:
        data = None
    return None if data is None else hashlib.blake2b(data, digest_size=16).hexdigest()
