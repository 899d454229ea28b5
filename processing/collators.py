"""Rows to batches: one class a task."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch

from .processing_albef import AlbefProcessor

logger = logging.getLogger(__name__)


@dataclass
class RetrievalCollator:
    """Batches for retrieval training; B rows, the longest of them L tokens long.

    Attributes:
        processor: Its image processor says the side S of the images; one that has this size is not resized again.
        max_words: Words of a caption that are read.
        max_length: Tokens of a caption that are read, `[CLS]` counted; None, as published, sets no limit but the words.
        with_names: Whether the batch has `image_names`, a list, and perhaps `replaced_images`, both from the rows. The
            trainers take them out for their messages; models do not know them.
    """

    processor: AlbefProcessor
    max_words: int = 30
    max_length: int | None = None
    with_names: bool = False
    _has_warned: bool = field(default=False, init=False, repr=False)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Join rows.

        Args:
            rows: Each with `image` (what `open_image` reads), `caption` (string) and `image_id` (whole number, the same
                for rows of the same picture).

        Returns:
            `pixel_values` (B, 3, S, S) float32, `input_ids` and `attention_mask` (B, L), `image_ids` (B,), int64.

        Raises:
            KeyError: A row lacks one of the three.
            UnreadableImageError: An image cannot be read.
        """
        image_ids = torch.tensor([_get(row, "image_id") for row in rows], dtype=torch.int64)
        self._warn_without_negatives(image_ids)
        batch = self.processor(
            images=[_get(row, "image") for row in rows],
            text=[_get(row, "caption") for row in rows],
            text_type="caption",
            max_words=self.max_words,
            padding=True,
            truncation=self.max_length is not None,
            max_length=self.max_length,
            return_tensors="pt",
        )
        return {**batch, "image_ids": image_ids, **(_names(rows) if self.with_names else {})}

    def _warn_without_negatives(self, image_ids: torch.Tensor) -> None:
        if not self._has_warned and len(image_ids) > 1 and bool((image_ids == image_ids[0]).all()):
            self._has_warned = True
            logger.warning(
                "All %d rows of a batch show image %d, so the matching loss has no negatives: shuffle the data, or "
                "check that image_id differs from picture to picture. Said once.",
                len(image_ids),
                image_ids[0],
            )


@dataclass
class VQACollator:
    """Batches of questions with their answers for training; B questions, A distinct answers of all of them.

    A distinct answer weighs its share of the listed ones, times the row's `answer_weight`: of ten annotators each
    counts 0.1, and the one answer of a Visual Genome row 0.5 (salesforce/ALBEF `dataset/vqa_dataset.py`).

    Attributes:
        processor: An `AlbefProcessor`.
        max_words: Words of a question that are read; published: 30 in training.
        max_length: Tokens of a question that are read, `[CLS]` counted; published: 25 in training. None sets no limit.
        share_images: Give a picture once to all its questions in the batch, which then see the same augmentation.
        with_names: As in `RetrievalCollator`.
    """

    processor: AlbefProcessor
    max_words: int = 30
    max_length: int | None = 25
    share_images: bool = False
    with_names: bool = False

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Join rows.

        Args:
            rows: Each with `image`, `question`, `answers` (strings, with repeats) and, if it is not 1, `answer_weight`;
                with `share_images` also `image_id`, the same for rows of the same picture.

        Returns:
            `pixel_values` (B, 3, S, S), `input_ids` and `attention_mask` (B, M), `answer_input_ids` and
            `answer_attention_mask` (A, L), `answer_weights` (A,), `answers_per_question` (B,). Where pictures are
            shared, `pixel_values` has a row a picture, and `image_index` (B,) says which one a question is about.

        Raises:
            ValueError: A question has no answer.
        """
        first_row: dict[Any, int] = {}  # of each picture
        for number, row in enumerate(rows):
            first_row.setdefault(_get(row, "image_id") if self.share_images else number, number)
        batch = self.processor(
            images=[_get(rows[number], "image") for number in first_row.values()],
            text=[_get(row, "question") for row in rows],
            text_type="question",
            max_words=self.max_words,
            padding=True,
            truncation=self.max_length is not None,
            max_length=self.max_length,
            return_tensors="pt",
        )
        counts = [Counter(_get(row, "answers")) for row in rows]
        for row, count in zip(rows, counts, strict=True):
            if not count:
                raise ValueError(f"The question {row['question']!r} has no answer: training needs at least one.")
        answers = self.processor.encode_answers([answer for count in counts for answer in count])
        shares = [
            row.get("answer_weight", 1.0) * n / c.total()
            for row, c in zip(rows, counts, strict=True)
            for n in c.values()
        ]
        if self.share_images:
            place = {image: number for number, image in enumerate(first_row)}
            batch["image_index"] = torch.tensor([place[row["image_id"]] for row in rows])
        return {
            **batch,
            "answer_input_ids": answers["input_ids"],
            "answer_attention_mask": answers["attention_mask"],
            "answer_weights": torch.tensor(shares, dtype=torch.float32),
            "answers_per_question": torch.tensor([len(count) for count in counts]),
            **(_names(rows) if self.with_names else {}),
        }


@dataclass
class ImageCollator:
    """Batches of images alone, for evaluation.

    Attributes:
        processor: An `AlbefProcessor` or its image processor.
    """

    processor: Any

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Join rows with an `image` into `pixel_values` (B, 3, S, S) float32.

        Raises:
            KeyError: A row has no `image`.
            UnreadableImageError: An image cannot be read.
        """
        return dict(self.processor(images=[_get(row, "image") for row in rows], return_tensors="pt"))


def _names(rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    """What the images of a batch are called, and those that other rows took the place of."""
    names = {"image_names": list(dict.fromkeys(str(row.get("image_name", "?")) for row in rows))}
    replaced = [row["replaced_image"] for row in rows if "replaced_image" in row]
    return {**names, "replaced_images": replaced} if replaced else names


def _get(row: dict[str, Any], name: str) -> Any:
    if name not in row:
        raise KeyError(f"A row lacks {name!r}; it has {', '.join(row)}.")
    return row[name]
