"""Files of the answers that a model chooses from."""

from __future__ import annotations

import os
from collections.abc import Mapping

from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from .json_files import read_list
from .problems import Problems, UnusableFileError, short, text_problem

_NORMALIZER, _PRE_TOKENIZER = BertNormalizer(), BertPreTokenizer()  # of every uncased BERT, whatever its vocabulary


def spelling_key(answer: str) -> tuple[str, ...]:
    """Return the words that an uncased BERT tokenizer sees; answers with the same ones are one candidate."""
    return tuple(word for word, _ in _PRE_TOKENIZER.pre_tokenize_str(_NORMALIZER.normalize_str(answer)))


def merge_spellings(counts: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Group answers that an uncased BERT tokenizer cannot tell apart, such as "red" and "Red", "cafe" and "Café".

    Args:
        counts: How often each spelling is used.

    Returns:
        The most frequent spelling of each group, the first by code points of equally frequent ones, and the counts of
        all its spellings, that one first.
    """
    groups: dict[tuple[str, ...], list[str]] = {}
    for answer in sorted(counts, key=lambda answer: (-counts[answer], answer)):
        groups.setdefault(spelling_key(answer), []).append(answer)
    return {group[0]: {answer: counts[answer] for answer in group} for group in groups.values()}


def describe_spellings(merged: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Return a clause for each group of more than one spelling."""
    return [
        f"{' and '.join(f'{short(answer)} ({count})' for answer, count in group.items())} are one candidate, "
        f"{short(kept)}: the tokenizer cannot tell them apart"
        for kept, group in merged.items()
        if len(group) > 1
    ]


def load_answer_list(path: str | os.PathLike[str]) -> list[str]:
    """Read the answers that a model chooses from, in order, from a JSON file that is a list of strings.

    Raises:
        AnnotationError: The file is no list of different strings that are not empty; the text lists the first ten
            problems with entry and remedy.
    """
    file, problems, entries = os.fspath(path), Problems(), []
    try:
        entries = read_list(file, "list of strings")
    except UnusableFileError as error:
        problems.add(file, str(error))
    first_use: dict[str, int] = {}
    for number, answer in enumerate(entries, start=1):
        problem: str | None
        if not isinstance(answer, str):
            problem = f"is {short(answer)}: a string is expected"
        elif not answer.strip():
            problem = f"is {short(answer)}, an empty answer: remove it"
        elif first_use.setdefault(answer, number) != number:
            problem = f"{short(answer)} repeats entry {first_use[answer]}: remove one of them"
        else:
            problem = text_problem("answer", answer)
        if problem:
            problems.add(f"{file}, entry {number}", problem)
    problems.raise_if_any("Cannot load the answer list")
    return entries
