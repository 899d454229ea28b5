"""Images with a text that refers to a part of them, and the box of that part; and what can be wrong with a box.

Boxes are x, y, width, height in pixels of the upright image, x to the right and y downwards from its upper left corner.
"""

from __future__ import annotations

import json
import math
import os
from typing import Any

import datasets
from PIL import ExifTags, Image

from ..reading.image_files import ImageRoot
from ..reading.problems import READABLE, image_problem, json_type, short, text_problem
from ..reading.rows import WHOLE, BadRow, Part, RowBuilder, SourceRow

BOX = datasets.List(datasets.Value("float64"))
GROUNDING_FEATURES = datasets.Features(
    {
        "image": datasets.Image(),
        "text": datasets.Value("string"),
        "box": BOX,
        "boxes": datasets.List(BOX),
        "subset": datasets.Value("string"),
        "ref_id": datasets.Value("int64"),
        "image_id": datasets.Value("int64"),
    }
)
NAMES = {  # what a column is called: the first that there is
    "image": ("image", "file_name", "image_path", "path", "file"),
    "text": ("text", "caption", "expression", "sentence"),
}
CORNERS = ("x", "y", "width", "height")
ROUNDING = 0.5  # pixels that a box may leave the image by
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange width and height


class BoxRowBuilder(RowBuilder):
    """Texts with their boxes, built one by one."""

    def __init__(self, root: ImageRoot, need_box: bool, part: Part = WHOLE) -> None:
        """Begin; image paths start from `root`, and `need_box` refuses texts without a box."""
        super().__init__(part)
        self.roots, self.need_box = (root,), need_box
        self._sizes: dict[int, tuple[int, int] | str] = {}  # image -> width, height; or what is wrong with it
        self._num_rows = 0

    def add(self, source: SourceRow) -> str | None:
        """See `RowBuilder`."""
        row, number = source.row, self._num_rows
        self._num_rows += 1
        if problem := text_row_problem(row, self.roots[0].setting):
            return problem
        index, problem = self.images.add(self.roots[0], row["image"])
        if index is None:
            return problem
        given = row.get("boxes")
        if given is not None and not isinstance(given, list):
            return f"'boxes' is {short(given)}: a list of boxes is expected"
        own = row.get("box")
        if own is None and self.need_box:
            return "has no 'box', which an evaluation needs: add it or leave the row out"
        for name, box in [("box", own), *(("boxes", box) for box in given or ())]:
            if box is not None and (problem := box_problem(name, box)):
                return problem
        if own is not None and (problem := self._place_problem(own, index, row.get("size"))):
            return problem
        self.last_image = index
        self.ready = []
        if self.part.holds(source.share):
            columns = {name: row.get(name) for name in ("text", "subset")}
            floats = None if given is None else [list(map(float, box)) for box in given]
            columns |= {"box": None if own is None else list(map(float, own)), "boxes": floats}
            ids = {"ref_id": row.get("ref_id", number), "image_id": index}
            self.ready = [{"image": self.images.paths[index], **columns, **ids}]
        return None

    def _place_problem(self, box: list[float], index: int, size: tuple[int, int] | None) -> str | None:
        """Return what is wrong with where a box is in its image, or None."""
        known = self._sizes.get(index) if size is None else size
        if known is None:
            known = self._sizes[index] = image_size(self.images.paths[index])
        if isinstance(known, str):
            return known
        x, y, width, height = box
        if min(x, y) < -ROUNDING or x + width > known[0] + ROUNDING or y + height > known[1] + ROUNDING:
            return (
                f"box {short(box)} leaves the image, which is {known[0]} x {known[1]} pixels: x, y, width, height in "
                "pixels are expected, from the upper left corner"
            )
        return None


def image_size(path: str) -> tuple[int, int] | str:
    """Return width and height of the upright image of a file, pixels, or what is wrong with it."""
    try:
        with Image.open(path) as image:
            is_turned = image.getexif().get(ExifTags.Base.Orientation, 1) in SIDEWAYS
            return image.size[::-1] if is_turned else image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return f"image {path!r} cannot be opened ({error}): fetch it again"


def text_row_problem(row: Any, setting: str) -> str | None:
    """Return what is wrong with a row's keys, types and text, or None."""
    if not isinstance(row, dict):
        return f"is a JSON {json_type(row)}, not an object: write {{'image': .., 'text': .., 'box': ..}}"
    if problem := image_problem(row, ("image", "text"), setting):
        return problem
    text, ref_id = row["text"], row.get("ref_id", 0)
    if not isinstance(text, str):
        return f"'text' is {short(text)}: a string is expected"
    if not READABLE.search(text):
        return f"text {short(text)} holds no letter or digit: write one or leave the row out"
    if type(ref_id) is not int:
        return f"'ref_id' is {short(ref_id)}: an integer is expected"
    return text_problem("text", text)


def box_problem(name: str, box: Any) -> str | None:
    """Return what is wrong with a box as a value, or None."""
    if not isinstance(box, list) or len(box) != 4 or any(type(one) not in (int, float) for one in box):
        return f"{name!r} has {short(box)}: four numbers are expected, x, y, width, height in pixels"
    if not all(map(math.isfinite, box)):
        return f"{name!r} has {short(box)}: finite numbers are expected"
    if min(box[2:]) <= 0:
        return f"{name!r} has {short(box)}: width and height must be above 0"
    return None


class BoxColumns:
    """Turns rows of a table into rows `image`, `text`, `box`, with the first column that has a usual name."""

    is_numbered = False

    def __init__(self, image: str | None = None, text: str | None = None) -> None:
        """Name the columns of images and of texts; None takes those of `NAMES`."""
        self.names = {"image": (image,) if image else NAMES["image"], "text": (text,) if text else NAMES["text"]}

    def is_known(self, header: str) -> bool:
        """Return whether a header names a column that is looked for."""
        names = {*self.names["image"], *self.names["text"], *CORNERS, "box", "boxes", "subset", "ref_id"}
        return header.strip().casefold() in names

    def rename(self, row: Any, folder: str = "") -> Any:
        """Return a row, or what is wrong with its columns; image paths start from `folder`.

        A box is a list, a text such as "[12, 30, 40, 50]" or "12 30 40 50", or four columns x, y, width, height.
        """
        if not isinstance(row, dict):
            return row
        if None in row:  # what a CSV file has beyond its header
            return BadRow("has more cells than the header: put texts with a comma into double quotes")
        found = {name: row[name] for name in ("subset", "boxes", "ref_id") if row.get(name) not in (None, "")}
        for name, columns in self.names.items():
            column = next((one for one in columns if row.get(one) not in (None, "")), None)
            if column is None:
                return BadRow(f"has no {name} in {' or '.join(columns)}; its columns are {list(row)[:8]}: add it")
            found[name] = row[column]
        if folder and isinstance(found["image"], str):
            found["image"] = os.path.join(folder, found["image"].replace("\\", "/"))
        if all(name in row for name in CORNERS):
            found["box"] = [_number(row[name]) for name in CORNERS]
            if all(value in (None, "") for value in found["box"]):
                del found["box"]
        elif row.get("box") not in (None, ""):
            found["box"] = read_box(row["box"])
        if isinstance(found.get("boxes"), str):
            found["boxes"] = _json(found["boxes"])
        if "ref_id" in found:
            found["ref_id"] = _number(found["ref_id"])
        return found


def read_box(value: Any) -> Any:
    """Return the box that a cell of a table has; what is none stays as it is, and is refused later."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return _json(value)
    return [_number(word) for word in value.replace(",", " ").split()]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _number(value: Any) -> Any:
    """Return the number that a cell has, whole where it is; anything else stays as it is."""
    if not isinstance(value, str):
        return value
    try:
        number = float(value)
    except ValueError:
        return value
    return int(value) if value.strip().lstrip("+-").isdecimal() and len(value) < 20 else number
