"""Count the frequent answers of question files: the candidates of visual question answering.

ALBEF ranks a fixed list of answers (`answer_list.json`, a list of strings). Here such a list is made from the files
that `own_data` reads: `vqa_train.json`, where a row's `answer` is the list of the annotators' answers, `vg_qa.json`,
where it is one string, VQA v2's own files, or tables:

    python -m dataset_scripts answer_list vqa_train.json vqa_val.json --min_count 9 --output answer_list.json
    python -m dataset_scripts answer_list questions/train.csv --num_answers 1000 --output answer_list.json
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

from .. import make_builder
from ..own_data import OwnData
from ..reading.answer_lists import describe_spellings, merge_spellings
from ..reading.problems import MAX_PROBLEMS, AnnotationError, DataError, Problems, short
from ..reading.rows import BadRow

logger = logging.getLogger(__name__)


def build_answer_list(
    files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    min_count: int | None = None,
    num_answers: int | None = None,
) -> list[str]:
    """Return the frequent answers of annotation files, the most frequent first, equally frequent ones by code points.

    Each annotator's answer counts once: the same answer by all ten annotators of a question counts ten times. Answers
    are taken as written, except for space at their ends; blank ones are left out. Spellings that the tokenizer cannot
    tell apart, such as "red" and "Red", count together, the most frequent one is kept, and a line of the log says so.
    With both limits, both hold.

    Raises:
        DataError: Neither limit is given, one is below 1, or no answer reaches them.
        AnnotationError: A file or row cannot be used, or a file is named twice.
    """
    if min_count is None and num_answers is None:
        raise DataError("Give min_count, num_answers or both; min_count=1 keeps every answer.")
    for name, limit in (("min_count", min_count), ("num_answers", num_answers)):
        if limit is not None and limit < 1:
            raise DataError(f"{name} is {limit}, but must be at least 1.")
    merged = merge_spellings(_count([files] if isinstance(files, (str, os.PathLike)) else files))
    counts = {answer: sum(group.values()) for answer, group in merged.items()}
    ranked = sorted(counts, key=lambda answer: (-counts[answer], answer))
    answers = [answer for answer in ranked if counts[answer] >= (min_count or 1)][:num_answers]
    if not answers:
        most = f"the most frequent one, {ranked[0]!r}, occurs {counts[ranked[0]]} times" if ranked else "all are blank"
        raise DataError(f"No answer reaches min_count={min_count}: {most}. Lower it or add files.")
    if notes := describe_spellings({answer: merged[answer] for answer in answers}):
        more = [f"and {len(notes) - MAX_PROBLEMS} more"] if len(notes) > MAX_PROBLEMS else []
        logger.warning("\n".join(["Answers were merged:", *notes[:MAX_PROBLEMS], *more]))
    return answers


def _count(files: Sequence[str | os.PathLike[str]]) -> Counter[str]:
    """Return how often each answer was given."""
    problems, counts = Problems(), Counter[str]()
    if not files:
        raise AnnotationError("Cannot count the answers: no file is given, name at least one.")
    builder = cast(OwnData, make_builder("own_data", "vqa", train_files=[os.fspath(name) for name in files]))
    builder.needed = ("answer",)
    for source in builder.sources("train", problems):
        row = source.row
        problem = _row_problem(row)
        if problem is not None:
            problems.add_row(source.where, problem)
        else:
            answers = [row["answer"]] if isinstance(row["answer"], str) else row["answer"]
            counts.update(filter(None, map(str.strip, answers)))
    problems.raise_if_any("Cannot count the answers")
    return counts


def _row_problem(row: Any) -> str | None:
    """Return what is wrong with a row, or None."""
    if isinstance(row, BadRow):
        return row.problem
    if not isinstance(row, dict):
        return f"is {short(row)}, not an object: write {{'question': .., 'answer': ..}}"
    answers = [row["answer"]] if isinstance(row["answer"], str) else row["answer"]
    if not isinstance(answers, list) or not answers or not all(isinstance(answer, str) for answer in answers):
        return f"answer is {short(row['answer'])}: a string or a list of strings is expected"
    return None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("files", nargs="+", help="training files: vqa_train.json, vg_qa.json, train.csv ..")
    parser.add_argument("--min_count", type=int, help="keep answers given at least so many times")
    parser.add_argument("--num_answers", type=int, help="keep so many of the most frequent answers")
    parser.add_argument("--output", required=True, help="JSON file to write, such as answer_list.json")


def run(options: argparse.Namespace) -> int:
    """Write the list to a file, and its length to the terminal."""
    answers = build_answer_list(options.files, options.min_count, options.num_answers)
    try:
        with open(options.output, "w", encoding="utf-8") as stream:
            json.dump(answers, stream, ensure_ascii=False, indent=0)
            stream.write("\n")
    except OSError as error:
        raise DataError(f"--output {options.output} cannot be written ({error.strerror}): check the path.") from error
    print(f"{len(answers)} answers written to {options.output}")
    return 0
