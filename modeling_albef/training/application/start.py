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

from ...hub_albef import check_model_name
from ..checkpoints.lock import lock_output
from ..checkpoints.manifest import DAMAGED_PREFIX, REPLACED_PREFIX, UNFINISHED_FOLDER
from ..checkpoints.processes import check_engine
from ..checkpoints.resume import find_checkpoint
from .errors import StartError, fail_on_all_ranks
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


def prepare_run(model_args: ModelArguments, data_args: DataArguments, args: TrainingArguments) -> str | None:
    """Check and prepare what a run needs before it reads data, and find the checkpoint to resume from.

    The output folder is locked until the process ends, or `main`, if `exit_without_traceback` decorates it.
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
    checkpoint = _prepare_output(args, data_args.overwrite_output_dir)
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
    """Check and lock the output folder, remove what an earlier run left there, and return what to resume from."""
    starts_anew = args.do_train and args.resume_from_checkpoint is None
    with fail_on_all_ranks(args):
        if args.should_save:
            _check_output(args, refuse_files=starts_anew and not overwrite)
    lock_output(args, is_shared=args.do_train)
    if not args.do_train:
        return None
    checkpoint = find_checkpoint(args, args.resume_from_checkpoint, start_anew=overwrite)
    with fail_on_all_ranks(args):
        if args.should_save and starts_anew:
            _remove_old_run(args.output_dir)
    return checkpoint


def _check_output(args: TrainingArguments, refuse_files: bool) -> None:
    """Refuse an output folder that cannot be one, and, where asked to, one that has files."""
    if not args.output_dir or "\0" in args.output_dir:
        raise StartError(f"output_dir is {abbreviated(args.output_dir)}, but must be the path of a folder.")
    folder = Path(args.output_dir)
    try:
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        is_empty = existing != folder or is_free(folder)
    except NotADirectoryError:
        is_empty = True
    except OSError as error:
        raise StartError(f"output_dir is {abbreviated(args.output_dir)}: {error.strerror}.") from error
    if not existing.is_dir():
        raise StartError(f"The output folder {folder} cannot be made: {existing} is a file.")
    if refuse_files and not is_empty:
        raise StartError(
            f"The output folder {folder} is not empty: give another --output_dir, go on with "
            "--resume_from_checkpoint last, or allow --overwrite_output_dir."
        )


def _remove_old_run(output_dir: str | None) -> None:
    """Remove checkpoints and results of an earlier run, and nothing else."""
    folder = Path(str(output_dir))
    try:
        for path in [path for pattern in RUN_FOLDERS for path in folder.glob(pattern)]:
            shutil.rmtree(path)
        for path in [path for pattern in RUN_FILES for path in folder.glob(pattern)]:
            path.unlink()
    except OSError as error:
        raise StartError(
            f"{error.filename} of an earlier run cannot be removed ({error.strerror}): remove it, or give another "
            "--output_dir."
        ) from error
