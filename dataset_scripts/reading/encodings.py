"""Text files in the encodings that spreadsheets save: which one a file has is told from its bytes, or by a setting."""

from __future__ import annotations

import codecs
import io
import logging
import os
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import BinaryIO

from .json_files import open_file
from .problems import UnusableFileError, short

logger = logging.getLogger(__name__)
# What Excel for Windows, for Macintosh and "MS-DOS" saves, in the order that equally plausible ones are taken in.
SINGLE_BYTE = ("cp1252", "mac_roman", "cp850", "cp437")
CHUNK = 1 << 20  # bytes that are read at a time
MAX_WORDS = 2_000  # that an encoding is guessed from
SAVE = "save it as UTF-8 (in Excel 'CSV UTF-8'), or set encoding in dataset_config, such as cp1252"
_BOMS = (
    *((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32")),
    *((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")),
)
_WORD = re.compile(rb"[!-~]*[\x80-\xff][!-~\x80-\xff]*")
_LOWER, _UPPER = "àâäáãåæçèéêëìíîïñòóôöõøœùúûüß", "ÀÂÄÁÃÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÖÕØŒÙÚÛÜ"
_OPENING, _CLOSING = "\u2018\u201c\u201e\u2039«¿¡", "\u2019\u201d\u203a»…"  # quotation marks and the like
_APOSTROPHES, _DASHES, _BESIDE_NUMBERS = "'\u2019", "\u2013\u2014", "°½¼¾²³€£\u00d7®™©§±"


def open_text(file: str, stream: BinaryIO, encoding: str | None = None) -> io.TextIOWrapper:
    """Return the text of an open file, with line ends as they are; raises UnusableFileError.

    Args:
        file: Its path.
        stream: The file, which is read from its beginning.
        encoding: Name of the encoding; None tells it from the bytes: UTF-8 or UTF-16 if it is that, else what is most
            plausible of the encodings of one byte a letter, which is logged once.
    """
    name = find_encoding(file, stream) if encoding is None else _known(encoding)
    stream.seek(0)
    return io.TextIOWrapper(stream, encoding=name, newline="")


def encoding_of_head(head: bytes) -> str | None:
    """Return the encoding that the first bytes of a file tell: by a byte order mark, or by the zeros of UTF-16."""
    for mark, name in _BOMS:
        if head.startswith(mark):
            return name
    even, odd = head[::2].count(0), head[1::2].count(0)
    if max(even, odd) > len(head) / 5 and min(even, odd) < len(head) / 100:
        return "utf-16-be" if even > odd else "utf-16-le"
    return None


def find_encoding(file: str, stream: BinaryIO) -> str:
    """Return the encoding of an open file; raises UnusableFileError if nothing is plausible."""
    head = stream.read(4096)
    if found := encoding_of_head(head):
        return found
    if 0 in head:
        raise UnusableFileError("is no text: name a table (CSV, JSON lines, Parquet or JSON)")
    status = os.fstat(stream.fileno())
    return _of_content(file, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _of_content(file: str, size: int, time: int) -> str:
    """Return the encoding of a file without a mark; of an unchanged file it is looked for, and logged, once."""
    if (position := _not_utf8(file)) is None:
        return "utf-8"
    words = _words(file)
    if 2 * sum(_decodes(word, "utf-8") for word in words) >= len(words):
        raise UnusableFileError(f"is not UTF-8 (byte {position}), though other parts of it are: {SAVE}")
    scores = {
        name: sum(_plausibility(word.decode(name)) for word in words)
        for name in SINGLE_BYTE
        if all(_decodes(word, name) for word in words)
    }
    name = max(scores, key=lambda name: scores[name], default="")
    if not name or scores[name] <= 0:
        raise UnusableFileError(f"is not UTF-8 (byte {position}): {SAVE}")
    parts = [part for word in words for part in re.split(r"[,;|\"]", word.decode(name)) if not part.isascii()]
    example = max(parts, key=_plausibility)
    logger.warning(
        f"{file} is not UTF-8 and is read as {name} (with words such as {short(example)}): "
        "set encoding in dataset_config if that is wrong."
    )
    return name


def _chunks(file: str) -> Iterator[bytes]:
    with open_file(file) as stream:
        while data := stream.read(CHUNK):
            yield data


def _not_utf8(file: str) -> int | None:
    """Return the position of the first byte that is not UTF-8, or None."""
    decoder, start = codecs.getincrementaldecoder("utf-8")(), 0
    try:
        for data in _chunks(file):
            waiting = len(decoder.getstate()[0])
            start -= waiting
            decoder.decode(data)
            start += waiting + len(data)
        start -= len(decoder.getstate()[0])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        return start + error.start
    return None


def _words(file: str) -> list[bytes]:
    """Return the first words that are not ASCII."""
    words: list[bytes] = []
    for data in _chunks(file):
        words += [found[0] for found in _WORD.finditer(data)]
        if len(words) >= MAX_WORDS:
            break
    return words[:MAX_WORDS]


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _plausibility(word: str) -> float:
    """Return how well the characters of a word that are not ASCII stand where they are, in a European language."""
    if re.search(r"[^\W\d_a-zA-Z]{3}", word):  # as in another script that is read wrongly
        return -float(len(word))
    padded = f" {word} "
    return sum(
        _fits(*padded[index - 1 : index + 2]) for index in range(1, len(word) + 1) if not padded[index].isascii()
    )


def _fits(before: str, character: str, after: str) -> float:
    """Return whether a character stands well between two others: 1 if so, -1 if it hardly can."""
    if character in _LOWER:
        return -1.0 if after.isupper() else 1.0 if before.isalpha() or after.isalpha() else 0.5
    if character in _UPPER:
        return -1.0 if before.islower() else 1.0 if after.isalpha() or before.isalpha() else 0.0
    if character in _APOSTROPHES and before.isalpha():
        return 1.0 if after.isalpha() else 0.5
    if character in _OPENING:
        return 1.0 if after.isalnum() and not before.isalnum() else -0.5
    if character in _CLOSING:
        if not before.isalnum() and character == "…":
            return 0.5
        return 1.0 if not after.isalnum() and (before.isalnum() or before in ".,!?)") else -0.5
    if character in _DASHES:
        return -0.5 if before.isalpha() or after.isalpha() else 0.5
    return -1.0 if character not in _BESIDE_NUMBERS else -0.5 if before.isalpha() or after.isalpha() else 0.5


def _known(encoding: str) -> str:
    """Return the name of an encoding that is set; raises UnusableFileError if Python has none of that name."""
    try:
        found = codecs.lookup(encoding)
        "".encode(found.name)  # not of bytes to bytes, such as "hex"
    except (LookupError, ValueError) as error:
        raise UnusableFileError(f"cannot be read as {short(encoding)}: set encoding to utf-8 or cp1252, say") from error
    return "utf-8-sig" if found.name == "utf-8" else found.name
