"""Which rows training reads, and in what order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, Sampler

from .rows import as_rows, column, texts_of


class ImageGroupSampler(Sampler[int]):
    """Images in random order, all rows of an image one after the other: a batch has few images and many questions.

    The order depends on seed and epoch alone, so it is the same on every process and after a resume.
    """

    def __init__(self, image_ids: Sequence[Any] | Callable[[], Sequence[Any]], seed: int = 0) -> None:
        """Make a sampler of rows whose images have these ids; a function returns those of the epoch that begins."""
        self.seed, self.epoch = seed, 0
        self._read_ids = image_ids if callable(image_ids) else None
        self._group(image_ids() if callable(image_ids) else image_ids)

    def _group(self, image_ids: Sequence[Any]) -> None:
        rows: dict[Any, list[int]] = {}
        for row, image in enumerate(image_ids):
            rows.setdefault(image, []).append(row)
        self.groups, self.num_rows = list(rows.values()), len(image_ids)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which draws another order."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_rows

    def __iter__(self) -> Iterator[int]:
        if self._read_ids is not None:
            self._group(self._read_ids())
        order = torch.randperm(len(self.groups), generator=torch.Generator().manual_seed(self.seed + self.epoch))
        for group in order.tolist():
            yield from self.groups[group]


class OneCaptionRows(Dataset):
    """Rows with a list of captions as rows of one caption each, all of them in every epoch."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        counts = [len(texts_of(captions)) for captions in column(as_rows(dataset), "caption")]
        self._rows = np.repeat(np.arange(len(counts)), counts)
        self._positions = np.arange(len(self._rows)) - np.repeat(np.cumsum(counts) - counts, counts)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.dataset[int(self._rows[index])]
        return {**row, "caption": texts_of(row["caption"])[self._positions[index]]}

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the data set, where it takes one."""
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)


class OneCaptionStream(IterableDataset):
    """A stream whose rows have one caption each."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for row in self.stream:
            captions = row.get("caption") if isinstance(row, Mapping) else None
            if captions is None or isinstance(captions, str):
                yield row
            else:  # a row of several counts differently from that of the stream
                kept = {name: value for name, value in row.items() if name != "stream_state"}
                yield from ({**kept, "caption": caption} for caption in captions)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the stream, where it takes one."""
        if hasattr(self.stream, "set_epoch"):
            self.stream.set_epoch(epoch)


def one_caption_a_row(dataset: Any) -> Any:
    """Return training rows with one `caption` each: the data set itself where none has a list of them."""
    if dataset is None:
        return None
    if not hasattr(dataset, "__len__"):
        return _one_caption_stream(dataset)
    if not len(dataset):
        return dataset
    if isinstance(dataset, list | tuple):
        rows: Any = dataset
    elif hasattr(dataset, "column_names"):
        captions = dataset["caption"] if "caption" in dataset.column_names else ()
        rows = [{"caption": next((one for one in captions if one is not None), None)}]  # a column has one type
    else:  # a row may cost the reading of an image
        rows = [dataset[0]]
    captions = [row.get("caption") for row in rows if isinstance(row, Mapping)]
    has_lists = any(not isinstance(one, str) for one in captions if one is not None)
    return OneCaptionRows(dataset) if has_lists else dataset


def _one_caption_stream(stream: Any) -> Any:
    if not hasattr(stream, "cast_column"):  # not of the `datasets` library
        return OneCaptionStream(stream)
    features: Any = stream.features or {}
    if "caption" in features:
        has_lists = getattr(features["caption"], "dtype", None) != "string"
    else:
        first: dict[str, Any] = next(iter(stream), {})
        captions = first.get("caption")
        has_lists = captions is not None and not isinstance(captions, str)
    if not has_lists:
        return stream
    feature = features.get("image")
    if getattr(feature, "decode", None):
        stream = stream.cast_column("image", type(feature)(decode=False))
    return stream.map(_spread, batched=True)


def _spread(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    sources = [row for row, captions in enumerate(rows["caption"]) for _ in texts_of(captions)]
    spread = {name: [values[row] for row in sources] for name, values in rows.items()}
    return {**spread, "caption": [text for captions in rows["caption"] for text in texts_of(captions)]}
