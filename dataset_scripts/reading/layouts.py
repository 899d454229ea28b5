"""Rows of annotation files, in whatever layout a source distributes them, as rows of ALBEF's layout.

The content says which layout a file has, so files can be named in any order and mixed:

- ALBEF (salesforce/ALBEF `dataset/caption_dataset.py`, `dataset/vqa_dataset.py`): a list of objects with `image` and
  `caption`, or with `image`, `question`, `question_id`, `answer` and `dataset`. Its rows pass as they are.
- Karpathy's `dataset_coco.json`, `dataset_flickr30k.json`: `images`, each with `filename`, `split` and `sentences`.
- COCO's `captions_*.json`: `images` and `annotations`.
- VQA v2: a file of `questions`, and one of `annotations` that belongs to it.
- GQA's `*_questions.json`: an object of `imageId`, `question` and `answer` by id.
- Visual Genome: `question_answers.json` with the `qas` of each image, and `image_data.json` with the images' addresses.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, starmap
from typing import Any

from .json_files import JsonFile
from .problems import Problems, UnusableFileError, short
from .rows import SourceRow
from .values import question_number

KARPATHY_SPLITS = {"train": ("train", "restval"), "validation": ("val",), "test": ("test",)}
IMAGE_NAME = "{subset}/COCO_{subset}_{image_id:012d}.jpg"  # of the images of VQA v2
_OF_ANY_SUBSET = "{image_id:012d}.jpg"  # the folder that has it is found by `FolderListing`
LISTS = ("questions", "annotations", "images", "data")  # of an object that tell its layout; "data" has plain rows
_SUBSET = re.compile(r"(train|val|test)(?:-dev)?(\d{4})")  # test-dev2015 is a part of the images of test2015
_PART_OF_URL = re.compile(r"[^/]+/[^/]+$")
NumberedRows = Iterable[tuple[int | str, Any]]
OpenFile = tuple[JsonFile, NumberedRows]


def layout(json_file: JsonFile) -> str:
    """Return the layout of a JSON file, found from the keys of an item; raises UnusableFileError."""
    if {"imageId", "question"} <= set(json_file.first_entry()):
        return "gqa"
    key, fields = json_file.first_item(LISTS)
    if key is None:
        if "qas" in fields:
            return "genome"
        return "genome_images" if "url" in fields and "image" not in fields else "rows"
    if key == "annotations":
        return "answers" if "question_id" in fields else "captions"
    if key == "images":
        return "karpathy" if "sentences" in fields else "captions"
    return key


def named_once(files: Sequence[str], problems: Problems, rows: str) -> list[str]:
    """Return each file once; note a problem for one that is listed twice."""
    once: dict[str, str] = {}
    for file in files:
        if os.path.abspath(file) in once:
            problems.add(file, f"is listed twice: its {rows} would count double, so name it once")
        else:
            once[os.path.abspath(file)] = file
    if not once:
        problems.add("files", "no annotation file is given: name at least one")
    return list(once.values())


def read_rows(files: Sequence[str], open_file: Callable[[str], OpenFile], problems: Problems) -> Iterator[SourceRow]:
    """Read all rows of JSON files, and note what is wrong with whole files."""
    for index, file in enumerate(files):
        try:
            json_file, rows = open_file(file)
            with json_file:
                for number, row in rows:
                    yield SourceRow(file, number, (index + min(json_file.share, 0.999)) / len(files), row)
        except UnusableFileError as error:
            problems.add(file, str(error))


def _spread(items: Iterable[Any], to_rows: Callable[[int, Any], NumberedRows]) -> NumberedRows:
    """Return the rows that items give, with the items' numbers from 1."""
    return chain.from_iterable(starmap(to_rows, enumerate(items, start=1)))


def caption_rows(files: Sequence[str], split: str, problems: Problems) -> Iterator[SourceRow]:
    """Read rows `image`, `caption` and, where there is one, `image_id`, of files of ALBEF, Karpathy or COCO.

    Of Karpathy's files those of the split are read; "restval" is trained on. Problems are those of whole files.
    """

    def open_file(file: str) -> OpenFile:
        json_file = JsonFile(file)
        kind = layout(json_file)
        if kind == "karpathy":
            return json_file, _spread(json_file.items("images.item"), partial(_karpathy_rows, split))
        if kind == "captions":
            return json_file, enumerate(_coco_rows(json_file), start=1)
        return _open_rows(json_file, kind, "rows, data, karpathy, captions")

    return read_rows(named_once(files, problems, "captions"), open_file, problems)


def _open_rows(json_file: JsonFile, kind: str, known: str) -> OpenFile:
    """Return a file of ALBEF's layout; raises UnusableFileError if it has another."""
    if kind not in ("rows", "data"):
        raise UnusableFileError(f"holds {kind}, but here these are read: {known}")
    return json_file, enumerate(json_file.items("item" if kind == "rows" else "data.item"), start=1)


def _karpathy_rows(split: str, number: int, item: Any) -> NumberedRows:
    """Return the row of an image of Karpathy's files, or no row for another split; a malformed item stays as it is."""
    if isinstance(item, dict) and item.get("split") not in KARPATHY_SPLITS[split]:
        return []
    try:
        captions = [sentence["raw"] for sentence in item["sentences"]]
        return [(number, {"image": os.path.join(item.get("filepath", ""), item["filename"]), "caption": captions})]
    except (AttributeError, KeyError, TypeError):
        return [(number, item)]


def _coco_rows(json_file: JsonFile) -> list[dict[str, Any]]:
    """Return the images of COCO's files with their captions."""
    captions: dict[Any, list[Any]] = {}
    for item in json_file.items("annotations.item"):
        if isinstance(item, dict):
            captions.setdefault(_id(item, "image_id"), []).append(item.get("caption"))
    named, rows = _subset_in(os.path.basename(json_file.file)), []
    for item in json_file.items("images.item"):
        name, image_id = (item.get("file_name"), _id(item, "id")) if isinstance(item, dict) else (item, None)
        subset = named or _subset_in(str(name))
        path = f"{subset}/{name}" if subset and isinstance(name, str) else name
        rows.append({"image": path, "caption": captions.pop(image_id, []), "image_id": image_id})
    return rows


def _id(item: dict[str, Any], key: str) -> str | int | None:
    """Return the id in an object; None if there is none or something else."""
    value = item.get(key)
    return value if isinstance(value, str | int) else None


def question_rows(
    files: Sequence[str], problems: Problems, image_name: str = IMAGE_NAME, data_subtype: str | None = None
) -> Iterator[SourceRow]:
    """Read rows `dataset`, `image`, `question`, `question_id`, `answer` of files of ALBEF, VQA v2, GQA, Visual Genome.

    Where VQA v2's annotations are read, rows have `question_type` and `answer_type`, too. Problems are those of whole
    files. `image_name`, `data_subtype`: see `QuestionFilesConfig`.
    """
    with_questions: dict[str, tuple[JsonFile, str]] = {}
    answers, genome_images = dict[Any, Any](), dict[Any, str]()
    for file in named_once(files, problems, "questions"):
        try:
            json_file = JsonFile(file)
            kind = layout(json_file)
            if kind == "answers":
                _read_answers(json_file, answers)
            elif kind == "genome_images":
                _read_genome_images(json_file, genome_images)
            else:
                with_questions[file] = json_file, kind
        except UnusableFileError as error:
            problems.add(file, str(error))

    def open_file(file: str) -> OpenFile:
        json_file, kind = with_questions[file]
        if kind == "questions":
            subset = _subset(json_file) or data_subtype
            if subset is None and "{subset" in image_name:
                if image_name != IMAGE_NAME:
                    raise UnusableFileError("has no 'data_subtype' such as 'train2014': set data_subtype")
                to_rows = partial(_question_rows, answers, _OF_ANY_SUBSET, "")
            else:
                to_rows = partial(_question_rows, answers, image_name, subset or "")
            return json_file, _spread(json_file.items("questions.item"), to_rows)
        if kind == "gqa":
            return json_file, enumerate(starmap(_gqa_row, json_file.entries()), start=1)
        if kind == "genome":
            return json_file, _spread(json_file.items("item"), partial(_genome_rows, genome_images))
        return _open_rows(json_file, kind, "rows, data, questions, genome, gqa")

    if not with_questions and files and not problems.file_count:
        problems.add(files[0], "holds no questions: name the file of questions, too")
    return read_rows(list(with_questions), open_file, problems)


def _subset_in(text: str) -> str | None:
    """Return the name of COCO's folder in a text, such as "train2014"."""
    found = _SUBSET.search(text)
    return found.group(1) + found.group(2) if found else None


def _subset(json_file: JsonFile) -> str | None:
    """Return which images the questions of a file are about, if it says so."""
    named = next(json_file.items("data_subtype"), None)
    return _subset_in(named if isinstance(named, str) else os.path.basename(json_file.file))


def _read_answers(json_file: JsonFile, answers: dict[Any, Any]) -> None:
    """Take the annotations of VQA v2; each answer is kept once, as a tuple of all that were given."""
    once: dict[Any, Any] = {}
    with json_file:
        for item in json_file.items("annotations.item"):
            try:
                given = tuple(once.setdefault(answer["answer"], answer["answer"]) for answer in item["answers"])
                types = (item.get("question_type"), item.get("answer_type"))
                answers[item["question_id"]] = once.setdefault((given, types), (given, types))
            except (AttributeError, KeyError, TypeError) as error:
                text = f"is not VQA v2's: an annotation lacks 'question_id' or 'answers': {short(item)}"
                raise UnusableFileError(text) from error


def _question_rows(answers: dict[Any, Any], image_name: str, subset: str, number: int, item: Any) -> NumberedRows:
    """Return the row of a question of VQA v2 with its answers; a malformed item stays as it is."""
    try:
        image = image_name.format(subset=subset, image_id=item["image_id"])
        row = {"dataset": "vqa", "image": image, "question": item["question"], "question_id": item["question_id"]}
        found = answers.get(item["question_id"])
    except (KeyError, TypeError, ValueError):
        return [(number, item)]
    if found is not None:
        given, (question_type, answer_type) = found
        row |= {"answer": list(given), "question_type": question_type, "answer_type": answer_type}
    return [(number, row)]


def _gqa_row(question_id: str, item: Any) -> Any:
    """Return the row of a question of GQA, whose image has no ending; a malformed item stays as it is."""
    try:
        row = {"dataset": "vqa", "image": str(item["imageId"]), "question": item["question"]}
        row["question_id"] = question_number(question_id)
    except (KeyError, TypeError):
        return item
    return row | {"answer": item["answer"]} if "answer" in item else row


def _read_genome_images(json_file: JsonFile, images: dict[Any, str]) -> None:
    """Take the folder and name of each image of Visual Genome from its address."""
    with json_file:
        for item in json_file.items("item"):
            try:
                images[item["image_id"]] = _PART_OF_URL.search(item["url"]).group()  # type: ignore[union-attr]
            except (AttributeError, KeyError, TypeError) as error:
                raise UnusableFileError(f"is not Visual Genome's: {short(item)} has no 'image_id' and 'url'") from error


def _genome_rows(images: dict[Any, str], number: int, item: Any) -> NumberedRows:
    """Return the rows of the questions about an image of Visual Genome; a malformed item stays as it is."""
    try:
        path = images.get(item["id"], f"VG_100K/{item['id']}.jpg")
        rows = [{"dataset": "vg", "image": path} | _genome_question(qa) for qa in item["qas"]]
    except (AttributeError, KeyError, TypeError):
        rows = [item]
    return [(f"{number}, question {index}", row) for index, row in enumerate(rows, start=1)]


def _genome_question(qa: dict[str, Any]) -> dict[str, Any]:
    """Return question and answer, without the full stop that most answers end with."""
    names = {"question": "question", "answer": "answer", "qa_id": "question_id"}
    row = {names[key]: value for key, value in qa.items() if key in names}
    if isinstance(row.get("answer"), str):
        row["answer"] = row["answer"].strip().removesuffix(".")
    return row
