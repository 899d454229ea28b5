"""JSON files read item by item by `ijson`, so that memory does not grow with them.

The annotation files of all sources are one list of objects, or one object that holds such lists.
"""

from __future__ import annotations

import codecs
import json
import os
import re
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, BinaryIO, NoReturn

import ijson

from .problems import UnusableFileError, json_type, short

CHUNK = 1 << 16  # bytes that are parsed at a time, at most
PARTS = 256  # of a smaller file: `share` is as exact as that
MAX_LOCATED = 1 << 26  # bytes of a file whose errors are located by line and column
MAX_DEPTH = 1_000  # of lists within lists: the parser's memory grows with its square
EMPTY = "is empty: download or write it again"
_HIGH, _LOW = rb"\\u[dD][89abAB][0-9a-fA-F]{2}", rb"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_ESCAPE = re.compile(rb"\\\\|" + _HIGH + _LOW + rb"|" + _HIGH + rb"|" + _LOW)


def open_file(file: str) -> BinaryIO:
    """Open a file; raises UnusableFileError."""
    try:
        return open(file, "rb")
    except FileNotFoundError as error:
        raise UnusableFileError("does not exist: check the path") from error
    except OSError as error:
        raise unreadable(error) from error


def unreadable(error: OSError) -> UnusableFileError:
    """Return the error for a file that the operating system cannot read."""
    return UnusableFileError(f"cannot be read ({error.strerror or error}): check path and permissions")


class JsonFile:
    """An open JSON file, which is an iterator over what was asked for last; to be used by `with`."""

    def __init__(self, file: str, expected: str = "list of objects") -> None:
        """Open a file; `expected` says in messages what it should hold. Raises UnusableFileError."""
        self.file, self._expected = file, expected
        self._stream = open_file(file)
        self._size = max(1, os.fstat(self._stream.fileno()).st_size)
        self._values: Iterator[Any] = iter(())
        self._what, self._count, self._bytes, self._depth = "item", 0, 0, 0.0

    def __enter__(self) -> JsonFile:
        return self

    def __exit__(self, *_: Any) -> None:
        self._stream.close()

    @property
    def share(self) -> float:
        """Part of the file that is read, 0..1, never falling."""
        return min(1.0, self._bytes / self._size)

    def items(self, prefix: str) -> JsonFile:
        """Start at the beginning and iterate over the values at "item", "images.item" and the like."""
        return self._start("item", lambda **sizes: ijson.items(self, prefix, use_float=True, **sizes))

    def entries(self) -> Iterator[tuple[str, Any]]:
        """Start at the beginning and iterate over the keys and values of the one object that the file is."""
        self._start("item", lambda **sizes: ijson.kvitems(self, "", use_float=True, **sizes))
        return self

    def first_entry(self) -> list[str]:
        """Return the keys of the first value of the one object that the file is, if that is an object, too."""
        tokens = self._start("token", lambda **sizes: ijson.basic_parse(self, use_float=True, **sizes))
        if [event for event, _ in islice(tokens, 3)] == ["start_map", "map_key", "start_map"]:
            return self._keys()
        return []

    def first_item(self, lists: tuple[str, ...] | None = None) -> tuple[str | None, list[str]]:
        """Return the key of the first list with an item, None where the whole file is one list; and the item's keys.

        Lists with other keys than those of `lists`, if given, do not count. Raises UnusableFileError.
        """
        key, depth, depth_of_items, is_list = None, 0, 1, True
        for event, value in self._start("token", lambda **sizes: ijson.basic_parse(self, use_float=True, **sizes)):
            opens, closes = event.startswith("start"), event.startswith("end")
            if depth == 0 and not closes:
                if not opens:
                    self.refuse(value)
                depth_of_items = 1 if event == "start_array" else 2
            elif depth == depth_of_items and is_list and not closes:
                return key, self._keys() if event == "start_map" else []
            elif depth == 1 and depth_of_items == 2:
                if event == "map_key":
                    key = value
                is_list = event == "start_array" and (lists is None or key in lists)
            depth += opens - closes
        if depth_of_items == 1:
            raise UnusableFileError(EMPTY)
        self.refuse({})

    def _keys(self) -> list[str]:
        """Return the keys of the object that has begun."""
        keys, depth = [], 0
        for event, value in self:
            if event == "map_key" and depth == 0:
                keys.append(value)
            depth += event.startswith("start") - event.startswith("end")
            if depth < 0:
                break
        return keys

    def refuse(self, value: Any) -> NoReturn:
        """Raise an UnusableFileError: the file holds something else."""
        raise UnusableFileError(f"holds a JSON {json_type(value)}, not a list: one {self._expected} is expected")

    def __iter__(self) -> JsonFile:
        return self

    def __next__(self) -> Any:
        try:
            value = next(self._values)
        except OSError as error:
            raise unreadable(error) from error
        except UnusableFileError:
            raise
        except (ijson.JSONError, ValueError) as error:  # ValueError: bytes that are no text
            raise self._problem(error) from error
        self._count += 1
        return value

    def _start(self, what: str, parse: Callable[..., Iterator[Any]]) -> JsonFile:
        """Go to the beginning of the file, behind a byte order mark."""
        self._what, self._count, self._bytes, self._depth = what, 0, 0, 0.0
        self._stream.seek(0)
        if self._stream.read(3) != codecs.BOM_UTF8:
            self._stream.seek(0)
        self._values = parse(buf_size=min(CHUNK, self._size // PARTS + 1))
        return self

    def read(self, size: int) -> bytes:
        r"""Read bytes for the parser, which would make "?" of half of a surrogate pair: it gets "\uffff" instead."""
        data = self._stream.read(size)
        while b"\\" in data[-12:] and (more := self._stream.read(1)):  # no escape is cut
            data += more
        self._bytes += len(data)
        nested = data.count(b"[") + data.count(b"{") - data.count(b"]") - data.count(b"}")
        self._depth = max(0.0, self._depth + nested - len(data) / 20)  # less what brackets in texts may add
        if self._depth > MAX_DEPTH:
            raise UnusableFileError(f"is not an annotation file (it nests lists more than {MAX_DEPTH} deep)")
        if b"\\ud" in data or b"\\uD" in data:
            return _ESCAPE.sub(lambda found: rb"\uffff" if len(found[0]) == 6 else found[0], data)
        return data

    def _problem(self, error: Exception) -> UnusableFileError:
        """Return the error for one of the parser, with line and column where Python's own parser gives them."""
        expected = f"one {self._expected} is expected"
        if self._size <= MAX_LOCATED:
            self._stream.seek(0)
            data = self._stream.read().removeprefix(codecs.BOM_UTF8)
            if not data.strip():
                return UnusableFileError(EMPTY)
            try:
                json.loads(data.decode())
            except UnicodeDecodeError as found:
                return UnusableFileError(f"is not UTF-8 (byte {found.start}): save it as UTF-8")
            except json.JSONDecodeError as found:
                where = f"line {found.lineno}, column {found.colno}"
                return UnusableFileError(f"is not JSON ({where}: {found.msg}): {expected}")
            except (ValueError, RecursionError):  # only the message of `ijson` is known
                pass
            error = _error_of(data) or error
        reason, excerpt, *_ = [*re.split(r"\\n|\n", str(error).removeprefix("b'")), ""]
        near = f", near {short(excerpt.strip())}" if excerpt.strip() else ""
        return UnusableFileError(
            f"cannot be parsed ({self._what} {self._count}: {reason.rstrip('.')}{near}): {expected}"
        )


def _error_of(data: bytes) -> Exception | None:
    """Return the error of `ijson` for a whole file, which quotes more text than that for a small part."""
    try:
        deque(ijson.basic_parse(data, use_float=True), maxlen=0)
    except (ijson.JSONError, ValueError) as error:
        return error
    return None


def read_list(file: str, expected: str = "list of objects") -> list[Any]:
    """Return all items of a file that is one list; raises UnusableFileError."""
    with JsonFile(file, expected) as opened:
        if opened.first_item()[0] is not None:
            opened.refuse({})
        return list(opened.items("item"))
