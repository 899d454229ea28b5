"""People's own images with captions, questions, or texts and labels, by configuration alone.

What is read: a folder of images with `metadata.csv` or `metadata.jsonl`; text tables, JSON lines and Parquet files with
named columns; annotation files of all layouts of `reading/layouts.py`; a folder saved by `datasets`; a data set on the
Hub. The content of a file tells what it is. `docs/data_formats.md` has a table of all.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any

import datasets

from .file_builder import SOURCES, FileBuilder, QuestionFilesConfig
from .labelled.labels import SINGLE, LabelRowBuilder
from .reading.columns import COLUMNS, ColumnNames, NamedColumns
from .reading.embedded import EmbeddedRowBuilder, captions_by_id, embedded_column, parquet_rows
from .reading.hub import dataset_state, hub_rows, split_names
from .reading.image_files import absolute
from .reading.layouts import named_once
from .reading.problems import AnnotationError, DataError, Problems, UnusableFileError
from .reading.rows import WHOLE, Part, RowBuilder, SourceRow
from .reading.tables import TABLES, TableFormat, is_json, table_rows

TEXT = ("txt",)  # ending of Excel's "Unicode Text" and of Kaggle's Flickr8k
NAMES = {"train": ("train",), "validation": ("validation", "val", "dev", "valid"), "test": ("test",)}


@dataclass
class OwnDataConfig(QuestionFilesConfig):
    """Which files or data set, and which columns.

    Attributes:
        hub_dataset: Instead of files: a folder saved by `save_to_disk`, a folder that `load_dataset` reads, or the name
            of a data set on the Hub.
        hub_config: Its configuration.
        image_column: Holds the path, or the image itself; None takes "image", "file_name" or another name of
            `reading/columns.py`, whatever its case, blanks and signs. Other columns likewise.
        caption_column: Holds a caption or a list of them; or several columns, which hold one each.
        question_column: Holds a question.
        answers_column: Holds an answer or a list of them, with repeats; or several columns, which hold one each.
        image_id_column: The same for rows of the same image; without it, rows that name the same path belong together.
        question_id_column: Different for each question: an integer >= 0, or a text, for which a number stands; without
            it questions are numbered.
        text_column: Of `classification` and `grounding`: holds a text.
        box_column: Of `grounding`: holds a box, x, y, width and height in pixels.
        label_column: Holds its label, a list of labels, or a number, as `problem_type` says.
        problem_type: "single_label_classification", "multi_label_classification" or "regression".
        encoding: Of text tables; None tells UTF-8, UTF-16 and what Excel saves from the bytes.
        delimiter: Between two cells; None tells ",", ";", tab or "|" from the header.
    """

    hub_dataset: str | None = None
    hub_config: str | None = None
    image_column: str | None = None
    caption_column: str | list[str] | None = None
    question_column: str | None = None
    answers_column: str | list[str] | None = None
    image_id_column: str | None = None
    question_id_column: str | None = None
    text_column: str | None = None
    label_column: str | None = None
    box_column: str | None = None
    problem_type: str = SINGLE
    encoding: str | None = None
    delimiter: str | None = None

    def columns(self) -> NamedColumns:
        """Return what is read -> the column that is set for it."""
        return {name: getattr(self, f"{name}{'s' * (name == 'answer')}_column", None) for name in COLUMNS}

    def files(self) -> dict[str, list[str]]:
        """Return absolute paths of the files of each split; of a Hub data set its name."""
        if self.hub_dataset is not None:
            theirs = split_names(self.hub_dataset, self.hub_config)
            found = {split: [name for name in names if name in theirs][:1] for split, names in NAMES.items()}
            return {split: files for split, files in found.items() if files and self.wants(split)}
        if self.data_dir is None or self.train_files or self.validation_files or self.test_files:
            return super().files()
        found = self._named_tables(TABLES) or self._named_tables(TEXT) or {"train": self._other_tables()}
        for split, files in found.items():
            if len(files) > 1 and self.wants(split):
                names = ", ".join(os.path.relpath(file, absolute(self.data_dir)) for file in files)
                text = (
                    f"{self.data_dir} has several tables for {split}: {names}. Leave one, or name those that are read"
                )
                raise AnnotationError(f"{text} with {split}_files (of a run: --dataset_config.{split}_files NAME).")
        return {split: files for split, files in found.items() if files and self.wants(split)}

    def _named_tables(self, endings: Sequence[str]) -> dict[str, list[str]]:
        """Return the tables of each split that have the usual names; nothing if there is none."""
        found = {split: self._tables_below(names, endings) for split, names in NAMES.items()}
        found["train"] += self._tables_below([""], endings) if found["train"] or not any(found.values()) else []
        return found if any(found.values()) else {}

    def _other_tables(self) -> list[str]:
        """Return the tables in `data_dir` itself, whatever they are called; but no JSON, which may be anything.

        Where there are several, those count that have a column of images: a folder of photos may hold notes, too.
        """
        root = absolute(self.data_dir or ".")
        paths = [os.path.join(root, name) for name in sorted(os.listdir(root) if os.path.isdir(root) else ())]
        kinds = {*TABLES, *TEXT} - {"json"}
        found = [path for path in paths if os.path.splitext(path)[1][1:].lower() in kinds and os.path.isfile(path)]
        found = [path for path in found if not os.path.basename(path).startswith(".")]  # a Mac's "._captions.csv"
        return (list(filter(self._names_images, found)) if len(found) > 1 else []) or found

    def _names_images(self, file: str) -> bool:
        """Return whether a table has a column of images."""
        columns = ColumnNames(self.name, self.columns())
        try:
            row = next(table_rows(file, TableFormat(self.encoding, self.delimiter, columns.is_known))).row
        except UnusableFileError:
            return False
        return isinstance(row, dict) and bool(columns.of_image(row))

    def _tables_below(self, names: Sequence[str], endings: Sequence[str]) -> list[str]:
        """Return the tables below `data_dir` with one of these names, or `metadata` in a folder of such a name."""
        root = absolute(self.data_dir or ".")
        stems = [stem for name in names for stem in (name, os.path.join(name, "metadata")) if stem]
        found, listed = [], cache(_files_in)
        for folder, name in (os.path.split(os.path.join(root, f"{stem}.{kind}")) for stem in stems for kind in endings):
            found += listed(folder).get(name.lower(), [])
        return found

    def create_config_id(self, config_kwargs: dict[str, Any], custom_features: datasets.Features | None = None) -> str:
        """See `FilesConfig`; goes by the state of a Hub data set, too."""
        state = {} if self.hub_dataset is None else {"state": dataset_state(self.hub_dataset)}
        return super().create_config_id(config_kwargs | state, custom_features)


def _files_in(folder: str) -> dict[str, list[str]]:
    """Return the paths of a folder's files by their names in lower case; none where there is no such folder."""
    found: dict[str, list[str]] = {}
    with suppress(OSError):
        for entry in sorted(os.scandir(folder), key=lambda one: one.name):
            if entry.is_file():
                found.setdefault(entry.name.lower(), []).append(entry.path)
    return found


class OwnData(FileBuilder):
    """Reads people's own data; load it with `load_dataset_script("own_data", TASK, data_dir=...)`.

    The task is "retrieval", "vqa", "classification" or "grounding".

    Below `data_dir` are the images, and a table a split: `train.csv`, `validation.csv`, `test.csv`, or `metadata.csv`
    in folders of these names, or one `metadata.csv` for training; `.tsv`, `.jsonl`, `.parquet` and `.json` likewise. In
    a folder without any of these, the one table that there is, of any name, is training data; `.txt` counts there, too.
    Image paths start from `image_root`, by default `data_dir`; those of `metadata` files from the file's own folder.
    """

    SOURCE = SOURCES["own_data"]
    BUILDER_CONFIG_CLASS = OwnDataConfig
    BUILDER_CONFIGS = [
        OwnDataConfig(task, FileBuilder.VERSION, _source=SOURCES["own_data"])
        for task in ("retrieval", "vqa", "classification", "grounding")
    ]
    DEFAULT_CONFIG_NAME = "retrieval"
    DEFAULT_WRITER_BATCH_SIZE = 100  # rows may hold images
    needed: tuple[str, ...] | None = None  # what a row must have; None: image and caption, or image and question

    def check(self, split: str) -> None:
        """Check a split as `FileBuilder.check` does; a data set on the Hub is not read twice."""
        if self.config.hub_dataset is None:
            super().check(split)

    def row_builder(self, split: str, part: Part = WHOLE) -> RowBuilder | None:
        """Return what builds rows of a split; images that rows hold themselves are not divided among processes."""
        config = self.config
        if config.name == "grounding":
            if config.hub_dataset is not None:
                raise AnnotationError("Grounding reads files with boxes alone: give data_dir in place of hub_dataset.")
            return super().row_builder(split, part)
        if config.hub_dataset is None and self._embedded_column(split) is None:
            return super().row_builder(split, part)
        if config.merge_duplicates:
            raise DataError("merge_duplicates compares image files, but the rows hold their images: leave it out.")
        if not part.holds(0):
            return None
        if config.name == "classification":
            return LabelRowBuilder(None, split != "test", self.problem_type)
        captions = {} if self.reads_stream or config.name == "vqa" else captions_by_id(self._texts(split))
        return EmbeddedRowBuilder(config.name, need_answers=split != "test", captions=captions)

    def _embedded_column(self, split: str) -> str | None:
        """Return the column of a split's Parquet files that holds images themselves, or None."""
        wanted = self.config.image_column
        return embedded_column(self.config.files()[split][0], [wanted] if wanted else [], self._columns().is_image)

    def _columns(self) -> ColumnNames:
        return ColumnNames(self.config.name, self.config.columns(), self.needed)

    def _texts(self, split: str) -> Iterator[Any]:
        """Yield the rows of a split without their images, for which an empty one stands."""
        config, columns = self.config, self._columns()
        if config.hub_dataset is not None:
            rows: Iterator[Any] = hub_rows(config.hub_dataset, config.hub_config, config.files()[split][0], False, True)
        else:
            column = self._embedded_column(split)
            rows = chain.from_iterable(parquet_rows(file, without=column) for file in config.files()[split])
        for row in rows:
            yield columns.rename(row | {config.image_column or "image": b""})

    def sources(self, split: str, problems: Problems) -> Iterator[SourceRow]:
        """Read rows of a split's files in ALBEF's layout, whatever their columns are called."""
        config, columns = self.config, self._columns()
        if config.hub_dataset is not None:
            yield from self._hub_rows(config.hub_dataset, config.files()[split][0], columns)
            return
        files = named_once(config.files()[split], problems, "rows")
        is_table = config.name in ("classification", "grounding") or any(config.columns().values())
        layouts = [] if is_table else list(filter(is_json, files))
        tables = [file for file in files if file not in layouts]
        for source in self.json_rows(layouts, split, problems) if layouts else ():
            share, row = source.share * len(layouts) / len(files), columns.rename(source.row)
            yield source._replace(share=share, row=row, is_numbered=columns.is_numbered)
        yield from self._table_rows(tables, len(layouts), columns, problems)

    def _hub_rows(self, name: str, split: str, columns: ColumnNames) -> Iterator[SourceRow]:
        for number, row in enumerate(hub_rows(name, self.config.hub_config, split, self.reads_stream), start=1):
            renamed = columns.rename(row)
            yield SourceRow(f"{name} ({split})", number, 0, renamed, columns.is_numbered)

    def _table_rows(
        self, files: list[str], num_before: int, columns: ColumnNames, problems: Problems
    ) -> Iterator[SourceRow]:
        """Read tables, of which so many files come before."""
        root = self.config.root(self.config.image_root, "image_root").folder
        form = TableFormat(self.config.encoding, self.config.delimiter, columns.is_known)
        for index, file in enumerate(files, start=num_before):
            folder = os.path.dirname(os.path.relpath(file, root))
            is_metadata = os.path.basename(file).startswith("metadata.") and not folder.startswith("..")
            try:
                for row in table_rows(file, form):
                    renamed = columns.rename(row.row, folder if is_metadata else "")
                    share = (index + min(row.share, 0.999)) / (num_before + len(files))
                    yield SourceRow(file, row.number, share, renamed, columns.is_numbered, row.unit)
            except UnusableFileError as error:
                problems.add(file, str(error))
