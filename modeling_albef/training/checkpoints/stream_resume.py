"""Streams that go on where a checkpoint was written, without opening again what was trained on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import Trainer

STATE = "stream_state"  # of a row, see `AugmentedStream`


class StateCollator:
    """A collator whose batches have the `stream_state` of their last row; those of skipped rows are empty."""

    def __init__(self, collator: Callable[[list[Any]], Any]) -> None:
        self.collator = collator

    def __call__(self, rows: list[Any]) -> dict[str, Any]:
        """Make a batch of rows."""
        if any("is_skipped" in row for row in rows):  # the Trainer passes over this batch
            return {"input_ids": torch.zeros(len(rows), 1, dtype=torch.long)}
        state = {STATE: list(rows[-1][STATE])} if STATE in rows[-1] else {}
        return {**self.collator(rows), **state}


class StreamResumeMixin(Trainer):
    """Keeps how far each reader of a stream has come, a file a process in a checkpoint.

    Where there is no such file, or the readers are other ones, the library reads the stream from its beginning.
    """

    _checkpoint: str | None

    def get_train_dataloader(self) -> DataLoader:
        """Return the loader of the class below; that of a stream gives empty batches for those of the checkpoint."""
        stream: Any = self.train_dataset
        while hasattr(stream, "stream") and not hasattr(stream, "starts"):
            stream = stream.stream
        self._states: dict[int, list[int]] = {}
        if not hasattr(stream, "starts"):
            return super().get_train_dataloader()
        self._states = self._read_states()
        stream.starts = {worker: tuple(state) for worker, state in self._states.items()}
        own, self.data_collator = self.data_collator, StateCollator(self.data_collator)
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = own

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Note how far the stream has come, and run the step of the class below."""
        if (state := inputs.pop(STATE, None)) is not None:
            self._states[state[0]] = state
        return super().training_step(model, inputs, num_items_in_batch)

    def _save_rng_state(self, output_dir: str) -> None:
        """Save what each process has of its own: random numbers, and how far it has read."""
        super()._save_rng_state(output_dir)
        if self._states:
            text = json.dumps({"workers": self.args.dataloader_num_workers, "states": list(self._states.values())})
            self._state_file(output_dir).write_text(text, encoding="utf-8")

    def _read_states(self) -> dict[int, list[int]]:
        path = self._state_file(self._checkpoint or "")
        if self._checkpoint is None or not path.is_file():
            return {}
        stored = json.loads(path.read_text(encoding="utf-8"))
        fits = stored["workers"] == self.args.dataloader_num_workers
        return {state[0]: state for state in stored["states"]} if fits else {}

    def _state_file(self, folder: str) -> Path:
        return Path(folder) / f"stream_{self.args.process_index}.json"
