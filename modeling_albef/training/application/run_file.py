"""`run.yaml`: all that a run was, written into its output folder, and read again as a configuration file.

Beside the arguments it has a field `run`, with what was found out about the run; a file that has one is a repetition.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import transformers
from transformers.utils import logging

from ..checkpoints.lock import LOCK_FILE
from .yaml_files import HIDDEN, SECRET_NAME, without_hub_tokens, write_text

logger = logging.get_logger(__name__)
RUN_FILE = "run.yaml"
EVALUATION_FILE = "run_evaluation.yaml"  # of a run that does not train, in the folder of one that did
RECORD = "run"  # the field beside the arguments
# of a recorded run, what a repetition does only where its command line says so
ASKED_ANEW = ("overwrite_output_dir", "push_to_hub")
_OWN_FOLDER = {"output_dir", "overwrite_output_dir", "resume_from_checkpoint"}


@dataclass(frozen=True)
class GivenArguments:
    """What a run was started with, before the dataclasses of its arguments changed any of it.

    Attributes:
        words: The words of the command line.
        fields: All arguments by name.
        changed: Names of those that are not at their defaults.
        source: The file of the run that is repeated, or None.
        record: What that file says of it.
    """

    words: tuple[str, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)
    changed: frozenset[str] = frozenset()
    source: str | None = None
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def command(self) -> str:
        """The command, without the launcher and without secrets."""
        text = shlex.join([sys.argv[0], *self.words])
        for name, value in self.fields.items():
            if value and isinstance(value, str) and SECRET_NAME.search(name):
                text = text.replace(shlex.quote(value), HIDDEN).replace(value, HIDDEN)
        return without_hub_tokens(text)


def given_arguments(*arguments: Any) -> GivenArguments:
    """Return what instances of the dataclasses of a run were made of; their values where they were not parsed."""
    given = next((one.given for one in arguments if hasattr(one, "given")), None)
    if isinstance(given, GivenArguments):
        return given
    fields = {each.name: getattr(one, each.name) for one in arguments for each in dataclasses.fields(one) if each.init}
    return GivenArguments(tuple(sys.argv[1:]), fields, frozenset(fields))


# ---- writing


def write_run_file(folder: Path, given: GivenArguments, record: Mapping[str, Any], output_dir: str) -> Path:
    """Write the file of a run and return its path.

    A run that does not train leaves the file of the training whose folder it uses, and writes `run_evaluation.yaml`.
    """
    path = folder / RUN_FILE
    if not record["trains"] and _is_of_training(path):
        path = folder / EVALUATION_FILE
    fields = {**given.fields, "output_dir": output_dir}
    changed = {name: value for name, value in fields.items() if name in given.changed}
    others = {name: value for name, value in fields.items() if name not in given.changed}
    script = Path(sys.argv[0]).name
    again = shlex.join(["accelerate", "launch", script if script.endswith(".py") else "SCRIPT.py", str(path)])
    parts = [
        "# What this run was. This command repeats it, into a new folder beside this one:",
        f"#   {re.sub(r'[^ -~]', '?', without_hub_tokens(again))}",
        write_text({RECORD: record}),
        "# Arguments that are not at their defaults",
        write_text(changed),
        "# All others",
        write_text(others),
    ]
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.incomplete")
    folder.mkdir(parents=True, exist_ok=True)
    unfinished.write_text("\n".join(parts), encoding="utf-8", errors="replace")
    unfinished.replace(path)
    return path


def _is_of_training(path: Path) -> bool:
    try:
        return "\n  trains: true\n" in path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False


# ---- reading


def prepare_repetition(config: dict[str, Any], record: Mapping[str, Any], known: set[str], given: set[str]) -> None:
    """Make the fields of a recorded run, in place, those of its repetition.

    It starts from the beginning, in a folder that is free, and pushes nothing, unless the command line says otherwise.
    Fields that another version of the library had, and this one has not, are left out with a warning.

    Args:
        config: Fields of the file.
        record: What the file says of the run.
        known: Names of all fields.
        given: Names of the fields on the command line.
    """
    for name in ASKED_ANEW:
        config.pop(name, None)
    written_by = _mapping(record, "versions").get("transformers")
    if written_by not in (None, transformers.__version__) and (gone := [name for name in config if name not in known]):
        logger.warning(
            f"transformers {transformers.__version__} has no {', '.join(map(str, gone))}: left out of the repetition."
        )
        for name in gone:
            del config[name]
    folder = config.get("output_dir")
    if not isinstance(folder, str) or "\0" in folder:
        return
    checkpoint = str(config.get("resume_from_checkpoint") or "last")
    if checkpoint.lower() in ("last", "true") or Path(folder).absolute() in Path(checkpoint).absolute().parents:
        config.pop("resume_from_checkpoint", None)  # a run that went on is repeated as a whole
    if given & _OWN_FOLDER:
        return
    try:
        config["output_dir"] = free = _free_folder(folder)
    except OSError:  # the start says what is wrong with it
        return
    if free != folder and int(os.environ.get("RANK", "0")) == 0:
        logger.warning(f"The folder {folder} holds the run that is repeated: the repetition goes into {free}.")


def _free_folder(folder: str) -> str:
    """Return the folder, or the first of folder-2, folder-3 .. that holds nothing but a run's file."""
    base = Path(folder) if Path(folder).name else Path(folder).absolute()
    candidates: Iterator[Path] = (base.with_name(f"{base.name}-{number}") for number in count(2))
    if is_free(Path(folder)):
        return folder
    return str(next(filter(is_free, candidates)))


def is_free(folder: Path) -> bool:
    """Return whether a run can be written into a folder without a loss: it is empty, or a run broke off at its start.

    Raises:
        OSError: The folder cannot be read.
    """
    if not folder.exists():
        return True
    names = {path.name for path in folder.iterdir() if not path.name.startswith(LOCK_FILE)} if folder.is_dir() else None
    return names is not None and names <= {RUN_FILE}


def differences(record: Mapping[str, Any], earlier: Mapping[str, Any]) -> list[str]:
    """Return what differs between a run and the one that it repeats, in words, the data first."""
    found = []
    splits, earlier_splits = _mapping(record, "data"), _mapping(earlier, "data")
    for split in splits:
        new, old = (_mapping(one, split).get("fingerprint") for one in (splits, earlier_splits))
        if new and old and new != old:
            found.append(f"the {split} data has changed (fingerprint {old} then, {new} now)")
    versions, earlier_versions = _mapping(record, "versions"), _mapping(earlier, "versions")
    pairs = [(name, versions[name], earlier_versions.get(name)) for name in versions]
    pairs += [(name, record.get(name), earlier.get(name)) for name in ("device", "precision", "processes", "threads")]
    pairs += [("git revision", _short(record.get("git_revision")), _short(earlier.get("git_revision")))]
    return found + [f"{name}: {old} then, {new} now" for name, new, old in pairs if old is not None and new != old]


def _short(revision: Any) -> str | None:
    """Return a commit as people write it, and whether files differ from it."""
    return f"{revision[:12]}{revision[40:]}" if isinstance(revision, str) else None


def _mapping(values: Any, name: str) -> Mapping[str, Any]:
    value = values.get(name) if isinstance(values, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def names_on_command_line(words: Sequence[str]) -> set[str]:
    """Return the names of the fields that a command line gives."""
    return {re.split("[=.]", word[2:])[0].replace("-", "_") for word in words if word.startswith("--")}
