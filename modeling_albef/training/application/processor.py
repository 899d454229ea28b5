"""The processor of a run."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

from datasets import Dataset
from transformers.utils import logging

from processing import AlbefImageProcessor, AlbefProcessor, build_tokenizer, load_tokenizer

from ..evaluation.base import progress
from ..rows import texts_of
from .errors import StartError
from .settings import DataArguments, ModelArguments
from .vocabulary import check_vocabulary

logger = logging.get_logger(__name__)


def training_texts(splits: dict[str, Any], column: str, further: Iterable[str] = ()) -> Iterable[str] | None:
    """Return the texts to build a tokenizer of: a column of the training data, and further ones.

    The column holds strings, or lists of strings. None where there is no training data, or it is streamed.
    """
    rows = splits.get("train")
    if not isinstance(rows, Dataset):
        return None
    values = chain(rows[column], further)
    texts = (text for value in values for text in texts_of(value))
    return progress(texts, "Counting words")


def load_processor(
    model_args: ModelArguments, texts: Iterable[str] | None, checkpoint: str | None = None, **settings: Any
) -> AlbefProcessor:
    """Load the model's processor or, for a model from scratch, make one of a tokenizer or of texts.

    A run that is resumed keeps the processor of its checkpoint, whatever texts there are by now: the ids of words stay.

    Args:
        model_args: Which model, which tokenizer.
        texts: What a tokenizer is built of where none is named; see `training_texts`.
        checkpoint: What training resumes from, or None.
        settings: Arguments of `AlbefProcessor`: `text_type`, `max_words`.
    """
    if model_args.has_encoders and checkpoint is None:
        vision, text = str(model_args.vision_encoder), model_args.tokenizer or model_args.text_encoder
        return AlbefProcessor.from_encoders(vision, text, model_args.image_size, **settings)
    if model_args.tokenizer is not None:  # the trainer refuses one that is not the checkpoint's
        return AlbefProcessor(AlbefImageProcessor(), load_tokenizer(model_args.tokenizer), **settings)
    if (name := checkpoint or model_args.model_name_or_path) is not None:
        loaded = AlbefProcessor.from_pretrained(name)
        if texts is not None and model_args.model_name_or_path is None:
            _warn_of_new_words(loaded.tokenizer, texts, name)
        return AlbefProcessor(loaded.image_processor, loaded.tokenizer, end_texts=loaded.end_texts, **settings)
    if texts is None:
        raise StartError("A model from scratch needs a --tokenizer, or training data, not streamed, to make it of.")
    return AlbefProcessor(AlbefImageProcessor(), build_tokenizer(texts), **settings)


def load_text_processor(
    model_args: ModelArguments, data_args: DataArguments, splits: dict[str, Any], column: str, checkpoint: str | None
) -> AlbefProcessor:
    """Return the processor of a run on texts, as `load_processor` does, with its vocabulary checked on a column."""
    texts = training_texts(splits, column)
    processor = load_processor(model_args, texts, checkpoint, max_words=data_args.max_words)
    check_vocabulary(processor, splits, column)
    return processor


def _warn_of_new_words(tokenizer: Any, texts: Iterable[str], checkpoint: str) -> None:
    """Say which words of the training texts the tokenizer of a checkpoint lacks."""
    known = tokenizer.get_vocab()
    if new := sorted(build_tokenizer(texts).get_vocab().keys() - known.keys(), key=lambda word: (len(word), word)):
        logger.warning(
            f"The training texts have {len(new)} words that {checkpoint} was not trained with, such as "
            f"{', '.join(map(repr, new[-3:]))}: they are read piece by piece, and all others keep their ids."
        )
