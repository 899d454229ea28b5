"""The sums of the log line to come, in each checkpoint: after a resume it averages all steps since the line before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer

from ..errors import SettingError

SUMS = ("world_size", "last_logged", "loss", "parts_count", "replaced_images", "skipped_steps", "skipped_in_a_row")


class LogSumsMixin(Trainer):
    """Saves and loads, for each process, what the next line of the log is made of."""

    _finite_loss: Any
    _loss_parts: dict[str, Any]
    _loss_parts_count: Any
    _num_replaced_images: int
    _tr_loss: Any
    _globalstep_last_logged: int

    def save_log_sums(self, folder: str | Path) -> None:
        """Write the sums of this process into a folder; JSON keeps float32 exactly."""
        sums = {
            "world_size": self.args.world_size,
            "last_logged": self._globalstep_last_logged,
            "loss": float(self._tr_loss),
            "parts": {name: float(part) for name, part in self._loss_parts.items()},
            "parts_count": float(self._loss_parts_count),
            "replaced_images": self._num_replaced_images,
            "skipped_steps": self._finite_loss.num_skipped,
            "skipped_in_a_row": self._finite_loss.num_skipped_in_a_row,
        }
        self._log_sums_file(folder).write_text(json.dumps(sums), encoding="utf-8")

    def load_log_sums(self, checkpoint: str | Path) -> None:
        """Read what `save_log_sums` wrote; with another number of processes the sums start anew."""
        path = self._log_sums_file(checkpoint)
        if not path.is_file():
            return
        try:
            sums = json.loads(path.read_text(encoding="utf-8"))
            values = {name: float(sums[name]) for name in SUMS}
            parts = {name: torch.tensor(float(part), device=self.args.device) for name, part in sums["parts"].items()}
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise SettingError(f"{path} does not hold the sums of a log: resume an older checkpoint.") from error
        if values["world_size"] != self.args.world_size:
            return
        self._globalstep_last_logged = int(values["last_logged"])
        self._tr_loss = torch.tensor(values["loss"], device=self.args.device)
        self._loss_parts = parts
        self._loss_parts_count = torch.tensor(values["parts_count"], device=self.args.device)
        self._num_replaced_images = int(values["replaced_images"])
        self._finite_loss.num_skipped = int(values["skipped_steps"])
        self._finite_loss.num_skipped_in_a_row = int(values["skipped_in_a_row"])

    def _log_sums_file(self, folder: str | Path) -> Path:
        return Path(folder) / f"log_sums_{self.args.process_index}.json"
