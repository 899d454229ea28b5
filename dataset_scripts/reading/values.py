"""Forms in which people write answers, captions and ids, as those of ALBEF's layout."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import math
import re
from typing import Any

from .problems import short
from .rows import BadRow

_STRING = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_NUMPY_STRINGS = re.compile(rf"\[\s*(?:{_STRING})(?:\s+(?:{_STRING}))+\s*\]")
_NUMPY_NUMBERS = re.compile(r"\[\s*-?\d[\d.e+-]*(?:\s+-?\d[\d.e+-]*)+\s*\]")
WHOLE_NUMBER = re.compile(r"(-?\d+)(\.0+)?")
_MAX_DIGITS = 19  # of an id that is a number


def is_missing(value: Any) -> bool:
    """Return whether a value is none, or what pandas writes for none."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def tidy_answers(value: Any) -> Any:
    """Return an answer as a text, or several as a list of texts; what is neither is left for the check to refuse.

    Numbers become digits, true and false "yes" and "no", as answers of VQA v2 are; of an object `answer` counts. A text
    in brackets is a list of texts or numbers if it can be read as one.
    """
    if isinstance(value, str):
        value = value.strip(" []").split() if _NUMPY_NUMBERS.fullmatch(value.strip()) else _list_in(value)
    if isinstance(value, dict) and "answer" in value:
        value = value["answer"]
    return [_one_answer(one) for one in value] if isinstance(value, list) else _one_answer(value)


def _one_answer(value: Any) -> Any:
    if isinstance(value, dict) and "answer" in value:
        value = value["answer"]
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() else str(value)
    return str(value) if isinstance(value, int) else value


def tidy_labels(value: Any) -> Any:
    """Return a label, or several as a list; a text in brackets is a list only if it can be read as one."""
    return _list_in(value) if isinstance(value, str) else value


def tidy_captions(value: Any) -> Any:
    """Return a caption, or several as a list; a text in brackets is a list only if it can be read as one of texts."""
    if isinstance(value, list):
        return [_one_caption(one) for one in value]
    if isinstance(value, str) and isinstance(items := _list_in(value), list):
        if not all(isinstance(item, str) for item in items):
            return BadRow(f'has {short(value)}, which is no list of texts: write it as JSON, ["red", "blue"]')
        return items
    return items if isinstance(value, str) else value


def _one_caption(value: Any) -> Any:
    """Return the text of an object, as in Karpathy's files."""
    if isinstance(value, dict):
        return next((value[name] for name in ("raw", "caption", "sentence") if name in value), value)
    return value


def _list_in(text: str) -> Any:
    """Return the list that a text is, as JSON, Python or NumPy write it; or the text, or why it is a broken list."""
    if not (text.startswith("[") and text.rstrip().endswith("]")):
        return text
    items: Any = None
    with contextlib.suppress(ValueError, RecursionError):
        items = json.loads(text)
    if items is None and _NUMPY_STRINGS.fullmatch(text.rstrip()):  # which Python would read as one string
        return [ast.literal_eval(found) for found in re.findall(_STRING, text)]
    if items is None:  # as pandas writes one
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            items = ast.literal_eval(re.sub(r"\}\s+\{", "}, {", text))
    if isinstance(items, list):
        return items
    if text[1:].lstrip().startswith(("'", '"', "{")):
        return BadRow(f'has {short(text)}, which is no list of texts: write it as JSON, ["red", "blue"]')
    return text


def tidy_id(value: Any) -> Any:
    """Return an id with whole numbers as integers, also those that pandas made 7.0; other texts and values stay."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        return value.strip() or None
    return value


def tidy_number(value: Any) -> Any:
    """Return the number that a cell of a table holds as a text, whole where it is; anything else stays."""
    if not isinstance(value, str):
        return value
    if (whole := WHOLE_NUMBER.fullmatch(value.strip())) and len(whole[1]) <= _MAX_DIGITS:
        return int(whole[1])
    with contextlib.suppress(ValueError):
        return float(value)
    return value.strip() or None


def tidy_box(value: Any) -> Any:
    """Return a box as a list of numbers, also from a text such as "[12, 30, 40, 50]" or "12 30 40 50"."""
    if not isinstance(value, str):
        return value
    return [tidy_number(word) for word in re.split(r"[\s,;]+", value.strip(" \t[]()")) if word] or None


def tidy_boxes(value: Any) -> Any:
    """Return boxes as a list, also from a text; a text that is none stays."""
    return (_list_in(value) if value.strip() else None) if isinstance(value, str) else value


def question_number(value: Any) -> Any:
    """Return the number that stands for a question's id: itself, or, of an id that is no number, a hash of 62 bits.

    The same id gives the same number in every file. The check refuses what is neither a number nor a text.
    """
    value = tidy_id(value)
    if not isinstance(value, str):
        return value
    if number := WHOLE_NUMBER.fullmatch(value):
        return int(number[1]) if len(number[1]) <= _MAX_DIGITS else value
    return int.from_bytes(hashlib.blake2b(value.encode(errors="surrogatepass"), digest_size=8).digest(), "big") >> 2
