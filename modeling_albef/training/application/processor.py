"""The processor of a run."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

from datasets import Dataset

from processing import AlbefImageProcessor, AlbefProcessor, build_tokenizer, load_tokenizer

from ..evaluation.base import progress
from .settings import ModelArguments
from .start import StartError


def training_texts(splits: dict[str, Any], column: str, further: Iterable[str] = ()) -> Iterable[str] | None:
    """Return the texts to build a tokenizer of: a column of the training data, and further ones.

    The column holds strings, or lists of strings. None where there is no training data, or it is streamed.
    """
    rows = splits.get("train")
    if not isinstance(rows, Dataset):
        return None
    values = chain(rows[column], further)
    texts = (text for value in values for text in ([value] if isinstance(value, str) else value))
    return progress(texts, "Counting words")


def load_processor(model_args: ModelArguments, texts: Iterable[str] | None, **settings: Any) -> AlbefProcessor:
    """Load the model's processor or, for a model from scratch, make one of a tokenizer or of texts.

    Args:
        model_args: Which model, which tokenizer.
        texts: What a tokenizer is built of where none is named; see `training_texts`.
        settings: Arguments of `AlbefProcessor`: `text_type`, `max_words`.
    """
    if model_args.model_name_or_path is not None and model_args.tokenizer is None:
        loaded = AlbefProcessor.from_pretrained(model_args.model_name_or_path)
        return AlbefProcessor(loaded.image_processor, loaded.tokenizer, end_texts=loaded.end_texts, **settings)
    if model_args.tokenizer is not None:
        return AlbefProcessor(AlbefImageProcessor(), load_tokenizer(model_args.tokenizer), **settings)
    if texts is None:
        raise StartError("A model from scratch needs a --tokenizer, or training data, not streamed, to make it of.")
    return AlbefProcessor(AlbefImageProcessor(), build_tokenizer(texts), **settings)
