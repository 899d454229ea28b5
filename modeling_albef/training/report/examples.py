"""Which queries of an evaluation are worth a look: the hardest, with what the model answered, as plain records.

Shapes: Q queries, K ranked candidates of each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from ..evaluation.ranking import RankedCandidates
from ..evaluation.results import RetrievalResult, VQAResult
from ..evaluation.retrieval_metrics import rank_of_first_match
from ..evaluation.vqa_metrics import answer_accuracy

TIMES = "\N{NO-BREAK SPACE}\N{MULTIPLICATION SIGN}\N{NO-BREAK SPACE}"
SHOWN = 5  # candidates of a query
RETRIEVAL_INTRO = "The hardest first: the first right result is furthest down, or a wrong one is furthest ahead of it."
RANKS_INTRO = f"{RETRIEVAL_INTRO} Below an image: its rank and its matching score."
QUESTIONS_INTRO = "The worst first: wrong answers, the surest before the others, then right ones that were not sure."


@dataclass(frozen=True)
class Candidate:
    """What a model gave for a query."""

    text: str | None = None  # a caption or an answer; None where it is an image
    row: int | None = None  # the image's row in the data set; None where it is a text
    credit: float | None = None  # how right it is: 1 wholly, 0 not at all; None where nobody knows
    rank: int | None = None  # among all candidates, 1 = the best; None where it was not among them
    score: float | None = None  # matching logit
    probability: float | None = None  # of an answer, 0..1


@dataclass(frozen=True)
class Example:
    """A query and what came of it."""

    text: str | None  # a caption or a question; None where the query is an image
    row: int | None  # the query's image in the data set; None where it has none
    candidates: tuple[Candidate, ...]  # the best ones, and what would have been right
    note: str  # what makes it hard
    truths: tuple[str, ...] = ()  # what is right, where it is text


@dataclass(frozen=True)
class Gallery:
    """Queries of a kind, the hardest first."""

    name: str  # short, for tag names
    title: str
    examples: tuple[Example, ...]
    intro: str  # how they are ordered


def hardest_examples(result: RetrievalResult | VQAResult, dataset: Any, count: int) -> list[Gallery]:
    """Return the `count` hardest queries of each kind: captions and images of a retrieval, or questions."""
    if isinstance(result, VQAResult):
        return [hardest_questions(result, dataset, count)]
    return [hardest_captions(result, count), hardest_images(result, count)]


def hardest_first(matches: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Return the order (Q,) of queries, the worst first, from matches and scores (Q, K) of their candidates.

    First those whose first right candidate has the largest rank, or that have none; of equal ranks the one where the
    best wrong candidate is furthest ahead of the best right one.
    """
    ranks = rank_of_first_match(matches)
    order = _margins(matches, scores).argsort(stable=True)
    return order[ranks[order].argsort(descending=True, stable=True)]


def _margins(matches: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Return (Q,) how far the best right candidate is ahead of the best wrong one; a missing right one counts as 0."""
    right = scores.masked_fill(~matches, -torch.inf).amax(dim=1)
    wrong = scores.masked_fill(matches, -torch.inf).amax(dim=1)
    return torch.where(matches.any(dim=1), right, torch.zeros_like(right)) - wrong


def hardest_captions(result: RetrievalResult, count: int) -> Gallery:
    """Return the hardest captions with their best images; the right one is there too, wherever it was ranked."""
    ranked, owners = result.text_to_image, result.caption_image
    matches = ranked.ids == owners[:, None]
    examples = []
    for query in hardest_first(matches, ranked.scores)[:count].tolist():
        candidates = _best(ranked, matches, query, result)
        if not any(candidate.credit for candidate in candidates):
            candidates.append(Candidate(row=result.row_of(int(owners[query])), credit=1.0))
        note = _note(matches[query], ranked.scores[query])
        examples.append(Example(result.captions[query], None, tuple(candidates), note))
    return Gallery("text_to_image", "Images found for a caption", tuple(examples), RANKS_INTRO)


def hardest_images(result: RetrievalResult, count: int) -> Gallery:
    """Return the hardest images with their best captions, and all captions that are their own."""
    ranked, owners = result.image_to_text, result.caption_image
    matches = owners[ranked.ids] == torch.arange(len(ranked.ids))[:, None]
    examples = []
    for query in hardest_first(matches, ranked.scores)[:count].tolist():
        candidates = tuple(_best(ranked, matches, query, result, of_captions=True))
        own = tuple(result.captions[text] for text in (owners == query).nonzero()[:, 0].tolist())
        note = _note(matches[query], ranked.scores[query]) if own else "this image has no caption"
        examples.append(Example(None, result.row_of(query), candidates, note, own))
    return Gallery("image_to_text", "Captions found for an image", tuple(examples), RETRIEVAL_INTRO)


def _best(
    ranked: RankedCandidates, matches: torch.Tensor, query: int, result: RetrievalResult, of_captions: bool = False
) -> list[Candidate]:
    """Return the best candidates, images or captions, and the first right one where it comes later."""
    indices = list(range(min(SHOWN, matches.shape[1])))
    if matches[query].any() and not matches[query, :SHOWN].any():
        indices.append(int(matches[query].int().argmax()))
    found = []
    for index in indices:
        found_id = int(ranked.ids[query, index])
        text, image = (result.captions[found_id], None) if of_captions else (None, result.row_of(found_id))
        credit, score = float(matches[query, index]), float(ranked.scores[query, index])
        found.append(Candidate(text, image, credit, rank=index + 1, score=score))
    return found


def _note(matches: torch.Tensor, scores: torch.Tensor) -> str:
    """Return what makes a query (K,) hard, in words."""
    if not matches.any():
        return f"no right one among the {len(matches)} candidates"
    first = int(matches.int().argmax())
    if first:
        return f"the first right one is at rank {first + 1} of {len(matches)}"
    if matches.all():
        return "right, and there was no wrong candidate"
    return f"right, ahead of the best wrong one by {float(_margins(matches[None], scores[None])):.3g}"


def hardest_questions(result: VQAResult, dataset: Any, count: int) -> Gallery:
    """Return the worst answered questions, each with its answer and those that people gave.

    Of equals those come first whose wrong answer was the surest, or whose right one was the least sure; where people
    gave no answers, the least sure ones. The data set has `question`, `answers` and perhaps `question_type`.
    """
    sure = [0.0] * len(result.answers) if result.probabilities is None else result.probabilities.tolist()
    truths = [tuple(row) for row in dataset["answers"]]
    credits = [
        answer_accuracy(row["answer"], given) / 100 if given else None
        for row, given in zip(result.answers, truths, strict=True)
    ]

    def badness(row: int) -> tuple[float, float]:
        credit = credits[row]
        return (2.0, sure[row]) if credit is None else (credit, sure[row] if credit == 1 else -sure[row])

    has_types = "question_type" in getattr(dataset, "column_names", ())
    examples = []
    for row in sorted(range(len(truths)), key=badness)[:count]:
        probability = None if result.probabilities is None else sure[row]
        answer = Candidate(text=result.answers[row]["answer"], credit=credits[row], probability=probability)
        note = f"question type: {dataset['question_type'][row]}" if has_types else ""
        examples.append(Example(dataset["question"][row], row, (answer,), note, counted(truths[row])))
    return Gallery("questions", "Questions and answers", tuple(examples), QUESTIONS_INTRO)


def counted(answers: Iterable[str]) -> tuple[str, ...]:
    """Return different answers with how many people gave each, the most frequent first."""
    given = Counter(answers).most_common()
    return tuple(answer if sum(n for _, n in given) == 1 else f"{answer}{TIMES}{number}" for answer, number in given)
