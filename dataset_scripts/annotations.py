"""Images with captions: one row an image, made of annotation rows that may hold one caption or several.

Two layouts of salesforce/ALBEF (`dataset/caption_dataset.py`) are understood: a row a caption, which is a string and
comes with an `image_id`; and a row an image, whose captions are a list. Everything is checked before a data set is
returned, so that a wrong path ends a run in its first seconds and not in its last epoch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import datasets
import pyarrow as pa
from tqdm.auto import tqdm

from .annotation_files import BadRow, SourceRow, caption_rows
from .image_files import ImageRoot, Images, relative_path
from .problems import READABLE, Problems, encodes, json_type, short

FEATURES = datasets.Features(
    {
        "image": datasets.Image(decode=False),
        "caption": datasets.List(datasets.Value("string")),
        "image_id": datasets.Value("int64"),
    }
)
SUBJECT = "Cannot load the annotations"
ROWS_A_LOOK = 1_000  # between two looks at the progress bar
_ONE_ID = "give every image an id of its own, or load files whose ids clash apart"
Rows = Iterator[tuple[float, dict[str, Any]]]


class RowTaker(Protocol):
    """Takes annotation rows and gives rows of a data set.

    Attributes:
        images: Those that occur.
        last_image: Index of the image of the row that was accepted last.
    """

    images: Images
    last_image: int

    @property
    def roots(self) -> tuple[ImageRoot, ...]:
        """Folders of the images; one that not all files need is added by the first row that needs it."""

    def take(self, source: SourceRow) -> str | None:
        """Take a row; returns None, or why it cannot be used, or "" if that was said of an earlier row."""

    def ready(self) -> Rows:
        """Rows that the last row that was taken made, with their share of all."""

    def rest(self) -> Rows:
        """Rows that could only be made when all are taken, with their share of all."""


def with_bar(sources: Iterable[SourceRow], description: str) -> Iterator[SourceRow]:
    """The same rows; on a terminal with a bar of how much of the files is read."""
    quiet = datasets.are_progress_bars_disabled() or None  # None: where there is no terminal
    form = "{desc}: {percentage:3.0f}%|{bar}| {postfix} [{elapsed}<{remaining}]"
    with tqdm(total=1.0, desc=description, bar_format=form, leave=False, disable=quiet) as bar:
        for count, source in enumerate(sources, start=1):
            if not bar.disable and count % ROWS_A_LOOK == 0:
                rate = count / max(bar.format_dict["elapsed"], 1e-3)
                bar.set_postfix_str(f"{count:,} rows, {rate:,.0f} rows/s", refresh=False)
                bar.update(source.share - bar.n)
            yield source


def accepted(sources: Iterable[SourceRow], taker: RowTaker, problems: Problems) -> Iterator[SourceRow]:
    """Hand annotation rows to a taker; gives those that it could use, and notes what is wrong with the others.

    Ends at a row whose folder of images is missing.
    """
    for source in sources:
        known = len(taker.roots)
        problem = source.row.problem if isinstance(source.row, BadRow) else taker.take(source)
        if len(taker.roots) > known and root_problems(taker, problems):
            return
        if problem is None:
            yield source
        else:
            problems.add_row(f"{source.file}, row {source.number}", problem)


def root_problems(taker: RowTaker, problems: Problems) -> bool:
    """Note image folders that are missing; True if there is one."""
    wrong = {root.setting: root.problem() for root in taker.roots if root.problem()}
    for setting, problem in wrong.items():
        problems.add(setting, problem)
    return bool(wrong)


def made_rows(sources: Iterable[SourceRow], taker: RowTaker, problems: Problems, drop_bad_rows: bool = False) -> Rows:
    """Rows of a data set.

    Raises:
        AnnotationError: Something is wrong with a file, or, unless bad rows are dropped, with a row. All rows are
            checked first or, where rows can be made one by one, while they are made.
    """
    if root_problems(taker, problems):
        problems.raise_if_any(SUBJECT)
    for _ in accepted(sources, taker, problems):
        yield from taker.ready()
    problems.raise_if_any(SUBJECT, drop_rows=drop_bad_rows)
    yield from taker.rest()


@dataclass
class Gallery:
    """Images and their captions, gathered row by row.

    Attributes:
        root: Folder of the images.
        images: Those that occur.
        captions: The captions of each.
        image_of_id: `image_id` as written -> image as first written.
        last_image: Index of the image of the row that was accepted last.
    """

    root: ImageRoot
    images: Images = field(default_factory=Images)
    captions: list[list[str]] = field(default_factory=list)
    image_of_id: dict[str | int, str] = field(default_factory=dict)
    last_image: int = -1

    @property
    def roots(self) -> tuple[ImageRoot, ...]:
        """The one folder."""
        return (self.root,)

    def take(self, source: SourceRow) -> str | None:
        """See `RowTaker`; an image that cannot be used is reported once, at its first row."""
        row = source.row
        problem = caption_problem(row)
        if problem:
            return problem
        written, caption, image_id = row["image"], row["caption"], row.get("image_id")
        index, problem = self.images.add(self.root, written)
        if image_id is not None and not problem:
            known = self.image_of_id.setdefault(image_id, written)
            if known != written and relative_path(known) != relative_path(written):
                return f"'image_id' {image_id!r} names {short(written)}, before it named {short(known)}: {_ONE_ID}"
        if index is None:
            return problem
        self.last_image = index
        self.captions.extend([] for _ in range(len(self.captions), index + 1))
        self.captions[index].extend([caption] if isinstance(caption, str) else caption)
        return None

    def ready(self) -> Rows:
        """None: a later row may hold a further caption of any image."""
        return iter(())

    def rest(self) -> Rows:
        """A row an image, in order of first appearance."""
        pairs = [pair for pair in zip(self.images.paths, self.captions, strict=False) if pair[1]]
        for number, (path, captions) in enumerate(pairs):
            yield number / len(pairs), {"image": path, "caption": captions, "image_id": number}


def load_retrieval_files(files: Sequence[str], image_root: str) -> datasets.Dataset:
    """Read annotation files of image-text retrieval into memory; the builders read them into the cache.

    Args:
        files: JSON files of ALBEF's, Karpathy's or COCO's layout (see `annotation_files`).
        image_root: Folder that holds the images.

    Returns:
        In memory, with nothing written to the cache and no image opened: `image` (undecoded, absolute path),
        `caption` (list of strings), `image_id` (int64, the place of the row). A row an image in order of first
        appearance over all files; rows of the same image path are merged.

    Raises:
        AnnotationError: A file, row or image cannot be used, or one `image_id` names two images. All rows are checked
            first; the text lists the first ten problems with file, row and remedy.
    """
    problems = Problems()
    sources = caption_rows(as_list(files), "train", problems)
    rows = made_rows(sources, Gallery(ImageRoot(absolute(image_root))), problems)
    return in_memory([row for _, row in rows], FEATURES)


def as_list(files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[str]:
    """Paths of one file or several."""
    return [os.fspath(file) for file in ([files] if isinstance(files, (str, os.PathLike)) else files)]


def absolute(folder: str | os.PathLike[str]) -> str:
    """A path made absolute, with "~" for the home folder."""
    return os.path.abspath(os.path.expanduser(folder))


def in_memory(rows: list[dict[str, Any]], features: datasets.Features) -> datasets.Dataset:
    """A data set of rows that nothing is written of."""
    # Arrow's arrays, since the library encodes lists entry by entry.
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in features}
    schema = features.arrow_schema
    columns |= {name: pa.array(column, schema.field(name).type) for name, column in columns.items() if name != "image"}
    return datasets.Dataset.from_dict(columns, features=features)


def caption_problem(row: Any) -> str | None:
    """What is wrong with a row's keys and types, or None."""
    if not isinstance(row, dict):
        return f"is a JSON {json_type(row)}, not an object: write {{'image': .., 'caption': ..}}"
    missing = [key for key in ("image", "caption") if key not in row]
    if missing:
        return f"has no {' and no '.join(map(repr, missing))}; its keys are {list(row)[:6]}: add it"
    image, caption, image_id = row["image"], row["caption"], row.get("image_id")
    if not isinstance(image, str) or not image.strip():
        return f"image is {short(image)}: a path relative to image_root is expected"
    if image_id is not None and type(image_id) not in (str, int):
        return f"'image_id' is {short(image_id)}: a string or an integer is expected"
    if caption == []:
        return "'caption' is an empty list: give at least one caption or leave the row out"
    if not isinstance(caption, (str, list)):
        return f"'caption' is {short(caption)}: a string or a list of strings is expected"
    for text in [caption] if isinstance(caption, str) else caption:
        if not isinstance(text, str):
            return f"'caption' holds {short(text)}: strings are expected"
        if not READABLE.search(text):
            return f"caption {short(text)} holds no letter or digit: write one or leave it out"
        if not text.isascii() and not encodes(text):
            return f"caption {short(text)} holds half of a surrogate pair: write the whole character"
    return None
