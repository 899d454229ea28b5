"""The templates beside this file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from ..reading.problems import DataError

_ENVIRONMENT = Environment(
    loader=PackageLoader(__package__, ""),
    autoescape=select_autoescape(("html.j2",)),
    undefined=StrictUndefined,
    trim_blocks=True,
    keep_trailing_newline=True,
)


def render(template: str, **values: Any) -> str:
    """Return what a template makes of values; those of HTML pages are escaped."""
    return _ENVIRONMENT.get_template(template).render(values)


def write_page(name: str, page: str) -> Path:
    """Write a page to the file that `--out` names, whole or not at all; raises DataError if that cannot be."""
    out = Path(name).expanduser()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        unfinished = out.with_name(f"{out.name}.{os.getpid()}.incomplete")
        unfinished.write_text(page, encoding="utf-8")
        unfinished.replace(out)
    except OSError as error:
        text = f"--out {out} cannot be written ({error.strerror}): check path, permissions and space."
        raise DataError(text) from error
    return out
