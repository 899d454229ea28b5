"""Reading ALBEF's annotations of visual question answering: `vqa_train.json`, `vg_qa.json`, `answer_list.json`.

The layout is that of salesforce/ALBEF (`dataset/vqa_dataset.py`): a row a question, from VQA v2 with the answers of all
annotators, or from Visual Genome with the one answer there is. Everything is checked before a data set is returned, as
in `annotations.py`.
"""

from __future__ import annotations

import math
import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets
import pyarrow as pa

from .annotations import (
    _READABLE,
    _encodes,
    _file_problem,
    _json_type,
    _path_problem,
    _Problems,
    _read_rows,
    _relative_path,
    _short,
)

VQA_FEATURES = datasets.Features(
    {
        "image": datasets.Image(decode=False),
        "question": datasets.Value("string"),
        "question_id": datasets.Value("int64"),
        "image_id": datasets.Value("int64"),
        "answers": datasets.List(datasets.Value("string")),
        "answer_weight": datasets.Value("float32"),
    }
)
VQA_WEIGHT = 1.0
VG_WEIGHT = 0.5  # of one annotator's answer, in salesforce/ALBEF
NO_QUESTION_ID = -1  # of a Visual Genome row without one
MAX_QUESTION_ID = 2**63 - 1
_SUBJECT = "Cannot load the annotations"


@dataclass
class _Pictures:
    """Images of all roots, in order of first appearance.

    Attributes:
        paths: Absolute path of each image.
        index_of_path: Path -> index; None for an image with a problem.
    """

    paths: list[str] = field(default_factory=list)
    index_of_path: dict[str, int | None] = field(default_factory=dict)

    def add(self, root: str, root_name: str, written: str) -> tuple[int | None, str | None]:
        """Index of an image as written in a file, and what is wrong with it if this is its first row."""
        relative = _relative_path(written)
        problem = _path_problem(written, relative)
        if problem:
            return None, _reword(problem, _short(written), "image_root", root_name)
        path = os.path.join(root, relative)
        if path in self.index_of_path:  # the same file in another spelling or of the other source
            return self.index_of_path[path], None
        problem = _file_problem(path)
        index = self.index_of_path[path] = None if problem else len(self.paths)
        if problem:
            return None, _reword(problem, repr(path), "image_root", root_name)
        self.paths.append(path)
        return index, None


@dataclass
class _Questions:
    """Columns of the data set, gathered row by row.

    Attributes:
        roots: "vqa" or "vg" -> absolute folder of its images and the name of the argument that sets it.
        weights: "vqa" or "vg" -> weight of its answers.
        need_answers: Whether a row without an answer is a problem.
        pictures: The images.
        indices: Of each image as written: "vqa" or "vg" -> image -> index.
        first_use: `question_id` of VQA rows -> number of the row, counted over all files.
        files: Files read so far.
        starts: Number of the first row of each of them.
        num_rows: Rows read so far.
        columns: `image_id`, `question`, `question_id`, `answers` and `answer_weight`.
    """

    roots: dict[str, tuple[str, str]]
    weights: dict[str, float]
    need_answers: bool
    pictures: _Pictures = field(default_factory=_Pictures)
    indices: dict[str, dict[str, int | None]] = field(default_factory=lambda: {"vqa": {}, "vg": {}})
    first_use: dict[int, int] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    num_rows: int = 0
    columns: dict[str, list[Any]] = field(
        default_factory=lambda: {name: [] for name in VQA_FEATURES if name != "image"}
    )

    def add_file(self, file: str, problems: _Problems) -> None:
        """Take all rows of a file."""
        rows = _read_rows(file, problems)
        self.files.append(file)
        self.starts.append(self.num_rows)
        for number, row in enumerate(rows):
            problem = self._add(row)
            if problem:
                problems.add(f"{file}, row {number}", problem)
            self.num_rows += 1

    def _add(self, row: Any) -> str | None:
        """Take one row; returns what is wrong with it, or None."""
        problem = _row_problem(row, self.need_answers)
        if problem:
            return problem
        source, written, answers = row.get("dataset", "vqa"), row["image"], row.get("answer", [])
        question_id = row.get("question_id", NO_QUESTION_ID)
        if source == "vqa":
            first = self.first_use.setdefault(question_id, self.num_rows)
            if first != self.num_rows:
                return f"'question_id' {question_id} is taken by {self._place(first)}: give every question its own"
        known = self.indices[source]
        if written not in known:
            known[written], problem = self.pictures.add(*self.roots[source], written)
        columns = self.columns
        columns["question"].append(row["question"])
        columns["question_id"].append(question_id)
        columns["image_id"].append(known[written])
        columns["answers"].append([answers] if isinstance(answers, str) else answers)
        columns["answer_weight"].append(self.weights[source])
        return problem

    def _place(self, number: int) -> str:
        """File and row of a row's number."""
        index = bisect_right(self.starts, number) - 1
        return f"{self.files[index]}, row {number - self.starts[index]}"


def load_vqa_files(
    files: Sequence[str],
    vqa_root: str,
    vg_root: str | None = None,
    *,
    need_answers: bool = False,
    vg_weight: float = VG_WEIGHT,
) -> datasets.Dataset:
    """Read annotation files of visual question answering.

    Args:
        files: JSON files, each a list of objects with `image` (path relative to the root; backslashes count as
            slashes), `question`, `question_id` (integer >= 0; rows of Visual Genome may leave it out), `answer` (a
            string or a list of strings; left out in test files) and `dataset` ("vqa", the default, or "vg").
        vqa_root: Folder that holds the images of "vqa" rows.
        vg_root: Folder that holds the images of "vg" rows; None takes `vqa_root`.
        need_answers: For training: a row without an answer, or with an empty one, is a problem.
        vg_weight: Weight of the answers of "vg" rows, finite and >= 0; that of "vqa" rows is 1.

    Returns:
        In memory, with nothing written to the cache and no image opened; a row a question, in order: `image`
        (undecoded, absolute path), `question`, `question_id` (-1 where there is none), `image_id` (the place of the
        image in order of first appearance), `answers` (of all annotators, with repeats; empty where the file has none)
        and `answer_weight`.

    Raises:
        AnnotationError: A file, row or image cannot be used, or two "vqa" rows share a `question_id`. All rows are
            checked first; the text lists the first ten problems with file, row and remedy.
        ValueError: `vg_weight` is out of range.
    """
    if not (math.isfinite(vg_weight) and vg_weight >= 0):
        raise ValueError(f"vg_weight is {vg_weight}, but must be a finite number >= 0.")
    files = [files] if isinstance(files, (str, os.PathLike)) else list(files)
    roots = {"vqa": (_absolute(vqa_root), "vqa_root")}
    roots["vg"] = roots["vqa"] if vg_root is None else (_absolute(vg_root), "vg_root")
    problems = _Problems()
    if not files:
        problems.add("files", "no annotation file is given: name at least one")
    missing = {name: root for root, name in roots.values() if not os.path.isdir(root)}
    for name, root in missing.items():
        problems.add(name, f"{root!r} is not a folder: name the folder that holds the images")
    if missing:
        problems.raise_if_any(_SUBJECT)
    questions = _Questions(roots, {"vqa": VQA_WEIGHT, "vg": vg_weight}, need_answers)
    seen: set[str] = set()
    for file in map(os.fspath, files):
        if os.path.abspath(file) in seen:
            problems.add(file, "is listed twice: its questions would count double, so name it once")
            continue
        seen.add(os.path.abspath(file))
        questions.add_file(file, problems)
    problems.raise_if_any(_SUBJECT)
    # Arrow's arrays, since the library encodes lists entry by entry.
    schema = VQA_FEATURES.arrow_schema
    columns = {name: pa.array(column, schema.field(name).type) for name, column in questions.columns.items()}
    images = pa.array(questions.pictures.paths, pa.string()).take(columns["image_id"])
    return datasets.Dataset.from_dict({"image": images} | columns, features=VQA_FEATURES)


def load_answer_list(path: str | os.PathLike[str]) -> list[str]:
    """Read the answers a model chooses from.

    Args:
        path: JSON file, a list of strings.

    Returns:
        The answers in the file's order.

    Raises:
        AnnotationError: The file is no list of different strings that are not empty; the text lists the first ten
            problems with entry and remedy.
    """
    file, problems = os.fspath(path), _Problems()
    entries = _read_rows(file, problems)
    problems.kept = [_reword(problem, file, "list of objects", "list of strings") for problem in problems.kept]
    first_use: dict[str, int] = {}
    for number, answer in enumerate(entries):
        problem = None
        if not isinstance(answer, str):
            problem = f"is {_short(answer)}: a string is expected"
        elif not answer.strip():
            problem = f"is {_short(answer)}, an empty answer: remove it"
        elif not _encodes(answer):
            problem = f"{_short(answer)} holds half of a surrogate pair: write the whole character"
        elif first_use.setdefault(answer, number) != number:
            problem = f"{_short(answer)} repeats entry {first_use[answer]}: remove one of them"
        if problem:
            problems.add(f"{file}, entry {number}", problem)
    problems.raise_if_any("Cannot load the answer list")
    return entries


def _absolute(folder: str) -> str:
    """A folder's absolute path, with "~" for the home folder."""
    return os.path.abspath(os.path.expanduser(folder))


def _reword(problem: str, shown: str, old: str, new: str) -> str:
    """Replace words in a problem after the name it shows, and not in the name."""
    before, name, rest = problem.partition(shown)
    return before + name + rest.replace(old, new)


def _row_problem(row: Any, need_answers: bool) -> str | None:
    """What is wrong with a row's keys and types, or None."""
    if not isinstance(row, dict):
        return f"is a JSON {_json_type(row)}, not an object: write {{'image': .., 'question': .., 'question_id': ..}}"
    source = row.get("dataset", "vqa")
    if source not in ("vqa", "vg"):
        return f"'dataset' is {_short(source)}: 'vqa' or 'vg' is expected"
    needed = ("image", "question", "question_id") if source == "vqa" else ("image", "question")
    missing = [key for key in needed if key not in row]
    if missing:
        return f"has no {' and no '.join(map(repr, missing))}; its keys are {list(row)[:6]}: add it"
    image, question, question_id = row["image"], row["question"], row.get("question_id", NO_QUESTION_ID)
    if not isinstance(image, str) or not image.strip():
        return f"'image' is {_short(image)}: a path relative to {source}_root is expected"
    if not isinstance(question, str):
        return f"'question' is {_short(question)}: a string is expected"
    if not _READABLE.search(question):
        return f"question {_short(question)} holds no letter or digit: write one or leave the row out"
    if not question.isascii() and not _encodes(question):
        return f"question {_short(question)} holds half of a surrogate pair: write the whole character"
    lowest = 0 if source == "vqa" else NO_QUESTION_ID
    if type(question_id) is not int or not lowest <= question_id <= MAX_QUESTION_ID:
        return f"'question_id' is {_short(question_id)}: an integer from {lowest} to 2**63 - 1 is expected"
    if "answer" not in row:
        return "has no 'answer', which training needs: add it or leave the row out" if need_answers else None
    return _answer_problem(row["answer"], need_answers)


def _answer_problem(answer: Any, need_answers: bool) -> str | None:
    """What is wrong with a row's answer, or None."""
    if not isinstance(answer, (str, list)):
        return f"'answer' is {_short(answer)}: a string or a list of strings is expected"
    if need_answers and answer == []:
        return "'answer' is an empty list: give at least one or leave the row out"
    for text in [answer] if isinstance(answer, str) else answer:
        if not isinstance(text, str):
            return f"'answer' holds {_short(text)}: strings are expected"
        if need_answers and not text.strip():
            return f"'answer' holds {_short(text)}, an empty answer: remove it or leave the row out"
        if not text.isascii() and not _encodes(text):
            return f"answer {_short(text)} holds half of a surrogate pair: write the whole character"
    return None
