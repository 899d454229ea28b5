"""Images opened before training needs them: what is damaged, too large or no image is found at once."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any

import datasets
from PIL import Image
from tqdm.auto import tqdm

from .problems import DataError, Problems

logger = logging.getLogger(__name__)
IMAGES_A_BATCH = 1_000
MAX_IMAGE_PIXELS = 2 * 89_478_485  # where Pillow refuses to open an image: twice its own MAX_IMAGE_PIXELS
_TOO_LARGE = "make it smaller, leave it out or raise max_image_pixels"


class MissingReaderError(OSError):
    """An image of a format for which a package is not installed; the text says which."""


def problems_of_images(
    images: Iterable[dict[str, Any] | None], decode: bool, max_pixels: int = MAX_IMAGE_PIXELS, num_threads: int = 4
) -> Iterator[str | None]:
    """Open images, as `datasets.Image(decode=False)` gives them, and yield what is wrong with each, or None, in order.

    For the other arguments see `image_problems`.
    """
    if num_threads < 1:
        raise DataError(f"num_threads is {num_threads}, but must be at least 1.")
    if not 1 <= max_pixels <= MAX_IMAGE_PIXELS:
        raise DataError(f"max_image_pixels is {max_pixels}, but must lie between 1 and {MAX_IMAGE_PIXELS}.")
    check, remaining = partial(_image_problem, decode=decode, max_pixels=max_pixels), iter(images)
    with warnings.catch_warnings(), ThreadPoolExecutor(num_threads) as pool:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # max_pixels is what counts
        while batch := list(islice(remaining, IMAGES_A_BATCH)):
            yield from pool.map(check, batch)


def image_problems(
    dataset: datasets.Dataset, decode: bool, max_pixels: int = MAX_IMAGE_PIXELS, num_threads: int = 4
) -> tuple[Problems, list[int]]:
    """Open every image of a data set, each file once.

    Args:
        dataset: With a column `image` of type `datasets.Image`.
        decode: False reads headers, which finds files that are no images; True decodes all pixels, which also finds
            files that are cut short, at the cost of reading everything.
        max_pixels: Width times height of the largest image that is accepted, up to `MAX_IMAGE_PIXELS`.
        num_threads: Images opened at a time, >= 1.

    Returns:
        What is wrong, and the rows whose image is good.

    Raises:
        DataError: `num_threads` or `max_pixels` is out of range.
    """
    images = dataset.select_columns("image").with_format(None).cast_column("image", datasets.Image(decode=False))
    first_row: dict[str, int] = {}

    def path(image: dict[str, Any] | None) -> str | None:
        return image["path"] if image and image["bytes"] is None else None

    def new_images() -> Iterator[dict[str, Any] | None]:
        for row, image in enumerate(_column(images)):
            if (name := path(image)) is None or first_row.setdefault(name, row) == row:
                yield image

    found = problems_of_images(new_images(), decode, max_pixels, num_threads)
    problems, good, is_bad = Problems(first_row=0), [], dict[str, bool]()
    shown = tqdm(_column(images), "Opening images", len(images), leave=False, disable=None)
    for row, image in enumerate(shown):
        name = path(image)
        if name is not None and name in is_bad:
            problem = "" if is_bad[name] else None  # "": it was said of an earlier row
        else:
            problem = next(found)
            is_bad |= {} if name is None else {name: problem is not None}
        if problem is None:
            good.append(row)
        else:
            problems.add_row(f"row {row}", problem)
    return problems, good


def _column(images: datasets.Dataset) -> Iterator[dict[str, Any] | None]:
    """Yield the images of a data set, read in batches."""
    for batch in images.iter(batch_size=IMAGES_A_BATCH):
        yield from batch["image"]


def good_images(
    dataset: datasets.Dataset, decode: bool, max_pixels: int = MAX_IMAGE_PIXELS, drop: bool = False
) -> datasets.Dataset:
    """Return the rows of a data set whose image can be read.

    Args:
        dataset: With a column `image` of type `datasets.Image`.
        decode: See `image_problems`.
        max_pixels: See `image_problems`.
        drop: Leave the other rows out, and log how many, where otherwise the data is refused.

    Raises:
        AnnotationError: Images cannot be read, and rows may not be dropped or none is left.
        DataError: `max_pixels` is out of range.
    """
    problems, good = image_problems(dataset, decode, max_pixels)
    if not problems.count:
        return dataset
    if not drop or not good:
        problems.raise_if_any("Cannot read the images")
    subject = f"{problems.refused} of the {len(dataset)} rows of {dataset.split or 'the data'} that were loaded"
    logger.warning(problems.describe(f"{subject} are dropped"))
    return dataset.select(good)


def _pixels(image: dict[str, Any]) -> int:
    """Return width times height of an image, from its header."""
    from processing.image_processing_albef import open_lazily  # brings in transformers: not for reading text

    try:
        with open_lazily(image["path"] if image["bytes"] is None else io.BytesIO(image["bytes"])) as opened:
            return opened.width * opened.height
    except Image.UnidentifiedImageError as error:
        from processing.image_processing_albef import missing_reader

        if fault := missing_reader(_head(image)):
            raise MissingReaderError(fault) from error
        raise
    except (Image.DecompressionBombError, ValueError, OSError):
        raise
    except Exception as error:  # Pillow's readers of some formats raise nearly anything
        raise OSError(str(error) or type(error).__name__) from error


def _head(image: dict[str, Any]) -> bytes:
    """Return the first bytes of an image."""
    if image["bytes"] is not None:
        return bytes(image["bytes"][:16])
    with open(image["path"], "rb") as stream:
        return stream.read(16)


def _image_problem(image: dict[str, Any] | None, decode: bool, max_pixels: int) -> str | None:
    """Return what is wrong with an image, or None."""
    if image is None or (image["bytes"] is None and not image["path"]):
        return "holds no image: leave the row out"
    name, problem = repr(image["path"]) if image["path"] else "of the data set", None
    try:
        pixels = _pixels(image)
        if pixels > max_pixels:
            return f"image {name} has {pixels:,} pixels, more than the limit of {max_pixels:,}: {_TOO_LARGE}"
    except MissingReaderError as error:
        return f"image {name} {error}"
    except Image.DecompressionBombError:
        return f"image {name} has more than {MAX_IMAGE_PIXELS:,} pixels, Pillow's limit: {_TOO_LARGE}"
    except ValueError as error:
        problem = f"image {name} has a broken header ({error}): fetch it again"
    except OSError as error:
        problem = f"image {name} cannot be opened ({error}): fetch it again"
    if not decode:
        return problem
    from processing.image_processing_albef import open_image  # brings in transformers: not for reading text

    try:
        open_image(image)
    except ValueError as error:  # it names the file
        return str(error)
    return None
