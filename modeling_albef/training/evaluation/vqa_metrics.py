"""The official accuracy of visual question answering.

The rules, word tables and their order are those of the VQA v2 evaluation (visualqa.org / GT-Vision-Lab/VQA
`PythonEvaluationTools/vqaEvaluation/vqaEval.py`), oddities included: a number is comparable with published ones only if
the same answers count as equal. salesforce/ALBEF ships an older state of the same file (`vqaTools/vqaEval.py`), whose
rules are there, too: `rules="albef"`.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...configuration_albef import AlbefError
from .vqa_records import ANSWER_TYPES, QuestionRecord

RULES = ("vqa", "albef")  # today's evaluation of VQA v2; the one that salesforce/ALBEF ships
INFERENCE = ("rank", "generate")  # candidates are ranked, or answers are written
_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBER_WORDS)} | {"none": "0"}
_ARTICLES = frozenset({"a", "an", "the"})
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_MAX_PERIODS = 32  # the official call passes re.UNICODE, which is 32, where `re.sub` takes the number of replacements
# A word a line; each is also recognised with any one of its apostrophes missing.
_CONTRACTIONS = Path(__file__).with_name("vqa_contractions.txt").read_text(encoding="utf-8").split()
_REPAIRS = {
    word[:index] + word[index + 1 :]: word
    for word in _CONTRACTIONS
    for index, letter in enumerate(word)
    if letter == "'"
} | {"somebody'd": "somebodyd"}  # the official table has this one the wrong way round
_KNOWN_SUFFIXES = frozenset(ANSWER_TYPES.values())
_NUMBER = re.compile(r"\d+([.: ]\d+)*")  # also a time, or a normalised telephone number


@lru_cache(maxsize=65_536)
def normalise_answer(answer: str) -> str:
    """Bring an answer to the form in which the official evaluation compares.

    In this order: line breaks and tabs become spaces and the ends are stripped; each punctuation mark is removed where
    it stands beside a space anywhere in the answer, or if the answer has a comma between digits, and becomes a space
    otherwise; periods go unless a digit follows; lower case; number words become digits; articles are left out (an
    answer that is only an article becomes empty); contractions get back a missing apostrophe.
    """
    words = [_DIGITS.get(word, word) for word in _without_punctuation(_flat(answer)).lower().split()]
    return " ".join(_REPAIRS.get(word, word) for word in words if word not in _ARTICLES)


@lru_cache(maxsize=65_536)
def _without_punctuation(answer: str) -> str:
    """Apply the rule of punctuation marks and periods alone."""
    text = answer
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in answer or f" {mark}" in answer
        text = text.replace(mark, "" if beside_space or _COMMA_IN_NUMBER.search(answer) else " ")
    return _PERIOD.sub("", text, count=_MAX_PERIODS)


def answer_accuracy(
    answer: str, ground_truths: Sequence[str], rules: str = "vqa", fold: Callable[[str], str] | None = None
) -> float:
    """Return the accuracy, per cent, of an answer: min(matches / 3, 1), averaged over leaving out each annotator.

    Of ten annotators 0, 1, 2, 3, 4 and more matches give 0, 30, 60, 90, 100. With three or fewer the remaining
    annotators cannot give three matches, so all of them have to match: the answer of a sole annotator is right or
    wrong, and one on which everybody agrees is right.

    Args:
        answer: The prediction.
        ground_truths: One answer an annotator.
        rules: "vqa", those of today's official code: both sides are normalised, but only where the annotators
            disagree; where all gave the same answer, it has to be met to the letter, since it may be text read from the
            image. "albef", those of salesforce/ALBEF: the prediction is always normalised; of the annotators' answers
            only punctuation is, where they disagree, so that one with a capital, a number word or an article is never
            met.
        fold: Gives answers that count as one the same text; it is applied to both sides before the rules.
    """
    check_rules(rules)
    if isinstance(ground_truths, str) or not ground_truths:
        raise AlbefError(f"ground_truths is {ground_truths!r}: give a list with the answer of at least one annotator.")
    truths = list(ground_truths)
    if fold is not None:
        answer, truths = fold(answer), [fold(truth) for truth in truths]
    if rules == "vqa":  # Differs from ALBEF: the default rules are today's.
        answer, truths = _flat(answer), [_flat(truth) for truth in truths]
    disagree = len(set(truths)) > 1
    if rules == "albef" or disagree:
        answer = normalise_answer(answer)
    if disagree:
        prepare = normalise_answer if rules == "vqa" else _without_punctuation
        truths = [prepare(truth) for truth in truths]
    number, matches = len(truths), truths.count(answer)
    if number == 1:
        return 100.0 * matches
    needed = min(3, number - 1)
    credit = matches * min(matches - 1, needed) + (number - matches) * min(matches, needed)
    return 100.0 * credit / (needed * number)


def check_rules(rules: str) -> None:
    """Refuse rules of an unknown name."""
    if rules not in RULES:
        raise AlbefError(f"The rules of the VQA accuracy are {rules!r}, but must be {' or '.join(map(repr, RULES))}.")


def answer_type(annotation: QuestionRecord) -> str:
    """Return the type of an answer: as annotated, else of the most frequent answer (the first of equals).

    ALBEF's files name no types. "yes" and "no" give "yes/no", digits and number words but "none" give "number", all
    else gives "other".
    """
    if annotation.answer_type is not None:
        return annotation.answer_type
    [(frequent, _)] = Counter(map(str.lower, annotation.answers)).most_common(1)
    text = normalise_answer(frequent)
    if text in ("yes", "no"):
        return "yes/no"
    return "number" if _NUMBER.fullmatch(text) and frequent.strip() != "none" else "other"


def vqa_accuracy(
    predictions: Mapping[int, str] | Iterable[Mapping[str, Any]],
    annotations: Sequence[QuestionRecord],
    rules: str = "vqa",
    fold: Callable[[str], str] | None = None,
) -> dict[str, float]:
    """Return the official accuracy of a set of answers.

    Args:
        predictions: Question id -> answer, or the rows of a result file: `{"question_id": .., "answer": ..}`.
        annotations: The questions that count; each needs exactly one prediction.
        rules: "vqa" or "albef"; see `answer_accuracy`.
        fold: See `answer_accuracy`.

    Returns:
        `vqa_accuracy`, and `vqa_accuracy_yes_no`, `_number`, `_other` for the types that occur (see `answer_type`);
        an annotated type of another name has a metric of its own. Per cent, not rounded: the mean over questions.

    Raises:
        AlbefError: A question has no prediction, two, or no annotation, and the text names its id; or the rules are not
            known.
    """
    return accuracy_by_answer_type(question_scores(predictions, annotations, rules, fold), annotations)


def accuracy_by_answer_type(scores: Sequence[float], annotations: Sequence[QuestionRecord]) -> dict[str, float]:
    """Return the metrics of `vqa_accuracy` from the accuracy of each question."""
    by_type = _means([_metric_suffix(answer_type(annotation)) for annotation in annotations], scores)
    names = [*(name for name in ANSWER_TYPES.values() if name in by_type), *sorted(by_type.keys() - _KNOWN_SUFFIXES)]
    return {"vqa_accuracy": sum(scores) / len(scores)} | {f"vqa_accuracy_{name}": by_type[name] for name in names}


def vqa_accuracy_by_question_type(
    predictions: Mapping[int, str] | Iterable[Mapping[str, Any]],
    annotations: Sequence[QuestionRecord],
    rules: str = "vqa",
    fold: Callable[[str], str] | None = None,
) -> dict[str, float]:
    """Return the accuracy for each annotated `question_type`, in alphabetical order.

    Arguments and errors are those of `vqa_accuracy`, and it is an error if a question's type is not annotated.
    """
    return accuracy_by_question_type(question_scores(predictions, annotations, rules, fold), annotations)


def accuracy_by_question_type(scores: Sequence[float], annotations: Sequence[QuestionRecord]) -> dict[str, float]:
    """Return what `vqa_accuracy_by_question_type` does, from the accuracy of each question."""
    untyped = [annotation.question_id for annotation in annotations if annotation.question_type is None]
    if untyped:
        raise AlbefError(f"No question_type for {_some(untyped)}: only the official annotations have it; use those.")
    return dict(sorted(_means([str(annotation.question_type) for annotation in annotations], scores).items()))


def _metric_suffix(name: str) -> str:
    """Return how a metric's name ends for an answer type: "yes/no" gives "yes_no"."""
    return re.sub(r"\W+", "_", name.lower()).strip("_") or "unnamed"


def _flat(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


def _some(ids: Sequence[Any]) -> str:
    """List up to five question ids for a message."""
    return f"question {', '.join(map(repr, ids[:5]))}" + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")


def question_scores(
    predictions: Mapping[int, str] | Iterable[Mapping[str, Any]],
    annotations: Sequence[QuestionRecord],
    rules: str = "vqa",
    fold: Callable[[str], str] | None = None,
) -> list[float]:
    """Return the accuracy of each annotated question, per cent; arguments and errors are those of `vqa_accuracy`."""
    check_rules(rules)
    rows = predictions.items() if isinstance(predictions, Mapping) else _pairs(predictions)
    answers: dict[int, str] = {}
    for question_id, answer in rows:
        if question_id in answers:
            raise AlbefError(f"Two predictions for question {question_id!r}: keep one.")
        if not isinstance(answer, str):
            raise AlbefError(f"The prediction for question {question_id!r} is {answer!r}: a string is expected.")
        answers[question_id] = answer
    if not annotations:
        raise AlbefError("No annotated question is given: there is nothing to measure.")
    ids = Counter(annotation.question_id for annotation in annotations)
    if unanswered := [annotation.question_id for annotation in annotations if not annotation.answers]:
        raise AlbefError(f"No annotator's answer for {_some(unanswered)}: give annotations, not only questions.")
    if len(ids) < len(annotations):
        raise AlbefError(f"Two annotations for {_some([key for key in ids if ids[key] > 1])}: keep one.")
    if missing := [key for key in ids if key not in answers]:
        raise AlbefError(f"No prediction for {_some(missing)}: answer every question, or leave it out of both.")
    if unknown := [key for key in answers if key not in ids]:
        raise AlbefError(f"No annotation for {_some(unknown)}: give the annotations of the questions answered.")
    return [answer_accuracy(answers[one.question_id], one.answers, rules, fold) for one in annotations]


def _pairs(rows: Iterable[Mapping[str, Any]]) -> Iterable[tuple[int, str]]:
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping) or not {"question_id", "answer"} <= row.keys():
            raise AlbefError(f"Prediction {number} is {row!r:.60}: write {{'question_id': .., 'answer': ..}}.")
        yield row["question_id"], row["answer"]


def _means(groups: Sequence[str], scores: Sequence[float]) -> dict[str, float]:
    members: dict[str, list[float]] = defaultdict(list)
    for group, score in zip(groups, scores, strict=True):
        members[group].append(score)
    return {group: sum(values) / len(values) for group, values in members.items()}
