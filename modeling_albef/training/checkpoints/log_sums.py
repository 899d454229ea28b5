"""The sums of the log line to come, in each checkpoint: after a resume it averages all steps since the line before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer


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
            "loss_parts": {name: float(part) for name, part in self._loss_parts.items()},
            "loss_parts_count": float(self._loss_parts_count),
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
        sums = json.loads(path.read_text(encoding="utf-8"))
        if sums["world_size"] != self.args.world_size:
            return
        device = self.args.device
        self._globalstep_last_logged = sums["last_logged"]
        self._tr_loss = torch.tensor(sums["loss"], device=device)
        self._loss_parts = {name: torch.tensor(part, device=device) for name, part in sums["loss_parts"].items()}
        self._loss_parts_count = torch.tensor(sums["loss_parts_count"], device=device)
        self._num_replaced_images = sums["replaced_images"]
        self._finite_loss.num_skipped = sums["skipped_steps"]
        self._finite_loss.num_skipped_in_a_row = sums["skipped_in_a_row"]

    def _log_sums_file(self, folder: str | Path) -> Path:
        return Path(folder) / f"log_sums_{self.args.process_index}.json"
