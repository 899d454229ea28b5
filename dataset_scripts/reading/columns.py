"""Tables whose columns have names of their own, as rows of ALBEF's layout."""

from __future__ import annotations

import ast
import contextlib
import json
import os
from dataclasses import dataclass
from typing import Any

from .problems import short
from .rows import BadRow

COLUMNS: dict[str, tuple[str, ...]] = {  # what a column is called if the configuration does not say
    "image": ("image", "file_name", "image_path", "path", "file"),
    "caption": ("caption", "captions", "text"),
    "question": ("question",),
    "answer": ("answers", "answer"),
    "image_id": ("image_id",),
    "question_id": ("question_id",),
}
PASSED_ON = ("dataset", "answer_weight", "question_type", "answer_type")
NamedColumns = dict[str, str | list[str] | None]


@dataclass
class ColumnNames:
    """Turns rows with people's names of columns into rows of ALBEF's layout."""

    task: str  # "retrieval" or "vqa"
    named: NamedColumns  # what is read -> the column that is set for it, or several, which hold one each
    is_numbered: bool = False  # the `question_id` of the last row is its index
    _count: int = 0
    _reported: str = ""

    def rename(self, row: Any, folder: str = "") -> Any:
        """Return a row of ALBEF's layout, or what is wrong with the columns; image paths start from `folder`."""
        if not isinstance(row, dict):
            return row
        if None in row:  # what a CSV file has beyond its header
            count, header = len(row) - 1 + len(row[None]), len(row) - 1
            return BadRow(f"has {count} cells, the header {header}: put texts with a comma into double quotes")
        found: dict[str, Any] = {}
        for name, column in self.named.items():
            value = _first(row, (column,) if isinstance(column, str) else column or COLUMNS[name], bool(column))
            if isinstance(value, BadRow):
                return value
            if value is not None:
                found[name] = value
        for name in ("image", "caption" if self.task == "retrieval" else "question"):
            if name not in found:
                return self._missing(name, row)
        if folder and isinstance(found["image"], str):
            found["image"] = os.path.join(folder, found["image"].replace("\\", "/"))
        if self.task == "vqa":
            self._read_numbers(found, row)
        self._count += 1
        return found

    def _missing(self, name: str, row: dict[Any, Any]) -> BadRow:
        """Return the problem of a row without a value; a missing column is reported once, not for each row."""
        column = self.named[name]
        looked_for: Any = column or COLUMNS[name]
        known = [each for each in ([looked_for] if isinstance(looked_for, str) else looked_for) if each in row]
        if known:
            return BadRow(f"has nothing in {' and '.join(known)}: fill it, or leave the row out")
        text = f"has no {name} in {column or ' or '.join(looked_for)}; its columns are {list(row)[:8]}: "
        text += f"set {name}_column in dataset_config" + self._hint(row)
        is_known, self._reported = text == self._reported, text
        return BadRow("" if is_known else text)

    def _hint(self, row: dict[Any, Any]) -> str:
        """Return another remedy for a missing column."""
        if self.task == "retrieval" and "question" in row:
            return ", or, for questions, config_name vqa"
        if self.task == "vqa" and not {"caption", "captions", "text"}.isdisjoint(row):
            return ", or, for captions, config_name retrieval"
        return ", or, if these are no names, put a first line with names before them"

    def _read_numbers(self, found: dict[str, Any], row: dict[str, Any]) -> None:
        """Add what a question has beside its text; cells of tables hold numbers as text."""
        found |= {name: row[name] for name in PASSED_ON if row.get(name) not in (None, "")}
        self.is_numbered = "question_id" not in found
        number = found.get("question_id", self._count)
        is_number = isinstance(number, str) and number.isdecimal() and len(number) < 20
        found["question_id"] = int(number) if is_number else number
        if isinstance(weight := found.get("answer_weight"), str):
            with contextlib.suppress(ValueError):  # the row is refused then
                found["answer_weight"] = float(weight)


def _first(row: dict[str, Any], columns: tuple[str, ...] | list[str], is_set: bool) -> Any:
    """Return the value of a column, or, of several that are set, the list of those that are not empty."""
    if is_set and len(columns) > 1:
        values = [row[column] for column in columns if row.get(column) not in (None, "")]
        return values or None
    value = next((row[column] for column in columns if row.get(column) is not None), None)
    if isinstance(value, str) and value.startswith("[") and value.rstrip().endswith("]"):  # a list in a cell
        items = None
        with contextlib.suppress(ValueError, RecursionError):
            items = json.loads(value)
        if items is None:  # as pandas writes one
            with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
                items = ast.literal_eval(value)
        if isinstance(items, list) and all(isinstance(item, str) for item in items):
            return items
        return BadRow(f'has {short(value)}, which is no list of texts: write it as JSON, ["red", "blue"]')
    return value
