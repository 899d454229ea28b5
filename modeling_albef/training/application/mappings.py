"""Fields that are mappings, changed in part by a command line: `--model_config.vision_config.hidden_size 64`.

And the field that is a list of them: the data sets of a mixture.
"""

from __future__ import annotations

import re
import reprlib
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import yaml

from ...configuration_albef import AlbefError
from .yaml_files import read_text

ENTRY_FIELDS = ("name", "weight", "source")  # of a data set in a mixture, beside those of one data set
SOURCE_NAME = re.compile("[A-Za-z0-9_-]+")


class ArgumentsError(AlbefError):
    """A configuration file or a command line that cannot be used."""


def merge_mappings(config: dict[str, Any], words: Sequence[str], mappings: set[str]) -> list[str]:
    """Merge the mappings of the command line into those of the file, in place, and return the other words."""
    others, rest = [], iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        field, *path = name.removeprefix("--").split(".")
        if not word.startswith("--") or field not in mappings:
            others.append(word)
            continue
        value = value if equals else next(rest, "")
        given: Any = value
        if path or value.lstrip().startswith("{"):
            given = _mapping_value(field, value, is_part=bool(path))
        for key in reversed(path):
            given = {key: given}
        if isinstance(given, dict):
            config[field] = merged(config.get(field), given)
        else:
            others += [f"{name}={value}"]
    return others


def _mapping_value(field: str, text: str, is_part: bool) -> Any:
    try:
        value = read_text(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ArgumentsError(f"{field} is neither JSON nor YAML of a mapping: {error}") from error
    if not is_part and not isinstance(value, dict):
        raise ArgumentsError(f"{field} is {abbreviated(text)}, but must be a mapping of fields to values.")
    return value


def merged(old: Any, new: dict[str, Any]) -> dict[str, Any]:
    """Return a mapping with the values of a second one over it, mapping by mapping."""
    if not isinstance(old, dict):
        return new
    return old | {key: merged(old.get(key), value) if isinstance(value, dict) else value for key, value in new.items()}


def abbreviated(value: Any) -> str:
    """Return a short text of a value for a message, also of one that refers to itself."""
    return reprlib.repr(value)


def read_entries(value: Any, fields: Sequence[str]) -> list[dict[str, Any]]:
    """Return the data sets of a mixture, one mapping each.

    Args:
        value: A list of mappings, or its text.
        fields: What a mapping may have beside `ENTRY_FIELDS`.

    Raises:
        ValueError: It is something else, a field is not known, or a weight is not above 0.
    """
    try:
        entries = read_text(value) if isinstance(value, str) else value
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"datasets is neither JSON nor YAML of a list of mappings: {error}") from error
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(
            f"datasets is {abbreviated(entries)}, but must be a list of mappings, such as [{{name: shapes}}]."
        )
    for number, entry in enumerate(entries, start=1):
        where, known = f"entry {number} of datasets", (*ENTRY_FIELDS, *fields)
        if unknown := [key for key in entry if key not in known]:
            raise ValueError(
                f"{where} has the field {unknown[0]!r}, which is not known; there are: {', '.join(known)}."
            )
        weight = entry.get("weight", 1)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight <= sys.float_info.max:
            raise ValueError(f"{where} has the weight {abbreviated(weight)}, but it must be a number above 0.")
        has_files = any(entry.get(name) for name in entry if name.endswith("_files"))
        if not isinstance(entry.get("name"), str) and not (has_files and entry.get("name") is None):
            raise ValueError(f"{where} has no name: give that of a builder in dataset_scripts, or train_files.")
    return entries


def source_names(entries: Sequence[dict[str, Any]]) -> list[str]:
    """Return what the data sets of a mixture are called: `source`, else `name`, with a number where several share it.

    Raises:
        ValueError: A name has other characters than those of a metric, or two data sets have the same.
    """
    called = [str(entry.get("source") or entry.get("name") or "own_data") for entry in entries]
    seen, names = Counter[str](), list[str]()
    for number, (name, entry) in enumerate(zip(called, entries, strict=True), start=1):
        if not SOURCE_NAME.fullmatch(name):
            raise ValueError(
                f"entry {number} of datasets has the source {name!r}, which stands in the names of metrics: take "
                "letters, digits, '-' and '_'."
            )
        if called.count(name) > 1 and not entry.get("source"):
            seen[name] += 1
            name = f"{name}_{seen[name]}"
        if name in names:
            raise ValueError(f"datasets has two entries with the source {name!r}: give each a source of its own.")
        names.append(name)
    return names
