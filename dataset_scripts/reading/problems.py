"""Problems of the data, collected over all files and reported together."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

MAX_PROBLEMS = 10
READABLE = re.compile(r"[^\W_]")  # a letter or digit of any script
_ROW = re.compile(r"\b(row|entry) \d")
HALF_CHARACTER = "\uffff"  # what JSON files are read with in place of half of a surrogate pair; no text has it


class DataError(ValueError):
    """What a user can mend in data or in how it is named; the message says where, what, and the remedy."""


class AnnotationError(DataError):
    """Annotations or images that cannot be used; the text lists the first problems with file, row and remedy."""


class MissingSplitError(AnnotationError):
    """A data set that has no such split."""


class UnusableFileError(DataError):
    """A file that cannot be read; the text says why and what to do, without the name."""


@dataclass
class Problems:
    """Collects problems, keeps the first ones and counts the rest."""

    limit: int = MAX_PROBLEMS  # how many are kept, >= 0
    kept: list[str] = field(default_factory=list)  # each after where it is
    count: int = 0
    file_count: int = 0  # of whole files, folders or settings, which no dropped row mends
    first_row: int = 1  # what rows are counted from
    refused: int = 0  # rows that cannot be used; one image that many rows name is a single problem

    def add(self, where: str, text: str) -> None:
        """Note a problem of a file, folder or setting."""
        self._keep(where, text)
        self.file_count += 1

    def add_row(self, where: str, text: str) -> None:
        """Note a row that cannot be used; an empty text counts the row where the reason is already noted."""
        self.refused += 1
        if text:
            self._keep(where, text)

    def _keep(self, where: str, text: str) -> None:
        self.count += 1
        if len(self.kept) < self.limit:
            self.kept.append(f"{where}: {text}")

    def describe(self, subject: str, name: str = "problem") -> str:
        """Return the count of problems (or of what `name` says) and the kept ones, a line each."""
        counted = any(_ROW.search(problem) for problem in self.kept)
        how = f" (rows are counted from {self.first_row})" if counted else ""
        lines = [f"{subject}: {self.count} {name}{'s' if self.count != 1 else ''}{how}."]
        lines += [f"  {problem}" for problem in self.kept]
        if self.count > len(self.kept):
            lines.append(f"  ... and {self.count - len(self.kept)} further {name}s.")
        return "\n".join(lines)

    def raise_if_any(self, subject: str, drop_rows: bool = False) -> None:
        """Raise an AnnotationError if there is a problem; with `drop_rows`, only problems of whole files count."""
        if self.file_count if drop_rows else self.count:
            raise AnnotationError(self.describe(subject))


def json_type(value: Any) -> str:
    """Return the JSON word for a parsed value's type."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    words: dict[type, str] = {dict: "object", list: "list", str: "string"}
    return words.get(type(value), "number")


def short(value: Any) -> str:
    """Return a value for a message, at most sixty characters long."""
    if not isinstance(value, str):
        text = reprlib.repr(value)  # which does not follow lists within lists to their end
    else:
        text = repr(value) if encodes(value) else ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


def encodes(text: str) -> bool:
    """Return whether a string can be stored as UTF-8; half of a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return HALF_CHARACTER not in text


def image_problem(row: dict[str, Any], needed: Sequence[str], setting: str = "image_root") -> str | None:
    """Return which keys a row lacks, or what is wrong with its image as a value, or None."""
    missing = [key for key in needed if key not in row]
    if missing:
        return f"has no {' and no '.join(map(repr, missing))}; its keys are {list(row)[:6]}: add it"
    if not isinstance(row["image"], str) or not row["image"].strip():
        return f"image is {short(row['image'])}: a path relative to {setting} is expected"
    return None


def text_problem(name: str, text: str) -> str | None:
    """Return what is wrong with the characters of a text, or None."""
    if text.isascii() or encodes(text):
        return None
    return f"{name} {short(text)} holds half of a surrogate pair: write the whole character"
