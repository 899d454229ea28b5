"""Rows of RefCOCO's files: texts, what they refer to, its box, and the boxes that a detector found.

The files are told by their names: `refs` .. with the references, `instances` .. with COCO's annotations, `dets` .. with
detections; all others hold texts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ..reading.json_files import JsonFile, read_list
from ..reading.layouts import OpenFile, named_once, read_rows
from ..reading.problems import Problems, UnusableFileError, short
from ..reading.rows import BadRow, SourceRow
from .plain_pickle import read_plain_pickle

KINDS = ("refs", "instances", "dets")


class Reference(NamedTuple):
    """What a text refers to."""

    image_id: int
    annotation_id: int
    subset: str


class Annotations:
    """What the files beside those with the texts say."""

    def __init__(self) -> None:
        self.read: set[str] = set()
        self.references: dict[Any, Reference] = {}  # by `ref_id`
        self.boxes: dict[Any, Any] = {}  # by the id of the annotation
        self.sizes: dict[Any, tuple[Any, Any]] = {}  # of an image, width and height
        self.detections: dict[str, Any] = {}  # by the id of the image, as text

    def add(self, file: str, kind: str) -> None:
        """Read a file; raises UnusableFileError."""
        self.read.add(kind)
        try:
            if kind == "refs":
                items = read_plain_pickle(file) if file.endswith(".p") else read_list(file)
                for item in items:
                    ref_id, image_id, annotation_id = (_whole(item[name]) for name in ("ref_id", "image_id", "ann_id"))
                    if not isinstance(subset := item["split"], str):
                        raise TypeError(f"'split' is {short(subset)}")
                    self.references[ref_id] = Reference(image_id, annotation_id, subset)
                return
            with JsonFile(file, "object") as opened:
                if kind == "dets":
                    for detections in opened.items(""):
                        self.detections.update(detections)
                    return
                for item in opened.items("annotations.item"):
                    self.boxes[item["id"]] = item["bbox"]
                for item in opened.items("images.item"):
                    self.sizes[item["id"]] = item["width"], item["height"]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, UnusableFileError):
                raise
            raise UnusableFileError(f"is not RefCOCO's ({type(error).__name__}: {error}): fetch it again") from error

    def complete(self, row: Any) -> Any:
        """Return a row with what its `ref_id` tells; a malformed row stays as it is."""
        if not isinstance(row, dict) or row.get("ref_id") is None or "refs" not in self.read:
            return row
        reference = self.references.get(row["ref_id"]) if isinstance(row["ref_id"], int) else None
        if reference is None:
            return BadRow(f"'ref_id' {short(row['ref_id'])} is in no file of references: fetch those of the same data")
        subset = reference.subset if reference.subset.startswith("test") else None
        found = {**row, "box": self.boxes.get(reference.annotation_id), "subset": subset}
        if (size := self.sizes.get(reference.image_id)) is not None:
            found["size"] = size
        if "dets" in self.read:
            detections = self.detections.get(str(reference.image_id))
            if not isinstance(detections, list):
                return BadRow(f"image {reference.image_id} has no detections: fetch those of the same data")
            found["boxes"] = [box[:4] if isinstance(box, list) else box for box in detections]
        return found


def _whole(number: Any) -> int:
    """Return an id; raises TypeError or ValueError where it is none."""
    if type(number) is not int:
        raise TypeError(f"an id is {short(number)}")
    if abs(number) >= 2**63:  # printed it may be endless
        raise ValueError("an id has more than 63 bits")
    return number


def referring_rows(files: Sequence[str], problems: Problems) -> Iterator[SourceRow]:
    """Read rows `image`, `text` and, where they are known, `box`, `boxes`, `subset`, `ref_id` and `size`."""
    annotations, texts = Annotations(), []
    for file in named_once(files, problems, "texts"):
        kind = next((kind for kind in KINDS if os.path.basename(file).startswith(kind)), None)
        if kind is None:
            texts.append(file)
            continue
        try:
            annotations.add(file, kind)
        except UnusableFileError as error:
            problems.add(file, str(error))

    def open_texts(file: str) -> OpenFile:
        json_file = JsonFile(file)
        rows = enumerate(json_file.items("item"), start=1)
        return json_file, ((number, annotations.complete(row)) for number, row in rows)

    if not texts and files and not problems.file_count:
        problems.add(files[0], "holds no texts: name the file of texts, too")
    if problems.file_count:  # without boxes each row would be a problem
        return iter(())
    return read_rows(texts, open_texts, problems)
