"""Questions about images with their answers: one row a question, from VQA v2, Visual Genome, or people's own files.

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

from .annotation_files import SourceRow, question_rows
from .annotations import Rows, absolute, as_list, in_memory, made_rows
from .image_files import ImageRoot, Images
from .json_stream import UnusableFileError, read_list
from .problems import READABLE, Problems, encodes, json_type, short

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
MAX_WEIGHT = 1e6  # of an answer; far above any that makes sense, far below what the sum of losses can hold


@dataclass
class Questions:
    """Questions, checked one by one; what is kept of them is which ids and images occurred.

    Attributes:
        vqa_root: Folder of the images of "vqa" rows.
        vg_root: Folder of the images of "vg" rows.
        vg_weight: Weight of the answers of "vg" rows; that of "vqa" rows is 1.
        need_answers: Whether a row without an answer is a problem.
        images: Those that occur, of both sources.
        first_use: `question_id` of "vqa" rows -> number of the row, counted over all files.
        files: Files with rows, in order.
        starts: How many rows came before each of them.
        num_rows: Rows taken so far.
        last_image: Index of the image of the row that was accepted last.
    """

    vqa_root: ImageRoot
    vg_root: ImageRoot
    vg_weight: float = VG_WEIGHT
    need_answers: bool = False
    images: Images = field(default_factory=Images)
    first_use: dict[int, int] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    num_rows: int = 0
    last_image: int = -1

    def __post_init__(self) -> None:
        if not (math.isfinite(self.vg_weight) and self.vg_weight >= 0):
            raise ValueError(f"vg_weight is {self.vg_weight}, but must be a finite number >= 0.")
        self._by_source = {"vqa": self.vqa_root, "vg": self.vg_root}
        self._made: list[tuple[float, dict[str, Any]]] = []
        self._has_genome = False

    @property
    def roots(self) -> tuple[ImageRoot, ...]:
        """The folder of "vqa" rows and, once there is one, of "vg" rows."""
        return (self.vqa_root, self.vg_root) if self._has_genome else (self.vqa_root,)

    def take(self, source: SourceRow) -> str | None:
        """See `RowTaker`."""
        if not self.files or self.files[-1] != source.file:
            self.files.append(source.file)
            self.starts.append(self.num_rows)
        self.num_rows += 1
        row = source.row
        problem = question_problem(row, self.need_answers, self._by_source)
        if problem:
            return problem
        name, answers, question_id = row.get("dataset", "vqa"), row.get("answer", []), row.get("question_id")
        if name == "vqa":
            first = self.first_use.setdefault(question_id, self.num_rows - 1)
            if first != self.num_rows - 1:
                return f"'question_id' {question_id} is taken by {self._place(first)}: give every question its own"
        self._has_genome = self._has_genome or name == "vg"
        index, problem = self.images.add(self._by_source[name], row["image"])
        if index is None:
            return problem
        self.last_image = index
        made = {
            "image": self.images.paths[index],
            "question": row["question"],
            "question_id": NO_QUESTION_ID if question_id is None else question_id,
            "image_id": index,
            "answers": [answers] if isinstance(answers, str) else answers,
            "answer_weight": row.get("answer_weight", self.vg_weight if name == "vg" else VQA_WEIGHT),
            "question_type": row.get("question_type"),
            "answer_type": row.get("answer_type"),
        }
        self._made = [(source.share, made)]
        return None

    def _place(self, number: int) -> str:
        """File and row of a row's number."""
        index = bisect_right(self.starts, number) - 1
        return f"{self.files[index]}, row {number - self.starts[index]}"

    def ready(self) -> Rows:
        """The row that the last one made."""
        made, self._made = self._made, []
        return iter(made)

    def rest(self) -> Rows:
        """None: every row is ready at once."""
        return iter(())


def load_vqa_files(
    files: Sequence[str],
    vqa_root: str,
    vg_root: str | None = None,
    *,
    need_answers: bool = False,
    vg_weight: float = VG_WEIGHT,
) -> datasets.Dataset:
    """Read annotation files of visual question answering into memory; the builders read them into the cache.

    Args:
        files: JSON files of ALBEF's, VQA v2's or Visual Genome's layout (see `annotation_files`).
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
    questions = Questions(*question_roots(vqa_root, vg_root), vg_weight, need_answers)
    problems = Problems()
    rows = made_rows(question_rows(as_list(files), problems), questions, problems)
    return in_memory([row for _, row in rows], VQA_FEATURES)


def question_roots(vqa_root: str, vg_root: str | None) -> tuple[ImageRoot, ImageRoot]:
    """Folders of the images of "vqa" and "vg" rows, which may be the same."""
    first = ImageRoot(absolute(vqa_root), "vqa_root")
    return first, first if vg_root is None else ImageRoot(absolute(vg_root), "vg_root")


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
    file, problems = os.fspath(path), Problems()
    entries = []
    try:
        entries = read_list(file, "list of strings")
    except UnusableFileError as error:
        problems.add(file, str(error))
    first_use: dict[str, int] = {}
    for number, answer in enumerate(entries):
        problem = None
        if not isinstance(answer, str):
            problem = f"is {short(answer)}: a string is expected"
        elif not answer.strip():
            problem = f"is {short(answer)}, an empty answer: remove it"
        elif not encodes(answer):
            problem = f"{short(answer)} holds half of a surrogate pair: write the whole character"
        elif first_use.setdefault(answer, number) != number:
            problem = f"{short(answer)} repeats entry {first_use[answer]}: remove one of them"
        if problem:
            problems.add(f"{file}, entry {number}", problem)
    problems.raise_if_any("Cannot load the answer list")
    return entries


def question_problem(row: Any, need_answers: bool, roots: dict[str, ImageRoot]) -> str | None:
    """What is wrong with a row's keys and types, or None."""
    if not isinstance(row, dict):
        return f"is a JSON {json_type(row)}, not an object: write {{'image': .., 'question': .., 'question_id': ..}}"
    source = row.get("dataset", "vqa")
    if source not in ("vqa", "vg"):
        return f"'dataset' is {short(source)}: 'vqa' or 'vg' is expected"
    needed = ("image", "question", "question_id") if source == "vqa" else ("image", "question")
    missing = [key for key in needed if key not in row]
    if missing:
        return f"has no {' and no '.join(map(repr, missing))}; its keys are {list(row)[:6]}: add it"
    setting = roots[source].setting
    image, question, question_id = row["image"], row["question"], row.get("question_id", NO_QUESTION_ID)
    if not isinstance(image, str) or not image.strip():
        return f"image is {short(image)}: a path relative to {setting} is expected"
    if not isinstance(question, str):
        return f"'question' is {short(question)}: a string is expected"
    if not READABLE.search(question):
        return f"question {short(question)} holds no letter or digit: write one or leave the row out"
    if not question.isascii() and not encodes(question):
        return f"question {short(question)} holds half of a surrogate pair: write the whole character"
    lowest = 0 if source == "vqa" else NO_QUESTION_ID
    if type(question_id) is not int or not lowest <= question_id <= MAX_QUESTION_ID:
        return f"'question_id' is {short(question_id)}: an integer from {lowest} to 2**63 - 1 is expected"
    if problem := _extra_problem(row):
        return problem
    if "answer" not in row:
        return "has no 'answer', which training needs: add it or leave the row out" if need_answers else None
    return _answer_problem(row["answer"], need_answers)


def _extra_problem(row: dict[str, Any]) -> str | None:
    """What is wrong with what a row may have beside question and answer, or None."""
    weight = row.get("answer_weight", VQA_WEIGHT)
    if type(weight) not in (int, float) or not 0 <= weight <= MAX_WEIGHT:
        return f"'answer_weight' is {short(weight)}: a number from 0 to {MAX_WEIGHT:g} is expected"
    for name in ("question_type", "answer_type"):
        text = row.get(name)
        if text is not None and not (isinstance(text, str) and encodes(text)):
            return f"{name!r} is {short(text)}: a string is expected"
    return None


def _answer_problem(answer: Any, need_answers: bool) -> str | None:
    """What is wrong with a row's answer, or None."""
    if not isinstance(answer, (str, list)):
        return f"answer is {short(answer)}: a string or a list of strings is expected"
    if need_answers and answer == []:
        return "answer is an empty list: give at least one or leave the row out"
    for text in [answer] if isinstance(answer, str) else answer:
        if not isinstance(text, str):
            return f"answer holds {short(text)}: strings are expected"
        if need_answers and not text.strip():
            return f"answer holds {short(text)}, an empty answer: remove it or leave the row out"
        if not text.isascii() and not encodes(text):
            return f"answer {short(text)} holds half of a surrogate pair: write the whole character"
    return None
