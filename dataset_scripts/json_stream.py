"""JSON files read item by item, so that memory does not grow with them.

The annotation files of all sources are one list of objects, or one object that holds such lists. The standard library
parses only whole files: VQA v2's answers would take gigabytes, Visual Genome's questions more. Here its scanner is
called once an item, on a buffer of a few megabytes.
"""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Iterator
from typing import Any, NoReturn

from .problems import json_type

CHUNK = 1 << 22  # bytes
LOOKAHEAD = 1 << 20  # an error so far from the end of the buffer is one, and no item that is cut off
_DECODER = json.JSONDecoder()
EMPTY = "is empty: download or write it again"


class UnusableFileError(ValueError):
    """A file that cannot be read; the text says why and what to do, without the name."""


class JsonItems:
    """The items of a JSON file's lists, in order; iterate over it once.

    Each item comes with the key of its list, or None where the whole file is a list. Values of an object that are no
    lists come under their key too.

    Attributes:
        share: Part of the file that is read, 0..1, never falling.
    """

    def __init__(self, file: str, expected: str = "list of objects") -> None:
        """Name a file, and what it should hold, for messages."""
        self.file, self.expected = file, expected
        self._buffer, self._place = "", 0
        self._line, self._column = 1, 1  # of the buffer's start
        self._bytes, self._size, self._at_end = 0, 1, False

    @property
    def share(self) -> float:
        """Part of the file that is read."""
        return max(0, self._bytes - (len(self._buffer) - self._place)) / self._size

    def __iter__(self) -> Iterator[tuple[str | None, Any]]:
        """Read the file.

        Raises:
            UnusableFileError: It cannot be opened, is empty, no UTF-8 or no JSON, or neither a list nor an object.
        """
        try:
            with open(self.file, "rb") as self._stream:
                self._size = max(1, os.fstat(self._stream.fileno()).st_size)
                self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
                yield from self._items()
        except FileNotFoundError as error:
            raise UnusableFileError("does not exist: check the path") from error
        except OSError as error:
            raise UnusableFileError(f"cannot be read ({error.strerror}): check path and permissions") from error
        except json.JSONDecodeError as error:
            raise UnusableFileError(f"is not JSON ({self._where(error)}): one {self.expected} is expected") from error
        except RecursionError as error:
            raise UnusableFileError(f"is not an annotation file ({error}): one {self.expected} is expected") from error

    def _items(self) -> Iterator[tuple[str | None, Any]]:
        start = self._peek()
        if not start:
            raise UnusableFileError(EMPTY)
        if start == "[":
            count = 0
            for item in self._list():
                count += 1
                yield None, item
            if not count:
                raise UnusableFileError(EMPTY)
        elif start == "{":
            yield from self._object()
        else:
            self.refuse(self._value())
        if self._peek():
            raise self._error("Extra data")

    def refuse(self, value: Any) -> NoReturn:
        """Say that the file holds something else."""
        raise UnusableFileError(f"holds a JSON {json_type(value)}, not a list: one {self.expected} is expected")

    def _list(self) -> Iterator[Any]:
        """Items of the list that starts here."""
        self._place += 1
        if self._peek() == "]":
            self._place += 1
            return
        while True:
            yield self._value()
            if self._separator("]"):
                return

    def _object(self) -> Iterator[tuple[str, Any]]:
        """Items of an object's lists, and its other values."""
        self._place += 1
        if self._peek() == "}":
            self._place += 1
            return
        while True:
            if self._peek() != '"':
                raise json.JSONDecodeError(
                    "Expecting property name enclosed in double quotes", self._buffer, self._place
                )
            key = self._value()
            if self._peek() != ":":
                raise self._error("Expecting ':' delimiter")
            self._place += 1
            if self._peek() == "[":
                for item in self._list():
                    yield key, item
            else:
                yield key, self._value()
            if self._separator("}"):
                return

    def _separator(self, end: str) -> bool:
        """Step over a comma or the end; True at the end."""
        found = self._peek()
        if found not in (",", end):
            raise self._error("Expecting ',' delimiter")
        self._place += 1
        return found == end

    def _peek(self) -> str:
        """The next character that is no space, or "" at the end of the file."""
        while True:
            while self._place < len(self._buffer):
                if not self._buffer[self._place].isspace():
                    return self._buffer[self._place]
                self._place += 1
            if not self._fill():
                return ""

    def _value(self) -> Any:
        """The value that starts here."""
        self._peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._buffer, self._place)
                if end < len(self._buffer) or self._at_end:  # a number might go on
                    self._place = end
                    return value
            except json.JSONDecodeError as error:
                if self._at_end or len(self._buffer) - error.pos > LOOKAHEAD:
                    raise
            except ValueError as error:  # a number of thousands of digits
                text = f"is not an annotation file ({error}): one {self.expected} is expected"
                raise UnusableFileError(text) from error
            self._fill()

    def _fill(self) -> bool:
        """Drop what is read and take the next part of the file; False at its end."""
        if self._at_end:
            return False
        read = self._buffer[: self._place]
        lines = read.count("\n")
        self._column = len(read) - read.rfind("\n") if lines else self._column + len(read)
        self._line += lines
        data = self._stream.read(CHUNK)
        waiting = len(self._decoder.getstate()[0])
        try:
            text = self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise UnusableFileError(
                f"is not UTF-8 (byte {self._bytes - waiting + error.start}): save it as UTF-8"
            ) from error
        self._bytes += len(data)
        self._buffer, self._place, self._at_end = self._buffer[self._place :] + text, 0, not data
        return bool(data)

    def _error(self, text: str) -> json.JSONDecodeError:
        """An error at the present place."""
        return json.JSONDecodeError(text, self._buffer, self._place)

    def _where(self, error: json.JSONDecodeError) -> str:
        """Line, column and text of an error."""
        column = error.colno if error.lineno > 1 else self._column + error.colno - 1
        return f"line {self._line + error.lineno - 1}, column {column}: {error.msg}"


def read_list(file: str, expected: str = "list of objects") -> list[Any]:
    """All items of a file that is one list.

    Raises:
        UnusableFileError: The file cannot be used.
    """
    items = []
    for key, item in JsonItems(file, expected):
        if key is not None:
            raise UnusableFileError(f"holds a JSON object, not a list: one {expected} is expected")
        items.append(item)
    return items
