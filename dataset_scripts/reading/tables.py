"""Rows of CSV, JSON, JSON lines and Parquet files, as the libraries read them."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
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


class TableFile:
    """An open table, which is an iterator over its rows; to be used by `with`."""

    def __init__(self, file: str) -> None:
        """Open a table.

        Args:
            file: A path that ends in one of `TABLES`; JSON is one list of objects.

        Raises:
            UnusableFileError: It cannot be opened.
        """
        self._kind, self._count = ending(file), 0
        if self._kind not in TABLES:
            raise UnusableFileError(f"is no table: its name should end in one of {', '.join(TABLES)}")
        self._file: Any = JsonFile(file) if self._kind == "json" else open_file(file)
        self._rows: Iterator[Any] | None = None  # what reads the beginning may fail, too

    def __enter__(self) -> TableFile:
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()

    @property
    def share(self) -> float:
        """Part of the file that is read, 0..1, never falling."""
        if self._kind == "json":
            return self._file.share
        if self._kind == "parquet":
            return self._count / max(1, self._num_rows)
        return self._file.tell() / max(1, os.fstat(self._file.fileno()).st_size)

    def __iter__(self) -> TableFile:
        return self

    def __next__(self) -> Any:
        try:
            self._rows = self._rows or self._open_rows()
            row = next(self._rows)
        except StopIteration:
            if self._count == 0:
                has_header = self._kind in ("csv", "tsv") and self._file.tell()
                raise UnusableFileError("has a header and no row: add rows" if has_header else EMPTY) from None
            raise
        except UnicodeDecodeError as error:
            where = f"byte {error.start} after row {self._count - 1}" if self._count else f"byte {error.start}"
            raise UnusableFileError(f"is not UTF-8 ({where}): save it as UTF-8") from error
        except csv.Error as error:
            raise UnusableFileError(f"is not CSV ({error}, after row {self._count - 1}): check quotes") from error
        except pa.ArrowException as error:
            raise UnusableFileError(f"is not Parquet ({error}): write it again") from error
        except OSError as error:
            raise unreadable(error) from error
        self._count += 1
        return row

    def _open_rows(self) -> Iterator[Any]:
        """Return the rows as the libraries read them."""
        if self._kind == "json":
            key, _ = self._file.first_item()
            return self._file.items("item" if key is None else f"{key}.item")
        if self._kind == "parquet":
            table = pq.ParquetFile(self._file)
            self._num_rows = table.metadata.num_rows
            return chain.from_iterable(map(pa.RecordBatch.to_pylist, table.iter_batches(batch_size=ROWS_A_BATCH)))
        text = io.TextIOWrapper(self._file, encoding="utf-8-sig", newline="" if "sv" in self._kind else None)
        if "sv" not in self._kind:
            return map(_json_of_line, filter(_has_text, enumerate(text, start=1)))
        header = text.readline()
        text.seek(0)
        others = [] if "," in header else [mark for mark in ("\t", ";") if mark in header]
        return csv.DictReader(text, delimiter="\t" if self._kind == "tsv" else (*others, ",")[0], strict=True)


def _has_text(numbered: tuple[int, str]) -> bool:
    return bool(numbered[1].strip())


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
