"""Counts of the words, tokens and repeats of captions, questions and answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..reading.answer_lists import spelling_key

QUARTILES = (0, 25, 50, 75, 100)  # per cent


def comparable_text(text: str) -> str:
    """Return a text without case, extra spaces and the mark at its end: texts are repeated if these are equal."""
    return " ".join(text.lower().split()).rstrip(" .!?")


def quartiles(counts: Counter[int]) -> list[float]:
    """Return the least value, the three quartiles and the greatest value; between two values lies a straight line.

    Args:
        counts: Value -> how often it occurs. Without any, the list is empty.
    """
    values = np.repeat(np.fromiter(counts, np.int64), np.fromiter(counts.values(), np.int64))
    return np.percentile(values, QUARTILES).tolist() if len(values) else []


@dataclass
class TextCounts:
    """Counts of captions or questions, after the clean-up that the processor gives them.

    Attributes:
        max_words: How many words of a text are read.
        has_questions: Whether the texts are questions, which get another clean-up, and are repeats only if they are
            about the same image.
        words: Words of a text -> texts that have so many.
        tokens: The same for tokens, without special ones.
        vocabulary: Word -> how often it occurs.
        unknown: Tokens that the tokenizer does not know.
        longer: Texts of more than `max_words` words.
        repeats: Hash of a text that can be compared -> how often it occurs.
    """

    max_words: int
    has_questions: bool
    words: Counter[int] = field(default_factory=Counter)
    tokens: Counter[int] = field(default_factory=Counter)
    vocabulary: Counter[str] = field(default_factory=Counter)
    unknown: int = 0
    longer: int = 0
    repeats: Counter[int] = field(default_factory=Counter)

    def add(self, texts: Sequence[str], images: Sequence[Any], tokenizer: Any) -> None:
        """Count texts.

        Args:
            texts: Captions or questions.
            images: What the image of each goes by.
            tokenizer: A fast one of the transformers library.
        """
        if not texts:
            return
        cleaned = [self.clean(text) for text in texts]
        for text, image, clean in zip(texts, images, cleaned, strict=True):
            words = clean.split()
            self.words[len(words)] += 1
            self.longer += len(words) > self.max_words
            self.vocabulary.update(words)
            self.repeats[self.key(text, image)] += 1
        ids = tokenizer(cleaned, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        self.tokens.update(map(len, ids))
        self.unknown += sum(row.count(tokenizer.unk_token_id) for row in ids)

    def clean(self, text: str) -> str:
        """Return a text as the processor cleans it up, whole."""
        from processing.processing_albef import clean_caption, clean_question  # brings in transformers

        return (clean_question if self.has_questions else clean_caption)(text, len(text) + 1)

    def key(self, text: str, image: Any) -> int:
        """Return what a text is compared by."""
        return hash((image if self.has_questions else None, comparable_text(text)))

    @property
    def seen_once(self) -> int:
        """Words that occur once."""
        return sum(count == 1 for count in self.vocabulary.values())

    @property
    def repeated(self) -> int:
        """Texts that an earlier one of the split equals."""
        return self.repeats.total() - len(self.repeats)

    def repeated_in(self, other: TextCounts) -> int:
        """Return how many texts are texts of another split, too."""
        return sum(count for key, count in self.repeats.items() if key in other.repeats)


class AnswerCounts:
    """Counts of answers; spellings that the tokenizer cannot tell apart are one answer.

    Attributes:
        given: Answer, in its first spelling -> how often it was given.
        questions: Questions with an answer.
        known: Name of a list of answers -> answers given that it holds, and questions with at least one of them.
    """

    def __init__(self, lists: dict[str, Collection[tuple[str, ...]]]) -> None:
        """Begin with no answer; the lists hold spelling keys."""
        self.given, self.questions = Counter[str](), 0
        self._lists, self.known = lists, {name: [0, 0] for name in lists}
        self._first_spelling: dict[tuple[str, ...], str] = {}
        self._key_of: dict[str, tuple[str, ...]] = {}

    def add(self, answers: Iterable[str]) -> None:
        """Count the answers to a question."""
        keys = [self._key(answer) for answer in map(str.strip, answers) if answer]
        self.questions += bool(keys)
        self.given.update(self._first_spelling[key] for key in keys)
        for name, members in self._lists.items():
            held = sum(key in members for key in keys)
            self.known[name][0] += held
            self.known[name][1] += bool(held)

    def _key(self, answer: str) -> tuple[str, ...]:
        if (key := self._key_of.get(answer)) is None:
            key = self._key_of[answer] = spelling_key(answer)
            self._first_spelling.setdefault(key, answer)
        return key

    def keys(self) -> Collection[tuple[str, ...]]:
        """Return the answers as spelling keys."""
        return self._first_spelling.keys()

    @property
    def given_once(self) -> int:
        """Answers that were given once."""
        return sum(count == 1 for count in self.given.values())
