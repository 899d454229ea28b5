"""Collators that make batches of rows, one for each task."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import BatchFeature
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

from .image_keys import image_key, image_number, image_path
from .image_processing_albef import ProcessingError
from .processing_albef import AlbefProcessor, count_unknown

logger = logging.getLogger(__name__)


@dataclass
class TextCollator:
    """What the collators of all tasks share."""

    processor: AlbefProcessor
    max_words: int = 30
    max_length: int | None = None
    with_names: bool = False
    normalize: bool = True
    _knows_a_word: bool = field(default=False, init=False, repr=False)
    _texts_read: int = field(default=0, init=False, repr=False)

    def _encode(self, rows: list[dict[str, Any]], texts: list[str], text_type: str) -> BatchFeature:
        """Return the images of rows and texts as a model's inputs; rows with stored states need no image."""
        stored = [row["image_hidden_states"] for row in rows if "image_hidden_states" in row]
        images = None if stored else [get_field(row, "image") for row in rows]
        batch = self._encode_unchecked(images, texts, text_type)
        if stored:
            batch["image_hidden_states"] = torch.stack(stored)
        if not self._knows_a_word:
            self._check_vocabulary(texts, batch["input_ids"])
        return batch

    def _check_vocabulary(self, texts: list[str], input_ids: torch.Tensor) -> None:
        """Refuse to train where the vocabulary knows no word of the first texts, one alone aside."""
        unknown, tokens = count_unknown(self.processor.tokenizer, input_ids)
        self._knows_a_word = tokens > unknown
        self._texts_read += len(texts) if tokens else 0
        if tokens == unknown and self._texts_read > 1:
            raise ProcessingError(
                f"The vocabulary knows no word of the first {self._texts_read} texts, such as {texts[0][:60]!r}: take "
                "a tokenizer of their language, as `--tokenizer` or in the processor."
            )

    def _encode_unchecked(self, images: list[Any] | None, texts: list[str], text_type: str) -> BatchFeature:
        limits = [self.max_length, self.processor.tokenizer.model_max_length]
        max_length = min(limit for limit in limits if limit is not None)
        is_limited = max_length < VERY_LARGE_INTEGER
        return self.processor(
            images=images,
            text=texts,
            text_type=text_type,
            max_words=self.max_words,
            padding=True,
            truncation=is_limited,
            max_length=max_length if is_limited else None,
            return_tensors="pt",
            **({} if self.normalize or images is None else {"do_rescale": False, "do_normalize": False}),
        )

    def _names(self, rows: list[dict[str, Any]]) -> dict[str, list[str]]:
        """Return the names of a batch's images, and of those that other rows replace."""
        if not self.with_names:
            return {}
        names = {"image_names": list(dict.fromkeys(map(_name, rows)))}
        named = [row for row in rows if "replaced_image" in row]
        replaced = [name for row in named for name in (row["replaced_image"], *row.get("further_replaced", ()))]
        return {**names, "replaced_images": replaced} if replaced else names


@dataclass
class RetrievalCollator(TextCollator):
    """Batches for retrieval training; B rows, the longest of them L tokens long.

    Attributes:
        processor: Its image processor sets the side S of the images; one of this size is not resized again.
        max_words: Words of a caption that are read.
        max_length: Tokens of a caption that are read, `[CLS]` counted; None, as published, limits the words alone. The
            tokenizer's `model_max_length`, and in a trainer the positions of the model, are limits, too.
        with_names: Whether the batch has `image_names`, a list, and perhaps `replaced_images`, both from the rows. The
            trainers take them out for their messages; models do not know them.
        normalize: Whether `pixel_values` are what the model takes; else they are uint8, a quarter of the bytes, which
            are to be rescaled and normalized where they are used. The trainers do so, on the device.
    """

    _has_warned: bool = field(default=False, init=False, repr=False)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Make a batch of rows.

        Args:
            rows: Each with `image` (what `open_image` reads) or `image_hidden_states` (P, H), `caption` (string) and
                perhaps `image_id`, which may be anything hashable and is the same for rows of the same image; by
                default its path, or else its content, tells an image from others.

        Returns:
            `pixel_values` (B, 3, S, S) float32 or `image_hidden_states` (B, P, H), `input_ids` and `attention_mask`
            (B, L), `image_ids` (B,), int64: whole numbers as they are, others as numbers that are the same in every
            process and run.

        Raises:
            KeyError: A row lacks image or caption.
            ProcessingError: A caption is no string, or an `image_id` is not hashable.
            UnreadableImageError: An image cannot be read.
        """
        captions = [get_field(row, "caption") for row in rows]
        for caption in captions:
            if not isinstance(caption, str):
                raise ProcessingError(
                    f"A row has the caption {caption!r:.80}, but training takes one a row: spread lists of captions "
                    "over rows with dataset_scripts.one_caption_a_row."
                )
        image_ids = [_image_number(row) for row in rows]
        distinct = set(image_ids)
        if not self._has_warned and len(distinct) == 1 < len(image_ids):
            self._has_warned = True
            logger.warning(
                "All %d rows of a batch show image %d, so the matching loss has no negatives: shuffle the data, or "
                "check that image_id differs from image to image. This warning is not repeated.",
                len(image_ids),
                distinct.pop(),
            )
        return {
            **self._encode(rows, captions, "caption"),
            "image_ids": torch.tensor(image_ids),
            **self._names(rows),
        }


@dataclass
class VQACollator(TextCollator):
    """Batches of questions with their answers for training; B questions, A distinct answers of all of them.

    A distinct answer weighs its share of the listed ones, times the row's `answer_weight`: of ten annotators each
    counts 0.1, and the one answer of a Visual Genome row 0.5 (salesforce/ALBEF `dataset/vqa_dataset.py`).

    Attributes:
        processor: An `AlbefProcessor`.
        max_words: Words of a question that are read; published: 30 in training.
        max_length: Tokens of a question that are read, `[CLS]` counted; published: 25 in training. None sets no limit.
        max_answer_length: Tokens of an answer, both ends counted, beyond which it is refused; None sets no limit. In a
            trainer the positions of the model's decoder are a limit.
        share_images: Whether the batch has an image once for all its questions, with the same augmentation.
        with_names: As in `RetrievalCollator`.
    """

    max_length: int | None = 25
    share_images: bool = False
    max_answer_length: int | None = None

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Make a batch of rows.

        Args:
            rows: Each with `image` or `image_hidden_states`, `question`, `answers` (strings, with repeats) and, if it
                is not 1, `answer_weight`; with `share_images` perhaps `image_id`, as for `RetrievalCollator`.

        Returns:
            `pixel_values` (B, 3, S, S) or `image_hidden_states` (B, P, H), `input_ids` and `attention_mask` (B, M),
            `answer_input_ids` and `answer_attention_mask` (A, L), `labels` (A, L), the same tokens with -100 for
            padding, by which the library's `Trainer` knows that there is a loss, `answer_weights` (A,),
            `answers_per_question` (B,). With `share_images`, `pixel_values` has one row for each image, and
            `image_index` (B,) is the row of each question's image.

        Raises:
            KeyError: A row lacks a field.
            ProcessingError: A question has no answer, or one that is too long.
            UnreadableImageError: An image cannot be read.
        """
        first, index = distinct_images(rows) if self.share_images else (range(len(rows)), None)
        batch = self._encode([rows[n] for n in first], [get_field(row, "question") for row in rows], "question")
        texts: list[str] = []
        shares: list[float] = []
        counts = []
        for row in rows:
            count = Counter(get_field(row, "answers"))
            if not count:
                raise ProcessingError(f"The question {row['question']!r} has no answer: training needs at least one.")
            texts += count
            shares += [row.get("answer_weight", 1.0) * n / count.total() for n in count.values()]
            counts.append(len(count))
        answers = self.processor.encode_answers(texts)
        self._check_lengths(texts, answers["attention_mask"].sum(dim=1))
        if index is not None:
            batch["image_index"] = index
        return {
            **batch,
            "answer_input_ids": answers["input_ids"],
            "answer_attention_mask": answers["attention_mask"],
            "labels": answers["input_ids"].masked_fill(answers["attention_mask"] == 0, -100),
            "answer_weights": torch.tensor(shares, dtype=torch.float32),
            "answers_per_question": torch.tensor(counts),
            **self._names(rows),
        }

    def _check_lengths(self, answers: list[str], lengths: torch.Tensor) -> None:
        longest = int(lengths.argmax())
        if self.max_answer_length is not None and lengths[longest] > self.max_answer_length:
            raise ProcessingError(
                f"The answer {answers[longest][:60]!r} .. has {lengths[longest]} tokens, but the model's decoder reads "
                f"at most {self.max_answer_length}: shorten it, or leave its row out."
            )


def distinct_images(rows: list[dict[str, Any]]) -> tuple[list[int], torch.Tensor]:
    """Return the first row (I,) of each different image of B rows, and which of these images (B,) each row shows."""
    numbers: dict[Any, int] = {}
    keys = [image_key(row) for row in rows]
    index = [numbers.setdefault((n,) if key is None else key, len(numbers)) for n, key in enumerate(keys)]
    return [index.index(number) for number in range(len(numbers))], torch.tensor(index)


def _image_number(row: dict[str, Any]) -> int:
    key = image_key(row)
    if key is None:
        raise ProcessingError(
            f"An image of type {type(row['image']).__name__} cannot be compared: add image_id, the same for rows "
            "of the same image."
        )
    return image_number(key)


def _name(row: dict[str, Any]) -> str:
    """Return what a message calls the image of a row."""
    path = image_path(row.get("image"))
    return str(row.get("image_name") or (path and repr(path)) or row.get("image_id", "?"))


def get_field(row: dict[str, Any], name: str) -> Any:
    """Return a field of a row; a KeyError says which ones it has."""
    if name not in row:
        raise KeyError(f"A row lacks {name!r}; it has {', '.join(row)}.")
    return row[name]
