"""Rows of CSV, JSON, JSON lines and Parquet files, as the libraries read them."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .json_files import EMPTY, JsonFile, open_file, unreadable
from .problems import UnusableFileError

TABLES = ("csv", "tsv", "jsonl", "ndjson", "parquet", "json")
ROWS_A_BATCH = 256


def ending(file: str) -> str:
    """Return a file's ending without the dot, in lower case."""
    return os.path.splitext(file)[1][1:].lower()


def table_rows(file: str) -> Iterator[tuple[Any, float]]:
    """Yield the rows of a table, each with the part of the file that is read, 0..1, never falling.

    Its name ends in one of `TABLES`; JSON is one list of objects. Raises UnusableFileError.
    """
    kind, count = ending(file), 0
    if kind not in TABLES:
        raise UnusableFileError(f"is no table: its name should end in one of {', '.join(TABLES)}")
    try:
        with _open(file, kind) as (stream, rows, share):
            for count, row in enumerate(rows, start=1):
                yield row, share(count)
            if count == 0:
                has_header = kind in ("csv", "tsv") and stream.tell()
                raise UnusableFileError("has a header and no row: add rows" if has_header else EMPTY)
    except UnicodeDecodeError as error:
        where = f"byte {error.start} after row {count - 1}" if count else f"byte {error.start}"
        raise UnusableFileError(f"is not UTF-8 ({where}): save it as UTF-8") from error
    except csv.Error as error:
        raise UnusableFileError(f"is not CSV ({error}, after row {count - 1}): check quotes") from error
    except pa.ArrowException as error:
        raise UnusableFileError(f"is not Parquet ({error}): write it again") from error
    except OSError as error:
        raise unreadable(error) from error


@contextmanager
def _open(file: str, kind: str) -> Iterator[tuple[Any, Iterator[Any], Callable[[int], float]]]:
    """Give an open file, its rows as the libraries read them, and how much is read after so many."""
    if kind == "json":
        with JsonFile(file) as opened:
            key, _ = opened.first_item()
            yield opened, opened.items("item" if key is None else f"{key}.item"), lambda _: opened.share
        return
    with open_file(file) as stream:
        if kind == "parquet":
            table = pq.ParquetFile(stream)
            batches = table.iter_batches(batch_size=ROWS_A_BATCH)
            rows: Iterator[Any] = chain.from_iterable(map(pa.RecordBatch.to_pylist, batches))
            yield stream, rows, lambda count: count / max(1, table.metadata.num_rows)
            return
        size = max(1, os.fstat(stream.fileno()).st_size)
        text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="" if "sv" in kind else None)
        if "sv" in kind:
            header = text.readline()
            text.seek(0)
            others = [] if "," in header else [mark for mark in ("\t", ";") if mark in header]
            rows = csv.DictReader(text, delimiter="\t" if kind == "tsv" else (*others, ",")[0], strict=True)
        else:
            rows = map(_json_of_line, filter(lambda numbered: numbered[1].strip(), enumerate(text, start=1)))
        yield stream, rows, lambda _: stream.tell() / size


def _json_of_line(numbered: tuple[int, str]) -> Any:
    """Return the value of a numbered line."""
    number, line = numbered
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:  # ValueError also of a number of thousands of digits
        raise UnusableFileError(f"is not JSON lines (line {number}: {error}): one object a line") from error


def holds_images(file: str, column: str) -> bool:
    """Return whether a Parquet file holds images themselves, as `datasets` writes them, and not paths."""
    if ending(file) != "parquet" or not os.path.isfile(file):
        return False
    try:
        schema = pq.read_schema(file)
    except (pa.ArrowException, OSError):  # reading its rows says so
        return False
    return column in schema.names and pa.types.is_struct(schema.field(column).type)
