"""Plain data out of pickle files, without unpickling: nothing of the file is ever called or imported.

A pickle is a program. `pickletools.genops` lists its steps; here those that make lists, dictionaries, tuples, texts and
numbers are followed, and a file with any other is refused. `refs(unc).p` of RefCOCO+ needs no more. What a small file
can ask for is bounded, and a key of a dictionary is no tuple: the hash of one that holds another one twice, and so on,
takes for ever.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from typing import Any

from ..reading.json_files import open_file
from ..reading.problems import UnusableFileError, short

MAX_BYTES = 256 << 20  # of a file
MAX_VALUES = (
    10_000_000  # that a file makes or stores; the one of RefCOCO+ has about 3 million, each of 100 bytes at most
)
MARK = object()
VALUES = (  # steps whose argument is the value
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
)
CONSTANTS: dict[str, Callable[[], Any]] = {
    **{"NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False},
    **{"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple, "MARK": lambda: MARK},
}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
STORE, LOAD = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), ("GET", "BINGET", "LONG_BINGET")
IGNORED = ("PROTO", "FRAME")
INSTEAD = "take the file from its source, or write the rows as JSON"
RUNS_CODE = {"REDUCE", "BUILD", "NEWOBJ", "NEWOBJ_EX", "INST", "OBJ", "GLOBAL", "STACK_GLOBAL", "PERSID", "BINPERSID"}
RUNS_CODE |= {"EXT1", "EXT2", "EXT4"}


def read_plain_pickle(file: str) -> Any:
    """Return the plain data of a pickle file; raises UnusableFileError."""
    with open_file(file) as stream:
        content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise UnusableFileError(f"has more than {MAX_BYTES >> 20} MB: {INSTEAD}")
    reader = _Reader()
    try:  # in memory, where a length beyond the end of the file asks for no more than there is
        for opcode, argument, position in pickletools.genops(io.BytesIO(content)):
            if opcode.name == "STOP":
                return reader.result()
            if not reader.step(opcode.name, argument):
                what = opcode.name if argument is None else f"{opcode.name} {short(argument)}"
                danger = ", which could run code" if opcode.name in RUNS_CODE else ""
                raise UnusableFileError(
                    f"is a pickle with more than plain data ({what} at byte {position}){danger}: {INSTEAD}"
                )
    except UnusableFileError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        why = f"{type(error).__name__}: {str(error)[:200]}"
        raise UnusableFileError(f"is no whole pickle ({why}): fetch it again, or write it as JSON") from error
    raise UnusableFileError("is no whole pickle: fetch it again, or write it as JSON")


class _Reader:
    """The stack of values and the memory that the steps of a pickle work on."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memory: dict[int, Any] = {}
        self.num_values = 0

    def result(self) -> Any:
        """Return the one value that is left."""
        value = self._take()
        if self.stack:
            raise ValueError("several values are left")
        return value

    def step(self, name: str, argument: Any) -> bool:
        """Do a step; return whether it is one of plain data."""
        stack = self.stack
        self.num_values += name not in LOAD
        if self.num_values > MAX_VALUES:
            raise UnusableFileError(f"makes more than {MAX_VALUES:,} values: {INSTEAD}")
        if name in VALUES:
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name]())
        elif name in STORE:
            self.memory[len(self.memory) if name == "MEMOIZE" else int(argument)] = _value(stack[-1])
        elif name in LOAD:
            stack.append(self.memory[int(argument)])
        elif name in TUPLES:
            stack.append(tuple([self._take() for _ in range(TUPLES[name])][::-1]))
        elif not self._collect(name):
            return name in IGNORED
        return True

    def _collect(self, name: str) -> bool:
        """Do a step that puts values into a list, a dictionary or a tuple."""
        stack = self.stack
        if name == "APPEND":
            value = self._take()
            _typed(stack[-1], list).append(value)
        elif name == "APPENDS":
            values = self._since_mark()
            _typed(stack[-1], list).extend(values)
        elif name == "SETITEM":
            value, key = self._take(), self._take()
            _typed(stack[-1], dict)[_key(key)] = value
        elif name == "SETITEMS":
            values = self._since_mark()
            _typed(stack[-1], dict).update(zip(map(_key, values[::2]), values[1::2], strict=True))
        elif name in ("LIST", "TUPLE"):
            values = self._since_mark()
            stack.append(values if name == "LIST" else tuple(values))
        elif name == "DICT":
            values = self._since_mark()
            stack.append(dict(zip(map(_key, values[::2]), values[1::2], strict=True)))
        else:
            return False
        return True

    def _take(self) -> Any:
        """Take a value off the stack."""
        return _value(self.stack.pop())

    def _since_mark(self) -> list[Any]:
        """Take the values after the last mark, and the mark, off the stack."""
        values = []
        while (value := self.stack.pop()) is not MARK:
            values.append(value)
        return values[::-1]


def _value(value: Any) -> Any:
    if value is MARK:
        raise ValueError("a mark where a value is expected")
    return value


def _key(value: Any) -> Any:
    if isinstance(value, tuple):
        raise TypeError("a tuple as a key")
    return value


def _typed(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"a {type(value).__name__} where a {kind.__name__} is expected")
    return value
