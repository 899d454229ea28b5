"""Before a run reads anything: its processes, its output folder, its model's name and its seed."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from transformers import TrainingArguments, set_seed
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.trainer_utils import IntervalStrategy
from transformers.utils import logging

from ...configuration_albef import AlbefError
from ...hub_albef import check_model_name
from ..checkpoints.manifest import (
    DAMAGED_PREFIX,
    REPLACED_PREFIX,
    STATE_FILE,
    UNFINISHED_FOLDER,
    find_damage,
    last_checkpoint,
    quarantine_newer_checkpoints,
)
from ..checkpoints.processes import check_engine, from_first
from .mappings import abbreviated
from .run_file import EVALUATION_FILE, is_free
from .settings import DataArguments, ModelArguments

logger = logging.get_logger(__name__)
RUN_FOLDERS = (
    *("checkpoint-*", f"{DAMAGED_PREFIX}checkpoint-*", f"{REPLACED_PREFIX}checkpoint-*"),
    UNFINISHED_FOLDER,
)
RUN_FILES = (
    *("*_results.json", "predictions.json", "vqa_result.json", "question_types.json"),
    *("trainer_state.json", "report.html", EVALUATION_FILE),
)


class StartError(AlbefError):
    """A run that cannot be started as it was asked for."""


def prepare_run(model_args: ModelArguments, data_args: DataArguments, args: TrainingArguments) -> str | None:
    """Check and prepare what a run needs before it reads data, and find the checkpoint to resume from.

    A run that does not train is not evaluated between epochs: `eval_strategy` becomes "no". One that trains on a stream
    lets each process open its own images: `dispatch_batches` of `accelerator_config` becomes false.

    Args:
        model_args: Which model.
        data_args: Which data, and whether a folder with files in it may be trained into.
        args: `output_dir`, `do_train`, `seed`, and `resume_from_checkpoint`: a folder, or "last".

    Returns:
        The checkpoint, or None to start anew.
    """
    _check_processes(args)
    if not args.do_train:
        args.eval_strategy = IntervalStrategy.NO
    if data_args.streaming and args.do_train:
        if args.max_steps < 1:
            raise StartError("A stream has no length: give max_steps, which are spread over num_train_epochs.")
        if isinstance(args.accelerator_config, AcceleratorConfig):
            args.accelerator_config.dispatch_batches = False
    if unknown := [name for name in args.report_to or () if name not in INTEGRATION_TO_CALLBACK]:
        raise StartError(f"report_to is {unknown[0]!r}, but must be none or of {', '.join(INTEGRATION_TO_CALLBACK)}.")
    checkpoint = from_first(lambda: _prepare_output(args, data_args.overwrite_output_dir), args)
    check_model_name(model_args.model_name_or_path)
    set_seed(args.seed)
    return checkpoint


def _check_processes(args: TrainingArguments) -> None:
    """Refuse engines that shard, and several processes that do not know of each other and would share a folder."""
    check_engine(args)
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started > 1 and args.world_size == 1:
        raise StartError(
            f"{started} processes were started, but each would train alone: on a CPU give --use_cpu. The command is\n"
            f"  accelerate launch --multi_gpu --num_processes {started} --num_machines 1 --mixed_precision no "
            f"--dynamo_backend no {Path(sys.argv[0]).name} CONFIG.yaml --use_cpu"
        )


def _prepare_output(args: TrainingArguments, overwrite: bool) -> str | None:
    """Check the output folder, remove what an earlier run left there, and return the checkpoint to resume from."""
    if not args.output_dir or "\0" in args.output_dir:
        raise StartError(f"output_dir is {abbreviated(args.output_dir)}, but must be the path of a folder.")
    folder, resume = Path(args.output_dir), args.resume_from_checkpoint
    try:
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    except OSError as error:
        raise StartError(f"output_dir is {abbreviated(args.output_dir)}: {error.strerror}.") from error
    if not existing.is_dir():
        raise StartError(f"The output folder {folder} cannot be made: {existing} is a file.")
    if resume in ("last", True, "True", "true"):
        found = last_checkpoint(folder)
        nothing = f"{folder} has no whole checkpoint" if folder.is_dir() else f"There is no folder {folder} yet"
        logger.warning(f"Resuming from {found}" if found else f"{nothing}: starting anew.")
        quarantine_newer_checkpoints(folder, found)
        return found
    if resume is not None:
        if not os.path.isfile(os.path.join(resume, STATE_FILE)):  # False for a name that no file can have, too
            raise StartError(f"{resume} is not a checkpoint: give --resume_from_checkpoint a folder, or `last`.")
        if damage := find_damage(resume):
            raise StartError(f"{resume} is damaged, {damage}: give another, or `last` for the last whole one.")
        return resume
    if args.do_train and not overwrite and not is_free(folder):
        raise StartError(
            f"The output folder {folder} is not empty: give another --output_dir, go on with "
            "--resume_from_checkpoint last, or allow --overwrite_output_dir."
        )
    if args.do_train:
        for path in [path for pattern in RUN_FOLDERS for path in folder.glob(pattern)]:
            shutil.rmtree(path)
        for path in [path for pattern in RUN_FILES for path in folder.glob(pattern)]:
            path.unlink()
    return None
