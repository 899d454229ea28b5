"""Images with captions: one row an image, made of annotation rows that may hold one caption or several.

Two layouts of salesforce/ALBEF (`dataset/caption_dataset.py`) are understood: a row a caption, which is a string and
comes with an `image_id`; and a row an image, whose captions are a list. Everything is checked before a data set is
returned, so that a wrong path ends a run in its first seconds and not in its last epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import datasets

from .image_files import ImageRoot
from .problems import READABLE, AnnotationError, image_problem, json_type, short, text_problem
from .rows import SUBJECT, WHOLE, Part, RowBuilder, SourceRow

FEATURES = datasets.Features(
    {
        "image": datasets.Image(),
        "caption": datasets.List(datasets.Value("string")),
        "image_id": datasets.Value("int64"),
    }
)
_ONE_ID = "give every image an id of its own, or load files whose ids clash apart"


class CaptionRowBuilder(RowBuilder):
    """Images and their captions; any later row may hold a further caption of an image, so rows are built at the end.

    Only rows of the part's images are built. Their captions are checked then, unless those of all images are.
    """

    def __init__(self, root: ImageRoot, part: Part = WHOLE) -> None:
        """Begin; image paths start from `root`."""
        super().__init__(part)
        self.roots = (root,)
        self.captions: list[list[str]] = []  # of each image
        self.image_of_id: dict[str | int, str] = {}  # `image_id` as written -> image as first written

    def add(self, source: SourceRow) -> str | None:
        """See `RowBuilder`; an image that cannot be used is reported once, at its first row."""
        row = source.row
        problem = caption_problem(row, self.part.check_all)
        if problem:
            return problem
        written, caption, image_id = row["image"], row["caption"], row.get("image_id")
        index, problem = self.images.add(self.roots[0], written)
        if image_id is not None and not problem:
            known = self.image_of_id.setdefault(image_id, written)
            if known != written and self.images.add(self.roots[0], known)[0] != index:
                return f"'image_id' {image_id!r} names {short(written)}, before it named {short(known)}: {_ONE_ID}"
        if index is None:
            return problem
        self.last_image = index
        self.captions.extend([] for _ in range(len(self.captions), index + 1))
        self.captions[index].extend(as_list(caption))
        return None

    def flush(self) -> Iterator[dict[str, Any]]:
        """Yield a row an image, in order of first appearance."""
        pairs = [pair for pair in zip(self.images.paths, self.captions, strict=False) if pair[1]]
        for number, (path, captions) in enumerate(pairs):
            if not self.part.holds(number / len(pairs)):
                continue
            if not self.part.check_all and (problem := _texts_problem(captions)):
                raise AnnotationError(f"{SUBJECT}: {path}: {problem}")
            yield {"image": path, "caption": captions, "image_id": number}


def caption_problem(row: Any, check_texts: bool = True) -> str | None:
    """Return what is wrong with a row's keys and types and, if wanted, its captions; or None."""
    if not isinstance(row, dict):
        return f"is a JSON {json_type(row)}, not an object: write {{'image': .., 'caption': ..}}"
    if problem := image_problem(row, ("image", "caption")):
        return problem
    caption, image_id = row["caption"], row.get("image_id")
    if image_id is not None and type(image_id) not in (str, int):
        return f"'image_id' is {short(image_id)}: a string or an integer is expected"
    if caption == []:
        return "'caption' is an empty list: give at least one caption or leave the row out"
    if not isinstance(caption, (str, list)):
        return f"'caption' is {short(caption)}: a string or a list of strings is expected"
    return _texts_problem(as_list(caption)) if check_texts else None


def as_list(texts: str | list[str]) -> list[str]:
    """Return one text, or several, as a list."""
    return [texts] if isinstance(texts, str) else texts


def _texts_problem(captions: list[Any]) -> str | None:
    """Return what is wrong with captions, or None."""
    for text in captions:
        if not isinstance(text, str):
            return f"'caption' holds {short(text)}: strings are expected"
        if not READABLE.search(text):
            return f"caption {short(text)} holds no letter or digit: write one or leave it out"
        if not text.isascii() and (problem := text_problem("caption", text)):
            return problem
    return None
