"""Reads every row of a data set and says what is wrong with it, before training does.

Exit status 0 means that training can start; images that two splits share and texts that are too long to be read to
their end are said, but do not stop it.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import datasets
from tqdm.auto import tqdm

from .. import load_dataset_script, make_builder
from ..file_builder import FileBuilder
from ..reading.embedded import EmbeddedRowBuilder
from ..reading.image_checks import MAX_IMAGE_PIXELS, image_problems, problems_of_images
from ..reading.problems import MAX_PROBLEMS, Problems, short
from ..reading.rows import RowBuilder, SourceRow, missing_roots
from .arguments import add_data_arguments, data_fields


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_data_arguments(parser)
    parser.add_argument("--decode", action="store_true", help="decode every image, too")
    parser.add_argument("--max_words", type=int, default=30, help="longer texts are listed; default: %(default)s")
    parser.add_argument("--max_image_pixels", type=int, default=MAX_IMAGE_PIXELS, help="larger images are refused")
    parser.add_argument("--max_problems", type=int, default=MAX_PROBLEMS, help="how many of a kind are listed")


@dataclass
class SplitCheck:
    """What was found in a split.

    Attributes:
        problems: What training stumbles over.
        notes: What it does not stumble over.
        counts: How many of what there are.
    """

    problems: Problems
    notes: Problems
    counts: dict[str, int] = field(default_factory=dict)

    def describe(self, split: str) -> str:
        """Return a line of counts, then what was found."""
        lines = [f"{split}: " + ", ".join(f"{count} {name}" for name, count in self.counts.items())]
        for subject, found in (("problem", self.problems), ("note", self.notes)):
            if found.count:
                lines += found.describe(split, subject).splitlines()
        return "\n".join(lines)


@dataclass
class SplitChecker:
    """Checks the splits of a builder one after the other, and remembers what the earlier ones hold.

    Attributes:
        builder: Reads annotation files.
        max_words: Words of a text that are read.
        limit: How many problems of a kind are kept.
        decode: Whether to decode images.
        max_image_pixels: Largest image that is accepted.
        image_in: Path of an image -> where an earlier split has it.
        question_in: `question_id` -> where an earlier split has it.
    """

    builder: FileBuilder
    max_words: int = 30
    limit: int = MAX_PROBLEMS
    decode: bool = False
    max_image_pixels: int = MAX_IMAGE_PIXELS
    image_in: dict[str, str] = field(default_factory=dict)
    question_in: dict[int, str] = field(default_factory=dict)

    def check(self, split: str) -> SplitCheck:
        """Read a split."""
        found = SplitCheck(Problems(self.limit), Problems(self.limit))
        builder = self.builder.row_builder(split)
        if builder is None or missing_roots(builder, found.problems):
            return found
        first_rows, questions = list[str](), dict[int, str]()
        counts = Counter[str]()
        for source in self.builder.accepted(split, builder, found.problems):
            where = f"{source.file}, row {source.number}"
            if isinstance(builder, EmbeddedRowBuilder) and builder.last_image == len(first_rows):
                self._check_images([source.row["image"]], [where], found.problems)
            self._note_new_image(builder, first_rows, where, found.notes)
            counts.update(rows=1)
            if self.builder.config.name == "vqa":
                self._note_question(source, builder, questions, where, counts, found.notes)
                continue
            captions = source.row["caption"]
            captions = [captions] if isinstance(captions, str) else captions
            counts.update(captions=len(captions))
            self._note_long(captions, where, found.notes)
        names = {"rows": "questions", "images": "images", "answers": "answers"}
        if self.builder.config.name == "retrieval":
            names = {"rows": "rows", "images": "images", "captions": "captions"}
        counts["images"] = len(first_rows)
        found.counts = {shown: counts[name] for name, shown in names.items()}
        paths = builder.images.paths
        if not isinstance(builder, EmbeddedRowBuilder):
            self._check_images(({"path": path, "bytes": None} for path in paths), first_rows, found.problems)
        self.image_in |= {path: f"{split} ({where})" for path, where in zip(paths, first_rows, strict=False)}
        self.question_in |= {number: f"{split} ({where})" for number, where in questions.items()}
        return found

    def _note_new_image(self, builder: RowBuilder, first_rows: list[str], where: str, notes: Problems) -> None:
        """Remember where an image occurs first, and note it if an earlier split has it."""
        index = builder.last_image
        if index < len(first_rows):
            return
        first_rows.extend([where] * (index + 1 - len(first_rows)))
        path = builder.images.paths[index]
        if earlier := self.image_in.get(path):
            notes.add_row(where, f"image {path!r} is in {earlier}, too: the splits should not share images")

    def _note_question(
        self,
        source: SourceRow,
        builder: RowBuilder,
        questions: dict[int, str],
        where: str,
        counts: Counter[str],
        notes: Problems,
    ) -> None:
        """Count answers, remember where a question is, and note it if it is long or an earlier split has it."""
        for row in builder.pop_ready():
            counts.update(answers=len(row["answers"]))
            self._note_long([row["question"]], where, notes)
            number = row["question_id"]
            if number < 0 or source.is_numbered:
                continue
            questions[number] = where
            if earlier := self.question_in.get(number):
                notes.add_row(where, f"'question_id' {number} is in {earlier}, too")

    def _note_long(self, texts: Iterable[str], where: str, notes: Problems) -> None:
        """Note texts that are not read to their end."""
        for text in texts:
            if (words := len(text.split())) > self.max_words:
                notes.add_row(where, f"{short(text)} has {words} words, of which {self.max_words} are read")

    def _check_images(self, images: Iterable[dict[str, Any]], wheres: list[str], problems: Problems) -> None:
        """Decode images, if that is wanted."""
        if not self.decode:
            return
        shown = tqdm(wheres, "Opening images", leave=False, disable=None if len(wheres) > 1 else True)
        for where, problem in zip(shown, problems_of_images(images, True, self.max_image_pixels), strict=False):
            if problem:
                problems.add_row(where, problem)


def check_made_data(dataset: datasets.Dataset, options: argparse.Namespace) -> SplitCheck:
    """Count and, if wanted, decode a split of a builder that makes its data itself."""
    problems = Problems(options.max_problems)
    if options.decode:
        problems, _ = image_problems(dataset, True, options.max_image_pixels)
    counts = {"rows": len(dataset), "images": len(set(dataset["image_id"]))}
    column, name = ("caption", "captions") if "caption" in dataset.features else ("answers", "answers")
    return SplitCheck(problems, Problems(), counts | {name: sum(map(len, dataset[column]))})


def run(options: argparse.Namespace) -> int:
    """Check a data set; return the exit status."""
    fields: dict[str, Any] = data_fields(options)
    builder = make_builder(**fields)
    checks: dict[str, SplitCheck] = {}
    if isinstance(builder, FileBuilder):
        settings = {"limit": options.max_problems, "decode": options.decode}
        checker = SplitChecker(builder, options.max_words, max_image_pixels=options.max_image_pixels, **settings)
        builder.shows_progress = True
        for split in builder.splits_with_files():
            checks[split] = checker.check(split)
    else:
        checks = {split: check_made_data(rows, options) for split, rows in load_dataset_script(**fields).items()}
    for split, found in checks.items():
        print(found.describe(split))
    drop = getattr(builder.config, "drop_bad_rows", False)
    wrong = sum(found.problems.file_count if drop else found.problems.count for found in checks.values())
    empty = [split for split, found in checks.items() if not any(found.counts.values())]
    if "train" not in checks:
        print("There is no train split: this data can be evaluated on, but not trained on.")
    if wrong or empty:
        print(f"Training cannot start: {wrong} problem{'s' if wrong != 1 else ''}.")
        return 1
    print("No problems that stop a run.")
    return 0
