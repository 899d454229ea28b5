"""Whether the vocabulary of a run knows the words of its data."""

from __future__ import annotations

from itertools import islice
from typing import Any

from datasets import Dataset
from transformers.utils import logging

from processing import AlbefProcessor, clean_caption, clean_question
from processing.processing_albef import MAX_UNKNOWN, count_unknown

from ..rows import texts_of
from .errors import StartError

logger = logging.get_logger(__name__)

ROWS_READ = 1000  # of a split, evenly spaced; of a stream the first ones
REMEDY = "give a --tokenizer of their language"


def check_vocabulary(processor: AlbefProcessor, splits: dict[str, Any], column: str) -> None:
    """Read a sample of each split's texts as the model will.

    Args:
        processor: Of the run; it will not judge its vocabulary again.
        splits: Data sets, or dictionaries of them, by the names of their splits.
        column: Which has a text, or a list of texts, a row.

    Raises:
        StartError: The vocabulary knows no word of a split. Where it lacks more than a tenth of the tokens of one, a
            warning says so, once.
    """
    clean = clean_question if processor.text_type == "question" else clean_caption
    sources = [(split, some.values() if isinstance(some, dict) else [some]) for split, some in splits.items()]
    for split, rows in ((split, rows) for split, some in sources for rows in some):
        texts = _sample(rows, column)
        ids = [processor.tokenizer(clean(text, processor.max_words))["input_ids"] for text in texts]
        unknown, tokens = count_unknown(processor.tokenizer, ids)
        if not unknown:
            continue
        what = f"of the {split} {column}s, such as {texts[0][:60]!r}"
        if unknown == tokens:
            raise StartError(f"The vocabulary knows no word {what}: {REMEDY}.")
        if unknown > MAX_UNKNOWN * tokens and processor.judges_vocabulary:
            processor.judges_vocabulary = False
            logger.warning(f"The vocabulary lacks {unknown / tokens:.0%} of the tokens {what}: {REMEDY}.")
    processor.judges_vocabulary = False


def _sample(rows: Any, column: str) -> list[str]:
    if isinstance(rows, Dataset):
        step = max(1, len(rows) // ROWS_READ)
        values: Any = rows.select(range(0, len(rows), step)).select_columns([column])[column]
    else:
        values = (row[column] for row in islice(rows, ROWS_READ // 10))
    return [text for value in values for text in texts_of(value)]
