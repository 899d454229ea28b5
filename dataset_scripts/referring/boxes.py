"""Images with a text that refers to a part of them, and the box of that part; and what can be wrong with a box.

Boxes are x, y, width, height in pixels of the upright image, x to the right and y downwards from its upper left corner.
"""

from __future__ import annotations

from typing import Any

import datasets
from PIL import ExifTags, Image

from ..reading.image_files import ImageRoot
from ..reading.problems import READABLE, image_problem, json_type, short, text_problem
from ..reading.rows import WHOLE, Part, RowBuilder, SourceRow

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
MAX_PIXELS = 1e9
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
                "pixels are expected, from the upper left corner; of the right and lower ends subtract x and y"
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
    if type(ref_id) is not int or abs(ref_id) >= 2**63:
        return f"'ref_id' is {short(ref_id)}: an integer of at most 63 bits is expected"
    return text_problem("text", text)


def box_problem(name: str, box: Any) -> str | None:
    """Return what is wrong with a box as a value, or None."""
    if not isinstance(box, list) or len(box) != 4 or any(type(one) not in (int, float) for one in box):
        return f"{name!r} has {short(box)}: four numbers are expected, x, y, width, height in pixels"
    if not all(abs(one) < MAX_PIXELS for one in box):  # nor is one that is not a number
        return f"{name!r} has {short(box)}: finite numbers of pixels are expected"
    if min(box[2:]) <= 0:
        return f"{name!r} has {short(box)}: width and height must be above 0, and stand after x and y"
    if max(box[2:]) <= 1:
        return (
            f"{name!r} has {short(box)}, which is no larger than a pixel: multiply shares of the image by its width "
            "and height in pixels"
        )
    return None
