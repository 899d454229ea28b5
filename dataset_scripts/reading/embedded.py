"""Rows that hold their images themselves, as in Parquet files and data sets on the Hub; no image is kept."""

from __future__ import annotations

from typing import Any

from .captions import caption_problem
from .image_files import ImageRoot
from .problems import short
from .questions import NO_QUESTION_ID, VQA_WEIGHT, question_problem
from .rows import RowBuilder, SourceRow

_STANDS_FOR_IMAGE = "embedded"
_ROOTS = {name: ImageRoot("") for name in ("vqa", "vg")}


class EmbeddedRowBuilder(RowBuilder):
    """Builds rows of rows with images, one after the other; `images` holds names, not paths.

    Rows of the same image, known by its `image_id`, have to be adjacent if they hold captions; without `image_id` every
    row is an image of its own.
    """

    def __init__(self, task: str, need_answers: bool) -> None:
        """Begin; the task is "retrieval" or "vqa", where a question without an answer may be a problem."""
        super().__init__()
        self.task, self.need_answers = task, need_answers
        self._index_of_id: dict[Any, int] = {}
        self._question_ids: set[int] = set()
        self._open: dict[str, Any] | None = None

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
            self.images.paths.append(f"{source.file}, row {source.number}")
        return index

    def _add_captions(self, source: SourceRow) -> str | None:
        row, newest = source.row, len(self.images.paths) - 1
        index = self._index(source)
        captions = [row["caption"]] if isinstance(row["caption"], str) else list(row["caption"])
        if index < newest:
            return f"'image_id' {row['image_id']!r} came before: put the rows of an image together"
        self.last_image = index
        if index == newest and self._open is not None:
            self._open["caption"] += captions
            return None
        if self._open is not None:
            self.ready.append(self._open)
        self._open = {"image": row["image"], "caption": captions, "image_id": index}
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


def _is_image(image: Any) -> bool:
    """Return whether something is an image as `datasets` stores it, with its bytes; its path is a label."""
    return isinstance(image, dict) and isinstance(image.get("bytes"), bytes) and bool(image["bytes"])
