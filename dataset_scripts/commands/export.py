"""Write a data set with its images inside, so that plain `datasets.load_dataset` reads it anywhere.

Parquet files, tar files for WebDataset, or a data set on the Hub; each with a card that says what is in it.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.table import embed_table_storage
from datasets.utils.py_utils import convert_file_size_to_int
from huggingface_hub import DatasetCard
from PIL import Image
from tqdm.auto import tqdm

from .. import load_dataset_script
from ..reading.hub import NETWORK_ERRORS, one_line
from ..reading.problems import DataError
from .arguments import add_data_arguments, data_fields
from .dataset_card import card_body, card_data

KINDS = ("parquet", "webdataset", "hub")
MAX_SHARD_SIZE = "500MB"
ROWS_A_GROUP = 100  # as `datasets` writes images: what a streaming reader holds at a time
DICTIONARY_BYTES = 1 << 28  # so that an image whose questions follow each other is stored once a row group


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_data_arguments(parser)
    parser.add_argument("--to", choices=KINDS, required=True, help="what to write")
    parser.add_argument("--output", help="folder to write, for parquet and webdataset; must not exist or be empty")
    parser.add_argument("--repo_id", help="USER/NAME on the Hub, for hub")
    parser.add_argument("--private", action="store_true", help="make the data set on the Hub private")
    parser.add_argument("--max_shard_size", default=MAX_SHARD_SIZE, help=f"size of a file; default: {MAX_SHARD_SIZE}")


def run(options: argparse.Namespace) -> int:
    """Export a data set; raises DataError if the target is not named, or cannot be written."""
    needed = "repo_id" if options.to == "hub" else "output"
    if not getattr(options, needed):
        raise DataError(f"--to {options.to} needs --{needed}.")
    try:
        max_bytes = convert_file_size_to_int(options.max_shard_size)
    except ValueError as error:
        raise DataError(f"--max_shard_size is {options.max_shard_size!r}: write it as {MAX_SHARD_SIZE}.") from error
    if needed == "output":
        refuse_if_used(Path(options.output))
    splits = load_dataset_script(**data_fields(options))
    try:
        if options.to == "hub":
            export_to_hub(splits, options.name, options.repo_id, options.private, max_bytes)
        else:
            export_to_folder(splits, options.name, options.to, Path(options.output), max_bytes)
    except NETWORK_ERRORS as error:
        target = getattr(options, needed)
        raise DataError(f"The data set cannot be exported to {target} ({one_line(error)}).") from error
    target = options.repo_id or os.path.abspath(options.output)
    rows = ", ".join(f"{len(dataset)} rows of {split}" for split, dataset in splits.items())
    print(f"Wrote {rows}. Load them with datasets.load_dataset({str(target)!r}).")
    return 0


def export_to_folder(
    splits: datasets.DatasetDict, name: str, kind: str, output: Path, max_shard_size: str | int = MAX_SHARD_SIZE
) -> None:
    """Write `data/SPLIT-NUMBER.parquet` or `.tar` and a card, `README.md`, into a folder that is not there or empty.

    Nothing is at `output` before all is written. Image files are taken as they are, byte by byte. "parquet" has the
    same columns. Rows of "webdataset" are files KEY.jpg (or .png ..; all get the ending of the first, whatever they
    hold) and KEY.json with the other columns. Another file is begun at `max_shard_size`, such as "500MB".

    Raises:
        DataError: `output` is not empty.
        FileNotFoundError: An image is missing.
    """
    splits = datasets.DatasetDict(
        {split: dataset.cast_column("image", datasets.Image()) for split, dataset in splits.items()}
    )
    features, max_bytes = next(iter(splits.values())).features, convert_file_size_to_int(max_shard_size)
    suffix, image_name = "parquet", "image"
    if kind == "webdataset":
        suffix, image_name = "tar", _image_suffix(splits)
        others = {column: feature for column, feature in features.items() if column != "image"}
        text = datasets.Value("string")
        features = datasets.Features({image_name: datasets.Image(), "json": others, "__key__": text, "__url__": text})
    with moved_to(output) as folder:
        (folder / "data").mkdir()
        for split, dataset in splits.items():
            paths = (folder / "data" / f"{split}-{number:05d}.{suffix}" for number in count())
            if kind == "webdataset":
                _write_shards(_members(dataset, image_name), paths, partial(tarfile.open, mode="w"), _add, max_bytes)
            else:
                _write_parquet(dataset, paths, max_bytes)
        info = next(iter(splits.values())).info
        data = card_data(info, name, features, {split: f"data/{split}-*.{suffix}" for split in splits})
        DatasetCard(f"---\n{data}\n---\n\n{card_body(splits, name, kind)}").save(folder / "README.md")


def export_to_hub(splits: datasets.DatasetDict, name: str, repo_id: str, private: bool, max_shard_size: int) -> None:
    """Push Parquet files with embedded images, then the card's text; `private` holds if the repository is made."""
    splits.push_to_hub(repo_id, private=private, max_shard_size=max_shard_size)
    card = DatasetCard.load(repo_id)
    for field, value in card_data(next(iter(splits.values())).info, name).to_dict().items():
        setattr(card.data, field, value)
    card.text = card_body(splits, name, "hub")
    card.push_to_hub(repo_id, commit_message="Card")


def refuse_if_used(output: Path) -> None:
    """Raise a DataError if a folder exists and is not empty."""
    output = output.expanduser()
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise DataError(f"{str(output)!r} is there and not empty: name another folder, or remove it first.")


@contextmanager
def moved_to(output: Path) -> Iterator[Path]:
    """Give a folder beside `output` to write into, which is moved to `output` at the end, or removed after an error."""
    refuse_if_used(output)
    output = output.expanduser().absolute()
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{output.name}.incomplete-", dir=output.parent) as beside:
        folder = Path(beside) / output.name
        folder.mkdir()
        yield folder
        if output.is_dir():
            output.rmdir()
        folder.rename(output)


def _write_shards(
    parts: Iterable[Any],
    paths: Iterator[Path],
    open_shard: Callable[[Path], Any],
    write: Callable[[Any, Any], None],
    max_bytes: int,
) -> None:
    """Write parts into one file after the other; a file ends with the part that makes it too large."""
    with ExitStack() as stack:
        path = None
        for part in parts:
            if path is None or path.stat().st_size >= max_bytes:
                stack.close()
                path = next(paths)
                shard = stack.enter_context(open_shard(path))
            write(shard, part)


def _embedded(dataset: datasets.Dataset) -> Iterator[pa.Table]:
    """Yield rows with the bytes of their images, some at a time."""
    with tqdm(total=len(dataset), desc="Writing rows", leave=False, disable=None) as bar:
        for table in dataset.with_format("arrow").iter(ROWS_A_GROUP):
            yield embed_table_storage(table.replace_schema_metadata(dataset.features.arrow_schema.metadata))
            bar.update(len(table))


def _write_parquet(dataset: datasets.Dataset, paths: Iterator[Path], max_bytes: int) -> None:
    """Write Parquet files."""
    settings = {"dictionary_pagesize_limit": DICTIONARY_BYTES, "write_page_index": True}
    open_shard = partial(pq.ParquetWriter, schema=dataset.features.arrow_schema, **settings)
    _write_shards(_embedded(dataset), paths, open_shard, pq.ParquetWriter.write_table, max_bytes)


def _members(dataset: datasets.Dataset, image_suffix: str) -> Iterator[dict[str, bytes]]:
    """Yield the two files of each row, by name."""
    number = count()
    for table in _embedded(dataset):
        for row in table.to_pylist():
            key, image = f"{next(number):08d}", row.pop("image")
            yield {f"{key}.{image_suffix}": image["bytes"], f"{key}.json": json.dumps(row, ensure_ascii=False).encode()}


def _add(shard: tarfile.TarFile, members: dict[str, bytes]) -> None:
    """Add files to a tar file."""
    for name, data in members.items():
        member = tarfile.TarInfo(name)
        member.size = len(data)
        shard.addfile(member, io.BytesIO(data))


def _image_suffix(splits: datasets.DatasetDict) -> str:
    """Return the file name ending of the first image."""
    table = next(_embedded(next(iter(splits.values())).select([0])))
    with Image.open(io.BytesIO(table["image"][0]["bytes"].as_py())) as image:
        return (image.format or "jpg").lower().replace("jpeg", "jpg").replace("mpo", "jpg")
