# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Downloading a file of many gigabytes: whole, checked, and not twice.

A download goes into a `.part` file beside its target, goes on where it broke off if the server still has the same
file, and takes the target's name when it is whole and its checksum is right.
"""

import base64
import binascii
import hashlib
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import requests
from huggingface_hub import constants
from huggingface_hub.utils import WeakFileLock
from tqdm.auto import tqdm

from .checkpoint_reading import ConversionError

LARGEST = 20_000_000_000  # bytes; the released files have 0.8 to 3.5 GB
PAUSE = 1.0  # seconds before a download that broke off is taken up again, growing
_ATTEMPTS = 5  # in a row that bring nothing new
_BLOCK = 2**16  # bytes; what is lost of a connection that breaks
_TIMEOUT = (10, 60)  # seconds to connect, and between two blocks
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.\w+$")  # torch.hub's: the beginning of the SHA-256
_SHA256 = re.compile(r'"([0-9a-f]{64})"')


class _BrokenOffError(Exception):
    """A server that was reached did not send the whole file."""


@dataclass
class _RemoteFile:
    """What a server says of a file.

    Attributes:
        size: Bytes; None where the file comes in chunks.
        version: Its strong ETag or its date; empty where the server gives neither, so that two versions look the same.
        checksum: Name of an algorithm and hexadecimal digits, which may be the first ones; None if none is published.
    """

    size: int | None
    version: str
    checksum: tuple[str, str] | None


def download(url: str, target: Path) -> None:
    """Download a file to `target`; raises ConversionError, and then keeps what can be gone on from."""
    print(f"downloading {shown(url)} to {target}", flush=True)
    with _writing(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = target.with_name(f"{target.name}.lock")
        with WeakFileLock(lock), requests.Session() as session:
            session.headers["Accept-Encoding"] = "identity"  # sizes and checksums are those of the file
            most, useless, answered = -1, 0, False
            while not target.is_file():  # another process may have been faster
                try:
                    _receive(session, url, target)
                except (requests.RequestException, _BrokenOffError) as error:
                    answered |= isinstance(error, _BrokenOffError)
                    have = sum(part.stat().st_size for part in _parts(target))
                    useless = 0 if have > most else useless + 1
                    most = max(most, have)
                    if not answered or useless == _ATTEMPTS:
                        raise _explain(url, error) from error
                    time.sleep(PAUSE * (useless + 1))
            with suppress(OSError):  # Windows keeps what is open
                lock.unlink()  # who waits for it finds the target


def _receive(session: requests.Session, url: str, target: Path) -> None:
    """Receive what is missing of a file, check it and give it its name."""
    with _request(session, url) as response:
        remote = _describe(response, target.name)
        key = hashlib.sha256(f"{remote.version} {remote.size}".encode()).hexdigest()[:12]
        part = target.with_name(f"{target.name}.{key}.part")
        for other in _parts(target):
            if other != part or not remote.version or other.stat().st_size > (remote.size or 0):
                other.unlink()  # of another version of the file, or of an unknown one
        have = part.stat().st_size if part.exists() else 0
        _check_room(url, remote, target.parent, have)
        if not have:
            _write(response, part, 0, remote.size)
    if have and have != remote.size:
        with _request(session, url, {"Range": f"bytes={have}-", "If-Range": remote.version}) as response:
            goes_on = response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
            if response.status_code != 200 and not goes_on:
                part.unlink()
                raise _BrokenOffError(f"the server does not go on after {have:,} bytes")
            _write(response, part, have if goes_on else 0, remote.size)
    if remote.checksum is not None:
        _check_sum(url, part, *remote.checksum)
    part.replace(target)


@contextmanager
def _request(session: requests.Session, url: str, headers: dict[str, str] | None = None) -> Iterator[requests.Response]:
    """Ask for a file; what is no file is refused."""
    with session.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
        secure = [step.url.lower().startswith("https:") for step in (*response.history, response)]
        if secure != sorted(secure):
            raise ConversionError(f"{shown(url)} leads to an address without TLS: give one that stays with https.")
        answer = f"the server answers {response.status_code} {response.reason}"
        if response.status_code in (408, 429) or response.status_code >= 500:
            raise _BrokenOffError(answer)
        if response.status_code not in ((206, 200, 416) if headers else (200,)):
            raise ConversionError(
                f"{shown(url)} cannot be downloaded ({answer}): check the address in a browser, or give the path of a "
                "file that you have."
            )
        if response.status_code == 200 and response.headers.get("Content-Type", "").startswith("text/html"):
            raise ConversionError(
                f"{shown(url)} is a web page, not a checkpoint: give the address that the page downloads from."
            )
        yield response


def _describe(response: requests.Response, name: str) -> _RemoteFile:
    """Return what the headers of an answer and the file's name say of the file."""
    headers, size = response.headers, None
    encoded = headers.get("Content-Encoding", "identity") != "identity"
    if headers.get("Content-Length", "").isdecimal() and not encoded:
        size = int(headers["Content-Length"])
    elif headers.get("Transfer-Encoding") != "chunked" and not encoded:
        raise ConversionError(
            f"{shown(response.url)} does not say how large it is, so that its end cannot be told from a broken "
            "connection: download it with a browser and give its path."
        )
    tag = headers.get("ETag", "")
    version = headers.get("Last-Modified", "") if tag.startswith("W/") or not tag else tag
    return _RemoteFile(size, version, _published_checksum(response, name))


def _published_checksum(response: requests.Response, name: str) -> tuple[str, str] | None:
    """Return algorithm and digits: those in the name, the Hub's, Google's, or those of the standard header."""
    in_name = _HASH_IN_NAME.search(name)
    if in_name and not in_name[1].isdecimal():  # a date else
        return "sha256", in_name[1]
    steps = (*response.history, response)  # the Hub says it before it leads to the storage
    for linked in (step.headers.get(constants.HUGGINGFACE_HEADER_X_LINKED_ETAG, "") for step in steps):
        if found := _SHA256.fullmatch(linked):
            return "sha256", found[1]
    google = dict(one.strip().partition("=")[::2] for one in response.headers.get("x-goog-hash", "").split(","))
    with suppress(binascii.Error):  # no checksum that could be compared
        if digits := base64.b64decode(google.get("md5") or response.headers.get("Content-MD5", ""), validate=True):
            return "md5", digits.hex()
    return None


def _check_room(url: str, remote: _RemoteFile, folder: Path, have: int) -> None:
    size, free = remote.size or 0, shutil.disk_usage(folder).free
    if size > LARGEST:
        raise ConversionError(
            f"{shown(url)} has {size / 1e9:.2f} GB, more than any checkpoint of ALBEF: check the address, or download "
            "it with another program and give its path."
        )
    if size - have > free:
        raise ConversionError(
            f"{shown(url)} needs {(size - have) / 1e9:.2f} GB in {folder}, where {free / 1e9:.2f} GB are free: make "
            "room, or name another folder with --download_dir."
        )


def _write(response: requests.Response, part: Path, start: int, size: int | None) -> None:
    """Append what arrives to the first `start` bytes of a part."""
    received = start
    bar = tqdm(desc=part.name[: -len(".123456789012.part")], initial=start, total=size, unit="B", unit_scale=True)
    with bar, part.open("r+b" if start else "wb") as file:
        file.seek(start)
        try:
            for block in response.iter_content(_BLOCK):
                received += len(block)
                if received > (LARGEST if size is None else size):
                    raise ConversionError(f"{shown(response.url)} does not end where it should: check the address.")
                file.write(block)
                bar.update(len(block))
        except requests.RequestException as error:
            raise _BrokenOffError(_reason(error)) from error
    if size is not None and received < size:
        raise _BrokenOffError(f"the connection ended after {received:,} of {size:,} bytes")


def _check_sum(url: str, part: Path, algorithm: str, expected: str) -> None:
    """Compare the checksum of a whole part; a part that differs is deleted."""
    found = digest(part, algorithm)
    if not found.startswith(expected):
        part.unlink()
        raise ConversionError(
            f"What {shown(url)} sent has the {algorithm.upper()} {found}, but {expected} is published for it, so it "
            "was deleted: run the command again, or download the file elsewhere and give its path."
        )


def digest(path: Path, algorithm: str = "sha256") -> str:
    """Return the checksum of a file, in hexadecimal digits."""
    checksum = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(2**24):
            checksum.update(block)
    return checksum.hexdigest()


def _explain(url: str, error: Exception) -> ConversionError:
    """Return the sentence for a download that ended early."""
    if isinstance(error, _BrokenOffError):
        return ConversionError(
            f"The download of {shown(url)} broke off ({error}): run the command again; what has arrived is kept."
        )
    return ConversionError(
        f"{shown(url)} cannot be downloaded ({_reason(error)}): check the address, the network and, behind a proxy, "
        "HTTPS_PROXY, or download the file elsewhere and give its path."
    )


def _reason(error: Exception) -> str:
    """Return why a request failed, in the words of the innermost error, since the outer one tells the query."""
    inner = error.args[0] if error.args else error
    text = " ".join(str(getattr(inner, "reason", None) or inner).split())
    return f"{text.partition('): ')[2] or text:.200}"


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn the system's errors about files into a sentence."""
    try:
        yield
    except OSError as error:
        raise ConversionError(
            f"The download cannot be written to {folder} ({error.strerror or error}): make room there, or name another "
            "folder with --download_dir; what has arrived is kept."
        ) from error


def _parts(target: Path) -> list[Path]:
    """Return what earlier downloads to a target have left."""
    form = re.compile(re.escape(target.name) + r"\.[0-9a-f]{12}\.part")
    return [path for path in target.parent.iterdir() if form.fullmatch(path.name)]


def shown(url: str) -> str:
    """Return an address without a password and a query, which may be secret."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
