"""Rows of tables: CSV with any delimiter, JSON lines, Parquet and JSON; the content tells which of them a file is."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any, NamedTuple, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from .encodings import encoding_of_head, open_text
from .json_files import EMPTY, JsonFile, open_file, unreadable
from .problems import UnusableFileError, short
from .rows import BadRow, Repeated

TABLES = ("csv", "tsv", "jsonl", "ndjson", "parquet", "json")  # endings of those that are looked for in a folder
DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a '|'"}
ROWS_A_BATCH = 256
HEAD = 1 << 20  # bytes at the beginning of a file that tell what it is
_NO_TABLES = {  # first bytes of files that people take for tables
    b"PK\x03\x04": "is an Excel workbook or a zip file: save it as 'CSV UTF-8' in Excel, or unpack it",
    b"\xd0\xcf\x11\xe0": "is an old Excel workbook: save it as 'CSV UTF-8' in Excel",
    b"\x1f\x8b": "is compressed: unpack it",
}
_FLICKR8K = re.compile(r"[^\t]+#\d+\t")  # Flickr8k.token.txt: name.jpg#0<tab>caption
_SEPARATOR = re.compile(r'"?sep=(.)"?')  # Excel's own first line


class TableRow(NamedTuple):
    """A row as it stands in a table."""

    number: int  # from 1: the line on which the row begins, or the row, as `unit` says
    row: Any  # column -> value
    share: float  # part of the file that is read, 0..1, never falling
    unit: str = "line"


@dataclass(frozen=True)
class TableFormat:
    """How a text table is written, as far as that is set and known; the rest is told from the file.

    Attributes:
        encoding: Name of the encoding.
        delimiter: Stands between two cells.
        is_known: Whether a header names a column that is looked for.
    """

    encoding: str | None = None
    delimiter: str | None = None
    is_known: Callable[[str], bool] = lambda header: False


def ending(file: str) -> str:
    """Return a file's ending without the dot, in lower case."""
    return os.path.splitext(file)[1][1:].lower()


def table_kind(file: str, is_known: Callable[[str], bool] = lambda key: False) -> str:
    """Return "parquet", "json", "jsonl" or "csv", by the content, or by the name if the content leaves it open.

    One object with a key that `is_known` is a row of JSON lines. Raises UnusableFileError.
    """
    with open_file(file) as stream:
        try:
            head = stream.read(HEAD)
        except OSError as error:
            raise unreadable(error) from error
    named = {"ndjson": "jsonl", "jsonl": "jsonl", "json": "json", "parquet": "parquet"}.get(ending(file))
    if head.startswith(b"PAR1") or (named == "parquet" and head):
        return "parquet"
    for mark, problem in _NO_TABLES.items():
        if head.startswith(mark):
            raise UnusableFileError(problem)
    text = head.decode(encoding_of_head(head) or "latin-1", errors="ignore").lstrip("\ufeffï»¿ \t\r\n")
    if not text:
        raise UnusableFileError(EMPTY)
    if text.startswith("["):
        return "json" if named != "jsonl" else "jsonl"
    if not text.startswith("{"):
        return named or "csv"
    try:
        value, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):  # longer than the head, or broken
        return named or ("json" if len(head) == HEAD else "jsonl")
    is_row = any(is_known(key) and not isinstance(part, list) for key, part in value.items())
    if is_row or text[end:].lstrip().startswith("{"):
        return "jsonl"
    holds_rows = any(isinstance(part, dict) or (isinstance(part, list) and part) for part in value.values())
    return named or ("json" if holds_rows else "jsonl")


def table_rows(file: str, form: TableFormat | None = None) -> Iterator[TableRow]:
    """Yield the rows of a table; JSON is one list of objects. Raises UnusableFileError."""
    last, form = 0, form or TableFormat()
    try:
        kind = table_kind(file, form.is_known)
        with _open(file, kind, form) as (rows, share):
            for number, row in rows:
                last = number
                yield TableRow(number, row, share(number), "line" if kind in ("csv", "jsonl") else "row")
        if not last:
            raise UnusableFileError("has a header and no row: add rows" if kind == "csv" else EMPTY)
    except UnicodeDecodeError as error:
        raise UnusableFileError(f"is not {error.encoding} (after line {last}): set another encoding") from error
    except csv.Error as error:
        raise UnusableFileError(f"is not CSV ({error}, in the header): check quotes") from error
    except pa.ArrowException as error:
        raise UnusableFileError(f"is not Parquet ({error}): write it again") from error
    except OSError as error:
        raise unreadable(error) from error


@contextmanager
def _open(
    file: str, kind: str, form: TableFormat
) -> Iterator[tuple[Iterator[tuple[int, Any]], Callable[[int], float]]]:
    """Give the numbered rows of a file as the libraries read them, and how much is read after so many."""
    if kind == "json":
        with JsonFile(file) as opened:
            key, _ = opened.first_item()
            items = opened.items("item" if key is None else f"{key}.item")
            yield enumerate(items, start=1), lambda _: opened.share
    elif kind == "parquet":
        with open_file(file) as stream:
            table = pq.ParquetFile(stream)
            num_rows = max(1, table.metadata.num_rows)
            yield enumerate(rows_of(table), start=1), lambda count: count / num_rows
    else:
        with open_file(file) as stream, open_text(file, stream, form.encoding) as text:
            size = max(1, os.fstat(stream.fileno()).st_size)
            yield _json_lines(text) if kind == "jsonl" else _csv_rows(text, form), lambda _: stream.tell() / size


def rows_of(table: pq.ParquetFile, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file, or some of their columns."""
    batches = table.iter_batches(batch_size=ROWS_A_BATCH, columns=columns)
    return chain.from_iterable(map(pa.RecordBatch.to_pylist, batches))


def is_json(file: str) -> bool:
    """Return whether a file is JSON, which may have any layout; False, too, of what cannot be opened."""
    try:
        return table_kind(file) == "json"
    except UnusableFileError:
        return False


def _json_lines(text: TextIO) -> Iterator[tuple[int, Any]]:
    """Yield the values of lines that are not blank."""
    for number, line in enumerate(text, start=1):
        if line.strip("\ufeff \t\r\n"):
            try:
                yield number, json.loads(line.lstrip("\ufeff"))
            except (ValueError, RecursionError) as error:  # ValueError also of a number of thousands of digits
                raise UnusableFileError(f"is not JSON lines (line {number}: {error}): one object a line") from error


def _csv_rows(text: TextIO, form: TableFormat) -> Iterator[tuple[int, Any]]:
    """Yield rows of cells by the names of the first line, each with the line on which it begins; empty rows are not."""
    num_before, delimiter = 0, {"\\t": "\t", "tab": "\t"}.get(form.delimiter or "", form.delimiter or None)
    if delimiter is not None and (len(delimiter) > 1 or delimiter in '\r\n"\\'):
        raise UnusableFileError(f"cannot be read with the delimiter {short(delimiter)}: set it to one sign, such as ;")
    for first in text:
        first = first.lstrip("\ufeff")
        if separator := _SEPARATOR.fullmatch(first.rstrip("\r\n")):
            delimiter = delimiter or separator[1]
        elif first.strip():
            break
        num_before += 1
    else:
        raise UnusableFileError(EMPTY)
    lines = chain([first], text)
    if _FLICKR8K.match(first) and delimiter in (None, "\t"):
        return _flickr8k_rows(lines, num_before)
    delimiter = delimiter or _delimiter(first, form.is_known)
    is_spaced = f"{delimiter} " in first  # as in Kaggle's Flickr30k, where quotation marks are text
    style: dict[str, Any] = {"delimiter": delimiter, "skipinitialspace": is_spaced}
    top = csv.reader(lines, **style)
    header = [name.strip().strip("\"'").strip() for name in next(top)]
    style |= {"quoting": csv.QUOTE_NONE} if is_spaced and delimiter == "|" else {"strict": True}
    return _rows_below(header, csv.reader(lines, **style), num_before + top.line_num)


def _rows_below(header: list[str], reader: Any, num_before: int) -> Iterator[tuple[int, Any]]:
    """Yield the rows that a reader of `csv` gives, which begins behind so many lines."""
    columns = [name if name not in header[:index] else Repeated(name) for index, name in enumerate(header)]
    width, last = len(header), 0
    while True:
        number = num_before + last + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            text = f"is not CSV ({error}, in the row that begins on line {number}): check quotes"
            raise UnusableFileError(text) from error
        last = reader.line_num
        cells = [cell.strip() for cell in cells]
        if any(cells[width:]):
            count = width + max(index for index, cell in enumerate(cells[width:], start=1) if cell)
            mark = DELIMITERS.get(reader.dialect.delimiter, repr(reader.dialect.delimiter))
            remedy = f"put texts with {mark} into double quotes"
            if reader.dialect.quoting == csv.QUOTE_NONE:
                remedy = f"write texts without {mark}"
            yield number, BadRow(f"has {count} cells, the header {width}: {remedy}")
        elif any(cells):
            row: dict[Any, Any] = dict(zip_longest(columns, cells[:width]))
            row.pop("", None)  # of a column without a name, such as the row numbers of pandas
            yield number, row


def _flickr8k_rows(lines: Iterator[str], before: int) -> Iterator[tuple[int, Any]]:
    """Yield rows of a table without a header: the name of an image with the number of a caption, and the caption."""
    for number, line in enumerate(lines, start=before + 1):
        if line.strip():
            name, _, caption = line.partition("\t")
            yield number, {"image": name.rpartition("#")[0] or name.strip(), "caption": caption.strip()}


def _delimiter(header: str, is_known: Callable[[str], bool]) -> str:
    """Return what stands between the cells of a header: what gives the most names that are looked for."""
    scores: dict[str, tuple[int, int]] = {}
    for mark in DELIMITERS:
        names = next(csv.reader([header], delimiter=mark, skipinitialspace=True), [])
        if len(names) > 1:
            scores[mark] = sum(is_known(name) for name in names), len(names)
    best = max(scores.values(), default=None)
    marks = [mark for mark, score in scores.items() if score == best]
    if len(marks) > 1:
        words = " or ".join(DELIMITERS[mark] for mark in marks)
        raise UnusableFileError(f"has {words} between the cells of its header {short(header.strip())}: set delimiter")
    return marks[0] if marks else ","
