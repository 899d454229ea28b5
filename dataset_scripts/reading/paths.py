"""Paths as people write them."""

from __future__ import annotations

import os
from collections.abc import Sequence


def as_list(files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[str]:
    """Return the paths of one file or several."""
    return [os.fspath(file) for file in ([files] if isinstance(files, (str, os.PathLike)) else files)]


def absolute(folder: str | os.PathLike[str]) -> str:
    """Return a path made absolute, with "~" for the home folder."""
    return os.path.abspath(os.path.expanduser(folder))
