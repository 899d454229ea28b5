"""Images opened before training needs them: what is damaged, too large or no image is found at once."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
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


Gather = Callable[[list[str | None]], list[list[str | None]]]


class MissingReaderError(OSError):
    """An image of a format for which a package is not installed; the text says which."""


def _alone(own: list[str | None]) -> list[list[str | None]]:
    return [own]


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
    dataset: datasets.Dataset,
    decode: bool,
    max_pixels: int = MAX_IMAGE_PIXELS,
    num_threads: int = 4,
    share: tuple[int, int] = (0, 1),
    gather: Gather = _alone,
) -> tuple[Problems, list[int]]:
    """Open every image of a data set, each file once.

    Args:
        dataset: With a column `image` of type `datasets.Image`.
        decode: False reads headers, which finds files that are no images; True decodes all pixels, which also finds
            files that are cut short, at the cost of reading everything.
        max_pixels: Width times height of the largest image that is accepted, up to `MAX_IMAGE_PIXELS`.
        num_threads: Images opened at a time, >= 1.
        share: Which process this is, and of how many, that each open a part of the images.
        gather: Returns what all processes give it, in their order, on each of them.

    Returns:
        What is wrong, and the rows whose image is good; the same on all processes, and with any number of them.

    Raises:
        DataError: `num_threads` or `max_pixels` is out of range.
    """
    images = dataset.select_columns("image").with_format(None).cast_column("image", datasets.Image(decode=False))
    numbers: list[int] = []  # of each row's image, counted in the order in which they appear
    process, count = share
    own = islice(_new_images(images, numbers), process, None, count)
    found = problems_of_images(own, decode, max_pixels, num_threads)
    total, is_hidden = -(-len(images) // count), None if process == 0 else True  # None: where nobody sees it
    parts = gather(list(tqdm(found, "Opening images", total, leave=False, disable=is_hidden)))
    problems, good, known = Problems(first_row=0), [], set[int]()
    for row, number in enumerate(numbers):
        if (problem := parts[number % count][number // count]) is None:
            good.append(row)
        else:
            problems.add_row(f"row {row}", "" if number in known else problem)  # said once an image
            known.add(number)
    return problems, good


def _new_images(images: datasets.Dataset, numbers: list[int]) -> Iterator[dict[str, Any] | None]:
    """Yield the images, each file once; append each row's number of its image to a list."""
    known, count = dict[str, int](), 0
    for image in _column(images):
        name = image["path"] if image and image["bytes"] is None else None
        numbers.append(count if name is None else known.setdefault(name, count))
        if numbers[-1] == count:
            count += 1
            yield image


def _column(images: datasets.Dataset) -> Iterator[dict[str, Any] | None]:
    """Yield the images of a data set, read in batches."""
    for batch in images.iter(batch_size=IMAGES_A_BATCH):
        yield from batch["image"]


def good_images(
    dataset: datasets.Dataset,
    decode: bool,
    max_pixels: int = MAX_IMAGE_PIXELS,
    drop: bool = False,
    share: tuple[int, int] = (0, 1),
    gather: Gather = _alone,
) -> datasets.Dataset:
    """Return the rows of a data set whose image can be read.

    Args:
        dataset: With a column `image` of type `datasets.Image`.
        decode: See `image_problems`.
        max_pixels: See `image_problems`.
        drop: Leave the other rows out, and log how many, where otherwise the data is refused.
        share: See `image_problems`; the first process logs.
        gather: See `image_problems`.

    Raises:
        AnnotationError: Images cannot be read, and rows may not be dropped or none is left.
        DataError: `max_pixels` is out of range.
    """
    problems, good = image_problems(dataset, decode, max_pixels, share=share, gather=gather)
    if not problems.count:
        return dataset
    if not drop or not good:
        problems.raise_if_any("Cannot read the images")
    subject = f"{problems.refused} of the {len(dataset)} rows of {dataset.split or 'the data'} that were loaded"
    if share[0] == 0:
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
