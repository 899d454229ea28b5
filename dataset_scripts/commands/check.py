"""Read every row of a data set and report what is wrong with it, before training starts.

`--statistics` prints what is in the data, and `--out page.html` shows it with the images.

Exit status 0 means that training can start. Images that two splits share, texts of which the end is not read, and
answers that the tokenizer cannot tell apart are reported, but do not stop it.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import datasets
from tqdm.auto import tqdm

from processing import load_tokenizer

from .. import load_dataset_script, make_builder
from ..contents.statistics import collect
from ..file_builder import FileBuilder
from ..reading.answer_lists import describe_spellings, load_answer_list, merge_spellings, spelling_key
from ..reading.embedded import EmbeddedRowBuilder
from ..reading.image_checks import MAX_IMAGE_PIXELS, image_problems, problems_of_images
from ..reading.problems import MAX_PROBLEMS, DataError, Problems, short
from ..reading.rows import RowBuilder, SourceRow, missing_roots
from .arguments import add_data_arguments, data_fields
from .statistics_page import statistics_page
from .statistics_tables import as_lines, example_lines, tables
from .templates import write_page


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_data_arguments(parser)
    parser.add_argument("--decode", action="store_true", help="decode every image, too")
    parser.add_argument("--max_words", type=int, default=30, help="longer texts are listed; default: %(default)s")
    parser.add_argument("--max_image_pixels", type=int, default=MAX_IMAGE_PIXELS, help="larger images are refused")
    parser.add_argument("--statistics", action="store_true", help="print what is in the data, and what is there twice")
    parser.add_argument("--out", help="HTML file for the statistics, with images")
    parser.add_argument("--tokenizer", help="of the statistics: processor, vocab.txt; default: made of the texts")
    parser.add_argument("--answer_list", help="of the statistics: JSON file of the answers that a model chooses from")
    parser.add_argument("--max_problems", type=int, default=MAX_PROBLEMS, help="how many of a kind are listed")


@dataclass
class SplitCheck:
    """What was found in a split."""

    problems: Problems  # what stops training
    notes: Problems  # what does not stop it
    counts: dict[str, int] = field(default_factory=dict)  # name of what is counted -> how many there are
    first_rows: list[str] = field(default_factory=list)  # where each image occurs first
    longest: tuple[int, str, str] = (
        0,
        "",
        "",
    )  # words of the longest of these, where it is, it
    longer: int = 0  # texts of which the end is not read
    questions: dict[int, str] = field(default_factory=dict)  # `question_id` -> where it is
    answers: Counter[str] = field(default_factory=Counter)  # how often each was given

    def describe(self, split: str) -> str:
        """Return a line of counts, then what was found."""
        lines = [f"{split}: " + ", ".join(f"{count} {name}" for name, count in self.counts.items())]
        for subject, found in (("problem", self.problems), ("note", self.notes)):
            if found.count:
                lines += found.describe(split, subject).splitlines()
        return "\n".join(lines)


class SplitChecker:
    """Checks the splits of a builder one after the other, and remembers what the earlier ones hold."""

    def __init__(self, builder: FileBuilder, options: argparse.Namespace) -> None:
        """Begin with no split."""
        self.builder, self.options = builder, options
        self.image_in: dict[str, str] = {}  # path of an image -> where an earlier split has it
        self.question_in: dict[int, str] = {}  # `question_id` -> the same

    def check(self, split: str) -> SplitCheck:
        """Read a split."""
        found = SplitCheck(Problems(self.options.max_problems), Problems(self.options.max_problems))
        builder = self.builder.row_builder(split)
        if builder is None or missing_roots(builder, found.problems):
            return found
        is_vqa = self.builder.config.name == "vqa"
        rows, texts = ("questions", "answers") if is_vqa else ("rows", "captions")
        found.counts = {rows: 0, "images": 0, texts: 0}
        for source in self.builder.accepted(split, builder, found.problems):
            where = source.where
            if isinstance(builder, EmbeddedRowBuilder) and builder.last_image == len(found.first_rows):
                self._check_images([source.row["image"]], [where], found.problems)
            self._note_new_image(builder, where, found)
            found.counts[rows] += 1
            if is_vqa:
                self._note_question(source, builder, where, found)
                continue
            captions = source.row["caption"]
            captions = [captions] if isinstance(captions, str) else captions
            found.counts[texts] += len(captions)
            self._count_long(captions, where, found)
        self._note_long(found, "questions" if is_vqa else "captions")
        for note in describe_spellings(merge_spellings(found.answers)):
            found.notes.add("answers", note)
        found.counts["images"] = len(found.first_rows)
        paths = builder.images.paths
        if not isinstance(builder, EmbeddedRowBuilder):
            self._check_images(({"path": path, "bytes": None} for path in paths), found.first_rows, found.problems)
        self.image_in |= {path: f"{split} ({where})" for path, where in zip(paths, found.first_rows, strict=False)}
        self.question_in |= {number: f"{split} ({where})" for number, where in found.questions.items()}
        return found

    def _note_new_image(self, builder: RowBuilder, where: str, found: SplitCheck) -> None:
        """Remember where an image occurs first, and note it if an earlier split has it."""
        index = builder.last_image
        if index < len(found.first_rows):
            return
        found.first_rows.extend([where] * (index + 1 - len(found.first_rows)))
        path = builder.images.paths[index]
        if earlier := self.image_in.get(path):
            found.notes.add_row(where, f"image {path!r} is in {earlier}, too: the splits should not share images")

    def _note_question(self, source: SourceRow, builder: RowBuilder, where: str, found: SplitCheck) -> None:
        """Count answers, remember where a question is, and note it if it is long or an earlier split has it."""
        for row in builder.pop_ready():
            found.counts["answers"] += len(row["answers"])
            found.answers.update(row["answers"])
            self._count_long([row["question"]], where, found)
            number = row["question_id"]
            if number < 0 or source.is_numbered:
                continue
            found.questions[number] = where
            if earlier := self.question_in.get(number):
                found.notes.add_row(where, f"'question_id' {number} is in {earlier}, too")

    def _count_long(self, texts: Iterable[str], where: str, found: SplitCheck) -> None:
        """Count texts of which the end is not read, and remember the longest."""
        for text in texts:
            if (words := len(text.split())) > self.options.max_words:
                found.longer += 1
                found.longest = max(found.longest, (words, where, text), key=itemgetter(0))

    def _note_long(self, found: SplitCheck, name: str) -> None:
        """Note how many texts are longer than what is read, with one as an example."""
        words, where, text = found.longest
        if found.longer == 1:
            found.notes.add_row(where, f"{short(text)} has {words} words, of which {self.options.max_words} are read")
        elif found.longer:
            count = f"{found.longer:,} {name} have more than {self.options.max_words} words, of which no more are read"
            found.notes.add(name, f"{count}; {where} has the most, {words}: {short(text)}")

    def _check_images(self, images: Iterable[dict[str, Any]], wheres: list[str], problems: Problems) -> None:
        """Decode images, if that is wanted."""
        if not self.options.decode:
            return
        shown = tqdm(wheres, "Opening images", leave=False, disable=None if len(wheres) > 1 else True)
        for where, problem in zip(shown, problems_of_images(images, True, self.options.max_image_pixels), strict=False):
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
    references = load_references(options)
    fields = data_fields(options)
    builder = make_builder(**fields)
    if isinstance(builder, FileBuilder):
        checker = SplitChecker(builder, options)
        builder.shows_progress = True
        checks = {split: checker.check(split) for split in builder.splits_with_files()}
    else:
        checks = {split: check_made_data(rows, options) for split, rows in load_dataset_script(**fields).items()}
    for split, found in checks.items():
        print(found.describe(split))
    drop = getattr(builder.config, "drop_bad_rows", False)
    wrong = sum(found.problems.file_count if drop else found.problems.count for found in checks.values())
    empty = [split for split, found in checks.items() if not any(found.counts.values())]
    if options.statistics and any(one.counts.get("images") for one in checks.values()):
        bad_rows = {"drop_bad_rows": True} if isinstance(builder, FileBuilder) and wrong else {}
        print_statistics(fields | bad_rows, references, options)
    if "train" not in checks:
        print("There is no train split: this data can be evaluated on, but not trained on.")
    if wrong or empty:
        print(f"Training cannot start: {wrong} problem{'s' if wrong != 1 else ''}.")
        if wrong and not empty and not any(found.problems.file_count for found in checks.values()):
            print("Mend them, or leave these rows out with drop_bad_rows: true, as `make photos` does.")
        return 1
    print("No problems that stop a run.")
    return 0


def load_references(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the statistics compare texts and answers with; arguments of `collect`.

    Raises:
        DataError: The answer list cannot be used, or an option of the statistics is given without them.
        ProcessingError: The tokenizer cannot be used.
    """
    given = [name for name in ("out", "tokenizer", "answer_list") if getattr(options, name) is not None]
    if given and not options.statistics:
        raise DataError(f"--{given[0]} is for the statistics: add --statistics, or leave it out.")
    answers = None if options.answer_list is None else set(map(spelling_key, load_answer_list(options.answer_list)))
    tokenizer = None if options.tokenizer is None else load_tokenizer(options.tokenizer)
    return {"tokenizer": tokenizer, "answer_list": answers, "max_words": options.max_words}


def print_statistics(fields: dict[str, Any], references: dict[str, Any], options: argparse.Namespace) -> None:
    """Print what is in the data, and write the page if it is wanted."""
    try:
        splits = load_dataset_script(**fields)
    except DataError as error:
        print(f"\nThere are no statistics: {error}")
        return
    found = collect(splits, **references)
    for table in tables(found):
        print("\n".join(["", *as_lines(table)]))
    print("\n".join(["", *example_lines(found)]))
    if options.out is not None:
        page = statistics_page(found, f"What is in {options.name}")
        print(f"Wrote {write_page(options.out, page)}: open it in a browser.")
