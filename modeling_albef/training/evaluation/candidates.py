"""Candidate answers: which ones a tokenizer can tell apart, and which texts count as the same answer."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from transformers.utils import logging

from ...answer_tree_albef import describe_merged_answers, merge_equal_answers
from ...configuration_albef import AlbefError

logger = logging.get_logger(__name__)


def check_answers(answer_list: Sequence[str], tokenizer: Any, given_answers: Iterable[Iterable[str]] = ()) -> list[str]:
    """Return the candidate answers that a tokenizer can tell apart, and log which spellings were merged.

    Candidates with the same token ids are one candidate. The spelling that is most frequent among the given answers is
    kept, else the first of the list.

    Args:
        answer_list: Candidates.
        tokenizer: That of the processor.
        given_answers: Answers of people, row by row; read only where there is something to merge.

    Raises:
        AlbefError: There is no candidate, or one occurs twice, is empty, or cannot be represented by tokens.
    """
    if not answer_list:
        raise AlbefError("The answer list is empty: there is nothing to choose from.")
    twice = next((answer for answer, count in Counter(answer_list).items() if count > 1), None)
    if twice is not None:
        raise AlbefError(f"The answer list has {twice!r} twice: keep one of them.")
    ids = tokenizer(list(answer_list), add_special_tokens=False)["input_ids"]
    for answer, tokens in zip(answer_list, ids, strict=True):
        if not tokens or tokenizer.unk_token_id in tokens:
            raise AlbefError(f"The answer list has {answer!r}, which the tokenizer cannot represent: take it out.")

    def count() -> Mapping[str, int]:
        return Counter(answer for answers in given_answers for answer in answers)

    merged = merge_equal_answers(answer_list, ids, count)
    if (sentence := describe_merged_answers(merged)) is not None:
        logger.warning_once(sentence)
    return list(merged)


def folding(tokenizer: Any) -> Callable[[str], str]:
    """Return a function that gives texts with the same words and marks, as the tokenizer sees them, the same text.

    With an uncased tokenizer case, accents and spaces beside punctuation are ignored: "Red" and "red" are the same, and
    so are "8 : 30" and "8:30".
    """
    backend = tokenizer.backend_tokenizer

    @lru_cache(maxsize=65_536)
    def fold(text: str) -> str:
        normal = text if backend.normalizer is None else backend.normalizer.normalize_str(text)
        folded = ""
        for word, _ in backend.pre_tokenizer.pre_tokenize_str(normal):
            beside_mark = folded == "" or _is_mark(folded[-1]) or _is_mark(word[0])
            folded += word if beside_mark else f" {word}"
        return folded

    return fold


def choose_folding(wanted: bool | None, dataset: Any, tokenizer: Any) -> Callable[[str], str] | None:
    """Return `folding(tokenizer)` where answers are to be folded, else None.

    Args:
        wanted: Whether they are; None: in all data sets but those of the builder `vqa_v2`.
        dataset: What is evaluated.
        tokenizer: That of the processor.
    """
    builder = getattr(getattr(dataset, "info", None), "builder_name", None)
    return folding(tokenizer) if (builder != "vqa_v2" if wanted is None else wanted) else None


def _is_mark(character: str) -> bool:
    """Return whether BERT's tokenizers split at a character: punctuation, and all that is no letter in ASCII."""
    return unicodedata.category(character).startswith("P") or (character.isascii() and not character.isalnum())
