"""People's own pictures with captions or questions, by configuration alone.

What is read: a folder of images with `metadata.csv` or `metadata.jsonl`; CSV, JSON lines and Parquet files with named
columns; annotation files of all layouts of `annotation_files`; a folder saved by `datasets`; a data set on the Hub.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import datasets
from huggingface_hub import HfApi

from .annotation_files import BadRow, SourceRow, caption_rows, named_once, question_rows
from .annotations import RowTaker, absolute, as_list
from .embedded_rows import EmbeddedRows
from .file_builder import SPLITS, FileBuilder, QuestionFilesConfig
from .json_stream import UnusableFileError
from .problems import AnnotationError, Problems, short
from .tables import TABLES, ending, holds_images, load_named, table_rows

NAMES = {"train": ("train",), "validation": ("validation", "val", "dev", "valid"), "test": ("test",)}
COLUMNS = {  # what a column is called if the configuration does not say
    "image": ("image", "file_name", "image_path", "path", "file"),
    "caption": ("caption", "captions", "text"),
    "question": ("question",),
    "answer": ("answers", "answer"),
    "image_id": ("image_id",),
    "question_id": ("question_id",),
}
PASSED_ON = ("dataset", "answer_weight", "question_type", "answer_type")


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
        image_id_column: The same for rows of the same image; without it rows belong together that name the same path.
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

    def columns(self) -> dict[str, str | list[str] | None]:
        """What is read -> the column that is set for it."""
        set_columns = {name: getattr(self, f"{name}_column") for name in COLUMNS if name != "answer"}
        return set_columns | {"answer": self.answers_column}

    def files(self) -> dict[str, list[str]]:
        """Absolute paths of the files of each split; of a Hub data set its name."""
        if self.hub_dataset is not None:
            splits = self._named_splits()
            return {split: [splits[split]] for split in SPLITS if split in splits and self._wants(split)}
        if self.data_dir is None or self.train_files or self.validation_files or self.test_files:
            return super().files()
        places = {split: [p for n in names for p in (n, f"{n}/metadata")] for split, names in NAMES.items()}
        found = {split: self._tables_below(paths) for split, paths in places.items()}
        found["train"] += self._tables_below(["metadata"]) if found["train"] or not any(found.values()) else []
        for split, files in found.items():
            if len(files) > 1 and self._wants(split):
                names = ", ".join(os.path.relpath(file, absolute(self.data_dir)) for file in files)
                raise AnnotationError(
                    f"{self.data_dir} has several tables for {split}: {names}. Leave one, or name those that are read "
                    f"with {split}_files."
                )
        return {split: files for split, files in found.items() if files and self._wants(split)}

    def _wants(self, split: str) -> bool:
        return self.splits is None or split in self.splits

    def _tables_below(self, names: list[str]) -> list[str]:
        """The tables below `data_dir` with one of these names."""
        root = absolute(self.data_dir or ".")
        paths = (os.path.join(root, f"{name}.{kind}") for name in names for kind in TABLES)
        return [path for path in paths if os.path.isfile(path)]

    def _named_splits(self) -> dict[str, str]:
        """Our name of a split -> that of the data set."""
        name = self.hub_dataset or ""
        if os.path.isfile(os.path.join(name, "dataset_dict.json")):
            with open(os.path.join(name, "dataset_dict.json"), encoding="utf-8") as stream:
                theirs = json.load(stream)["splits"]
        elif os.path.isfile(os.path.join(name, "state.json")):
            theirs = ["train"]
        else:
            try:
                theirs = datasets.get_dataset_split_names(name, self.hub_config)
            except Exception as error:  # of the file system, of the network, of the Hub, of the library
                raise AnnotationError(
                    f"hub_dataset {name!r} is no folder here that can be read, and the Hub does not give it "
                    f"({' '.join(str(error).split()):.300}): check the name."
                ) from error
        return {split: alias for split, names in NAMES.items() for alias in reversed(names) if alias in theirs}

    def create_config_id(self, config_kwargs: dict[str, Any], custom_features: datasets.Features | None = None) -> str:
        """Name of the configuration's folder in the cache; goes by the state of a Hub data set, too."""
        state = {} if self.hub_dataset is None else {"state": _state(self.hub_dataset)}
        return super().create_config_id(config_kwargs | state, custom_features)


class OwnData(FileBuilder):
    """Reads people's own data; load it with `load_dataset_script("own_data", "retrieval" or "vqa", data_dir=...)`.

    Below `data_dir` are the images, and a table a split: `train.csv`, `validation.csv`, `test.csv`, or `metadata.csv`
    in folders of these names, or one `metadata.csv` for training; `.tsv`, `.jsonl`, `.parquet` and `.json` likewise.
    Image paths start from `image_root`, by default `data_dir`; those of `metadata` files from the file's own folder.
    """

    BUILDER_CONFIG_CLASS = OwnDataConfig
    BUILDER_CONFIGS = [
        OwnDataConfig(name="retrieval", version=FileBuilder.VERSION, description="Images with captions."),
        OwnDataConfig(name="vqa", version=FileBuilder.VERSION, description="Images with questions and answers."),
    ]
    DEFAULT_CONFIG_NAME = "retrieval"
    DEFAULT_WRITER_BATCH_SIZE = 100  # rows may hold images
    DESCRIPTION = "Own pictures with captions or questions."
    LAYOUT = "train.csv or metadata.csv, or .tsv, .jsonl, .parquet, .json"

    def check(self, split: str) -> None:
        """As `FileBuilder.check`; a data set on the Hub is not read twice."""
        if self.config.hub_dataset is None:
            super().check(split)

    def taker(self, split: str) -> RowTaker:
        """What makes rows of a split."""
        config = self.config
        column = config.image_column or "image"
        if config.hub_dataset is not None or holds_images(config.files()[split][0], column):
            return EmbeddedRows(config.name, need_answers=split != "test")
        return super().taker(split)

    def sources(self, split: str, problems: Problems) -> Iterator[SourceRow]:
        """Rows of a split's files in ALBEF's layout, whatever their columns are called."""
        config, files = self.config, self.config.files()[split]
        if config.hub_dataset is not None:
            rows = load_named(config.hub_dataset, config.hub_config, self.reads_stream)[files[0]]
            columns = _Columns(config, rows.column_names)
            for number, row in enumerate(rows):
                renamed = columns.rename(row)
                yield SourceRow(f"{config.hub_dataset} ({files[0]})", number, 0, renamed, columns.is_numbered)
        elif all(ending(file) == "json" for file in files) and not any(config.columns().values()):
            yield from (
                caption_rows(files, split, problems)
                if config.name == "retrieval"
                else question_rows(files, problems, config.image_name)
            )
        else:
            yield from self._table_rows(files, problems)

    def _table_rows(self, files: list[str], problems: Problems) -> Iterator[SourceRow]:
        columns = _Columns(self.config)
        root = self.config.root(self.config.image_root, "image_root").folder
        for place, file in enumerate(named_once(files, problems, "rows")):
            folder = os.path.dirname(os.path.relpath(file, root))
            is_metadata = os.path.basename(file).startswith("metadata.") and not folder.startswith("..")
            try:
                for number, row in table_rows(file):
                    renamed = columns.rename(row, folder if is_metadata else "")
                    yield SourceRow(file, number, place / len(files), renamed, columns.is_numbered)
            except UnusableFileError as error:
                problems.add(file, str(error))


@dataclass
class _Columns:
    """Turns rows with people's names of columns into rows of ALBEF's layout."""

    config: OwnDataConfig
    known: list[str] | None = None
    count: int = 0
    is_numbered: bool = False  # of the last row: its `question_id` is its place
    told: str = ""

    def _hint(self, row: dict[Any, Any]) -> str:
        """What else may be meant where a column is missing."""
        if self.config.name == "retrieval" and "question" in row:
            return ", or, for questions, config_name vqa"
        if self.config.name == "vqa" and not {"caption", "captions", "text"}.isdisjoint(row):
            return ", or, for captions, config_name retrieval"
        return ", or, if these are no names, put a first line with names before them"

    def rename(self, row: Any, folder: str = "") -> Any:
        """A row of ALBEF's layout, or what is wrong with the columns."""
        if not isinstance(row, dict):
            return row
        if None in row:  # what a CSV file has beyond its header
            count, header = len(row) - 1 + len(row[None]), len(row) - 1
            return BadRow(f"has {count} cells, the header {header}: put texts with a comma into double quotes")
        found = {}
        for name, column in self.config.columns().items():
            value = _first(row, (column,) if isinstance(column, str) else column or COLUMNS[name], bool(column))
            if isinstance(value, BadRow):
                return value
            if value is not None:
                found[name] = value
        needed = ("image", "caption") if self.config.name == "retrieval" else ("image", "question")
        for name in needed:
            if name not in found:
                looked_for = self.config.columns()[name] or " or ".join(COLUMNS[name])
                columns = list(row)[:8]
                known = [column for column in as_list(self.config.columns()[name] or COLUMNS[name]) if column in row]
                if known:
                    return BadRow(f"has nothing in {' and '.join(known)}: fill it, or leave the row out")
                text = f"has no {name} in {looked_for}; its columns are {columns}: set {name}_column in dataset_config"
                text += self._hint(row)
                is_known, self.told = text == self.told, text
                return BadRow("" if is_known else text)  # one column is one problem, not one a row
        if folder and isinstance(found["image"], str):
            found["image"] = os.path.join(folder, found["image"].replace("\\", "/"))
        if self.config.name == "vqa":
            found |= {name: row[name] for name in PASSED_ON if row.get(name) not in (None, "")}
            self.is_numbered = "question_id" not in found
            number = found.get("question_id", self.count)
            is_number = isinstance(number, str) and number.isdecimal() and len(number) < 20
            found["question_id"] = int(number) if is_number else number
            if isinstance(weight := found.get("answer_weight"), str):
                with contextlib.suppress(ValueError):  # the row is refused then
                    found["answer_weight"] = float(weight)
        self.count += 1
        return found


def _first(row: dict[str, Any], columns: tuple[str, ...] | list[str], is_set: bool) -> Any:
    """The value of a column, or, of several that are set, the list of those that are not empty."""
    if is_set and len(columns) > 1:
        values = [row[column] for column in columns if row.get(column) not in (None, "")]
        return values or None
    value = next((row[column] for column in columns if row.get(column) is not None), None)
    if isinstance(value, str) and value.startswith("[") and value.rstrip().endswith("]"):  # a list in a cell
        items = None
        with contextlib.suppress(ValueError, RecursionError):
            items = json.loads(value)
        if items is None:  # as pandas writes one
            with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
                items = ast.literal_eval(value)
        if isinstance(items, list) and all(isinstance(item, str) for item in items):
            return items
        return BadRow(f'has {short(value)}, which is no list of texts: write it as JSON, ["red", "blue"]')
    return value


def _state(name: str) -> Any:
    """What changes when a data set changes: sizes and times of a folder's files, or the Hub's commit."""
    if os.path.isdir(name):
        paths = sorted(os.path.join(folder, file) for folder, _, files in os.walk(name) for file in files)
        return [(path, os.stat(path).st_size, os.stat(path).st_mtime_ns) for path in paths]
    try:
        return HfApi().dataset_info(name).sha
    except OSError:  # without a network the data set can only be the one in the cache
        return None
