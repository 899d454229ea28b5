"""Rows as training takes them: a caption each, and of a stream every process its own."""

from __future__ import annotations

from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc
from datasets.distributed import split_dataset_by_node

from .captions import FEATURES
from .problems import AnnotationError


class CaptionRows:
    """The captions of a data set as rows, which are made when they are read: images stay on disk."""

    def __init__(self, dataset: datasets.Dataset) -> None:
        """Count the captions.

        Args:
            dataset: Columns `image`, `caption` (list of strings) and `image_id`; others are left out.

        Raises:
            AnnotationError: A column is missing or `caption` is no list.
        """
        features = dataset.features
        missing = [name for name in FEATURES if name not in features]
        if missing or not isinstance(features["caption"], (datasets.List, datasets.LargeList)):
            found = ", ".join(f"{name}: {feature}" for name, feature in features.items())
            text = f"Need the columns image, caption (a list of strings) and image_id, but found {found}."
            raise AnnotationError(text)
        self.dataset = dataset.select_columns(list(FEATURES))
        captions = dataset.select_columns("caption").with_format("arrow")[:]["caption"]
        counts = pc.fill_null(pc.list_value_length(captions), 0).to_numpy()
        self._rows = np.repeat(np.arange(len(counts)), counts)
        self._position_in_row = np.arange(len(self._rows)) - np.repeat(np.cumsum(counts) - counts, counts)

    @property
    def features(self) -> datasets.Features:
        """Return the features of the columns, `caption` as a string."""
        return datasets.Features(dict(self.dataset.features) | {"caption": self.dataset.features["caption"].feature})

    def cast_column(self, column: str, feature: Any) -> CaptionRows:
        """Return the same with another feature of a column, such as images that are not decoded."""
        return CaptionRows(self.dataset.cast_column(column, feature))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Give a row `image`, `caption` (string), `image_id`."""
        row = self.dataset[int(self._rows[index])]
        return row | {"caption": row["caption"][self._position_in_row[index]]}


def one_caption_a_row(dataset: datasets.Dataset) -> CaptionRows:
    """Return the captions of a data set as rows; see `CaptionRows`."""
    return CaptionRows(dataset)


def stream_captions(stream: datasets.IterableDataset) -> datasets.IterableDataset:
    """Spread the captions of each image of a stream over rows, as `CaptionRows` does."""
    return stream.map(_spread, batched=True, remove_columns=list(stream.features))


def _spread(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    triples = zip(rows["image"], rows["caption"], rows["image_id"], strict=True)
    spread = [(image, caption, number) for image, captions, number in triples for caption in captions]
    return dict(zip(FEATURES, map(list, zip(*spread, strict=True)), strict=True)) if spread else {}


def process_share(stream: datasets.IterableDataset, args: Any, buffer_size: int) -> datasets.IterableDataset:
    """Return the rows of a stream that one process trains on, in another order on every pass.

    Args:
        stream: The rows of all processes.
        args: Training arguments: `seed`, `process_index`, `world_size`.
        buffer_size: Rows that are shuffled together, >= 1; parts of the stream are shuffled, too.
    """
    shuffled = stream.shuffle(seed=args.seed, buffer_size=buffer_size)
    return split_dataset_by_node(shuffled, rank=args.process_index, world_size=args.world_size)
