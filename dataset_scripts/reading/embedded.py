"""Rows that hold their images themselves, as in Parquet files and data sets on the Hub; no image is kept."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .captions import as_list, caption_problem
from .image_files import ImageRoot
from .json_files import open_file
from .problems import UnusableFileError, short
from .questions import NO_QUESTION_ID, VQA_WEIGHT, question_problem
from .rows import RowBuilder, SourceRow
from .tables import rows_of, table_kind

_STANDS_FOR_IMAGE = "embedded"
_ROOTS = {name: ImageRoot("") for name in ("vqa", "vg")}


class EmbeddedRowBuilder(RowBuilder):
    """Builds rows of rows with images, one after the other; `images` holds names, not paths.

    Without `image_id` every row is an image of its own. Rows of the same `image_id` are one image if they are adjacent,
    or if the captions of all are known before; else each run of them is a row, with the same `image_id`.
    """

    def __init__(self, task: str, need_answers: bool, captions: Mapping[Any, list[str]] | None = None) -> None:
        """Begin.

        Args:
            task: "retrieval" or "vqa".
            need_answers: Whether a question without an answer is a problem.
            captions: All captions of each image by its `image_id`, see `captions_by_id`.
        """
        super().__init__()
        self.task, self.need_answers = task, need_answers
        self._index_of_id: dict[Any, int] = {}
        self._question_ids: set[int] = set()
        self._open: dict[str, Any] | None = None
        self._captions = captions or {}

    def add(self, source: SourceRow) -> str | None:
        """See `RowBuilder`."""
        row = source.row
        image = row.get("image") if isinstance(row, dict) else None
        if isinstance(row, dict) and "image" in row and not _is_image(image):
            return f"image is {short(image)}: an image is expected, with its bytes; a path or an address is not opened"
        checked = row | {"image": _STANDS_FOR_IMAGE} if image else row
        if self.task == "retrieval":
            return caption_problem(checked) or self._add_captions(source)
        if isinstance(row, dict) and not isinstance(image_id := row.get("image_id"), str | int | None):
            return f"'image_id' is {short(image_id)}: a string or an integer is expected"
        return question_problem(checked, self.need_answers, _ROOTS) or self._add_question(source)

    def _index(self, source: SourceRow) -> int:
        """Return the index of a row's image, a new one without an id."""
        new, image_id = len(self.images.paths), source.row.get("image_id")
        index = new if image_id is None else self._index_of_id.setdefault(image_id, new)
        if index == new:
            self.images.paths.append(source.where)
        return index

    def _add_captions(self, source: SourceRow) -> str | None:
        row, num_known = source.row, len(self.images.paths)
        self.last_image = index = self._index(source)
        captions = as_list(row["caption"])
        if (known := self._captions.get(row.get("image_id"))) is not None:
            captions = known if index == num_known else []  # the first row of an image has those of all
        if self._open is not None and self._open["image_id"] == index:
            self._open["caption"] += captions
        elif captions:
            if self._open is not None:
                self.ready.append(self._open)
            self._open = {"image": row["image"], "caption": list(captions), "image_id": index}
        return None

    def _add_question(self, source: SourceRow) -> str | None:
        row, number = source.row, source.row.get("question_id", NO_QUESTION_ID)
        if number in self._question_ids and number != NO_QUESTION_ID:
            return f"'question_id' {number} came before: give every question its own"
        self._question_ids.add(number)
        self.last_image = self._index(source)
        answers = row.get("answer", [])
        built = {name: row.get(name) for name in ("image", "question", "question_type", "answer_type")}
        built |= {"question_id": number, "image_id": self.last_image}
        built |= {"answers": [answers] if isinstance(answers, str) else list(answers)}
        self.ready.append(built | {"answer_weight": row.get("answer_weight", VQA_WEIGHT)})
        return None

    def flush(self) -> list[dict[str, Any]]:
        """Return the last image."""
        return [] if self._open is None else [self._open]


def embedded_column(file: str, names: Collection[str], is_known: Callable[[str], bool]) -> str | None:
    """Return the column of a Parquet file that holds images themselves and not paths, or None.

    Such a column has bytes, or a struct as `datasets` writes it, and one of `names` or, if there are none, a known one.
    """
    if not os.path.isfile(file):
        return None
    try:
        if table_kind(file) != "parquet":
            return None
        schema = pq.read_schema(file)
    except (UnusableFileError, pa.ArrowException, OSError):  # reading its rows says so
        return None
    for field in schema:
        is_wanted = field.name in names if names else is_known(field.name)
        holds_bytes = pa.types.is_struct(field.type) or pa.types.is_binary(field.type)
        if is_wanted and (holds_bytes or pa.types.is_large_binary(field.type)):
            return field.name
    return None


def parquet_rows(file: str, without: str | None) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file but for one column; none of a file that cannot be read."""
    try:
        with open_file(file) as stream:
            table = pq.ParquetFile(stream)
            yield from rows_of(table, [name for name in table.schema_arrow.names if name != without])
    except (UnusableFileError, pa.ArrowException, OSError):  # reading all columns says so
        return


def captions_by_id(rows: Iterable[Any]) -> dict[Any, list[str]]:
    """Return the captions of each `image_id` whose rows are not adjacent; rows that cannot be used do not count."""
    captions: dict[Any, list[str]] = {}
    scattered, last = set(), None
    for row in rows:
        if isinstance(row, dict) and row.get("image_id") is not None:
            if caption_problem(row | {"image": _STANDS_FOR_IMAGE}) is None:
                image_id = row["image_id"]
                if image_id != last and image_id in captions:
                    scattered.add(image_id)
                captions.setdefault(image_id, []).extend(as_list(row["caption"]))
                last = image_id
    return {image_id: captions[image_id] for image_id in scattered}


def _is_image(image: Any) -> bool:
    """Return whether something is an image as `datasets` stores it, with its bytes; its path is a label."""
    return isinstance(image, dict) and isinstance(image.get("bytes"), bytes) and bool(image["bytes"])
