"""Rows that hold their images themselves, as Parquet files and data sets on the Hub do; nothing of them is kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .annotation_files import SourceRow
from .annotations import Rows, caption_problem
from .image_files import ImageRoot, Images
from .problems import short
from .vqa_annotations import NO_QUESTION_ID, VQA_WEIGHT, question_problem

_STANDS_FOR_IMAGE = "embedded"


@dataclass
class EmbeddedRows:
    """Makes rows of rows with images, one after the other.

    Rows of the same image, known by its `image_id`, have to be adjacent if they hold captions; without `image_id` every
    row is an image of its own.

    Attributes:
        task: "retrieval" or "vqa".
        need_answers: Whether a question without an answer is a problem.
        images: Names for the images that occur, not paths.
        last_image: Index of the image of the row that was accepted last.
    """

    task: str
    need_answers: bool = False
    images: Images = field(default_factory=Images)
    last_image: int = -1
    _index_of_id: dict[Any, int] = field(default_factory=dict)
    _question_ids: set[int] = field(default_factory=set)
    _open: dict[str, Any] | None = None
    _made: list[tuple[float, dict[str, Any]]] = field(default_factory=list)

    @property
    def roots(self) -> tuple[ImageRoot, ...]:
        """None."""
        return ()

    def take(self, source: SourceRow) -> str | None:
        """See `RowTaker`."""
        row = source.row
        image = row.get("image") if isinstance(row, dict) else None
        if isinstance(row, dict) and "image" in row and not _is_image(image):
            return f"image is {short(image)}: an image is expected"
        checked = row | {"image": _STANDS_FOR_IMAGE} if image else row
        if self.task == "retrieval":
            return caption_problem(checked) or self._take_captions(source)
        roots = {name: ImageRoot("") for name in ("vqa", "vg")}
        if isinstance(row, dict) and not isinstance(image_id := row.get("image_id"), str | int | None):
            return f"'image_id' is {short(image_id)}: a string or an integer is expected"
        return question_problem(checked, self.need_answers, roots) or self._take_question(source)

    def _index(self, image_id: Any, name: str) -> int:
        """Index of an image, a new one without an id."""
        index = len(self.images.paths) if image_id is None else self._index_of_id.get(image_id, len(self.images.paths))
        if index == len(self.images.paths):
            self.images.paths.append(name)
            if image_id is not None:
                self._index_of_id[image_id] = index
        return index

    def _take_captions(self, source: SourceRow) -> str | None:
        row, newest = source.row, len(self.images.paths) - 1
        index = self._index(row.get("image_id"), f"{source.file}, row {source.number}")
        captions = [row["caption"]] if isinstance(row["caption"], str) else list(row["caption"])
        if index < newest:
            return f"'image_id' {row['image_id']!r} came before: put the rows of an image together"
        self.last_image = index
        if index == newest and self._open is not None:
            self._open["caption"] += captions
            return None
        if self._open is not None:
            self._made.append((0, self._open))
        self._open = {"image": row["image"], "caption": captions, "image_id": index}
        return None

    def _take_question(self, source: SourceRow) -> str | None:
        row, number = source.row, source.row.get("question_id", NO_QUESTION_ID)
        if number in self._question_ids and number != NO_QUESTION_ID:
            return f"'question_id' {number} came before: give every question its own"
        self._question_ids.add(number)
        self.last_image = self._index(row.get("image_id"), f"{source.file}, row {source.number}")
        answers = row.get("answer", [])
        made = {name: row.get(name) for name in ("image", "question", "question_type", "answer_type")}
        made |= {"question_id": number, "image_id": self.last_image}
        made |= {"answers": [answers] if isinstance(answers, str) else list(answers)}
        self._made.append((0, made | {"answer_weight": row.get("answer_weight", VQA_WEIGHT)}))
        return None

    def ready(self) -> Rows:
        """Rows that are whole."""
        made, self._made = self._made, []
        return iter(made)

    def rest(self) -> Rows:
        """The last image."""
        return iter([] if self._open is None else [(0.0, self._open)])


def _is_image(image: Any) -> bool:
    """Whether something is an image as `datasets` stores it."""
    if not isinstance(image, dict):
        return False
    data, path = image.get("bytes"), image.get("path")
    return isinstance(data, bytes | None) and isinstance(path, str | None) and bool(data or path)
