"""Rows of whatever data set a trainer is handed: by column and by image.

The one file of the trainers that uses `processing`: what tells images apart, and how rows become a batch, is decided
there. It is imported only when it is needed.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch.utils.data import Dataset, Subset
from transformers.utils import logging

from ..configuration_albef import AlbefError

logger = logging.get_logger(__name__)
SOURCE = "mixture_source"  # column of a mixture, with the name of each row's source
IMAGES = ("image", "image_2")  # columns of images; the second where a text has two


class Images(Sequence[Any]):
    """The images of rows, those of one column, each read when it is asked for."""

    def __init__(self, dataset: Any, name: str = "image") -> None:
        self.dataset, self.name = dataset, name

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: Any) -> Any:
        return self.dataset[row][self.name]


class Rows(Dataset):
    """Rows that can be read by number alone, such as those of a list, read by column as well.

    The first column that is asked for reads all rows once; all columns but `image` and `image_2` are kept.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self._table: list[dict[str, Any]] | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[Any]:
        return (self.dataset[number] for number in range(len(self)))

    def __getitem__(self, key: int | str) -> Any:
        """Return a row by its number, a column by its name."""
        if not isinstance(key, str):
            return self.dataset[key]
        if key in IMAGES:
            return Images(self.dataset, key)
        if key not in self.column_names and len(self):
            raise AlbefError(f"Not all rows of the data set have {key!r}: add it, or leave those rows out.")
        return [row[key] for row in self._read()]

    @property
    def column_names(self) -> list[str]:
        """Return the names that all rows have, without `image`."""
        table = self._read()
        return [name for name in table[0] if all(name in row for row in table)] if table else []

    def _read(self) -> list[dict[str, Any]]:
        if self._table is None:
            self._table = []
            for number, row in enumerate(self):
                if not isinstance(row, Mapping):
                    raise AlbefError(f"Row {number} is a {type(row).__name__}: give mappings of names to values.")
                self._table.append({name: value for name, value in row.items() if name not in IMAGES})
        return self._table


def as_rows(dataset: Any) -> Any:
    """Return a data set that is read by number and by column: itself where it has columns, else `Rows` of it.

    Raises:
        AlbefError: It is none: there is no length, or it is a dictionary of data sets.
    """
    if isinstance(dataset, (Mapping, str)) or not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise AlbefError(
            f"The data to evaluate is a {type(dataset).__name__}: give a data set with a length, or a list of rows."
        )
    if hasattr(dataset, "column_names"):
        return dataset
    if isinstance(dataset, Subset) and hasattr(inner := as_rows(dataset.dataset), "select"):
        return inner.select(list(dataset.indices))
    return Rows(dataset)


def column(rows: Any, name: str) -> Any:
    """Return a column of a data set; an AlbefError says that it has none of this name."""
    if not isinstance(rows, Rows) and name not in rows.column_names:
        raise AlbefError(f"The data set has no column {name!r}; it has {', '.join(rows.column_names)}.")
    return rows[name]


def optional_column(rows: Any, name: str) -> list[Any]:
    """Return a column of a data set, None for each row where it has none of this name."""
    return list(rows[name]) if name in rows.column_names else [None] * len(rows)


def undecoded_images(rows: Any, name: str = "image") -> Any:
    """Return a column of images, of a data set of the `datasets` library without decoding it."""
    feature: Any = (getattr(rows, "features", None) or {}).get(name)
    if getattr(feature, "decode", False) is True:
        rows = rows.cast_column(name, type(feature)(decode=False))
    return column(rows, name)


def image_names(rows: Any, chosen: Sequence[int], name: str = "image") -> list[str]:
    """Return for each of the chosen rows the path of its image in a column, or the row's number where it has none."""
    from processing.image_keys import image_path

    images = undecoded_images(rows, name)
    return [image_path(images[row]) or str(row) for row in chosen]


def opened_images(rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Return the images of rows as upright Pillow images, with the size of their files."""
    from processing import open_image

    return [open_image(row["image"]) for row in rows]


def image_keys(rows: Any, warn: bool = True) -> list[Hashable]:
    """Return for each row what tells its image from others: `image_id`, else path or content, else the row.

    With `warn`, a warning says where rows without an `image_id` share an image.
    """
    from processing import ProcessingError
    from processing.image_keys import image_key, image_path

    keys: list[Hashable] = []
    for number, given in enumerate(rows["image_id"] if "image_id" in rows.column_names else [None] * len(rows)):
        try:
            keys.append(image_key({"image_id": given}))
        except ProcessingError as error:
            raise AlbefError(f"Row {number}: {error}") from error
    without_id = [number for number, key in enumerate(keys) if key is None]
    images = undecoded_images(rows) if without_id else ()
    first_rows: dict[Hashable, int] = {}
    repeated = set()
    for number in without_id:
        image = images[number]
        keys[number] = key = image_key({"image": image}) or ("row", number)
        if first_rows.setdefault(key, number) != number:
            repeated.add(key)
    if repeated and warn:
        row = min(first_rows[key] for key in repeated)
        logger.warning(
            f"{len(repeated)} images are in several rows that have no image_id, such as "
            f"{image_path(images[row]) or 'that'} of row {row}: the rows of an image count as one. Add image_id to say "
            "which rows show the same image."
        )
    return keys


def image_numbers(rows: Any) -> list[int]:
    """Return for each row the number of its image, in the order of their first rows; see `image_keys`."""
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(key, len(numbers)) for key in image_keys(rows, warn=False)]


def rows_by_image(rows: Any) -> list[list[int]]:
    """Return the rows of each image, the images in the order of their first rows; see `image_keys`."""
    found: dict[Hashable, list[int]] = {}
    for number, key in enumerate(image_keys(rows)):
        found.setdefault(key, []).append(number)
    return list(found.values())


def texts_of(captions: Any) -> list[str]:
    """Return the captions of a row, which has a list of them, one, or none."""
    if captions is None or isinstance(captions, str):
        return [captions] if captions is not None else []
    if not isinstance(captions, Iterable):
        raise AlbefError(f"A row has the caption {captions!r}, but must have a text or a list of them.")
    return list(captions)


def retrieval_collator(processor: Any) -> Any:
    """Return the collator of retrieval training."""
    from processing import RetrievalCollator

    return RetrievalCollator(processor, with_names=True)


def pretraining_collator(processor: Any, **options: Any) -> Any:
    """Return the collator of pre-training."""
    from processing import PreTrainingCollator

    return PreTrainingCollator(processor, with_names=True, **options)


def grounding_collator(processor: Any, with_boxes: bool = False) -> Any:
    """Return the collator of training on texts that refer to parts of images."""
    from processing import GroundingCollator

    return GroundingCollator(processor, with_names=True, with_boxes=with_boxes)


def vqa_collator(processor: Any, share_images: bool) -> Any:
    """Return the collator of training on questions."""
    from processing import VQACollator

    return VQACollator(processor, share_images=share_images, with_names=True)


def features_of(splits: Mapping[str, Any]) -> dict[str, Any]:
    """Return the features of the first split, of a mixture those of its first source; none where there is no split."""
    first = next(iter(splits.values()), None)
    first = next(iter(first.values())) if isinstance(first, dict) else first
    return {} if first is None else first.features


def image_columns(config: Any) -> tuple[str, ...]:
    """Return the columns of the images of a row, by how many images a model reads with a text: image, image_2 .."""
    return ("image", *(f"image_{number}" for number in range(2, config.text_config.images_per_text + 1)))


def classification_collator(processor: Any, config: Any, **options: Any) -> Any:
    """Return the collator of images and texts with the labels of a model's configuration."""
    from processing import ClassificationCollator

    labels = {"label2id": config.label2id, "problem_type": config.problem_type}
    labels["max_length"] = config.text_config.max_position_embeddings
    return ClassificationCollator(processor, image_columns=image_columns(config), **labels, **options)


def limit_lengths(collator: Any, **limits: int) -> Any:
    """Return a task's collator with attributes such as `max_length` at most these numbers; any other as it is."""
    own = limits if hasattr(collator, "processor") else {}
    lowered = {
        name: limit
        for name, limit in own.items()
        if hasattr(collator, name) and (getattr(collator, name) is None or getattr(collator, name) > limit)
    }
    if lowered:
        collator = copy.copy(collator)
        for name, limit in lowered.items():
            setattr(collator, name, limit)
    return collator


def with_bytes(collator: Any) -> tuple[Any, tuple[list[float], list[float]] | None]:
    """Return a task's collator that leaves pixels as bytes, a quarter of the size, and their mean and deviation.

    Those are in 0..255, of each channel. Any other collator, and one whose images are not normalized as usual, stays as
    it is, with None.
    """
    images: Any = getattr(getattr(collator, "processor", None), "image_processor", None)
    if not getattr(collator, "normalize", False) or not getattr(images, "do_rescale", False):
        return collator, None
    if not images.do_normalize or abs(images.rescale_factor * 255 - 1) > 1e-9:
        return collator, None
    collator = copy.copy(collator)
    collator.normalize = False
    return collator, ([255 * one for one in images.image_mean], [255 * one for one in images.image_std])
