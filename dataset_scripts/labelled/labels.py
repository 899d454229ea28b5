"""Images with texts and labels: one row a text, from SNLI-VE or people's own tables.

A row is `{"image": .., "text": .., "label": ..}`. Everything is checked before a data set is returned, as in
`reading/captions.py`.
"""

from __future__ import annotations

import math
from typing import Any

import datasets

from ..reading.image_files import ImageRoot
from ..reading.problems import READABLE, DataError, encodes, image_problem, json_type, short, text_problem
from ..reading.rows import WHOLE, Part, RowBuilder, SourceRow
from ..reading.values import WHOLE_NUMBER

TEXT = datasets.Value("string")
LABELS = {  # by the problem types of the library's models
    "single_label_classification": TEXT,
    "multi_label_classification": datasets.List(TEXT),
    "regression": datasets.Value("float32"),
}
SINGLE = next(iter(LABELS))


def label_features(problem_type: str = SINGLE) -> datasets.Features:
    """Return the features of a row; raises DataError for a problem type that there is not."""
    if problem_type not in LABELS:
        raise DataError(f"problem_type is {problem_type!r}, but must be one of {', '.join(LABELS)}.")
    columns = {"image": datasets.Image(), "text": TEXT, "label": LABELS[problem_type]}
    return datasets.Features(columns | {"image_id": datasets.Value("int64")})


class LabelRowBuilder(RowBuilder):
    """Texts with their images and labels, built one by one; images may be in the rows themselves.

    Rows of shards that are not in the part are not checked, unless all are.
    """

    def __init__(
        self, root: ImageRoot | None, need_labels: bool, problem_type: str = SINGLE, part: Part = WHOLE
    ) -> None:
        """Begin; image paths start from `root`; without one the rows hold their images."""
        super().__init__(part)
        self.roots = () if root is None else (root,)
        self.need_labels, self.problem_type = need_labels, problem_type
        self._index_of_id: dict[Any, int] = {}

    def add(self, source: SourceRow) -> str | None:
        """See `RowBuilder`."""
        row, is_own = source.row, self.part.holds(source.share)
        if is_own or self.part.check_all:
            checked = {**row, "image": "embedded"} if isinstance(row, dict) and not self.roots else row
            if problem := label_problem(checked, self.need_labels, self.problem_type):
                return problem
        elif not isinstance(row, dict) or not isinstance(row.get("image"), str):
            return None
        index, problem = self._find_image(source)
        if index is None:
            return problem
        self.last_image = index
        image = self.images.paths[index] if self.roots else row["image"]
        built = {"image": image, "text": row.get("text"), "label": self._label(row.get("label")), "image_id": index}
        self.ready = [built] if is_own else []
        return None

    def _find_image(self, source: SourceRow) -> tuple[int | None, str | None]:
        """Return the index of a row's image, or None and what is wrong with it."""
        row = source.row
        if self.roots:
            return self.images.add(self.roots[0], row["image"])
        if not (isinstance(row["image"], dict) and row["image"].get("bytes")):
            return None, f"image is {short(row['image'])}: an image is expected, with its bytes"
        new, image_id = len(self.images.paths), row.get("image_id")
        index = new if image_id is None else self._index_of_id.setdefault(image_id, new)
        if index == new:
            self.images.paths.append(source.where)
        return index, None

    def _label(self, label: Any) -> Any:
        """Return a label as the column holds it; cells of tables hold numbers as text."""
        if label is None or label == "":
            return None
        if self.problem_type == "regression":
            return float(label)
        if self.problem_type == SINGLE:
            return _name(label)
        return [_name(one) for one in (label if isinstance(label, list) else [label])]


def _name(label: Any) -> str:
    """Return the name of a label; whole numbers are names, too, and 1.0 is 1 also where a table holds it as a text."""
    if isinstance(label, str):
        label = label.strip()
        whole = WHOLE_NUMBER.fullmatch(label)
        return whole[1] if whole else label
    return str(int(label) if isinstance(label, float) else label)


def label_problem(row: Any, need_labels: bool, problem_type: str = SINGLE) -> str | None:
    """Return what is wrong with a row's keys and types, or None."""
    if not isinstance(row, dict):
        return f"is a JSON {json_type(row)}, not an object: write {{'image': .., 'text': .., 'label': ..}}"
    if problem := image_problem(row, ("image", "text")):
        return problem
    text, label = row["text"], row.get("label")
    if not isinstance(text, str):
        return f"'text' is {short(text)}: a string is expected"
    if not READABLE.search(text):
        return f"text {short(text)} holds no letter or digit: write one or leave the row out"
    if problem := text_problem("text", text):
        return problem
    if label is None or label == "":
        return "has no 'label', which training needs: add it or leave the row out" if need_labels else None
    if problem_type == "regression":
        return None if _is_number(label) else f"label is {short(label)}: a finite number is expected"
    if isinstance(label, list) and problem_type == SINGLE:
        return f"label is {short(label)}: one label is expected; for several, set problem_type in dataset_config"
    for one in label if isinstance(label, list) else [label]:
        is_whole = type(one) in (int, bool) or (isinstance(one, float) and one.is_integer())
        if not is_whole and not (isinstance(one, str) and one.strip() and encodes(one)):
            return f"label is {short(one)}: a name or a whole number is expected"
    return None


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and math.isfinite(float(value))
    except (TypeError, ValueError, OverflowError):
        return False
