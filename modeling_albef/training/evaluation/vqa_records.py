"""Questions of visual question answering and their annotations, as the official files and ALBEF's hold them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

from ...configuration_albef import AlbefError

_INTEGERS, _TEXTS = ("question_id", "image_id"), ("question", "image", "answer_type", "question_type")
ANSWER_TYPES = {"yes/no": "yes_no", "number": "number", "other": "other"}


@dataclass(frozen=True)
class QuestionRecord:
    """A question, its annotation, or both; None stands for what a file does not have.

    Attributes:
        question_id: Unique in a file.
        question: In the official annotations there is none; it is in the questions' file.
        image: Path as written, in ALBEF's files.
        image_id: The COCO image, in the official files.
        answers: One an annotator, with repeats; empty where the file has none.
        answer_type: "yes/no", "number" or "other" in VQA v2; other data may have others, as VizWiz has "unanswerable".
        question_type: First words of the question, such as "how many".
    """

    question_id: int
    question: str | None = None
    image: str | None = None
    image_id: int | None = None
    answers: tuple[str, ...] = ()
    answer_type: str | None = None
    question_type: str | None = None


def read_questions(path: str | os.PathLike[str]) -> list[QuestionRecord]:
    """Read questions: a VQA v2 file (`{"questions": [..]}`) or one of ALBEF's (a list, with or without answers).

    Raises:
        AlbefError: The file or a row cannot be used. The text names file, row (from 1) and remedy.
    """
    return _read(os.fspath(path), "questions", answers_needed=False)


def read_annotations(path: str | os.PathLike[str]) -> list[QuestionRecord]:
    """Read the annotators' answers: a VQA v2 file (`{"annotations": [..]}`) or one of ALBEF's, such as `vqa_val.json`.

    Raises:
        AlbefError: The file or a row cannot be used. The text names file, row (from 1) and remedy.
    """
    return _read(os.fspath(path), "annotations", answers_needed=True)


def _read(path: str, key: str, answers_needed: bool) -> list[QuestionRecord]:
    records: dict[int, QuestionRecord] = {}
    for number, row in enumerate(_rows(path, key), start=1):
        try:
            record = _record(row, answers_needed)
            if record.question_id in records:
                raise AlbefError(f"question_id {record.question_id} occurs a second time: keep one of its rows")
        except AlbefError as error:
            raise AlbefError(f"{path}, row {number}: {error}.") from None
        records[record.question_id] = record
    return list(records.values())


def _rows(path: str, key: str) -> list[Any]:
    """Return the rows of either layout."""
    try:
        with open(path, encoding="utf-8-sig") as stream:
            content = json.load(stream)
    except OSError as error:
        raise AlbefError(f"{path} cannot be read ({error.strerror}): check the path.") from error
    except (RecursionError, ValueError) as error:
        raise AlbefError(f"{path} is not a JSON file ({error}): download or write it again.") from error
    rows = content.get(key) if isinstance(content, dict) else content
    if not isinstance(rows, list):
        is_object = isinstance(content, dict)
        found = f"the keys {list(content)[:6]}" if is_object else f"a value of type {type(content).__name__}"
        raise AlbefError(f'{path} holds {found}: a list of objects, or {{"{key}": [..]}}, is expected.')
    if not rows:
        raise AlbefError(f"{path} has no rows: download or write it again.")
    return rows


def _record(row: Any, answers_needed: bool) -> QuestionRecord:
    """Check a row; what is wrong with it is raised without the file and the row."""
    if not isinstance(row, dict):
        raise AlbefError(f"is {row!r:.60}, not an object: write one with 'question_id' and its answers or question")
    needed = ["question_id"] if answers_needed else ["question_id", "question"]
    missing = [key for key in needed if key not in row]
    if answers_needed and not row.keys() & {"answers", "answer"}:
        missing.append("answers")
    if missing:
        raise AlbefError(f"has no {' and no '.join(map(repr, missing))}, its keys are {list(row)[:8]}: add it")
    for key in (*_INTEGERS, *_TEXTS):
        kind, word = (int, "an integer") if key in _INTEGERS else (str, "a string")
        is_given = row.get(key) is not None or key in needed
        if is_given and (not isinstance(row[key], kind) or isinstance(row[key], bool)):
            raise AlbefError(f"{key!r} is {row[key]!r:.60}: {word} is expected")
    values: dict[str, Any] = {key: row.get(key) for key in (*_INTEGERS, *_TEXTS)}
    return QuestionRecord(**values, answers=_answers(row, answers_needed))


def _answers(row: dict[str, Any], needed: bool) -> tuple[str, ...]:
    """Return `answers` of the official files (objects) or `answer` of ALBEF's (a list of strings, or one string)."""
    key = "answers" if "answers" in row else "answer"
    written = row.get(key, [])
    given = [written] if isinstance(written, str) else written
    if not isinstance(given, list) or (needed and not given):
        raise AlbefError(f"{key!r} is {written!r:.60}: at least one answer, in a list, is expected")
    answers: list[Any] = [entry.get("answer") if isinstance(entry, dict) else entry for entry in given]
    for answer in answers:
        if not isinstance(answer, str):
            raise AlbefError(f"{key!r} holds {answer!r:.60}: the text of an answer, a string, is expected")
    return tuple(answers)
