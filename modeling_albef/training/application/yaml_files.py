"""YAML as the run scripts read and write it: 1e-5 is a number, and what is written holds no secrets."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from enum import Enum
from typing import Any

import yaml

SECRET_NAME = re.compile(r"(^|_)(token|password|secret|api_key)$")
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}")
_LINE_ENDS = re.compile("[\n\x85\u2028\u2029]")
HIDDEN = "HIDDEN"  # takes the place of a secret within a text
_EXPONENT = re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$")


class Loader(yaml.SafeLoader):
    """YAML in which 1e-5 is a number, as YAML 1.2 has it."""


class Dumper(yaml.SafeDumper):
    """Writes what `Loader` reads back as it was; of values without a form in YAML their words.

    A secret, which is known by the name of its field, becomes null; a token of the Hub within a text becomes `HIDDEN`.
    """

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> yaml.MappingNode:
        """See `yaml.SafeDumper`."""
        if isinstance(mapping, Mapping):
            mapping = {name: None if _is_secret(name, value) else value for name, value in mapping.items()}
            return super().represent_mapping(tag, list(mapping.items()), flow_style)  # a list keeps the order
        return super().represent_mapping(tag, mapping, flow_style)


def _is_secret(name: Any, value: Any) -> bool:
    return isinstance(name, str) and isinstance(value, str) and bool(SECRET_NAME.search(name))


def without_hub_tokens(text: str) -> str:
    """Return a text in which tokens of the Hub are replaced."""
    return _HUB_TOKEN.sub(HIDDEN, text)


def _represent_text(dumper: Dumper, text: str) -> yaml.ScalarNode:
    style = '"' if _LINE_ENDS.search(text) else None  # other styles fold them
    return dumper.represent_scalar("tag:yaml.org,2002:str", without_hub_tokens(text), style)


def _represent_other(dumper: Dumper, value: Any) -> yaml.Node:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dumper.represent_dict(dataclasses.asdict(value))
    return dumper.represent_data(value.value) if isinstance(value, Enum) else dumper.represent_str(str(value))


for _class in (Loader, Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789"))
Dumper.add_representer(str, _represent_text)
Dumper.add_multi_representer(object, _represent_other)


def read_text(text: str) -> Any:
    """Return what a YAML text holds; a `yaml.YAMLError`, a ValueError or a RecursionError says why not."""
    return yaml.load(text, Loader)  # noqa: S506, derives from SafeLoader


def write_text(values: Mapping[str, Any]) -> str:
    """Return a mapping as YAML text, in its order; nothing for an empty one."""
    return "" if not values else yaml.dump(dict(values), Dumper=Dumper, allow_unicode=True, width=110, sort_keys=False)
