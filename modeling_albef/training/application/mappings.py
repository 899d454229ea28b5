"""Fields that are mappings, changed in part by a command line: `--model_config.vision_config.hidden_size 64`."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import Any

import yaml

from ...configuration_albef import AlbefError
from .yaml_files import read_text


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
