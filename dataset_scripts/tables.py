"""Rows of CSV, JSON lines and Parquet files, of folders saved by `datasets`, and of data sets on the Hub."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from .json_stream import EMPTY, JsonItems, UnusableFileError

TABLES = ("csv", "tsv", "jsonl", "ndjson", "parquet", "json")
ROWS_A_BATCH = 256


def ending(file: str) -> str:
    """A file's ending without the dot, in lower case."""
    return os.path.splitext(file)[1][1:].lower()


def table_rows(file: str) -> Iterator[tuple[int, Any]]:
    """Numbered rows of a table, read one by one.

    Args:
        file: A path that ends in one of `TABLES`; JSON is one list of objects.

    Raises:
        UnusableFileError: The file cannot be read.
    """
    readers = {"csv": _csv_rows, "tsv": _csv_rows, "parquet": _parquet_rows, "json": _json_rows}
    reader = readers.get(ending(file), _json_lines if ending(file) in TABLES else None)
    if reader is None:
        raise UnusableFileError(f"is no table: its name should end in one of {', '.join(TABLES)}")
    number = -1
    try:
        for number, row in enumerate(reader(file)):
            yield number, row
    except FileNotFoundError as error:
        raise UnusableFileError("does not exist: check the path") from error
    except UnicodeDecodeError as error:
        where = f"byte {error.start} after row {number}" if number >= 0 else f"byte {error.start}"
        raise UnusableFileError(f"is not UTF-8 ({where}): save it as UTF-8") from error
    except csv.Error as error:
        raise UnusableFileError(f"is not CSV ({error}, after row {number}): check quotes") from error
    except pa.ArrowException as error:
        raise UnusableFileError(f"is not Parquet ({error}): write it again") from error
    except OSError as error:
        raise UnusableFileError(f"cannot be read ({error.strerror or error}): check path and permissions") from error
    if number < 0:
        has_header = ending(file) in ("csv", "tsv") and os.path.getsize(file)
        raise UnusableFileError("has a header and no row: add rows" if has_header else EMPTY)


def _csv_rows(file: str) -> Iterator[dict[str, Any]]:
    """Rows of a CSV file with a header; a row with more cells than the header has them under None."""
    with open(file, encoding="utf-8-sig", newline="") as stream:
        header = stream.readline()
        stream.seek(0)
        others = [] if "," in header else [mark for mark in ("\t", ";") if mark in header]
        delimiter = "\t" if ending(file) == "tsv" else (*others, ",")[0]
        yield from csv.DictReader(stream, delimiter=delimiter, strict=True)


def _json_lines(file: str) -> Iterator[Any]:
    """Values of a file with one on each line."""
    with open(file, encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                if line.strip():
                    yield json.loads(line)
            except (ValueError, RecursionError) as error:  # ValueError also of a number of thousands of digits
                raise UnusableFileError(f"is not JSON lines (line {number}: {error}): one object a line") from error


def _json_rows(file: str) -> Iterator[Any]:
    """Items of a file that is one list."""
    for _, row in JsonItems(file):
        yield row


def _parquet_rows(file: str) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(file) as table:
        for batch in table.iter_batches(batch_size=ROWS_A_BATCH):
            yield from batch.to_pylist()


def holds_images(file: str, column: str) -> bool:
    """Whether a Parquet file holds images themselves, as `datasets` writes them, and not paths."""
    if ending(file) != "parquet" or not os.path.isfile(file):
        return False
    try:
        schema = pq.read_schema(file)
    except (pa.ArrowException, OSError):  # reading its rows says so
        return False
    return column in schema.names and pa.types.is_struct(schema.field(column).type)


def load_named(name: str, config_name: str | None, streaming: bool) -> dict[str, Any]:
    """The splits of a folder saved by `save_to_disk`, of a folder that `load_dataset` reads, or of a Hub data set.

    Images are left as they are stored, with `path` and `bytes`.
    """
    if os.path.isfile(os.path.join(name, "dataset_dict.json")) or os.path.isfile(os.path.join(name, "state.json")):
        found = datasets.load_from_disk(name)
    else:
        found = datasets.load_dataset(name, config_name, streaming=streaming)
    splits = found if isinstance(found, dict) else {"train": found}
    for split, rows in splits.items():
        for column, feature in (rows.features or {}).items():
            if isinstance(feature, datasets.Image):
                splits[split] = splits[split].cast_column(column, datasets.Image(decode=False))
    return dict(splits)
