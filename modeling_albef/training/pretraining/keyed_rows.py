"""Training rows that carry what their random draws depend on, so that a resumed run draws the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

DRAW_KEY = "draw_key"  # see `PreTrainingCollator`


class KeyedRows(Dataset):
    """Rows of a data set with epoch and index as `draw_key`: the same with any number of processes and workers."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self._epoch = torch.tensor(0).share_memory_()  # persistent workers see it, too

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, at least 0, also of the data set where it takes one."""
        self._epoch.fill_(epoch)
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.dataset[index], DRAW_KEY: (int(self._epoch), int(index))}


class KeyedStream(IterableDataset):
    """A stream whose rows have process, worker and position as `draw_key`."""

    def __init__(self, stream: Any, process_index: int) -> None:
        self.stream, self.process_index = stream, process_index

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        for position, row in enumerate(self.stream):
            yield {**row, DRAW_KEY: (self.process_index, 0 if worker is None else worker.id, position)}

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the stream, where it takes one."""
        if hasattr(self.stream, "set_epoch"):
            self.stream.set_epoch(epoch)


def with_draw_keys(dataset: Any, process_index: int) -> Any:
    """Return training rows with a `draw_key`; None where there are none."""
    if dataset is None:
        return None
    return KeyedRows(dataset) if hasattr(dataset, "__len__") else KeyedStream(dataset, process_index)
