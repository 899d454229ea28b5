"""Shards of images with captions, and a server for them."""

from __future__ import annotations

import io
import json
import tarfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def image_bytes(number: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), (number % 256, 90, 120)).save(buffer, kind)
    return buffer.getvalue()


def write_tar(path: Path, members: Mapping[str, bytes]) -> str:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return str(path)


def write_shards(folder: Path, shards: int = 4, samples: int = 6) -> list[str]:
    """Tar files; caption and red of sample n are n, and captions are in texts and JSON in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for shard in range(shards):
        members: dict[str, bytes] = {}
        for number in range(shard * samples, (shard + 1) * samples):
            members[f"{number:04d}.png"] = image_bytes(number)
            text = f"a blue circle {number}"
            content = {"txt": text.encode(), "json": json.dumps({"caption": text, "url": "http://x"}).encode()}
            kind = ("txt", "json")[number % 2]
            members[f"{number:04d}.{kind}"] = content[kind]
        files.append(write_tar(folder / f"{shard:02d}.tar", members))
    return files


def write_parquet(path: Path, first: int, count: int) -> str:
    numbers = range(first, first + count)
    columns = {"jpg": [image_bytes(number) for number in numbers], "TEXT": [f"a blue circle {n}" for n in numbers]}
    pq.write_table(pa.table(columns), path, row_group_size=2)
    return str(path)


@contextmanager
def served(folder: Path, breaks: int = 0, after: int = 0) -> Iterator[str]:
    """The address of a folder; the server knows no ranges of bytes. So many answers break off after so many bytes."""
    left = [breaks]

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Print nothing."""

        def copyfile(self, source: Any, outputfile: Any) -> None:
            """Send a file, or the beginning of it."""
            content = source.read()
            is_whole = left[0] == 0
            left[0] -= 0 if is_whole else 1
            outputfile.write(content if is_whole else content[:after])

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
