"""Answers that are guessed without looking at images: what an accuracy has to be compared with."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple


class Guesses(NamedTuple):
    """What guessers that see no image answer.

    Attributes:
        by_question: The guess for each question, from its words.
        majority: The most frequent answer.
    """

    by_question: list[str]
    majority: str


def learn_guesses(questions: Sequence[str], answers: Sequence[Sequence[str]], asked: Sequence[str]) -> Guesses:
    """Return, for each question that is asked, the answer most frequent for its words in other data.

    A question that does not occur there gets the most frequent answer of all.

    Args:
        questions: Of the data to learn from.
        answers: Of all annotators, with repeats; at least one in all.
        asked: Questions to answer.
    """
    overall, by_question = _count(questions, answers)
    majority = overall.most_common(1)[0][0]
    best = {question: counts.most_common(1)[0][0] for question, counts in by_question.items() if counts}
    return Guesses([best.get(question, majority) for question in asked], majority)


def guesses_from_each_other(questions: Sequence[str], answers: Sequence[Sequence[str]]) -> Guesses:
    """Return, for each question, the answer most frequent for its words among the other questions of the same data.

    Without training data this is the next best: no question helps to answer itself. The most frequent answer is that of
    all questions.

    Args:
        questions: The questions.
        answers: Of all annotators, with repeats; at least one a question.
    """
    overall, by_question = _count(questions, answers)
    all_ranked = overall.most_common()
    ranked = {question: counts.most_common() for question, counts in by_question.items()}
    guesses = []
    for question, given in zip(questions, answers, strict=True):
        own = Counter(given)
        others = _most_frequent_beside(ranked[question], own) or _most_frequent_beside(all_ranked, own)
        guesses.append(others or all_ranked[0][0])
    return Guesses(guesses, all_ranked[0][0])


def _count(questions: Sequence[str], answers: Sequence[Sequence[str]]) -> tuple[Counter[str], dict[str, Counter[str]]]:
    overall: Counter[str] = Counter()
    by_question: dict[str, Counter[str]] = defaultdict(Counter)
    for question, given in zip(questions, answers, strict=True):
        overall.update(given)
        by_question[question].update(given)
    return overall, by_question


def _most_frequent_beside(ranked: Sequence[tuple[str, int]], own: Counter[str]) -> str | None:
    """Return the most frequent answer without a question's own answers; None where there are no others."""
    best, most = None, 0
    for answer, count in ranked:
        if count <= most:
            break
        if count - own[answer] > most:
            best, most = answer, count - own[answer]
    return best
