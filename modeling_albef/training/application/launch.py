"""What the run scripts do before training: read YAML and command line, and refuse a start that cannot end well."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import json
import os
import re
import reprlib
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast, get_args, get_origin, get_type_hints

import yaml
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import HfArgumentParser, TrainingArguments
from transformers.hf_argparser import string_to_bool
from transformers.utils import logging

from ..checkpoints.manifest import (
    DAMAGED_PREFIX,
    REPLACED_PREFIX,
    STATE_FILE,
    UNFINISHED_FOLDER,
    find_damage,
    last_checkpoint,
    quarantine_newer_checkpoints,
)
from ..checkpoints.processes import check_engine, first_message, from_first
from ..errors import CheckpointError, LossNotFiniteError, PushError, SettingError, TrainingInterruptedError

logger = logging.get_logger(__name__)


_GO_ON = "What was saved is whole: --resume_from_checkpoint last goes on from it."
_REFUSED = (OSError, ValueError, TypeError, KeyError, ImportError, StrictDataclassFieldValidationError)


class LaunchError(SystemExit):
    """A start that is refused: the message is printed without a traceback, the exit status is 1."""


def parse_arguments(classes: Sequence[Any], argv: Sequence[str] | None = None) -> tuple[Any, ...]:
    """Reads `CONFIG.yaml --field value ...`: the file first, then the command line over it.

    Args:
        classes: Dataclasses that are filled. A field of the command line takes those of the file away that their
            `DISPLACES` says cannot stand beside it.
        argv: Words of the command line; default: those of this process.

    Returns:
        An instance of each class.

    Raises:
        LaunchError: The file cannot be read, a field is not known, or a value is refused.
    """
    words, config = list(sys.argv[1:] if argv is None else argv), dict[str, Any]()
    parser = HfArgumentParser(list(classes), usage="%(prog)s [CONFIG.yaml] [--field value ...]")
    if words and words[0].endswith((".yaml", ".yml")):
        path = words.pop(0)
        config = _read_yaml(path)
        check_known(config, [action.dest for action in parser._actions], f"the configuration file {path}")
        _displace(config, words, classes)
        mappings = _mapping_fields(classes)
        for action in parser._actions:
            _check_type(action, config, action.dest in mappings)
        parser.set_defaults(**config)
        for action in parser._actions:
            action.required = action.required and action.dest not in config
    for name, value in [*config.items(), *(("a word of the command line", word) for word in words)]:
        _check_characters(name, value)
    try:
        *parsed, rest = parser.parse_args_into_dataclasses(words, return_remaining_strings=True)
    except (*_REFUSED, AttributeError, NotImplementedError) as error:
        raise LaunchError(f"The arguments are refused{_suspects(str(error), config)}: {error}") from error
    if rest:
        known = [option for action in parser._actions for option in action.option_strings]
        check_known([word for word in rest if word.startswith("--")], known, "the command line")
        raise LaunchError(f"The command line has words that belong to no field: {' '.join(rest)}")
    return tuple(parsed)


def _displace(config: dict[str, Any], words: Sequence[str], classes: Sequence[Any]) -> None:
    """Takes fields out of a file's that the command line's cannot stand beside."""
    given = {word[2:].split("=")[0].replace("-", "_") for word in words if word.startswith("--")}
    for name, rivals in (pair for one in classes for pair in getattr(one, "DISPLACES", {}).items()):
        gone = [rival for rival in rivals if name in given and rival not in given and config.pop(rival, None)]
        if gone and int(os.environ.get("RANK", "0")) == 0:
            logger.warning(f"--{name} takes the place of {', '.join(gone)} in the configuration file.")


def _suspects(message: str, config: dict[str, Any]) -> str:
    """The fields that a message of the library may mean, where it names none."""
    if any(str(name) in message for name in config):
        return ""
    words = {name: str(value) for name, value in config.items() if isinstance(value, str | float | int)}
    quoted = re.match(r"(.*) is not a valid ", message)  # of an enumeration; an empty value, too
    if quoted and quoted[1] in words.values():
        return f" ({', '.join(name for name, word in words.items() if word == quoted[1])})"
    found = {name: w for name, w in words.items() if w and re.search(rf"(?<!\w){re.escape(w)}(?!\w)", message)}
    longest = max(map(len, found.values()), default=0)  # "none" may be meant by chance, "none.json" is
    named = [name for name, word in found.items() if len(word) == longest]
    return f" ({', '.join(map(str, named or config))})" if config else ""


def _mapping_fields(classes: Sequence[Any]) -> set[str]:
    """Names of the fields that may be mappings."""
    hints = [hint for one in classes for hint in get_type_hints(one).items()]
    return {name for name, hint in hints if dict in [get_origin(part) or part for part in get_args(hint)]}


def _check_type(action: argparse.Action, config: dict[str, Any], is_mapping: bool) -> None:
    """Refuses a value of a type that a field cannot take; strings are left to the parser, which converts them."""
    value, wanted = config.get(action.dest), action.type
    is_unset = action.dest not in config or (value is None and action.default is None)
    if is_unset or isinstance(value, str) or wanted is None:  # without a type: --no_field
        return
    values = value if action.nargs == "+" and isinstance(value, list) else [value]
    for one in values:
        is_right = {
            int: isinstance(one, int) and not isinstance(one, bool),
            float: isinstance(one, int | float) and not isinstance(one, bool),
            str: isinstance(one, dict if is_mapping else str),
            string_to_bool: isinstance(one, bool),
        }.get(cast(type, wanted), isinstance(one, str))
        if not is_right:
            kinds = {int: "a whole number", float: "a number", str: "text", string_to_bool: "true or false"}
            kind = kinds.get(cast(type, wanted), "one of certain words")
            raise LaunchError(f"The configuration file has {action.dest}: {shown(one)}, but the field takes {kind}.")


def _check_characters(name: str, value: Any) -> None:
    """Refuses text with half of a surrogate pair, which neither a file nor its name can hold."""
    for one in value if isinstance(value, list) else [value]:
        if not isinstance(one, str):
            continue
        try:
            os.fsencode(one)
        except UnicodeEncodeError as error:
            raise LaunchError(
                f"{name} is {shown(one)}, half of a surrogate pair: write the whole character."
            ) from error


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        reason = f"cannot be read: {error.strerror}, as {Path(path).absolute()}"
        raise LaunchError(f"The configuration file {path} {reason}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, or no such date or number
        raise LaunchError(f"The configuration file {path} is not YAML: {error}") from error
    if not isinstance(config, dict):
        raise LaunchError(f"The configuration file {path} must hold `field: value` lines.")
    return config


def check_known(names: Iterable[str], known: Iterable[str], where: str) -> None:
    """Refuses names that nobody reads.

    Args:
        names: What the user wrote.
        known: What there is.
        where: Place of the names, for the message.

    Raises:
        LaunchError: A name is not known; the message has the likely right one.
    """
    known = list(known)
    for name in map(str, names):
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise LaunchError(f"{where[0].upper()}{where[1:]} has the field {name!r}, which is not known.{hint}")


def check_config_fields(config: Any, config_class: type, where: str) -> None:
    """Refuses misspelt fields of a model configuration, which the library would accept in silence.

    Args:
        config: Mapping of fields; mappings within belong to the class's sub-configurations.
        config_class: A configuration class.
        where: Place of the mapping, for the message.
    """
    if not isinstance(config, dict):
        raise LaunchError(f"{where} is {shown(config)}, but must be a mapping of fields to values.")
    check_known(config, [field.name for field in dataclasses.fields(config_class)], where)
    for name, sub_class in getattr(config_class, "sub_configs", {}).items():
        check_config_fields(config.get(name) or {}, sub_class, f"{where}.{name}")


def shown(value: Any) -> str:
    """A value for a message; short even where YAML's references make a few lines grow without bounds."""
    return reprlib.repr(value)


def as_mapping(value: dict[str, Any] | str | None, name: str) -> dict[str, Any]:
    """A field that is a mapping in YAML and JSON on the command line."""
    if isinstance(value, str):
        text = value
        try:
            value = json.loads(text)
        except ValueError as error:
            with contextlib.suppress(yaml.YAMLError, ValueError, RecursionError):
                value = yaml.safe_load(text)  # {image_root: photos}, as in a configuration file
            if not isinstance(value, dict):
                raise ValueError(f"{name} is neither JSON nor YAML of a mapping: {error}") from error
    if not isinstance(value, dict | None):
        raise ValueError(f"{name} must be a mapping of fields to values.")
    return value or {}


def check_processes(args: TrainingArguments) -> None:
    """Refuses several processes that do not know of each other and would train into one folder, and engines that shard.

    Raises:
        LaunchError: The launcher started several processes, but this one is alone; or see `check_engine`.
    """
    try:
        check_engine(args)
    except ValueError as error:
        raise LaunchError(str(error) if args.process_index == 0 else 1) from error
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started > 1 and args.world_size == 1:
        raise LaunchError(
            f"{started} processes were started, but each would train alone: on a CPU give --use_cpu. The command is\n"
            f"  accelerate launch --multi_gpu --num_processes {started} --num_machines 1 --mixed_precision no "
            f"--dynamo_backend no {Path(sys.argv[0]).name} CONFIG.yaml --use_cpu"
        )


def prepare_output(args: TrainingArguments, overwrite: bool) -> str | None:
    """Checks the output folder, and finds the checkpoint to go on from.

    Args:
        args: `output_dir`, `do_train`, and `resume_from_checkpoint`: a folder, or "last".
        overwrite: Whether a folder with files in it may be trained into.

    Returns:
        The checkpoint, or None to start anew.

    Raises:
        LaunchError: The folder is not empty, or there is no such checkpoint, or it is damaged.
    """
    return from_first(lambda: _prepare_output(args, overwrite), args)


def _prepare_output(args: TrainingArguments, overwrite: bool) -> str | None:
    """As `prepare_output`, on one process."""
    if not args.output_dir or "\0" in args.output_dir:
        raise LaunchError(f"output_dir is {shown(args.output_dir)}, but must be the path of a folder.")
    folder, resume = Path(args.output_dir), args.resume_from_checkpoint
    try:
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    except OSError as error:
        raise LaunchError(f"output_dir is {shown(args.output_dir)}: {error.strerror}.") from error
    if not existing.is_dir():
        raise LaunchError(f"The output folder {folder} cannot be made: {existing} is a file.")
    if resume in ("last", True, "True", "true"):
        found = last_checkpoint(folder)
        nothing = f"{folder} has no whole checkpoint" if folder.is_dir() else f"There is no folder {folder} yet"
        logger.warning(f"Resuming from {found}" if found else f"{nothing}: starting anew.")
        quarantine_newer_checkpoints(folder, found)
        return found
    if resume is not None:
        if not (Path(resume) / STATE_FILE).is_file():
            raise LaunchError(f"{resume} is not a checkpoint: give --resume_from_checkpoint a folder, or `last`.")
        if damage := find_damage(resume):
            raise LaunchError(f"{resume} is damaged, {damage}: give another, or `last` for the last whole one.")
        return resume
    if args.do_train and not overwrite and folder.is_dir() and any(folder.iterdir()):
        raise LaunchError(
            f"The output folder {folder} is not empty: give another --output_dir, go on with "
            "--resume_from_checkpoint last, or allow --overwrite_output_dir."
        )
    if args.do_train:
        _remove_old_run(folder)
    return None


def _remove_old_run(folder: Path) -> None:
    """Removes what an earlier run left and the new one would be taken for."""
    for name in ("checkpoint-*", f"{DAMAGED_PREFIX}checkpoint-*", f"{REPLACED_PREFIX}checkpoint-*", UNFINISHED_FOLDER):
        for path in folder.glob(name):
            shutil.rmtree(path)
    for name in (
        "*_results.json",
        "predictions.json",
        "vqa_result.json",
        "question_types.json",
        "trainer_state.json",
        "report.html",
    ):
        for path in folder.glob(name):
            path.unlink()


@contextlib.contextmanager
def refuse_together(args: TrainingArguments) -> Iterator[None]:
    """Turns what goes wrong before training into one sentence, on all processes.

    Raises:
        LaunchError: An error of the user's making on any process; the first process says it, the others end silently.
    """
    message = None
    try:
        yield
    except (LaunchError, PushError, *_REFUSED) as error:
        message = str(error)
    except RuntimeError as error:
        if "pip install" not in str(error):  # what `report_to` asks for is not there
            raise
        message = str(error)
    message = first_message(message, args)
    if message is not None:
        raise LaunchError(message if args.process_index == 0 else 1)


@contextlib.contextmanager
def end_in_a_sentence(*errors: type[Exception]) -> Iterator[None]:
    """Turns what may end a training into one sentence: a picture that cannot be read, a loss, a full disk, SIGTERM.

    Args:
        errors: Further classes whose messages are sentences.

    Raises:
        LaunchError: With the message; of a process that reads images, its own one.
        TrainingInterruptedError: After SIGTERM, when its message was printed.
    """
    known: tuple[type[Exception], ...] = (LossNotFiniteError, CheckpointError, *errors)
    try:
        yield
    except KeyboardInterrupt:
        if int(os.environ.get("RANK", "0")) == 0:
            print(f"Interrupted. {_GO_ON}", file=sys.stderr)
        raise SystemExit(130) from None
    except SettingError as error:
        raise LaunchError(str(error)) from error
    except TrainingInterruptedError as interruption:
        if int(os.environ.get("RANK", "0")) == 0:
            print(interruption, file=sys.stderr)
        raise
    except known as error:
        # a reading process hands over its whole traceback, of which the last line has the message
        last = str(error).strip().splitlines()[-1]
        message = re.sub(rf"^([\w.]+\.)?{type(error).__name__}: ", "", last)
        raise LaunchError(f"{message} {_GO_ON}") from error
    except RuntimeError as error:
        if not re.match(r"DataLoader worker .*(exited|killed)|Too many open files|unable to (open|mmap)", str(error)):
            raise
        raise LaunchError(
            f"A process that reads images ended: {' '.join(str(error).split())} If memory was short, lower "
            f"dataloader_num_workers or per_device_train_batch_size. {_GO_ON}"
        ) from error
