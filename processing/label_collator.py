"""Batches of images and texts with labels: one of several, several, or numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

import torch

from .collators import TextCollator, distinct_images, get_field
from .image_processing_albef import ProcessingError


@dataclass
class ClassificationCollator(TextCollator):
    """Batches for classification; B rows, C labels.

    Attributes:
        processor: An `AlbefProcessor`.
        max_words: Words of a text that are read; published: 30.
        max_length: As in `RetrievalCollator`.
        label2id: Name of each label -> its index, as in the model's configuration.
        problem_type: As in the model's configuration; None: a list of labels is several, a single label is a number
            where there is one, and else one of several.
        image_columns: Columns of the images of a row; of more than one, `pixel_values` has all first images, then all
            second ones.
        share_images: Whether the batch has an image once for all its texts, with the same augmentation; images of
            several columns count as the same where their contents are equal.
        with_labels: Whether labels are read; an evaluation reads its own.
        with_names: As in `RetrievalCollator`.
    """

    label2id: Mapping[str, int] = field(default_factory=dict)
    problem_type: str | None = None
    image_columns: Sequence[str] = ("image",)
    share_images: bool = False
    with_labels: bool = True

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Make a batch of rows.

        Args:
            rows: Each with an image in each of `image_columns`, `text` and `label`: a name or an index; a list of names
                or of numbers 0..1, one a label; or a number; with `share_images` perhaps `image_id`, as for
                `RetrievalCollator`.

        Returns:
            `pixel_values` (B times image columns, 3, S, S), `input_ids` and `attention_mask` (B, L), `labels` (B,)
            int64, (B, C) float32, or (B,) float32 of a regression. With `share_images`, `pixel_values` has one row for
            each image, and `image_index` (B,) is the row of each text's image, (B, K) those of its K image columns.

        Raises:
            KeyError: A row lacks a field.
            ProcessingError: A label is unknown, or of another kind than the others.
            UnreadableImageError: An image cannot be read.
        """
        shown, index = rows, None
        if list(self.image_columns) != ["image"]:
            shown = [{"image": get_field(row, name)} for name in self.image_columns for row in rows]
        if self.share_images:
            first, index = distinct_images(shown)
            shown = [shown[number] for number in first]
        batch: dict[str, Any] = {**self._encode(shown, [get_field(row, "text") for row in rows], "caption")}
        if index is not None:
            batch["image_index"] = index if len(index) == len(rows) else index.view(-1, len(rows)).T
        if self.with_labels:
            batch["labels"] = self.encode_labels([get_field(row, "label") for row in rows])
        return {**batch, **self._names(rows)}

    def encode_labels(self, labels: Sequence[Any]) -> torch.Tensor:
        """Return the labels of N rows as the model's loss takes them; shapes and errors are those of `__call__`."""
        is_list = bool(labels) and isinstance(labels[0], list | tuple)
        kind = self.problem_type or ("regression" if len(self.label2id) == 1 else None)
        if kind == "multi_label_classification" or (kind is None and is_list):
            return torch.tensor([self._several(label) for label in labels], dtype=torch.float32)
        if kind == "regression":
            return torch.tensor([self._numbers(label) for label in labels], dtype=torch.float32)
        return torch.tensor([self._index(label) for label in labels], dtype=torch.int64)

    def _index(self, label: Any) -> int:
        """Return the index of a label that is given by name or by index."""
        if isinstance(label, str) and label in self.label2id:
            return self.label2id[label]
        if isinstance(label, Integral) and not isinstance(label, bool) and 0 <= int(label) < len(self.label2id):
            return int(label)
        known = ", ".join(map(repr, self.label2id))
        raise ProcessingError(
            f"A row has the label {label!r:.60}, but the model's labels are {known:.300}: correct it, or train a model "
            "with these labels."
        )

    def _several(self, labels: Any) -> list[float]:
        """Return a number 0..1 for each label."""
        given = [labels] if isinstance(labels, str) else labels
        if not isinstance(given, list | tuple):
            raise ProcessingError(f"A row has the label {labels!r:.60}, but a list of labels is expected: make it one.")
        if len(given) == len(self.label2id) and all(isinstance(one, float | int) for one in given):
            return [float(one) for one in given]
        chosen = {self._index(one) for one in given}
        return [float(index in chosen) for index in range(len(self.label2id))]

    @staticmethod
    def _numbers(label: Any) -> Any:
        """Return a number, or a list of them."""
        numbers = label if isinstance(label, list | tuple) else [label]
        if not all(isinstance(one, Real) and not isinstance(one, bool) for one in numbers):
            raise ProcessingError(f"A row has the label {label!r:.60}, but a number is expected: correct it.")
        return label
