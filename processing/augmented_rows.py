"""Training rows with their image opened and augmented, from a data set or from an endless stream."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from .image_processing_albef import ProcessingError, UnreadableImageError, open_image

BAD_IMAGES = ("stop", "replace")
MAX_REPLACEMENTS = 20
FEWEST_ROWS = 100  # of a stream, that a share of bad rows is judged by
IMAGE_COLUMNS = ("image", "image_2")  # of a row; the second where a text has two images

Augmentation = Callable[[Image.Image, np.random.Generator], Image.Image]


class AugmentedDataset(Dataset):
    """Rows of a data set with their image, or their two images, opened and augmented.

    The draws of a row depend on seed, epoch and row index alone, so a run is the same with any number of workers and
    processes, and after a resume.
    """

    def __init__(
        self, dataset: Any, augmentation: Augmentation | None = None, seed: int = 0, bad_images: str = "stop"
    ) -> None:
        """Wrap a data set.

        Args:
            dataset: Map-style, of rows with an `image` that `open_image` reads. Decoding is turned off in a data set of
                the `datasets` library, so that `open_image` reads every image.
            augmentation: Such as `TrainingAugmentation`; its method `least_size`, if it has one, says how small JPEG
                files may be decoded, and its method `augment_row`, if it has one, augments whole rows. None only opens
                the images.
            seed: Of the draws, at least 0.
            bad_images: What happens to a row whose image cannot be read: "stop" raises, "replace" takes the next
                readable row instead.

        Raises:
            ProcessingError: `bad_images` is something else.
        """
        _check_bad_images(bad_images)
        for name in IMAGE_COLUMNS:
            feature: Any = (getattr(dataset, "features", None) or {}).get(name)
            if getattr(feature, "decode", None):
                dataset = dataset.cast_column(name, type(feature)(decode=False))
        self.dataset, self.augmentation, self.seed, self.bad_images = dataset, augmentation, seed, bad_images
        self._epoch = torch.tensor(0).share_memory_()  # persistent workers see it, too

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, at least 0, that the draws depend on, also of the data set where it takes one."""
        self._epoch.fill_(epoch)
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def column_names(self) -> list[str]:
        """Return the names of the columns; a data set that knows none has no such attribute."""
        if isinstance(self.dataset, (list, tuple)):
            return list(self.dataset[0]) if self.dataset else []
        return self.dataset.column_names

    def __getitem__(self, index: int | str) -> Any:
        """Return a row with `image` as an augmented RGB image; for a name, the data set's column.

        The row also has `image_name`, its file or its index. If it replaces another row, whose image cannot be read,
        `replaced_image` has that one's name.

        Raises:
            IndexError: There is no such row.
            UnreadableImageError: The image cannot be read, and with `bad_images` "replace" neither can those of the
                next rows. The message names row and file.
        """
        if isinstance(index, str):
            is_list = isinstance(self.dataset, (list, tuple))
            return [row.get(index) for row in self.dataset] if is_list else self.dataset[index]
        if not -len(self) <= index < len(self):
            raise IndexError(f"There is no row {index}: the data set has {len(self)}.")
        index = int(index) % len(self)
        try:
            return self._open(index)
        except UnreadableImageError:
            if self.bad_images == "stop":
                raise
        replaced = _image_name(self.dataset[index], index)
        for other in range(index + 1, index + 1 + MAX_REPLACEMENTS):
            with contextlib.suppress(UnreadableImageError):
                return {**self._open(other % len(self)), "replaced_image": replaced}
        raise UnreadableImageError(
            f"Row {index}: image {replaced} cannot be read, nor can those of the next {MAX_REPLACEMENTS} rows: check "
            "the disk that they are on."
        )

    def _open(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng((self.seed, int(self._epoch), index))
        return _augmented_row(self.dataset[index], index, f"Row {index}", self.augmentation, rng)


class StreamState(NamedTuple):
    """How far a worker has come in an `AugmentedStream`.

    Attributes:
        worker: Its number.
        yielded: Rows that it gave.
        passes: Whole passes before this one.
        begin: Rows that it had read before this pass.
        position: Rows that it has read.
        bad: Those of them that could not be used.
    """

    worker: int = 0
    yielded: int = 0
    passes: int = 0
    begin: int = 0
    position: int = 0
    bad: int = 0


class AugmentedStream(IterableDataset):
    """Rows of a stream with their image opened and augmented, pass after pass without an end.

    Each pass has its own order. The draws of a row depend on seed, pass, process, worker and the row's position in what
    the worker reads, so a run can be repeated with the same number of processes and workers.

    Attributes:
        starts: Where workers go on, by their number: the `stream_state` of the last row that was used. A worker gives
            an empty row, with nothing but `is_skipped`, for each that it gave before; those of this pass are read
            again, but not decoded.
    """

    def __init__(
        self,
        stream: Any,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        process_index: int = 0,
        bad_images: str = "stop",
        max_bad_share: float = 1.0,
    ) -> None:
        """Wrap a stream.

        Args:
            stream: A `datasets.IterableDataset` with this process's share of the rows, each with an `image` that
                `open_image` reads; it shares its rows among workers by itself. A row whose `bad_sample` is a text,
                which says what is wrong with it, counts as one whose image cannot be read.
            augmentation: As in `AugmentedDataset`.
            seed: Of the draws, at least 0.
            process_index: Rank of this process.
            bad_images: As in `AugmentedDataset`; at most a few rows in sequence are replaced.
            max_bad_share: With "replace", the share 0..1 of the rows that a worker has read beyond which it raises.

        Raises:
            ProcessingError: `bad_images` is neither "stop" nor "replace".
        """
        _check_bad_images(bad_images)
        super().__init__()
        self.stream, self.augmentation = stream, augmentation
        self.seed, self.process_index, self.bad_images = seed, process_index, bad_images
        self.max_bad_share = max_bad_share
        self.starts: dict[int, tuple[int, ...]] = {}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield rows as `AugmentedDataset` returns them, with a `stream_state`; none where a worker has no share.

        Raises:
            UnreadableImageError: The image cannot be read. The message names the row's position and the file.
            ProcessingError: Too many of the rows cannot be used.
        """
        worker = get_worker_info()
        worker_index = 0 if worker is None else worker.id
        _, yielded, passes, begin, position, bad = self.starts.get(worker_index, StreamState(worker_index))
        yield from ({"is_skipped": True} for _ in range(yielded))
        replaced: list[str] = []
        while True:
            self.stream.set_epoch(passes)
            for row in islice(self.stream, position - begin, None):
                rng = np.random.default_rng((self.seed, passes, self.process_index, worker_index, position))
                try:
                    augmented = _augmented_row(row, position, f"Row {position} of the stream", self.augmentation, rng)
                except UnreadableImageError as error:
                    replaced.append(_image_name(row, position))
                    bad += 1
                    if self.bad_images == "stop" or len(replaced) > MAX_REPLACEMENTS:
                        raise
                    self._check_share(bad, position + 1, error)
                else:
                    yielded += 1
                    state = StreamState(worker_index, yielded, passes, begin, position + 1, bad)
                    more = {"further_replaced": replaced[1:]} if replaced[1:] else {}
                    named = {"replaced_image": replaced[0], **more} if replaced else {}
                    yield {**augmented, **named, "stream_state": state}
                    replaced.clear()
                position += 1
            if position == begin:
                return
            passes, begin = passes + 1, position

    def _check_share(self, bad: int, read: int, last: Exception) -> None:
        if read >= FEWEST_ROWS and bad > self.max_bad_share * read:
            raise ProcessingError(
                f"{bad} of the first {read} rows of the stream cannot be used, more than {self.max_bad_share:.0%}; the "
                f"last: {last} Look at the data, or raise max_bad_share."
            ) from last


def _check_bad_images(bad_images: str) -> None:
    if bad_images not in BAD_IMAGES:
        raise ProcessingError(f"bad_images is {bad_images!r}, but must be {' or '.join(BAD_IMAGES)}.")


def _augmented_row(
    row: Mapping[str, Any], index: int, description: str, augmentation: Augmentation | None, rng: np.random.Generator
) -> dict[str, Any]:
    opened: dict[str, Any] = {**row, "image_name": _image_name(row, index)}
    if (problem := opened.pop("bad_sample", None)) is not None:
        raise UnreadableImageError(f"{description}: {opened['image_name']} {problem}.")
    names = IMAGE_COLUMNS[: 2 if IMAGE_COLUMNS[1] in row else 1]
    for name in names:
        try:
            opened[name] = open_image(row[name], getattr(augmentation, "least_size", None))
        except UnreadableImageError as error:
            raise UnreadableImageError(f"{description}: {error}") from error
    if (augment_row := getattr(augmentation, "augment_row", None)) is not None:  # moves what else belongs to the image
        return augment_row(opened, rng)
    if augmentation is not None:  # each image with draws of its own, as published
        opened |= {name: augmentation(opened[name], rng) for name in names}
    return opened


def _image_name(row: Mapping[str, Any], index: int) -> str:
    image = row["image"]
    path = image.get("path") if isinstance(image, Mapping) else image if isinstance(image, (str, os.PathLike)) else None
    return repr(str(path)) if path else f"row {index}"
