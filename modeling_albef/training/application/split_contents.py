"""What the splits of a run hold: counts, fingerprints, and what two of them share."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from datasets import Dataset, concatenate_datasets

from dataset_scripts.contents.text_counts import comparable_text

from ..evaluation.base import progress
from ..evaluation.eccv import coco_image_id
from ..report.formats import percent
from ..rows import IMAGES, SOURCE, texts_of

ROWS_AT_ONCE = 1_000
NUM_THREADS = 4  # that look at image files
WHOLE = 1 << 16  # bytes up to which a file counts whole for its fingerprint; of a longer one three parts of SAMPLE
SAMPLE = 1 << 14
NAMES_SHOWN = 3
TEXTS = ("caption", "question", "text")  # columns, of which a row has one
SPLIT_WORDS = {"train": "training", "validation": "validation", "test": "test"}


@dataclass
class SplitContents:
    """What a split holds.

    Attributes:
        rows: Images with their captions, or questions.
        images: Different images.
        texts: Captions, or questions.
        fingerprint: Hash of images and texts in their order; it does not depend on where the files are.
        image_of_key: What an image goes by -> its file or, where it is in the data itself, its index in `all_images`.
        copies: Images with the key of an earlier image that has another `image_id`, with what that key stands for.
        text_counts: Hash of each text without case and extra spaces, of a question with its image -> its count.
        kind: What the texts are: captions, questions or texts; the latter two belong to their image.
        sources: Rows of each source of a mixture; empty where it is none.
    """

    rows: int
    images: int = 0
    texts: int = 0
    fingerprint: str = ""
    image_of_key: dict[str, str | int] = field(default_factory=dict)
    copies: dict[str | int, str | int] = field(default_factory=dict)
    text_counts: Counter[int] = field(default_factory=Counter)
    kind: str = "captions"
    sources: dict[str, int] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """Return counts and fingerprint, as `run.yaml` has them."""
        rows = "images" if self.kind == "captions" else self.kind
        sources = {f"{rows} of {source}": count for source, count in self.sources.items()}
        return {"images": self.images, self.kind: self.texts, **sources, "fingerprint": self.fingerprint}


def read_contents(dataset: Any, open_images: bool = True) -> SplitContents | None:
    """Read a split of a run: columns `image`, `image_id`, and `caption`, `text`, or `question` and `answers`.

    Rows of two images, `image` and `image_2`, have no `image_id`: different images are those that differ in content.
    None stands for a stream, which is not read twice, and for rows of other columns.

    Args:
        dataset: The rows.
        open_images: Whether images go by their content; False takes their paths.
    """
    columns = dataset.column_names if isinstance(dataset, Dataset) else []
    image_columns = [name for name in IMAGES if name in columns]
    has_ids = "image_id" in columns
    if not image_columns or not (has_ids or len(image_columns) > 1) or not set(TEXTS) & set(columns):
        return None
    kind = next(name for name in TEXTS if name in columns) + "s"
    sources = dict(Counter(dataset[SOURCE])) if SOURCE in columns else {}
    contents = SplitContents(len(dataset), kind=kind, sources=sources)
    text_columns = [name for name in (*TEXTS, "answers", "label") if name in columns]
    digest, image_ids, known, id_of_key = hashlib.sha256(), set[Any](), dict[str, str](), dict[str, Any]()
    rows = dataset.select_columns([*image_columns, *["image_id"] * has_ids, *text_columns]).with_format("arrow")
    starts = progress(range(0, len(rows), ROWS_AT_ONCE), "Comparing splits")
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        for start in starts:
            batch = {name: column.to_pylist() for name, column in _columns(rows[start : start + ROWS_AT_ONCE])}
            pairs = list(zip(*(batch[name] for name in image_columns), strict=True))
            new = {one["path"]: one for pair in pairs for one in pair if _is_file(one) and one["path"] not in known}
            known |= zip(new, pool.map(lambda image: image_key(image, open_images), new.values()), strict=True)
            for index, pair in enumerate(pairs):
                keys = [known[one["path"]] if _is_file(one) else image_key(one, open_images) for one in pair]
                for order, (key, image) in enumerate(zip(keys, pair, strict=True)):
                    shown = image["path"] if _is_file(image) else order * len(dataset) + start + index
                    first = contents.image_of_key.setdefault(key, shown)
                    image_id = batch["image_id"][index] if has_ids else key
                    image_ids.add(image_id)
                    if id_of_key.setdefault(key, image_id) != image_id and image is not None:
                        contents.copies[shown] = first
                texts = [batch[name][index] for name in text_columns]
                digest.update(json.dumps([*map(_without_folder, keys), *texts]).encode())
                for text in texts_of(texts[0]):
                    words = comparable_text(text)
                    contents.text_counts[hash(f"{' '.join(keys)} {words}" if kind != "captions" else words)] += 1
    contents.images, contents.texts = len(image_ids), contents.text_counts.total()
    contents.fingerprint = digest.hexdigest()[:16]
    return contents


def all_images(dataset: Dataset) -> Dataset:
    """Return the images of a data set as one column, `image`: all first ones, then all second ones."""
    names = [name for name in IMAGES if name in dataset.column_names]
    return concatenate_datasets([dataset.select_columns([name]).rename_columns({name: "image"}) for name in names])


def _columns(table: Any) -> Iterator[tuple[str, Any]]:
    yield from zip(table.column_names, table.columns, strict=True)


def _is_file(image: Any) -> bool:
    return image is not None and image["bytes"] is None and bool(image["path"])


def image_key(image: Any, open_images: bool = True) -> str:
    """Return what an image goes by, as `datasets.Image(decode=False)` gives it: a hash of its bytes, or its path.

    Of a long file size, start, middle and end count: enough to find what may be the same.
    """
    if image is None:
        return "none"
    if image["bytes"] is not None:
        data, size = image["bytes"], len(image["bytes"])
        parts = [data[start : start + length] for start, length in _parts(size)]
        return hashlib.sha256(b"".join([str(size).encode(), *parts])).hexdigest()[:32]
    path = os.path.realpath(image["path"])
    if open_images:
        try:
            with open(path, "rb") as stream:
                size = os.fstat(stream.fileno()).st_size
                digest = hashlib.sha256(str(size).encode())
                for start, length in _parts(size):
                    stream.seek(start)
                    digest.update(stream.read(length))
            return digest.hexdigest()[:32]
        except OSError:  # training says what is wrong with it, or replaces it
            pass
    return f"path:{path}"


def _parts(size: int) -> list[tuple[int, int]]:
    if size <= WHOLE:
        return [(0, size)]
    return [(start, SAMPLE) for start in (0, (size - SAMPLE) // 2, size - SAMPLE)]


def _without_folder(key: str) -> str:
    return os.path.basename(key)


# ---- what two splits share


def overlaps(contents: Mapping[str, SplitContents], splits: Mapping[str, Any]) -> list[str]:
    """Return sentences on images and texts that two splits share, those of the training data first; none is the best.

    Images are the same by their file, by their bytes, or by the number that COCO's file names have.

    Args:
        contents: Split -> what it holds.
        splits: Split -> its rows.
    """
    sentences = []
    images = {split: all_images(splits[split]).with_format("arrow") for split in contents}
    for first, second in combinations([split for split in SPLIT_WORDS if split in contents], 2):
        words = f"are in the {SPLIT_WORDS[first]} data, too"
        held, other = contents[second], contents[first]
        numbers = {_coco_number(image) for image in other.image_of_key.values()} - {None}
        shared = [
            image
            for key, image in held.image_of_key.items()
            if _coco_number(image) in numbers
            or (key in other.image_of_key and _same(image, images[second], other.image_of_key[key], images[first]))
        ]
        if shared:
            names = ", ".join(_name(image, held.rows) for image in shared[:NAMES_SHOWN])
            more = f" and {len(shared) - NAMES_SHOWN} more" if len(shared) > NAMES_SHOWN else ""
            sentences.append(f"{_share(len(shared), held.images)} {SPLIT_WORDS[second]} images {words}: {names}{more}.")
        texts = sum(count for text, count in held.text_counts.items() if text in other.text_counts)
        if texts:
            kind = held.kind if held.kind == "captions" else f"{held.kind}, of the same images,"
            sentences.append(f"{_share(texts, held.texts)} {SPLIT_WORDS[second]} {kind} {words}, word for word.")
    return sentences


def copies(contents: Mapping[str, SplitContents], splits: Mapping[str, Any]) -> list[str]:
    """Return sentences on splits that hold an image several times under different `image_id`; none is the best.

    Training takes the captions of one for wrong captions of the other. For the arguments see `overlaps`.
    """
    sentences = []
    for split, held in contents.items():
        rows = all_images(splits[split]).with_format("arrow") if held.copies else None
        found = [(image, first) for image, first in held.copies.items() if _same(image, rows, first, rows)]
        if found:
            names = ", ".join(
                f"{_name(image, held.rows)} is {_name(first, held.rows)}" for image, first in found[:NAMES_SHOWN]
            )
            more = f" and {len(found) - NAMES_SHOWN} more" if len(found) > NAMES_SHOWN else ""
            what = f"{_share(len(found), held.images)} {SPLIT_WORDS.get(split, split)} images"
            sentences.append(f"{what} have the bytes of another one with another image_id: {names}{more}.")
    return sentences


def _share(count: int, total: int) -> str:
    return f"{count} of {total} ({percent(100 * count / max(total, 1))})"


def _coco_number(image: str | int) -> int | None:
    return coco_image_id(image) if isinstance(image, str) else None


def _same(one: str | int, images: Any, other: str | int, other_images: Any) -> bool:
    """Return whether two images with the same key, files or rows, have the same bytes."""
    if isinstance(one, str) and isinstance(other, str) and os.path.realpath(one) == os.path.realpath(other):
        return True
    try:
        return _bytes(one, images) == _bytes(other, other_images)
    except OSError:
        return False


def _bytes(image: str | int, images: Any) -> bytes:
    if isinstance(image, int):
        return (images[image]["image"].to_pylist()[0] or {}).get("bytes") or b""
    with open(image, "rb") as stream:
        return stream.read()


def _name(image: str | int, rows: int) -> str:
    return os.path.basename(image) if isinstance(image, str) else f"row {image % rows}"
