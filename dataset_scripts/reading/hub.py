"""Data sets on the Hub, folders saved by `datasets`, and folders that `datasets.load_dataset` reads."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import datasets
from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError

from .problems import AnnotationError

# Of the network (with or without the Hub's answer) and of files: no `HfHubHTTPError` is missing here.
NETWORK_ERRORS = (OSError, HTTPError)
# Of the library, too: a name or configuration that it refuses, a folder without data, a damaged file.
HUB_ERRORS = (*NETWORK_ERRORS, datasets.exceptions.DatasetsError, ValueError, RuntimeError)


def one_line(error: Exception) -> str:
    """Return what an error says, shortened, without line breaks."""
    return " ".join(str(error).encode("utf-8", "backslashreplace").decode().split())[:300]


def split_names(name: str, config_name: str | None) -> list[str]:
    """Return the names of a data set's splits; raises AnnotationError if there is none, or no Hub."""
    file = os.path.join(name, "dataset_dict.json")
    try:
        if os.path.isfile(file):
            with open(file, encoding="utf-8") as stream:
                return list(json.load(stream)["splits"])
        if os.path.isfile(os.path.join(name, "state.json")):
            return ["train"]
        return datasets.get_dataset_split_names(name, config_name)
    except (*HUB_ERRORS, LookupError, TypeError) as error:
        text = f"hub_dataset {name!r} is no folder here that can be read, and the Hub does not give it"
        raise AnnotationError(f"{text} ({one_line(error)}): check the name.") from error


def dataset_state(name: str) -> Any:
    """Return what changes when a data set does: sizes and times of a folder's files, or the Hub's commit."""
    if os.path.isdir(name):
        paths = sorted(os.path.join(folder, file) for folder, _, files in os.walk(name) for file in files)
        return [(path, os.stat(path).st_size, os.stat(path).st_mtime_ns) for path in paths]
    try:
        return HfApi().dataset_info(name).sha
    except (*NETWORK_ERRORS, ValueError):  # without a network the data set can only be the one in the cache
        return None


def hub_rows(
    name: str, config_name: str | None, split: str, streaming: bool, without_images: bool = False
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a split of a data set on the Hub or a folder; images as stored, with `path` and `bytes`.

    Raises AnnotationError if it cannot be loaded, or the network or a file does not give a row.
    """
    is_saved = any(os.path.isfile(os.path.join(name, file)) for file in ("dataset_dict.json", "state.json"))
    try:
        load = partial(datasets.load_dataset, name=config_name, streaming=streaming)
        found = datasets.load_from_disk(name) if is_saved else load(name)
    except HUB_ERRORS as error:
        raise AnnotationError(f"hub_dataset {name!r} cannot be loaded ({one_line(error)}).") from error
    rows: Any = found[split] if isinstance(found, dict) else found
    for column, feature in (rows.features or {}).items():
        is_image = isinstance(feature, datasets.Image)
        if without_images and (is_image or getattr(feature, "dtype", "") in ("binary", "large_binary")):
            rows = rows.remove_columns(column)
        elif is_image:
            rows = rows.cast_column(column, datasets.Image(decode=False))
    try:
        yield from rows
    except HUB_ERRORS as error:
        raise AnnotationError(f"hub_dataset {name!r} cannot be read to its end ({one_line(error)}).") from error
