"""Reading ALBEF's retrieval annotations: `coco_train.json`, `coco_test.json`, `flickr30k_*.json` and files like them.

Both layouts of salesforce/ALBEF (`dataset/caption_dataset.py`) are read: a row a caption, which is a string and comes
with an `image_id`; and a row an image, whose captions are a list. Everything is checked before a data set is returned,
so that a wrong path ends a run in its first seconds and not in its last epoch.
"""

from __future__ import annotations

import io
import json
import os
import re
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
from datasets.table import InMemoryTable
from PIL import Image

MAX_PROBLEMS = 10
IMAGES_A_BATCH = 1_000
FEATURES = datasets.Features(
    {
        "image": datasets.Image(decode=False),
        "caption": datasets.List(datasets.Value("string")),
        "image_id": datasets.Value("int64"),
    }
)
_EMPTY = "is empty: download or write it again"
_ONE_ID = "give every image an id of its own, or load files whose ids clash apart"
IMAGE_REMEDY = "set image_root: it is joined with the row's 'image'"
_READABLE = re.compile(r"[^\W_]")  # a letter or digit of any script
_DRIVE = re.compile(r"[A-Za-z]:")


class AnnotationError(ValueError):
    """Annotations or images that cannot be used; the text lists the first problems with file, row and remedy."""


@dataclass
class _Problems:
    """Collects what is wrong, keeps the first ten and counts the rest."""

    kept: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, place: str, text: str) -> None:
        self.count += 1
        if len(self.kept) < MAX_PROBLEMS:
            self.kept.append(f"{place}: {text}")

    def raise_if_any(self, subject: str) -> None:
        if not self.count:
            return
        lines = [f"{subject}: {self.count} problem{'s' if self.count > 1 else ''} (rows are counted from 0)."]
        lines += [f"  {problem}" for problem in self.kept]
        if self.count > len(self.kept):
            lines.append(f"  ... and {self.count - len(self.kept)} further problems.")
        raise AnnotationError("\n".join(lines))


@dataclass
class _Gallery:
    """Images and their captions, gathered row by row.

    Attributes:
        root: Absolute folder of the images.
        paths: Absolute path of each image, in order of first appearance.
        captions: The captions of each image.
        index_of: Image as written, and path relative to the root -> index; None for an image with a problem.
        image_of_id: `image_id` -> image as first written.
    """

    root: str
    paths: list[str] = field(default_factory=list)
    captions: list[list[str]] = field(default_factory=list)
    index_of: dict[str, int | None] = field(default_factory=dict)
    image_of_id: dict[str | int, str] = field(default_factory=dict)

    def add(self, row: Any) -> str | None:
        """Take one row.

        Returns:
            What is wrong with it, or None. An image that cannot be used is reported once, at its first row.
        """
        problem = _row_problem(row)
        if problem:
            return problem
        written, caption, image_id = row["image"], row["caption"], row.get("image_id")
        if written not in self.index_of:
            problem = self._add_image(written)
        if image_id is not None and not problem:
            known = self.image_of_id.setdefault(image_id, written)
            if known != written and _relative_path(known) != _relative_path(written):
                problem = f"'image_id' {image_id!r} names {_short(written)}, before it named {_short(known)}: {_ONE_ID}"
        index = self.index_of[written]
        if problem is None and index is not None:
            self.captions[index].extend([caption] if isinstance(caption, str) else caption)
        return problem

    def _add_image(self, written: str) -> str | None:
        relative = _relative_path(written)
        if relative in self.index_of:  # the same file in another spelling
            self.index_of[written] = self.index_of[relative]
            return None
        path = os.path.join(self.root, relative)
        problem = _path_problem(written, relative) or _file_problem(path)
        self.index_of[written] = self.index_of[relative] = None if problem else len(self.paths)
        if not problem:
            self.paths.append(path)
            self.captions.append([])
        return problem


def load_retrieval_files(files: Sequence[str], image_root: str) -> datasets.Dataset:
    """Read annotation files of image-text retrieval.

    Args:
        files: JSON files, each a list of objects with `image` (path relative to `image_root`; backslashes count as
            slashes), `caption` (a string or a list of strings) and, optionally, `image_id` (string or integer).
        image_root: Folder that holds the images.

    Returns:
        In memory, with nothing written to the cache and no image opened: `image` (undecoded, absolute path),
        `caption` (list of strings), `image_id` (int64, the place of the row). A row an image in order of first
        appearance over all files; rows of the same image path are merged.

    Raises:
        AnnotationError: A file, row or image cannot be used, or one `image_id` names two images. All rows are checked
            first; the text lists the first ten problems with file, row and remedy.
    """
    files = [files] if isinstance(files, (str, os.PathLike)) else list(files)
    problems, gallery = _Problems(), _Gallery(os.path.abspath(os.path.expanduser(image_root)))
    if not files:
        problems.add("files", "no annotation file is given: name at least one")
    if not os.path.isdir(gallery.root):
        problems.add("image_root", f"{gallery.root!r} is not a folder: name the folder that holds the images")
        problems.raise_if_any("Cannot load the annotations")
    seen: set[str] = set()
    for file in map(os.fspath, files):
        if os.path.abspath(file) in seen:
            problems.add(file, "is listed twice: its captions would count double, so name it once")
            continue
        seen.add(os.path.abspath(file))
        for number, row in enumerate(_read_rows(file, problems)):
            problem = gallery.add(row)
            if problem:
                problems.add(f"{file}, row {number}", problem)
    problems.raise_if_any("Cannot load the annotations")
    ids = list(range(len(gallery.paths)))
    columns = {"image": list(gallery.paths), "caption": list(gallery.captions), "image_id": ids}
    return datasets.Dataset.from_dict(columns, features=FEATURES)


def _read_rows(file: str, problems: _Problems) -> list[Any]:
    """Parse a file; a file that cannot be used is reported and gives no rows."""
    problem, rows = None, []
    try:
        with open(file, "rb") as stream:
            rows = json.loads(stream.read().decode("utf-8-sig"))
    except FileNotFoundError:
        problem = "does not exist: check the path"
    except OSError as error:
        problem = f"cannot be read ({error.strerror}): check path and permissions"
    except UnicodeDecodeError as error:
        problem = f"is not UTF-8 (byte {error.start}): save it as UTF-8"
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}: {error.msg}"
        problem = f"is not JSON ({where}): one list of objects is expected" if error.doc.strip() else _EMPTY
    except (RecursionError, ValueError) as error:  # nested too deeply, or a number of thousands of digits
        problem = f"is not an annotation file ({error}): one list of objects is expected"
    else:
        if not isinstance(rows, list):
            problem = f"holds a JSON {_json_type(rows)}, not a list: one list of objects is expected"
        elif not rows:
            problem = _EMPTY
    if problem:
        problems.add(file, problem)
        return []
    return rows


def _row_problem(row: Any) -> str | None:
    """What is wrong with a row's keys and types, or None."""
    if not isinstance(row, dict):
        return f"is a JSON {_json_type(row)}, not an object: write {{'image': .., 'caption': ..}}"
    missing = [key for key in ("image", "caption") if key not in row]
    if missing:
        return f"has no {' and no '.join(map(repr, missing))}; its keys are {list(row)[:6]}: add it"
    image, caption, image_id = row["image"], row["caption"], row.get("image_id")
    if not isinstance(image, str) or not image.strip():
        return f"'image' is {_short(image)}: a path relative to image_root is expected"
    if image_id is not None and type(image_id) not in (str, int):
        return f"'image_id' is {_short(image_id)}: a string or an integer is expected"
    if caption == []:
        return "'caption' is an empty list: give at least one caption or leave the row out"
    if not isinstance(caption, (str, list)):
        return f"'caption' is {_short(caption)}: a string or a list of strings is expected"
    for text in [caption] if isinstance(caption, str) else caption:
        if not isinstance(text, str):
            return f"'caption' holds {_short(text)}: strings are expected"
        if not _READABLE.search(text):
            return f"caption {_short(text)} holds no letter or digit: write one or leave it out"
        if not text.isascii() and not _encodes(text):
            return f"caption {_short(text)} holds half of a surrogate pair: write the whole character"
    return None


def _relative_path(written: str) -> str:
    """An image path with slashes, without "." and inner ".."; one spelling a file."""
    return os.path.normpath(written.replace("\\", "/"))


def _path_problem(written: str, relative: str) -> str | None:
    """What is wrong with an image path before the file system is asked, or None."""
    if relative.startswith("/") or _DRIVE.match(relative):
        return f"'image' {_short(written)} is an absolute path: write it relative to image_root"
    if relative == ".." or relative.startswith("../"):
        return f"'image' {_short(written)} leaves image_root: write a path below it, or set a higher image_root"
    if "\0" in written or not _encodes(written):
        return f"'image' {_short(written)} cannot be a path: remove the stray character"
    return None


def _file_problem(path: str) -> str | None:
    """What is wrong with an image file as a file, or None."""
    try:
        found = os.stat(path)
    except OSError as error:
        return f"image {path!r} cannot be found ({error.strerror}): {IMAGE_REMEDY}"
    if not stat.S_ISREG(found.st_mode):
        return f"image {path!r} is not a file: {IMAGE_REMEDY}"
    return None if found.st_size else f"image {path!r} is an empty file: fetch it again"


def check_images(dataset: datasets.Dataset, decode: bool, num_threads: int = 4) -> None:
    """Open every image of a data set, each file once.

    Args:
        dataset: With a column `image` of type `datasets.Image`.
        decode: False reads headers, which finds files that are no images; True decodes all pixels, which also finds
            files that are cut short, at the cost of reading everything.
        num_threads: Images opened at a time, >= 1.

    Raises:
        AnnotationError: Images cannot be read; the text names the first ten.
        ValueError: `num_threads` is less than one.
    """
    if num_threads < 1:
        raise ValueError(f"num_threads is {num_threads}, but must be at least 1.")
    images = dataset.select_columns("image").with_format(None).cast_column("image", datasets.Image(decode=False))
    problems, seen, first_row = _Problems(), set(), 0
    with ThreadPoolExecutor(num_threads) as pool:
        for batch in images.iter(batch_size=IMAGES_A_BATCH):
            rows = []
            for number, image in enumerate(batch["image"], start=first_row):
                key = image["path"] if image and image["bytes"] is None else None
                if key is None or key not in seen:
                    rows.append((number, image))
                    seen.add(key)
            first_row += len(batch["image"])
            for (number, _), problem in zip(rows, pool.map(partial(_image_problem, decode=decode), rows), strict=True):
                if problem:
                    problems.add(f"row {number}", problem)
    problems.raise_if_any("Cannot read the images")


def _image_problem(numbered: tuple[int, dict[str, Any] | None], decode: bool) -> str | None:
    """What is wrong with an image, or None."""
    image = numbered[1]
    if image is None or (image["bytes"] is None and not image["path"]):
        return "holds no image: leave the row out"
    name = repr(image["path"]) if image["path"] else "of the data set"
    try:
        if decode:
            from processing.image_processing_albef import open_image  # brings in transformers: not for reading text

            open_image(image)
        else:
            with Image.open(image["path"] if image["bytes"] is None else io.BytesIO(image["bytes"])):
                pass
    except ValueError as error:  # of open_image: it names the file
        return f"{error}" if decode else f"image {name} has a broken header ({error}): fetch it again"
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        return f"image {name} cannot be opened ({error}): fetch it again"
    return None


def one_caption_a_row(dataset: datasets.Dataset) -> datasets.Dataset:
    """Spread the captions of each image over rows, for training.

    Args:
        dataset: Columns `image`, `caption` (list of strings) and `image_id`; others are left out.

    Returns:
        In memory: `image` as before, `caption` (string), `image_id`. A row a caption, in order; an image without a
        caption gives no row.

    Raises:
        AnnotationError: A column is missing or `caption` is no list.
    """
    features = dataset.features
    missing = [name for name in FEATURES if name not in features]
    if missing or not isinstance(features["caption"], (datasets.List, datasets.LargeList)):
        found = ", ".join(f"{name}: {feature}" for name, feature in features.items())
        raise AnnotationError(f"Need the columns image, caption (a list of strings) and image_id, but found {found}.")
    table = dataset.select_columns(list(FEATURES)).with_format("arrow")[:].combine_chunks()
    captions = table["caption"].combine_chunks()
    parents = pc.list_parent_indices(captions)
    columns = {"image": table["image"].take(parents), "caption": pc.list_flatten(captions)}
    flat = pa.table(columns | {"image_id": table["image_id"].take(parents)})
    types = {name: features[name] for name in FEATURES} | {"caption": features["caption"].feature}
    info = datasets.DatasetInfo(features=datasets.Features(types))
    return datasets.Dataset(InMemoryTable(flat), info=info, split=dataset.split)


def _json_type(value: Any) -> str:
    """The JSON word for a parsed value's type."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    words: dict[type, str] = {dict: "object", list: "list", str: "string"}
    return words.get(type(value), "number")


def _short(value: Any) -> str:
    """A value for a message, at most sixty characters long."""
    text = ascii(value) if isinstance(value, str) and not _encodes(value) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _encodes(text: str) -> bool:
    """Whether a string can be stored as UTF-8; half of a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
