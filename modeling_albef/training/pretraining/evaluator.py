"""Losses of pre-training on rows that are not trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any

import torch
from torch.utils.data import Dataset

from ..evaluation.base import Evaluator
from ..rows import as_rows, column, texts_of
from .keyed_rows import DRAW_KEY

PARTS = ("itc_loss", "itm_loss", "mlm_loss")


class FirstCaptions(Dataset):
    """The rows that have a caption, each with its first one."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows
        self.chosen = [row for row, captions in enumerate(column(rows, "caption")) if texts_of(captions)]

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[self.chosen[index]]
        return {**row, "caption": texts_of(row["caption"])[0], DRAW_KEY: (index,)}


@dataclass(eq=False)
class PreTrainingEvaluator(Evaluator):
    """Measures the losses of an `AlbefForPreTraining` on pairs, on one process or many.

    There is neither a teacher nor a queue: each batch is contrasted with itself, and a pair is matched with the hardest
    wrong text and image of its batch. The masks are the same at every evaluation.
    """

    _: KW_ONLY
    collator: Callable[[list[dict[str, Any]]], dict[str, Any]]  # such as `PreTrainingCollator`

    def __call__(self, dataset: Any) -> dict[str, float]:
        """Return `loss` and its parts, means over the rows, and `mlm_accuracy` of the masked tokens, per cent.

        Args:
            dataset: Rows with an `image` and a `caption`, or a list of which the first counts.
        """
        rows = FirstCaptions(as_rows(dataset))
        batches = [batch.tolist() for batch in torch.arange(len(rows)).split(self.batch_size)]
        sums = torch.zeros(len(batches), len(PARTS) + 2, dtype=torch.float64)  # then right and masked tokens
        with self.inference():
            for batch, inputs in self.own_batches(rows, batches, partial(_tensors, self.collator), "Measuring losses"):
                outputs, labels = self.model(**inputs), inputs["mlm_labels"]
                right = (outputs.mlm_logits.argmax(dim=2) == labels).sum()
                measured = [len(batch) * getattr(outputs, name) for name in PARTS] + [right, (labels != -100).sum()]
                sums[batch[0] // self.batch_size] = torch.stack([one.double().cpu() for one in measured])
        *parts, right, masked = self.sum_over_processes(sums).sum(dim=0).tolist()
        losses = {name: part / max(len(rows), 1) for name, part in zip(PARTS, parts, strict=True)}
        return {"loss": sum(losses.values()), **losses, "mlm_accuracy": 100 * right / max(masked, 1)}


def _tensors(collator: Any, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return {name: one for name, one in collator(rows).items() if isinstance(one, torch.Tensor)}
