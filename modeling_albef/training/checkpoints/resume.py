"""What training resumes from: a whole checkpoint that all processes see, with the words of the run's start."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from traceback import walk_tb
from typing import Any

import torch
from transformers import TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import CONFIG_NAME, logging

from ...configuration_albef import is_from_library, one_line
from ..errors import SettingError
from .manifest import STATE_FILE, find_damage, last_checkpoint, list_checkpoints, quarantine_newer_checkpoints
from .processes import first_message, gathered

logger = logging.get_logger(__name__)


def find_checkpoint(args: TrainingArguments, resume: Any, start_anew: bool = False) -> str | None:
    """Return the checkpoint to resume from; all processes must call it, while the output folder is locked.

    Of the output folder it is the newest one that is whole, where machines have folders of their own on all of them;
    what is newer is renamed.

    Args:
        args: `output_dir`, and the processes.
        resume: A folder; "last" or True for the output folder's; None or False.
        start_anew: Whether to start anew where the output folder has checkpoints, and none is whole.

    Returns:
        The folder; None without `resume`, and where the output folder has no checkpoints.

    Raises:
        SettingError: On all processes: the checkpoint is damaged, or a process does not see it.
    """
    if not resume:
        return None
    is_last = resume in ("last", True, "True", "true")
    checkpoint = _last_of_all(args, start_anew) if is_last else str(resume)
    problem = None if checkpoint is None else _problem(checkpoint, args, was_checked=is_last)
    if (problem := first_message(problem, args)) is not None:
        raise SettingError(problem)
    if is_last and args.should_save:
        folder = Path(str(args.output_dir))
        nothing = f"{folder} has no whole checkpoint" if folder.is_dir() else f"There is no folder {folder} yet"
        logger.warning(f"Resuming from {checkpoint}" if checkpoint else f"{nothing}: starting anew.")
        quarantine_newer_checkpoints(folder, checkpoint)
    return checkpoint


def _last_of_all(args: TrainingArguments, start_anew: bool) -> str | None:
    """Return the newest checkpoint of the output folder that is whole for each process that writes checkpoints."""
    folder, found, problem = Path(str(args.output_dir)), None, None
    if args.should_save and (found := last_checkpoint(folder)) is None and not start_anew:
        damages = [f"{path.name}: {find_damage(path)}" for path in reversed(list_checkpoints(folder))]
        if damages:
            problem = (
                f"No checkpoint of {folder} is whole ({'; '.join(damages):.300}): put a whole one there, or start anew "
                "with --overwrite_output_dir."
            )
    if (problem := first_message(problem, args)) is not None:
        raise SettingError(problem)
    step = None if found is None else int(found.rpartition("-")[2])
    steps = [step for saves, step in gathered((args.should_save, step), args) if saves]
    if None in steps:
        if any(step is not None for step in steps) and not start_anew:
            raise SettingError(
                f"{folder} has a whole checkpoint on some machines, but not on all: copy it to the others, without its "
                "rng_state files, or start anew with --overwrite_output_dir."
            )
        return None
    common = folder / f"{PREFIX_CHECKPOINT_DIR}-{min(steps)}"
    damage = find_damage(common) if args.should_save and step != min(steps) else None
    damage = first_message(None if damage is None else f"{_who(args)} finds {common} damaged, {damage}", args)
    if damage is not None:
        raise SettingError(f"{damage}: copy it from another machine, or start anew with --overwrite_output_dir.")
    return str(common)


def _who(args: TrainingArguments) -> str:
    return f"Process {args.process_index} on {socket.gethostname()}"


def _problem(checkpoint: str, args: TrainingArguments, was_checked: bool) -> str | None:
    """Return why this process cannot resume from a folder; None where it can."""
    if not os.path.isfile(os.path.join(checkpoint, STATE_FILE)):  # False for a name that no file can have, too
        if args.process_index == 0:
            return f"{checkpoint} is not a checkpoint: give --resume_from_checkpoint a folder, or `last`."
        return (
            f"{_who(args)} does not see the checkpoint {os.path.abspath(checkpoint)}: give a folder that all machines "
            "share, or train with --save_on_each_node true from the start."
        )
    if args.should_save and not was_checked and (damage := find_damage(checkpoint)):
        return f"{checkpoint} is damaged, {damage}: give another, or `last` for the last whole one."
    try:
        with named_checkpoint_errors(checkpoint, STATE_FILE):
            TrainerState.load_from_json(os.path.join(checkpoint, STATE_FILE))
    except SettingError as error:
        return str(error)
    return None


@contextmanager
def named_checkpoint_errors(checkpoint: str, files: str) -> Iterator[None]:
    """Raise the library's errors on files that are no checkpoint's, or another model's, as a SettingError."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except UnpicklingError as error:  # its text would tell the reader to load them nevertheless
        raise SettingError(
            f"{files} of {checkpoint} cannot be read as tensors: it is damaged, or holds Python objects, which are not "
            "loaded, since they can run code. Give a checkpoint that this project wrote."
        ) from error
    except Exception as error:  # the library raises nearly anything on foreign files
        *_, last = (frame.f_globals.get("__name__", "").partition(".")[0] for frame, _ in walk_tb(error.__traceback__))
        if not is_from_library(error) and last not in ("torch", "safetensors", "numpy"):
            raise
        raise SettingError(
            f"{files} of {checkpoint} cannot be used by this run ({one_line(error) or type(error).__name__}): resume "
            f"with the settings that it was written with, or start anew with --model_name_or_path {checkpoint}."
        ) from error


def check_words(processor: Any, config: Any, checkpoint: str) -> None:
    """Refuse to go on with other words: a token's id, or an answer's index, would mean something else than it did.

    Args:
        processor: The processor or tokenizer of the trainer, or None.
        config: Configuration of the model, of which the candidate answers are compared.
        checkpoint: What training resumes from.

    Raises:
        SettingError: The vocabulary or the candidate answers are not those of the checkpoint.
    """
    anew = f"or start anew with --model_name_or_path {checkpoint} and another --output_dir."
    if processor is not None and any((Path(checkpoint) / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
        with named_checkpoint_errors(checkpoint, "The tokenizer"):
            stored = type(processor).from_pretrained(checkpoint)
        old, new = (getattr(one, "tokenizer", one).get_vocab() for one in (stored, processor))
        if moved := sorted(word for word in old.keys() | new.keys() if old.get(word) != new.get(word)):
            raise SettingError(
                f"The tokenizer is not the one that {checkpoint} was trained with: {len(moved)} words have other ids, "
                f"such as {', '.join(map(repr, moved[:3]))}. Load the processor from the checkpoint, {anew}"
            )
    new_answers = getattr(getattr(config, "decoder_config", None), "answer_list", None)
    with named_checkpoint_errors(checkpoint, CONFIG_NAME):
        text = (Path(checkpoint) / CONFIG_NAME).read_text(encoding="utf-8")
        old_answers = (json.loads(text).get("decoder_config") or {}).get("answer_list")
    if old_answers and new_answers and list(old_answers) != list(new_answers):
        gone, come = ({*one} - {*other} for one, other in ((old_answers, new_answers), (new_answers, old_answers)))
        changed = f"{len(gone)} are gone and {len(come)} new" if gone or come else "they have another order"
        raise SettingError(
            f"The candidate answers are not those that {checkpoint} was trained with, {changed} "
            f"({', '.join(map(repr, sorted(gone | come)[:3]))}): give the old ones, or leave --answer_list out, {anew}"
        )
