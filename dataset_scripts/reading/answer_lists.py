"""Files of the answers that a model chooses from."""

from __future__ import annotations

import os

from .json_files import read_list
from .problems import Problems, UnusableFileError, short, text_problem


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
    for number, answer in enumerate(entries):
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
