"""Rows of annotation files, in whatever layout a source distributes them, as rows of ALBEF's layout.

The layout is told by the content, so files can be named in any order and mixed:

- ALBEF (salesforce/ALBEF `dataset/caption_dataset.py`, `dataset/vqa_dataset.py`): a list of objects with `image` and
  `caption`, or with `image`, `question`, `question_id`, `answer` and `dataset`. Its rows pass as they are.
- Karpathy's `dataset_coco.json`, `dataset_flickr30k.json`: `images`, each with `filename`, `split` and `sentences`.
- COCO's `captions_*.json`: `images` and `annotations`.
- VQA v2: a file of `questions`, and one of `annotations` that belongs to it.
- Visual Genome: `question_answers.json` with the `qas` of each image, and `image_data.json` with the images' addresses.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from .json_stream import JsonItems, UnusableFileError
from .problems import Problems, short

KARPATHY_SPLITS = {"train": ("train", "restval"), "validation": ("val",), "test": ("test",)}
FLICKR_FOLDER = "flickr30k-images"  # as in ALBEF's files; Karpathy's name no folder
IMAGE_NAME = "{subset}/COCO_{subset}_{image_id:012d}.jpg"  # of the images of VQA v2
_SUBSET = re.compile(r"(train|val|test)(?:-dev)?(\d{4})")  # test-dev2015 is a part of the images of test2015
_PART_OF_URL = re.compile(r"[^/]+/[^/]+$")


class SourceRow(NamedTuple):
    """A row as it is read.

    Attributes:
        file: Annotation file.
        number: Its place in the file, from 0.
        share: Part of all files that is read, 0..1, never falling: what several processes divide the rows by.
        row: What stands there, in ALBEF's layout; anything at all if the file is wrong.
        is_numbered: Whether the question had no `question_id` and was given its place, which other splits have, too.
    """

    file: str
    number: int | str
    share: float
    row: Any
    is_numbered: bool = False


class BadRow(NamedTuple):
    """Stands where a row should, if what reads the file knows what is wrong with it."""

    problem: str


Reader = Callable[[JsonItems, str], Iterator[tuple[int | str, Any]]]


def layout(file: str) -> str:
    """What a JSON file holds, by its first item of note.

    Raises:
        UnusableFileError: It cannot be read, or holds none of the known lists.
    """
    items = JsonItems(file)
    for key, item in items:
        fields = item if isinstance(item, dict) else {}
        if key is None:
            if "qas" in fields:
                return "genome"
            return "genome_images" if "url" in fields and "image" not in fields else "rows"
        if key == "questions":
            return "questions"
        if key == "annotations":
            return "answers" if "question_id" in fields else "captions"
        if key == "images":
            return "captions" if "sentences" not in fields else "karpathy"
    items.refuse({})


def named_once(files: Sequence[str], problems: Problems, rows: str) -> Iterator[str]:
    """Files, without those that are listed twice, which is a problem."""
    seen: set[str] = set()
    for file in files:
        if os.path.abspath(file) in seen:
            problems.add(file, f"is listed twice: its {rows} would count double, so name it once")
        else:
            seen.add(os.path.abspath(file))
            yield file
    if not seen:
        problems.add("files", "no annotation file is given: name at least one")


def read_rows(files: Sequence[str], readers: Mapping[str, Reader], problems: Problems) -> Iterator[SourceRow]:
    """All rows of JSON files.

    Args:
        files: Their paths.
        readers: For each layout that gives rows, what turns the items of a file into numbered rows.
        problems: Takes what is wrong with whole files.
    """
    for place, file in enumerate(files):
        try:
            kind = layout(file)
            if kind not in readers:
                known = ", ".join(readers)
                raise UnusableFileError(f"holds {kind}, but here these are read: {known}")
            items = JsonItems(file)
            for number, row in readers[kind](items, file):
                yield SourceRow(file, number, (place + min(items.share, 0.999)) / len(files), row)
        except UnusableFileError as error:
            problems.add(file, str(error))


def caption_rows(files: Sequence[str], split: str, problems: Problems) -> Iterator[SourceRow]:
    """Rows `image`, `caption` and, where there is one, `image_id`, of files with captions.

    Args:
        files: JSON files of ALBEF, Karpathy or COCO.
        split: "train", "validation" or "test": which images of Karpathy's files; "restval" is trained on.
        problems: Takes what is wrong with whole files.
    """

    def karpathy(items: JsonItems, file: str) -> Iterator[tuple[int | str, Any]]:
        number = -1
        for key, item in items:
            if key == "images":
                number += 1
                if not isinstance(item, dict) or item.get("split") in KARPATHY_SPLITS[split]:
                    yield number, _karpathy_row(item, file)

    readers: dict[str, Reader] = {"rows": _plain_rows, "karpathy": karpathy, "captions": _coco_rows}
    yield from read_rows(list(named_once(files, problems, "captions")), readers, problems)


def _plain_rows(items: JsonItems, file: str) -> Iterator[tuple[int | str, Any]]:
    """Rows of ALBEF's layout."""
    for number, (_, row) in enumerate(items):
        yield number, row


def _karpathy_row(item: Any, file: str) -> Any:
    """An image of Karpathy's files; something else if it is none."""
    try:
        folder = item.get("filepath", FLICKR_FOLDER if "flickr" in os.path.basename(file) else "")
        captions = [sentence["raw"] for sentence in item["sentences"]]
        return {"image": os.path.join(folder, item["filename"]), "caption": captions}
    except (AttributeError, KeyError, TypeError):
        return item


def _coco_rows(items: JsonItems, file: str) -> Iterator[tuple[int | str, Any]]:
    """Images of COCO's files with their captions, which are gathered first."""
    images, captions = [], dict[Any, list[Any]]()
    for key, item in items:
        if key == "images":
            images.append((_id(item, "id"), item.get("file_name")) if isinstance(item, dict) else (None, item))
        elif key == "annotations" and isinstance(item, dict):
            captions.setdefault(_id(item, "image_id"), []).append(item.get("caption"))
    named = _subset_in(os.path.basename(file))
    for number, (image_id, name) in enumerate(images):
        subset = named or _subset_in(str(name))
        path = f"{subset}/{name}" if subset and isinstance(name, str) else name
        yield number, {"image": path, "caption": captions.pop(image_id, []), "image_id": image_id}


def _id(item: dict[str, Any], key: str) -> str | int | None:
    """The id in an object; None if there is none or something else."""
    value = item.get(key)
    return value if isinstance(value, str | int) else None


def question_rows(files: Sequence[str], problems: Problems, image_name: str = IMAGE_NAME) -> Iterator[SourceRow]:
    """Rows `dataset`, `image`, `question`, `question_id`, `answer` of files with questions.

    Where VQA v2's annotations are read, rows have `question_type` and `answer_type`, too.

    Args:
        files: JSON files of ALBEF, VQA v2 or Visual Genome.
        problems: Takes what is wrong with whole files.
        image_name: Path of an image of VQA v2, with "{subset}" for "train2014" and the like and "{image_id}".
    """
    with_questions, answers, genome_images = [], dict[Any, dict[str, Any]](), dict[Any, str]()
    for file in named_once(files, problems, "questions"):
        try:
            kind = layout(file)
            if kind == "answers":
                _read_answers(file, answers)
            elif kind == "genome_images":
                _read_genome_images(file, genome_images)
            else:
                with_questions.append(file)
        except UnusableFileError as error:
            problems.add(file, str(error))

    def official(items: JsonItems, file: str) -> Iterator[tuple[int | str, Any]]:
        number, subset = -1, _subset(file)
        for key, item in items:
            if key == "questions":
                number += 1
                yield number, _question_row(item, answers, image_name, subset)

    def genome(items: JsonItems, file: str) -> Iterator[tuple[int | str, Any]]:
        for number, (_, item) in enumerate(items):
            for place, row in enumerate(_genome_rows(item, genome_images)):
                yield f"{number}, question {place}", row

    readers: dict[str, Reader] = {"rows": _plain_rows, "questions": official, "genome": genome}
    yield from read_rows(with_questions, readers, problems)
    if not with_questions and files and not problems.file_count:
        problems.add(files[0], "holds no questions: name the file of questions, too")


def _subset_in(text: str) -> str | None:
    """The name of COCO's folder that a text speaks of, such as "train2014"."""
    found = _SUBSET.search(text)
    return found.group(1) + found.group(2) if found else None


def _subset(file: str) -> str:
    """Which images the questions of a file are about."""
    named = next((item for key, item in JsonItems(file) if key == "data_subtype"), None)
    subset = _subset_in(named if isinstance(named, str) else os.path.basename(file))
    if subset is None:
        raise UnusableFileError("has no 'data_subtype' such as 'train2014': the images' names need it")
    return subset


def _read_answers(file: str, answers: dict[Any, dict[str, Any]]) -> None:
    """Take the annotations of VQA v2; each answer is kept once, as a tuple of all that were given."""
    once: dict[Any, Any] = {}
    for key, item in JsonItems(file):
        if key == "annotations":
            try:
                given = tuple(once.setdefault(answer["answer"], answer["answer"]) for answer in item["answers"])
                types = (item.get("question_type"), item.get("answer_type"))
                answers[item["question_id"]] = once.setdefault((given, types), (given, types))
            except (AttributeError, KeyError, TypeError) as error:
                text = f"is not VQA v2's: an annotation lacks 'question_id' or 'answers': {short(item)}"
                raise UnusableFileError(text) from error


def _question_row(item: Any, answers: dict[Any, Any], image_name: str, subset: str) -> Any:
    """A question of VQA v2 with its answers; something else if it is none."""
    try:
        image = image_name.format(subset=subset, image_id=item["image_id"])
        row = {"dataset": "vqa", "image": image, "question": item["question"], "question_id": item["question_id"]}
        found = answers.get(item["question_id"])
    except (KeyError, TypeError, ValueError):
        return item
    if found is not None:
        given, (question_type, answer_type) = found
        row |= {"answer": list(given), "question_type": question_type, "answer_type": answer_type}
    return row


def _read_genome_images(file: str, images: dict[Any, str]) -> None:
    """Take the folder and name of each image of Visual Genome from its address."""
    for _, item in JsonItems(file):
        try:
            images[item["image_id"]] = _PART_OF_URL.search(item["url"]).group()
        except (AttributeError, KeyError, TypeError) as error:
            raise UnusableFileError(f"is not Visual Genome's: {short(item)} has no 'image_id' and 'url'") from error


def _genome_rows(item: Any, images: dict[Any, str]) -> list[Any]:
    """Questions about an image of Visual Genome; something else if they are none."""
    try:
        path = images.get(item["id"], f"VG_100K/{item['id']}.jpg")
        return [{"dataset": "vg", "image": path} | _genome_question(qa) for qa in item["qas"]]
    except (AttributeError, KeyError, TypeError):
        return [item]


def _genome_question(qa: dict[str, Any]) -> dict[str, Any]:
    """Question and answer; the full stop that most answers end with is no part of what a model should say."""
    names = {"question": "question", "answer": "answer", "qa_id": "question_id"}
    row = {names[key]: value for key, value in qa.items() if key in names}
    if isinstance(row.get("answer"), str):
        row["answer"] = row["answer"].strip().removesuffix(".")
    return row
