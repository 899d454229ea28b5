"""What the sub-commands of `python -m dataset_scripts` share: which data set, and where its files are."""

from __future__ import annotations

import argparse
import contextlib
import json
from typing import Any

import yaml

from ..reading.problems import DataError

FILES = ("train_files", "validation_files", "test_files")


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name a data set; `data_fields` reads them."""
    parser.add_argument("name", metavar="NAME", help="data set, such as coco_retrieval")
    parser.add_argument("--config_name", help="configuration of the data set, such as retrieval or vqa")
    parser.add_argument("--data_dir", help="folder of annotation files and images with their usual names")
    for name in FILES:
        parser.add_argument(f"--{name}", nargs="+", metavar="FILE", help=f"annotation files of {name.split('_')[0]}")
    parser.add_argument("--image_root", help="folder that image paths start from; default: data_dir")
    parser.add_argument("--merge_duplicates", action="store_true", help="take image files with the same bytes for one")
    parser.add_argument("--dataset_config", help="further fields of its configuration: JSON, or {image_root: photos}")


def data_fields(options: argparse.Namespace) -> dict[str, Any]:
    """Return keyword arguments of `load_dataset_script` and `make_builder` for what a command line names.

    `--dataset_config` is JSON, or YAML as in a configuration file; raises DataError if not, or if it is no mapping.
    """
    given = {name: getattr(options, name) for name in ("name", "config_name", "data_dir", *FILES, "image_root")}
    given["merge_duplicates"] = options.merge_duplicates or None
    text, value = options.dataset_config or "{}", None
    try:
        value = json.loads(text)
    except ValueError as error:
        with contextlib.suppress(yaml.YAMLError, ValueError, RecursionError):
            value = yaml.safe_load(text)
        if not isinstance(value, dict):
            raise DataError(f"--dataset_config is neither JSON nor YAML of a mapping: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"--dataset_config is {text}, but must be a mapping of fields to values.")
    return {name: value for name, value in given.items() if value is not None} | value
