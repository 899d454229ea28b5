"""Visual question answering: the official accuracy, and the files it is measured on.

The rules, word tables and their order are those of the VQA v2 evaluation (visualqa.org / GT-Vision-Lab/VQA
`PythonEvaluationTools/vqaEvaluation/vqaEval.py`), oddities included: a number is comparable with published ones only if
the same answers count as equal.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBER_WORDS)} | {"none": "0"}
_ARTICLES = frozenset({"a", "an", "the"})
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_MAX_PERIODS = 32  # the official call passes re.UNICODE, which is 32, where `re.sub` takes the number of replacements
# Each is also recognised with any one of its apostrophes missing.
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
""".split()
_REPAIRS = {
    word[:place] + word[place + 1 :]: word
    for word in _CONTRACTIONS
    for place, letter in enumerate(word)
    if letter == "'"
} | {"somebody'd": "somebodyd"}  # the official table has this one the wrong way round
_NUMBER = re.compile(r"\d+([.: ]\d+)*")  # also a time, or a normalised telephone number
_FIELDS = (  # of a record, as the files name them
    ("question_id", int, "an integer"),
    ("question", str, "a string"),
    ("image", str, "a path"),
    ("image_id", int, "an integer"),
    ("answer_type", str, "a string"),
    ("question_type", str, "a string"),
)
ANSWER_TYPES = {"yes/no": "yes_no", "number": "number", "other": "other"}


@dataclass(frozen=True)
class QuestionRecord:
    """A question, its annotation, or both.

    Attributes:
        question_id: Unique in a file.
        question: None in the official annotations, which leave it to the questions' file.
        image: Path as written, in ALBEF's files.
        image_id: The COCO image, in the official files.
        answers: One an annotator, with repeats; empty where the file has none.
        answer_type: "yes/no", "number", "other" or None where it is not annotated.
        question_type: First words of the question, such as "how many"; None where it is not annotated.
    """

    question_id: int
    question: str | None = None
    image: str | None = None
    image_id: int | None = None
    answers: tuple[str, ...] = ()
    answer_type: str | None = None
    question_type: str | None = None

    def __post_init__(self) -> None:
        if self.answer_type not in (None, *ANSWER_TYPES):
            raise ValueError(f"'answer_type' is {self.answer_type!r}: use one of {', '.join(ANSWER_TYPES)}, or none")


@lru_cache(maxsize=65_536)
def normalise_answer(answer: str) -> str:
    """Bring an answer to the form in which the official evaluation compares.

    In this order: line breaks and tabs become spaces and the ends are stripped; each punctuation mark is removed where
    it stands beside a space anywhere in the answer, or if the answer has a comma between digits, and becomes a space
    otherwise; periods go unless a digit follows; lower case; number words become digits; articles are left out (an
    answer that is only an article becomes empty); contractions get back a missing apostrophe.
    """
    answer = _flat(answer)
    text = answer
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in answer or f" {mark}" in answer
        text = text.replace(mark, "" if beside_space or _COMMA_IN_NUMBER.search(answer) else " ")
    text = _PERIOD.sub("", text, count=_MAX_PERIODS)
    words = [_DIGITS.get(word, word) for word in text.lower().split()]
    return " ".join(_REPAIRS.get(word, word) for word in words if word not in _ARTICLES)


def answer_accuracy(answer: str, ground_truths: Sequence[str]) -> float:
    """Accuracy of one answer: min(matches / 3, 1), averaged over the groups that leave out one annotator each.

    As in the official code, answers are normalised only where the annotators disagree; where all gave the same answer,
    it has to be met to the letter, since it may be text read from the picture.

    Args:
        answer: The predicted answer.
        ground_truths: One an annotator, ten in VQA v2. With three or fewer the remaining annotators cannot give three
            matches, so all of them have to match: the answer of a sole annotator is right or wrong, and an answer on
            which everybody agrees always counts fully.

    Returns:
        Per cent: 0, 30, 60, 90, 100 for 0, 1, 2, 3, 4 and more matches of ten.

    Raises:
        ValueError: There is no ground truth.
    """
    if isinstance(ground_truths, str) or not ground_truths:
        raise ValueError(f"ground_truths is {ground_truths!r}: give a list with the answer of at least one annotator.")
    answer, truths = _flat(answer), [_flat(truth) for truth in ground_truths]
    if len(set(truths)) > 1:
        answer, truths = normalise_answer(answer), [normalise_answer(truth) for truth in truths]
    number, matches = len(truths), truths.count(answer)
    if number == 1:
        return 100.0 * matches
    needed = min(3, number - 1)
    credit = matches * min(matches - 1, needed) + (number - matches) * min(matches, needed)
    return 100.0 * credit / (needed * number)


def answer_type(annotation: QuestionRecord) -> str:
    """Type of a question's answer: as annotated, else derived from its most frequent answer (the first of equals).

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
    predictions: Mapping[int, str] | Iterable[Mapping[str, Any]], annotations: Sequence[QuestionRecord]
) -> dict[str, float]:
    """The official accuracy of a set of answers.

    Args:
        predictions: Question id -> answer, or the rows of a result file: `{"question_id": .., "answer": ..}`.
        annotations: The questions that count; each needs exactly one prediction.

    Returns:
        `vqa_accuracy`, and `vqa_accuracy_yes_no`, `_number`, `_other` for the types that occur (see `answer_type`).
        Per cent, not rounded: the mean over questions.

    Raises:
        ValueError: A question has no prediction, two, or no annotation. The text names its id.
    """
    scores = _score(predictions, annotations)
    types = [ANSWER_TYPES[answer_type(annotation)] for annotation in annotations]
    by_type = _means(types, scores)
    parts = {f"vqa_accuracy_{name}": by_type[name] for name in ANSWER_TYPES.values() if name in by_type}
    return {"vqa_accuracy": sum(scores) / len(scores)} | parts


def vqa_accuracy_by_question_type(
    predictions: Mapping[int, str] | Iterable[Mapping[str, Any]], annotations: Sequence[QuestionRecord]
) -> dict[str, float]:
    """The accuracy for each annotated `question_type`, in alphabetical order; arguments and errors as above.

    Raises:
        ValueError: As `vqa_accuracy`, and if a question's type is not annotated.
    """
    scores = _score(predictions, annotations)
    untyped = [annotation.question_id for annotation in annotations if annotation.question_type is None]
    if untyped:
        raise ValueError(f"No question_type for {_some(untyped)}: only the official annotations have it; use those.")
    return dict(sorted(_means([str(annotation.question_type) for annotation in annotations], scores).items()))


def read_questions(path: str | os.PathLike[str]) -> list[QuestionRecord]:
    """Read questions: a VQA v2 file (`{"questions": [..]}`) or one of ALBEF's (a list, with or without answers).

    Raises:
        ValueError: The file or a row cannot be used. The text names file, row (from 0) and remedy.
    """
    return _read(path, "questions", answers_needed=False)


def read_annotations(path: str | os.PathLike[str]) -> list[QuestionRecord]:
    """Read the annotators' answers: a VQA v2 file (`{"annotations": [..]}`) or one of ALBEF's, such as `vqa_val.json`.

    Raises:
        ValueError: The file or a row cannot be used. The text names file, row (from 0) and remedy.
    """
    return _read(path, "annotations", answers_needed=True)


def _flat(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


def _some(ids: Sequence[Any]) -> str:
    """Up to five question ids for a message."""
    return f"question {', '.join(map(repr, ids[:5]))}" + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")


def _score(
    predictions: Mapping[int, str] | Iterable[Mapping[str, Any]], annotations: Sequence[QuestionRecord]
) -> list[float]:
    """The accuracy of each annotated question, once every question is known to have one prediction."""
    rows = predictions.items() if isinstance(predictions, Mapping) else _pairs(predictions)
    answers: dict[int, str] = {}
    for question_id, answer in rows:
        if question_id in answers:
            raise ValueError(f"Two predictions for question {question_id!r}: keep one.")
        if not isinstance(answer, str):
            raise ValueError(f"The prediction for question {question_id!r} is {answer!r}: a string is expected.")
        answers[question_id] = answer
    if not annotations:
        raise ValueError("No annotated question is given: there is nothing to measure.")
    ids = Counter(annotation.question_id for annotation in annotations)
    if unanswered := [annotation.question_id for annotation in annotations if not annotation.answers]:
        raise ValueError(f"No annotator's answer for {_some(unanswered)}: give annotations, not only questions.")
    if len(ids) < len(annotations):
        raise ValueError(f"Two annotations for {_some([key for key in ids if ids[key] > 1])}: keep one.")
    if missing := [key for key in ids if key not in answers]:
        raise ValueError(f"No prediction for {_some(missing)}: answer every question, or leave it out of both.")
    if unknown := [key for key in answers if key not in ids]:
        raise ValueError(f"No annotation for {_some(unknown)}: give the annotations of the questions answered.")
    return [answer_accuracy(answers[annotation.question_id], annotation.answers) for annotation in annotations]


def _pairs(rows: Iterable[Mapping[str, Any]]) -> Iterable[tuple[int, str]]:
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping) or not {"question_id", "answer"} <= row.keys():
            raise ValueError(f"Prediction {number} is {row!r:.60}: write {{'question_id': .., 'answer': ..}}.")
        yield row["question_id"], row["answer"]


def _means(groups: Sequence[str], scores: Sequence[float]) -> dict[str, float]:
    members: dict[str, list[float]] = {}
    for group, score in zip(groups, scores, strict=True):
        members.setdefault(group, []).append(score)
    return {group: sum(values) / len(values) for group, values in members.items()}


def _read(path: str | os.PathLike[str], key: str, answers_needed: bool) -> list[QuestionRecord]:
    records: dict[int, QuestionRecord] = {}
    for number, row in enumerate(_rows(os.fspath(path), key)):
        try:
            record = _record(row, answers_needed)
            if record.question_id in records:
                raise ValueError(f"question_id {record.question_id} occurs a second time: keep one of its rows")
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)}, row {number}: {error}.") from None
        records[record.question_id] = record
    return list(records.values())


def _rows(path: str, key: str) -> list[Any]:
    """The rows of either layout."""
    try:
        with open(path, encoding="utf-8-sig") as stream:
            content = json.load(stream)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): check the path.") from error
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{path} is not a JSON file ({error}): download or write it again.") from error
    rows = content.get(key) if isinstance(content, dict) else content
    if not isinstance(rows, list):
        found = (
            f"the keys {list(content)[:6]}"
            if isinstance(content, dict)
            else f"a value of type {type(content).__name__}"
        )
        raise ValueError(f'{path} holds {found}: a list of objects, or {{"{key}": [..]}}, is expected.')
    if not rows:
        raise ValueError(f"{path} has no rows: download or write it again.")
    return rows


def _record(row: Any, answers_needed: bool) -> QuestionRecord:
    """Check a row; what is wrong with it comes back as a ValueError without the place."""
    if not isinstance(row, dict):
        raise ValueError(f"is {row!r:.60}, not an object: write one with 'question_id' and its answers or question")
    needed = ["question_id"] if answers_needed else ["question_id", "question"]
    missing = [key for key in needed if key not in row]
    if answers_needed and not row.keys() & {"answers", "answer"}:
        missing.append("answers")
    if missing:
        raise ValueError(f"has no {' and no '.join(map(repr, missing))}, its keys are {list(row)[:8]}: add it")
    for key, kind, word in _FIELDS:
        if row.get(key) is not None or key in needed:
            if not isinstance(row[key], kind) or isinstance(row[key], bool):
                raise ValueError(f"{key!r} is {row[key]!r:.60}: {word} is expected")
    values = {key: row.get(key) for key, _, _ in _FIELDS}
    return QuestionRecord(**values, answers=_answers(row, answers_needed))


def _answers(row: dict[str, Any], needed: bool) -> tuple[str, ...]:
    """`answers` of the official files (objects) or `answer` of ALBEF's (a list of strings, or one string)."""
    key = "answers" if "answers" in row else "answer"
    written = row.get(key, [])
    given = [written] if isinstance(written, str) else written
    if not isinstance(given, list) or (needed and not given):
        raise ValueError(f"{key!r} is {written!r:.60}: at least one answer, in a list, is expected")
    answers = [entry.get("answer") if isinstance(entry, dict) else entry for entry in given]
    for answer in answers:
        if not isinstance(answer, str):
            raise ValueError(f"{key!r} holds {answer!r:.60}: the text of an answer, a string, is expected")
    return tuple(answers)
