"""Texts about two images each, with a label: one row a text.

Three layouts are read: NLVR2's own, a line a sentence, whose `identifier` names its images; that of salesforce/ALBEF
(`dataset/nlvr_dataset.py`), with `images`, `sentence` and `label`; and tables with `image`, `image_2`, `text`, `label`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import datasets

from ..reading.image_files import ImageRoot
from ..reading.layouts import named_once
from ..reading.problems import READABLE, Problems, UnusableFileError, image_problem, json_type, short, text_problem
from ..reading.rows import WHOLE, Part, RowBuilder, SourceRow
from ..reading.tables import TableFormat, table_rows

TEXT = datasets.Value("string")
PAIR_FEATURES = datasets.Features(
    {"image": datasets.Image(), "image_2": datasets.Image(), "text": TEXT, "label": TEXT},
)
FIELDS = ("image", "image_2", "text")
FORM = TableFormat(is_known=lambda key: key in ("identifier", "sentence", "label", *FIELDS))


def pair_rows(files: Sequence[str], problems: Problems) -> Iterator[SourceRow]:
    """Read rows `image`, `image_2`, `text` and, where there is one, `label`; problems are those of whole files."""
    once = named_once(files, problems, "rows")
    for index, file in enumerate(once):
        try:
            for row in table_rows(file, FORM):
                share = (index + min(row.share, 0.999)) / len(once)
                yield SourceRow(file, row.number, share, to_pair(row.row), unit=row.unit)
        except UnusableFileError as error:
            problems.add(file, str(error))


def to_pair(row: Any) -> Any:
    """Return a row of any layout as one of a table; what is malformed stays as it is."""
    if not isinstance(row, dict) or "image" in row:
        return row
    found = {"label": row.get("label")}
    if "sentence" in row:
        found["text"] = row["sentence"]
    images, name = row.get("images"), row.get("identifier")
    if isinstance(images, list) and len(images) == 2:
        found |= {"image": images[0], "image_2": images[1]}
    elif images is None and isinstance(name, str) and name.count("-") >= 2:
        split, stem = name.partition("-")[0], name.rpartition("-")[0]
        folder = f"{split}/{row['directory']}" if "directory" in row else split
        found |= {field: f"{folder}/{stem}-img{number}.png" for number, field in enumerate(FIELDS[:2])}
    else:
        return row
    return found


class PairRowBuilder(RowBuilder):
    """Texts with their two images, built one by one; rows of other parts are not checked, unless all are."""

    def __init__(self, root: ImageRoot, need_labels: bool, part: Part = WHOLE) -> None:
        """Begin; image paths start from `root`."""
        super().__init__(part)
        self.roots, self.need_labels = (root,), need_labels

    def add(self, source: SourceRow) -> str | None:
        """See `RowBuilder`."""
        row, is_own = source.row, self.part.holds(source.share)
        if not is_own and not self.part.check_all:
            return None
        if problem := pair_problem(row, self.need_labels):
            return problem
        paths = []
        for name in FIELDS[:2]:
            index, problem = self.images.add(self.roots[0], row[name])
            if index is None:
                return problem
            paths.append(self.images.paths[index])
            self.last_image = index
        label = row.get("label")
        if is_own:
            built = {"image": paths[0], "image_2": paths[1], "text": row["text"]}
            self.ready.append(built | {"label": None if label in (None, "") else str(label)})
        return None


def pair_problem(row: Any, need_labels: bool) -> str | None:
    """Return what is wrong with a row's keys and values, or None."""
    if not isinstance(row, dict):
        return (
            f"is a JSON {json_type(row)}, not an object: write {{'image': .., 'image_2': .., 'text': .., 'label': ..}}"
        )
    if problem := image_problem(row, FIELDS):
        return problem
    if not isinstance(row["image_2"], str) or not row["image_2"].strip():
        return f"image_2 is {short(row['image_2'])}: a path relative to image_root is expected"
    text, label = row["text"], row.get("label")
    if not isinstance(text, str) or not READABLE.search(text):
        return f"'text' is {short(text)}: a text with a letter or digit is expected"
    if label in (None, ""):
        return "has no 'label': add it, or leave the row out" if need_labels else None
    if not isinstance(label, str | bool | int):
        return f"'label' is {short(label)}: a text, a whole number or true or false is expected"
    return text_problem("text", text) or text_problem("label", str(label))
