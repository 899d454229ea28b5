"""Commands for data sets.

    python -m dataset_scripts check coco_retrieval --data_dir data/coco
    python -m dataset_scripts show coco_retrieval --data_dir data/coco --split train --n 24 --out page.html
    python -m dataset_scripts export coco_retrieval --data_dir data/coco --to parquet --output coco_parquet
    python -m dataset_scripts answer_list vqa_train.json vqa_val.json --min_count 9 --output answer_list.json

Each sub-command is a module with `add_arguments(parser)` and `run(options) -> int`, the exit status; its docstring is
the help text.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from processing.image_processing_albef import ProcessingError

from .commands import answer_list, check, contact_sheet, export
from .reading.problems import DataError

COMMAND = "albef-data"  # of an installed package
COMMANDS: dict[str, ModuleType] = {
    "check": check,
    "show": contact_sheet,
    "export": export,
    "answer_list": answer_list,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a sub-command; what the user can mend ends it with one message and status 1."""
    is_command = Path(sys.argv[0]).stem == COMMAND
    name = COMMAND if is_command else "python -m dataset_scripts"
    parser = argparse.ArgumentParser(prog=name, description="Commands for data sets.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for word, module in COMMANDS.items():
        text = module.__doc__ or ""
        command = commands.add_parser(word, help=text.partition("\n")[0], description=text.partition("\n\n")[0])
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except (DataError, ProcessingError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
