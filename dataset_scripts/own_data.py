"""People's own images with captions or questions, by configuration alone.

What is read: a folder of images with `metadata.csv` or `metadata.jsonl`; CSV, JSON lines and Parquet files with named
columns; annotation files of all layouts of `reading/layouts.py`; a folder saved by `datasets`; a data set on the Hub.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import datasets

from .file_builder import SOURCES, FileBuilder, QuestionFilesConfig
from .reading.columns import COLUMNS, ColumnNames, NamedColumns
from .reading.embedded import EmbeddedRowBuilder
from .reading.hub import dataset_state, hub_rows, split_names
from .reading.image_files import absolute
from .reading.layouts import named_once
from .reading.problems import AnnotationError, DataError, Problems, UnusableFileError
from .reading.rows import WHOLE, Part, RowBuilder, SourceRow
from .reading.tables import TABLES, ending, holds_images, table_rows

NAMES = {"train": ("train",), "validation": ("validation", "val", "dev", "valid"), "test": ("test",)}


@dataclass
class OwnDataConfig(QuestionFilesConfig):
    """Which files or data set, and which columns.

    Attributes:
        hub_dataset: Instead of files: a folder saved by `save_to_disk`, a folder that `load_dataset` reads, or the name
            of a data set on the Hub.
        hub_config: Its configuration.
        image_column: Holds the path, or the image itself; None takes the first of "image", "file_name", "image_path",
            "path", "file" that there is. Other columns likewise.
        caption_column: Holds a caption or a list of them; or several columns, which hold one each.
        question_column: Holds a question.
        answers_column: Holds an answer or a list of them, with repeats; or several columns, which hold one each.
        image_id_column: The same for rows of the same image; without it, rows that name the same path belong together.
        question_id_column: Different for each question, an integer >= 0; without it questions are numbered.
    """

    hub_dataset: str | None = None
    hub_config: str | None = None
    image_column: str | None = None
    caption_column: str | list[str] | None = None
    question_column: str | None = None
    answers_column: str | list[str] | None = None
    image_id_column: str | None = None
    question_id_column: str | None = None

    def columns(self) -> NamedColumns:
        """Return what is read -> the column that is set for it."""
        return {name: getattr(self, f"{name}{'s' * (name == 'answer')}_column") for name in COLUMNS}

    def files(self) -> dict[str, list[str]]:
        """Return absolute paths of the files of each split; of a Hub data set its name."""
        if self.hub_dataset is not None:
            theirs = split_names(self.hub_dataset, self.hub_config)
            found = {split: [name for name in names if name in theirs][:1] for split, names in NAMES.items()}
            return {split: files for split, files in found.items() if files and self.wants(split)}
        if self.data_dir is None or self.train_files or self.validation_files or self.test_files:
            return super().files()
        found = {split: self._tables_below(names) for split, names in NAMES.items()}
        found["train"] += self._tables_below([""]) if found["train"] or not any(found.values()) else []
        for split, files in found.items():
            if len(files) > 1 and self.wants(split):
                names = ", ".join(os.path.relpath(file, absolute(self.data_dir)) for file in files)
                text = (
                    f"{self.data_dir} has several tables for {split}: {names}. Leave one, or name those that are read"
                )
                raise AnnotationError(f"{text} with {split}_files.")
        return {split: files for split, files in found.items() if files and self.wants(split)}

    def _tables_below(self, names: Sequence[str]) -> list[str]:
        """Return the tables below `data_dir` with one of these names, or `metadata` in a folder of such a name."""
        root = absolute(self.data_dir or ".")
        stems = [stem for name in names for stem in (name, os.path.join(name, "metadata")) if stem]
        paths = (os.path.join(root, f"{stem}.{kind}") for stem in stems for kind in TABLES)
        return [path for path in paths if os.path.isfile(path)]

    def create_config_id(self, config_kwargs: dict[str, Any], custom_features: datasets.Features | None = None) -> str:
        """See `FilesConfig`; goes by the state of a Hub data set, too."""
        state = {} if self.hub_dataset is None else {"state": dataset_state(self.hub_dataset)}
        return super().create_config_id(config_kwargs | state, custom_features)


class OwnData(FileBuilder):
    """Reads people's own data; load it with `load_dataset_script("own_data", "retrieval" or "vqa", data_dir=...)`.

    Below `data_dir` are the images, and a table a split: `train.csv`, `validation.csv`, `test.csv`, or `metadata.csv`
    in folders of these names, or one `metadata.csv` for training; `.tsv`, `.jsonl`, `.parquet` and `.json` likewise.
    Image paths start from `image_root`, by default `data_dir`; those of `metadata` files from the file's own folder.
    """

    SOURCE = SOURCES["own_data"]
    BUILDER_CONFIG_CLASS = OwnDataConfig
    BUILDER_CONFIGS = [
        OwnDataConfig(task, FileBuilder.VERSION, _source=SOURCES["own_data"]) for task in ("retrieval", "vqa")
    ]
    DEFAULT_CONFIG_NAME = "retrieval"
    DEFAULT_WRITER_BATCH_SIZE = 100  # rows may hold images

    def check(self, split: str) -> None:
        """Check a split as `FileBuilder.check` does; a data set on the Hub is not read twice."""
        if self.config.hub_dataset is None:
            super().check(split)

    def row_builder(self, split: str, part: Part = WHOLE) -> RowBuilder | None:
        """Return what builds rows of a split; images that rows hold themselves are not divided among processes."""
        config = self.config
        if config.hub_dataset is None and not holds_images(config.files()[split][0], config.image_column or "image"):
            return super().row_builder(split, part)
        if config.merge_duplicates:
            raise DataError("merge_duplicates compares image files, but the rows hold their images: leave it out.")
        return EmbeddedRowBuilder(config.name, need_answers=split != "test") if part.holds(0) else None

    def sources(self, split: str, problems: Problems) -> Iterator[SourceRow]:
        """Read rows of a split's files in ALBEF's layout, whatever their columns are called."""
        config, files = self.config, self.config.files()[split]
        if config.hub_dataset is not None:
            return self._hub_rows(config.hub_dataset, files[0])
        if any(ending(file) != "json" for file in files) or any(config.columns().values()):
            return self._table_rows(files, problems)
        return super().sources(split, problems)

    def _hub_rows(self, name: str, split: str) -> Iterator[SourceRow]:
        columns = ColumnNames(self.config.name, self.config.columns())
        for number, row in enumerate(hub_rows(name, self.config.hub_config, split, self.reads_stream)):
            renamed = columns.rename(row)
            yield SourceRow(f"{name} ({split})", number, 0, renamed, columns.is_numbered)

    def _table_rows(self, files: list[str], problems: Problems) -> Iterator[SourceRow]:
        columns = ColumnNames(self.config.name, self.config.columns())
        root = self.config.root(self.config.image_root, "image_root").folder
        for index, file in enumerate(named_once(files, problems, "rows")):
            folder = os.path.dirname(os.path.relpath(file, root))
            is_metadata = os.path.basename(file).startswith("metadata.") and not folder.startswith("..")
            try:
                for number, (row, read) in enumerate(table_rows(file)):
                    renamed = columns.rename(row, folder if is_metadata else "")
                    share = (index + min(read, 0.999)) / len(files)
                    yield SourceRow(file, number, share, renamed, columns.is_numbered)
            except UnusableFileError as error:
                problems.add(file, str(error))
