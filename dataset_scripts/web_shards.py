"""Images with captions in shards of the web's size: WebDataset tar files and Parquet files, here or behind a URL.

The library's own builder of tar files ends at the first sample without a caption, or with JSON that cannot be read.
Here such samples become rows that say what is wrong with them, so that training can leave them out and count them.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import datasets
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from aiohttp import ClientError, ClientTimeout

from .reading.captions import as_list
from .reading.columns import ColumnNames
from .reading.problems import READABLE, DataError
from .reading.rows import BadRow

FEATURES = datasets.Features(
    {
        "image": datasets.Image(decode=False),
        "caption": datasets.Value("string"),
        "image_id": datasets.Value("string"),  # shard and sample
        "bad_sample": datasets.Value("string"),  # what is wrong with a row that cannot be trained on
    }
)
IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
TRIES = 3  # to read a shard, each from where the last one ended
ROWS_AT_ONCE = 64  # of a Parquet file, which hold their images


def stream_shards(
    shards: Sequence[str], image_column: str | None = None, caption_column: str | list[str] | None = None
) -> datasets.IterableDataset:
    """Return the pairs of shards as a stream, of which processes and workers read different shards.

    Args:
        shards: Paths or URLs of tar files (`KEY.jpg` beside `KEY.txt` or `KEY.json`) and of Parquet files (a column of
            image bytes beside captions), with `*` and `{000..099}` for several.
        image_column: Field or column of the images; None takes the usual names.
        caption_column: Column of the captions, or key of the JSON, or several; likewise.

    Returns:
        Rows with `image` (path and bytes), `caption`, `image_id`, and `bad_sample`, None where nothing is wrong.

    Raises:
        DataError: There is no such file, or its name ends in neither `.tar`, `.tar.gz`, `.tgz` nor `.parquet`.
    """
    files = [file for shard in shards for file in _expanded(shard)]
    for file in files:
        if not _is_tar(file) and not file.endswith(".parquet"):
            raise DataError(f"The shard {file} is of no known kind: its name must end in .tar, .tar.gz or .parquet.")
    columns = {"image": image_column, "caption": caption_column, "image_id": None}
    # a list in `gen_kwargs` is what the library deals to processes and workers, and shuffles
    fields = {"files": files, "columns": columns}
    return datasets.IterableDataset.from_generator(_rows, features=FEATURES, gen_kwargs=fields)


def _expanded(shard: str) -> list[str]:
    """Return the files that a name with `*` or `{000..099}` stands for."""
    begin, opened, rest = shard.partition("{")
    span, closed, end = rest.partition("}")
    first, dots, last = span.partition("..")
    if opened and closed and dots and first.isdecimal() and last.isdecimal():
        names = [f"{begin}{number:0{len(first)}d}{end}" for number in range(int(first), int(last) + 1)]
        return [file for name in names for file in _expanded(name)]
    if "://" in shard:
        return [shard]
    path = os.path.abspath(os.path.expanduser(shard))
    if not (found := sorted(glob.glob(path))):
        raise DataError(f"There is no shard {shard} in {os.getcwd()}: correct the path.")
    return found


def _is_tar(file: str) -> bool:
    return file.endswith((".tar", ".tar.gz", ".tgz"))


def _rows(files: list[str], columns: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a row for each caption of each sample."""
    names = ColumnNames("retrieval", columns)
    for file in files:
        for name, fields in _samples(file):
            yield from _checked(f"{file}, sample {name}", fields, names)


def _samples(file: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and fields of each sample of a shard; after an error it is opened again, and read on."""
    read, tries = 0, 0
    while True:
        try:
            for number, sample in enumerate(_tar_samples(file) if _is_tar(file) else _parquet_samples(file)):
                if number >= read:
                    read, tries = number + 1, 0
                    yield sample
            return
        except (OSError, ClientError, tarfile.TarError, pa.ArrowException, EOFError) as error:
            tries += 1
            if tries >= TRIES or isinstance(error, FileNotFoundError):
                reason = " ".join(str(error).split()) or type(error).__name__
                raise DataError(
                    f"The shard {file} cannot be read after its sample {read} ({reason:.300}): make it anew, or leave "
                    "it out."
                ) from error


def _opened(file: str) -> Any:
    """Return a file, here or behind a URL, to be read from its beginning, however long that takes."""
    timeout = ClientTimeout(total=None, sock_connect=60, sock_read=300)  # seconds
    options = {"block_size": 0, "client_kwargs": {"timeout": timeout, "trust_env": True}}  # in one request
    return fsspec.open(file, "rb", **(options if file.startswith("http") else {}))


def _tar_samples(file: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the samples of a tar file: files in a row whose names differ only after their first dot."""
    name, fields = "", dict[str, Any]()
    with _opened(file) as stream, tarfile.open(fileobj=stream, mode="r|*") as archive:
        for member in archive:
            folder, base = os.path.split(member.name)
            stem, _, ending = base.partition(".")
            if not member.isfile() or not stem or not ending:
                continue
            if (key := os.path.join(folder, stem)) != name and fields:
                yield name, fields
                fields = {}
            content = archive.extractfile(member)
            name, fields[ending.lower()] = key, b"" if content is None else content.read()
    if fields:
        yield name, fields


def _parquet_samples(file: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of a Parquet file, which is read in another order than it has."""
    with _opened(file) as stream, tempfile.TemporaryFile() if "://" in file else nullcontext(stream) as copy:
        if copy is not stream:
            shutil.copyfileobj(stream, copy)
        table, number = pq.ParquetFile(copy), 0
        for batch in table.iter_batches(batch_size=ROWS_AT_ONCE):
            for row in batch.to_pylist():
                yield str(number), row
                number += 1


def _checked(where: str, fields: dict[str, Any], names: ColumnNames) -> Iterator[dict[str, Any]]:
    """Yield a row for each caption of a sample, or one that says what is wrong."""
    fields, problem = _named(fields)
    row: Any = BadRow(problem) if problem else names.rename(fields)
    image: Any = None if isinstance(row, BadRow) else row["image"]
    if isinstance(row, BadRow):
        problem = row.problem or "has no image, or no caption, as samples before it"
    elif not isinstance(image, dict) or not image.get("bytes"):
        problem = "has no bytes of an image"
    given = [] if problem or not isinstance(row["caption"], str | list) else as_list(row["caption"])
    captions = [text for text in given if isinstance(text, str) and READABLE.search(text)]
    if not problem and not captions:
        problem = "has no caption with a letter or digit"
    if problem:
        yield {"image": {"bytes": None, "path": where}, "caption": None, "image_id": where, "bad_sample": problem}
    for caption in captions:
        shown = {"bytes": image["bytes"], "path": where}
        yield {"image": shown, "caption": caption, "image_id": where, "bad_sample": None}


def _named(fields: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Return the fields of a sample of a tar file by the names of columns, and what is wrong; rows are as they are."""
    found = dict[str, Any]()
    for ending, content in fields.items():
        kind = ending.rpartition(".")[2]
        if not isinstance(content, bytes) or kind not in (*IMAGES, "json", "txt"):
            found.setdefault(ending, content)
            continue
        try:
            if kind == "json":
                stored = json.loads(content)
                found = {**stored, **found} if isinstance(stored, dict) else found
            else:
                found |= {"image" if kind in IMAGES else "caption": content if kind in IMAGES else content.decode()}
        except ValueError as error:
            return found, f"has a .{ending} that cannot be read ({error!s:.100})"
    return found, ""
