"""The queries of an evaluation by kind, with what the model gave for each, ordered by how hard they are.

Shapes: Q queries, K ranked candidates of each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from ..classification.result import ClassificationResult
from ..evaluation.ranking import RankedCandidates
from ..evaluation.results import RetrievalResult, VQAResult
from ..evaluation.retrieval_metrics import rank_of_first_match
from ..evaluation.vqa_metrics import answer_accuracy
from ..grounding.evaluator import GroundingResult
from ..rows import image_keys
from .examples import Candidate, Example, Queries
from .grounded_texts import Pictures, grounded_texts

TIMES = "\N{NO-BREAK SPACE}\N{MULTIPLICATION SIGN}\N{NO-BREAK SPACE}"
SHOWN = 5  # candidates of a query
RANKING_INTROS = (
    "The first right result is furthest down, or a wrong one is furthest ahead of it.",
    "The first right result is on top and furthest ahead of the best wrong one, or closest to it.",
)
LABEL_INTROS = (
    "Wrong labels, the surest before the others, then right ones that were not sure.",
    "Right labels, the surest before the others, then wrong ones that were not sure.",
)
ANSWER_INTROS = (
    "Wrong answers, the surest before the others, then right ones that were not sure.",
    "Right answers, the surest before the others, then wrong ones that were not sure.",
)
RANKS_NOTE = "Below an image: its rank and its matching score."


def queries_of(result: Any, dataset: Any) -> list[Queries]:
    """Return the queries of each kind: captions and images of a retrieval, questions, or texts."""
    if isinstance(result, GroundingResult):
        return [grounded_texts(result, dataset)]
    if isinstance(result, ClassificationResult):
        return [labelled_texts(result, dataset)]
    if isinstance(result, VQAResult):
        return [questions(result, dataset)]
    return [captions(result), images(result)]


def shown_rows(result: Any, dataset: Any) -> Any:
    """Return the rows whose images are shown: those of the data set, of a grounding under their maps."""
    return Pictures(result, dataset) if isinstance(result, GroundingResult) else dataset


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


def captions(result: RetrievalResult) -> Queries:
    """Return the captions with their best images; the right one is there too, wherever it was ranked."""
    ranked, owners = result.text_to_image, result.caption_image
    matches = ranked.ids == owners[:, None]

    def make(query: int) -> Example:
        candidates = _best(ranked, matches, query, result)
        if not any(candidate.credit for candidate in candidates):
            candidates.append(Candidate(row=result.row_of(int(owners[query])), credit=1.0))
        note = _note(matches[query], ranked.scores[query])
        return Example(result.captions[query], None, tuple(candidates), note)

    order = hardest_first(matches, ranked.scores).tolist()
    title = "Images found for a caption"
    return Queries("text_to_image", title, *RANKING_INTROS, RANKS_NOTE, order, owners.tolist(), make)


def images(result: RetrievalResult) -> Queries:
    """Return the images that have captions with their best captions, and all that are their own."""
    ranked, owners = result.image_to_text, result.caption_image
    matches = owners[ranked.ids] == torch.arange(len(ranked.ids))[:, None]

    def make(query: int) -> Example:
        candidates = tuple(_best(ranked, matches, query, result, of_captions=True))
        own = tuple(result.captions[text] for text in (owners == query).nonzero()[:, 0].tolist())
        return Example(None, result.row_of(query), candidates, _note(matches[query], ranked.scores[query]), own)

    have_captions, order = set(owners.tolist()), hardest_first(matches, ranked.scores).tolist()
    order = [query for query in order if query in have_captions]
    title = "Captions found for an image"
    return Queries("image_to_text", title, *RANKING_INTROS, "", order, range(len(matches)), make)


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


def questions(result: VQAResult, dataset: Any) -> Queries:
    """Return the questions, each with its answer and those that people gave; the worst answered ones are the hardest.

    Of equals those come first whose wrong answer was the surest, or whose right one was the least sure; where people
    gave no answers, the least sure ones. The data set has `question`, perhaps `answers`, `image_id`, `question_type`.
    """
    sure = [0.0] * len(result.answers) if result.probabilities is None else result.probabilities.tolist()
    truths = given_answers(dataset)
    credits = question_credits(result, truths)
    texts = dataset["question"]
    types = dataset["question_type"] if "question_type" in dataset.column_names else None

    def make(row: int) -> Example:
        probability = None if result.probabilities is None else sure[row]
        answer = Candidate(text=result.answers[row]["answer"], credit=credits[row], probability=probability)
        note = "" if types is None else f"question type: {types[row]}"
        return Example(texts[row], row, (answer,), note, counted(truths[row]))

    order, keys = _worst_first(credits, sure), image_keys(dataset, warn=False)
    return Queries("questions", "Questions and answers", *ANSWER_INTROS, "", order, keys, make)


def _worst_first(credits: Sequence[float | None], sure: Sequence[float]) -> list[int]:
    """Return the order of rows by credit; of equals the surest wrong ones first, and the least sure right ones."""

    def badness(row: int) -> tuple[float, float]:
        credit = credits[row]
        return (2.0, sure[row]) if credit is None else (credit, sure[row] if credit == 1 else -sure[row])

    return sorted(range(len(credits)), key=badness)


def labelled_texts(result: ClassificationResult, dataset: Any) -> Queries:
    """Return the texts with images, each with the label that the model gave and the right one, as for questions.

    Of a regression the order is that of the error. The data set has `text`, and perhaps `image_id`.
    """
    rows = range(len(result.predictions))
    credits, sure = [result.credit(row) for row in rows], [result.sureness(row) for row in rows]
    if result.truths is not None and credits[0] is None:
        errors = (result.scores.double() - torch.tensor(result.truths).view_as(result.scores)).abs().sum(dim=1)
        order = errors.argsort(descending=True, stable=True).tolist()
    else:
        order = _worst_first(credits, sure)
    texts, truths = dataset["text"], result.truths

    def make(row: int) -> Example:
        probability = sure[row] if isinstance(result.predictions[row], str | list) else None
        answer = Candidate(text=_label_text(result.predictions[row]), credit=credits[row], probability=probability)
        known = () if truths is None else (_label_text(truths[row]),)
        kind = "Right number" if isinstance(result.predictions[row], float) else "Right label"
        return Example(texts[row], row, (answer,), "", known, kind)

    keys = image_keys(dataset, warn=False)
    return Queries("labels", "Texts and labels", *LABEL_INTROS, "", order, keys, make)


def _label_text(label: Any) -> str:
    """Return what a card says of a label, of several, or of numbers."""
    if isinstance(label, float):
        return f"{label:.4g}"
    return label if isinstance(label, str) else ", ".join(map(_label_text, label)) or "none"


def given_answers(dataset: Any) -> list[tuple[str, ...]]:
    """Return the answers that people gave to each question, none where the data set has no `answers`."""
    if "answers" not in dataset.column_names:
        return [()] * len(dataset)
    return [tuple(row or ()) for row in dataset["answers"]]


def question_credits(result: VQAResult, truths: Sequence[Sequence[str]]) -> list[float | None]:
    """Return how right each answer is, 0..1, by the rules of the run; None where people gave no answers."""
    scores = getattr(result, "scores", None)
    if scores is not None:
        return [score / 100 for score in scores.tolist()]
    pairs = zip(result.answers, truths, strict=True)
    return [answer_accuracy(row["answer"], given) / 100 if given else None for row, given in pairs]


def counted(answers: Iterable[str]) -> tuple[str, ...]:
    """Return different answers with how many people gave each, the most frequent first."""
    given = Counter(answers).most_common()
    return tuple(answer if sum(n for _, n in given) == 1 else f"{answer}{TIMES}{number}" for answer, number in given)
