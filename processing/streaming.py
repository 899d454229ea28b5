"""Training rows from a stream: data that does not fit on the disk, or that is not to be prepared first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import IterableDataset, get_worker_info

from .augmentation import BAD_IMAGES, MAX_REPLACEMENTS, name_image
from .image_processing_albef import UnreadableImageError, open_image


class AugmentedStream(IterableDataset):
    """Rows of a stream with their image opened and augmented, pass after pass without an end.

    Each pass is in an order of its own. The draws of a row depend on seed, pass, process, worker and the row's place in
    what the worker reads, so a run is the same again with the same number of processes and workers.
    """

    def __init__(
        self,
        stream: Any,
        augmentation: Callable[[Image.Image, np.random.Generator], Image.Image] | None = None,
        seed: int = 0,
        process_index: int = 0,
        bad_images: str = "stop",
    ) -> None:
        """Wrap a stream.

        Args:
            stream: A `datasets.IterableDataset` with this process's share of the rows, each with an `image` that
                `open_image` reads; it shares its rows among workers by itself.
            augmentation: Such as `TrainingAugmentation`; None only opens the images.
            seed: Of the draws, at least 0.
            process_index: Number of this process.
            bad_images: What happens to a row whose image cannot be read: "stop" raises, "replace" takes the next one,
                at most a few in a row.

        Raises:
            ValueError: `bad_images` is something else.
        """
        if bad_images not in BAD_IMAGES:
            raise ValueError(f"bad_images is {bad_images!r}, but must be {' or '.join(BAD_IMAGES)}.")
        super().__init__()
        self.stream, self.augmentation = stream, augmentation
        self.seed, self.process_index, self.bad_images = seed, process_index, bad_images

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Give rows with `image` as an RGB picture, augmented; nothing where a worker has no share.

        A row also has `image_name`, and `replaced_image` where it took the place of one that cannot be read; see
        `AugmentedDataset`.

        Raises:
            UnreadableImageError: The image cannot be read; names the row's place in the stream and the file.
        """
        worker = get_worker_info()
        place, number, passes = 0 if worker is None else worker.id, 0, 0
        replaced: list[str] = []
        while True:
            self.stream.set_epoch(passes)
            is_empty = True
            for row in self.stream:
                is_empty = False
                rng = np.random.default_rng((self.seed, passes, self.process_index, place, number))
                try:
                    yield {**self._open(row, number, rng), **({"replaced_image": replaced[0]} if replaced else {})}
                    replaced.clear()
                except UnreadableImageError:
                    replaced.append(name_image(row, number))
                    if self.bad_images == "stop" or len(replaced) > MAX_REPLACEMENTS:
                        raise
                number += 1
            if is_empty:
                return
            passes += 1

    def _open(self, row: dict[str, Any], number: int, rng: np.random.Generator) -> dict[str, Any]:
        try:
            image = open_image(row["image"], getattr(self.augmentation, "least_size", None))
        except UnreadableImageError as error:
            raise UnreadableImageError(f"Row {number} of the stream: {error}") from error
        image = image if self.augmentation is None else self.augmentation(image, rng)
        return {**row, "image": image, "image_name": name_image(row, number)}
