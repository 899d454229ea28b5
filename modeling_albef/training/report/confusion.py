"""Which answers or labels a model gives in place of which."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from ..classification.result import ClassificationResult
from ..evaluation.results import VQAResult
from .queries import given_answers

NUM_ANSWERS = 8


@dataclass(frozen=True)
class Confusion:
    """Counts of the questions by what most people answered and by what the model answered.

    Attributes:
        answers: The answers that most people gave most often, of the rows and the columns.
        counts: A row for each: how often the model gave each of them, and any other answer.
        totals: Questions of each row.
        num_questions: All questions.
    """

    answers: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    totals: tuple[int, ...]
    num_questions: int


def confusion(result: VQAResult | ClassificationResult, dataset: Any, size: int = NUM_ANSWERS) -> Confusion | None:
    """Return the confusion of the `size` most frequent answers or labels; None where they are unknown or lists."""
    if isinstance(result, ClassificationResult):
        given: list[Any] = result.truths or []
        return _counts(given, result.predictions, size) if all(isinstance(one, str) for one in given) else None
    given = [Counter(row).most_common(1)[0][0] if row else None for row in given_answers(dataset)]
    return _counts(given, [row["answer"] for row in result.answers], size)


def _counts(given: list[Any], predicted: list[Any], size: int) -> Confusion | None:
    """Count what was predicted for what is right, None where nobody knows."""
    frequent = [answer for answer, _ in Counter(filter(None, given)).most_common(size)]
    if not frequent:
        return None
    pairs = Counter(zip(given, predicted, strict=True))
    totals = Counter(given)
    counts = [[pairs[truth, answer] for answer in frequent] for truth in frequent]
    rows = (tuple([*row, totals[truth] - sum(row)]) for truth, row in zip(frequent, counts, strict=True))
    return Confusion(tuple(frequent), tuple(rows), tuple(totals[truth] for truth in frequent), len(given))
