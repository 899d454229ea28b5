"""Questions about images with their answers: one row a question, from VQA v2, Visual Genome, or people's own files.

The layout is that of salesforce/ALBEF (`dataset/vqa_dataset.py`): a row a question, from VQA v2 with the answers of all
annotators, or from Visual Genome with the one answer there is. Everything is checked before a data set is returned, as
in `captions.py`.
"""

from __future__ import annotations

import math
from typing import Any

import datasets

from .image_files import ImageRoot
from .problems import READABLE, DataError, encodes, image_problem, json_type, short, text_problem
from .rows import WHOLE, Part, RowBuilder, SourceRow

TEXT = datasets.Value("string")
VQA_FEATURES = datasets.Features(
    {
        "image": datasets.Image(),
        "question": TEXT,
        "question_id": datasets.Value("int64"),
        "image_id": datasets.Value("int64"),
        "answers": datasets.List(TEXT),
        "answer_weight": datasets.Value("float32"),
        "question_type": TEXT,
        "answer_type": TEXT,
    }
)
VQA_WEIGHT = 1.0
VG_WEIGHT = 0.5  # of one annotator's answer, in salesforce/ALBEF
NO_QUESTION_ID = -1  # of a Visual Genome row without one
MAX_QUESTION_ID = 2**63 - 1
_FILE_BIT = 40  # the lower bits of a place are a row's number, the higher ones its file's index
MAX_WEIGHT = 1e6  # of an answer; far above any that makes sense, far below what the sum of losses can hold


class QuestionRowBuilder(RowBuilder):
    """Questions, built one by one; what is kept of them is which ids and images occurred.

    Rows of shards that are not in the part are not checked, unless all are.
    """

    def __init__(
        self, vqa_root: ImageRoot, vg_root: ImageRoot, vg_weight: float, need_answers: bool, part: Part = WHOLE
    ) -> None:
        """Begin; the folders are those of images of "vqa" and "vg" rows, the weight that of answers of the latter."""
        if not (math.isfinite(vg_weight) and vg_weight >= 0):
            raise DataError(f"vg_weight is {vg_weight}, but must be a finite number >= 0.")
        super().__init__(part)
        self.roots = (vqa_root,)
        self.vg_weight, self.need_answers = vg_weight, need_answers
        self._by_source = {"vqa": vqa_root, "vg": vg_root}
        self._first_use: dict[int, int] = {}  # `question_id` of "vqa" rows -> file and number, see `_place`
        self._files: dict[tuple[str, str], int] = {}  # file and what its rows are counted in -> its index

    def add(self, source: SourceRow) -> str | None:
        """See `RowBuilder`."""
        row, is_own, place = source.row, self.part.holds(source.share), self._place(source)
        if not is_own and not self.part.check_all:
            self._count(row, place)
            return None
        problem = question_problem(row, self.need_answers, self._by_source)
        if problem:
            return problem
        name, question_id = row.get("dataset", "vqa"), row.get("question_id")
        if name == "vqa":
            first = self._first_use.setdefault(question_id, place)
            if first != place:
                return f"'question_id' {question_id} is taken by {self._where(first)}: give every question its own"
        else:
            self.roots = tuple(self._by_source.values())
        index, problem = self.images.add(self._by_source[name], row["image"])
        if index is None:
            return problem
        self.last_image = index
        self.ready = [self._build(row, name, index)] if is_own else []
        return None

    def _place(self, source: SourceRow) -> int:
        """Return file and number of a row as one integer, which takes a third of the memory of two."""
        index = self._files.setdefault((source.file, source.unit), len(self._files))
        return (index << _FILE_BIT) + (source.number if isinstance(source.number, int) else 0)

    def _count(self, row: Any, place: int) -> None:
        """Note id and image of a row of another shard, which numbers of later rows depend on."""
        if not isinstance(row, dict):
            return
        name, question_id, image = row.get("dataset", "vqa"), row.get("question_id"), row.get("image")
        if name == "vqa" and isinstance(question_id, int):
            self._first_use.setdefault(question_id, place)
        if isinstance(image, str):
            self.images.add(self._by_source["vg" if name == "vg" else "vqa"], image)

    def _build(self, row: dict[str, Any], name: str, index: int) -> dict[str, Any]:
        """Return a row of the data set."""
        answers, question_id = row.get("answer", []), row.get("question_id")
        return {
            "image": self.images.paths[index],
            "question": row["question"],
            "question_id": NO_QUESTION_ID if question_id is None else question_id,
            "image_id": index,
            "answers": [answers] if isinstance(answers, str) else answers,
            "answer_weight": row.get("answer_weight", self.vg_weight if name == "vg" else VQA_WEIGHT),
            "question_type": row.get("question_type"),
            "answer_type": row.get("answer_type"),
        }

    def _where(self, place: int) -> str:
        """Return what the row of a place is called in a message."""
        file, unit = list(self._files)[place >> _FILE_BIT]
        return f"{file}, {unit} {place & ((1 << _FILE_BIT) - 1)}"


def question_problem(row: Any, need_answers: bool, roots: dict[str, ImageRoot]) -> str | None:
    """Return what is wrong with a row's keys and types, or None."""
    if not isinstance(row, dict):
        return f"is a JSON {json_type(row)}, not an object: write {{'image': .., 'question': .., 'question_id': ..}}"
    source = row.get("dataset", "vqa")
    if source not in ("vqa", "vg"):
        return f"'dataset' is {short(source)}: 'vqa' or 'vg' is expected"
    needed = ("image", "question", "question_id") if source == "vqa" else ("image", "question")
    if problem := image_problem(row, needed, roots[source].setting):
        return problem
    question, question_id = row["question"], row.get("question_id", NO_QUESTION_ID)
    if not isinstance(question, str):
        return f"'question' is {short(question)}: a string is expected"
    if not READABLE.search(question):
        return f"question {short(question)} holds no letter or digit: write one or leave the row out"
    if problem := text_problem("question", question):
        return problem
    lowest = 0 if source == "vqa" else NO_QUESTION_ID
    if type(question_id) is not int or not lowest <= question_id <= MAX_QUESTION_ID:
        return f"'question_id' is {short(question_id)}: an integer from {lowest} to 2**63 - 1 is expected"
    if problem := _extra_problem(row):
        return problem
    if "answer" not in row:
        return "has no 'answer', which training needs: add it or leave the row out" if need_answers else None
    return _answer_problem(row["answer"], need_answers)


def _extra_problem(row: dict[str, Any]) -> str | None:
    """Return what is wrong with what a row may have beside question and answer, or None."""
    weight = row.get("answer_weight", VQA_WEIGHT)
    if type(weight) not in (int, float) or not 0 <= weight <= MAX_WEIGHT:
        return f"'answer_weight' is {short(weight)}: a number from 0 to {MAX_WEIGHT:g} is expected"
    for name in ("question_type", "answer_type"):
        text = row.get(name)
        if text is not None and not (isinstance(text, str) and encodes(text)):
            return f"{name!r} is {short(text)}: a string is expected"
    return None


def _answer_problem(answer: Any, need_answers: bool) -> str | None:
    """Return what is wrong with a row's answer, or None."""
    if not isinstance(answer, (str, list)):
        return f"answer is {short(answer)}: a string or a list of strings is expected"
    if need_answers and answer == []:
        return "answer is an empty list: give at least one or leave the row out"
    for text in [answer] if isinstance(answer, str) else answer:
        if not isinstance(text, str):
            return f"answer holds {short(text)}: strings are expected"
        if need_answers and not text.strip():
            return f"answer holds {short(text)}, an empty answer: remove it or leave the row out"
        if not text.isascii() and (problem := text_problem("answer", text)):
            return problem
    return None
