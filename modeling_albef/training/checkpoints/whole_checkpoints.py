"""Checkpoints that are whole or absent: written elsewhere, moved when complete, checked when read."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import Trainer
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints
from transformers.utils import logging

from ..arguments import AlbefTrainingArguments
from ..errors import CheckpointError, SettingError
from .lock import FULL_DISK, lock_output, lost_lock, unlock_afterwards
from .log_sums import LogSumsMixin
from .manifest import REPLACED_PREFIX, STATE_FILE, UNFINISHED_FOLDER, find_damage, last_checkpoint, write_manifest
from .processes import first_message, gathered
from .resume import check_words, find_checkpoint, named_checkpoint_errors

logger = logging.get_logger(__name__)
_FAILED_WRITE = re.compile("PytorchStreamWriter|inline_container|iostream error")  # torch says so in a RuntimeError


class WholeCheckpointMixin(LogSumsMixin, Trainer):
    """Checkpoints of a trainer.

    All files of a checkpoint are written into `unfinished/checkpoint-N`, with a manifest of their sizes and SHA-256,
    and moved to `checkpoint-N` when all processes are done: whatever ends the run, and whenever, each `checkpoint-N`
    is whole. `save_total_limit` is applied after that, so the best and the newest whole one are always there.
    """

    args: AlbefTrainingArguments
    state: Any
    model: Any
    teacher: Any
    push_checkpoint: Callable[[Path], None]  # of `HubPushMixin`

    @contextmanager
    def prepared_output(self, resume: Any) -> Iterator[str | None]:
        """Lock the output folder where checkpoints are written, and give the checkpoint to resume from, or None."""
        with unlock_afterwards():
            if self.args.save_strategy != "no":
                lock_output(self.args, is_shared=True)
            checkpoint = find_checkpoint(self.args, resume)
            if checkpoint is None and resume:
                raise SettingError(f"{self.args.output_dir} has no whole checkpoint to go on from: start anew.")
            if checkpoint is not None:
                check_words(self.processing_class, self.model.config, checkpoint)
            yield checkpoint

    def choose_saving_processes(self) -> None:
        """Let the first process of each machine save student and teacher, with `save_on_each_node`.

        The library would have the first process of all machines save alone.
        """
        if self.args.save_on_each_node:
            self.model.should_save_on_this_rank = self.teacher.model.should_save_on_this_rank = bool

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint of this step; a CheckpointError, on all processes, leaves the older ones as they were."""
        self.store_flos()
        run = Path(self._get_output_dir(trial))
        if (problem := first_message(lost_lock(self.args.output_folder), self.args)) is not None:
            raise CheckpointError(problem)
        final = run / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        unfinished = run / UNFINISHED_FOLDER / final.name
        if self.state.best_global_step:
            best = run / f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}"
            if best == final or best.exists():
                self.state.best_model_checkpoint = str(best)
        self._write_together(final, lambda: self._write_parts(unfinished))
        self._write_together(final, lambda: self._complete(unfinished, final))
        if self.args.push_to_hub:
            self.push_checkpoint(final)
        if self.args.should_save:
            rotate_checkpoints(
                output_dir=str(run),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=False,  # by step: a clock may jump back
            )

    def _write_together(self, final: Path, write: Callable[[], None]) -> None:
        """Write on all processes; if one of them cannot, stop all."""
        problem = None
        try:
            write()
        except (OSError, SafetensorError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not _FAILED_WRITE.search(str(error)):
                raise
            reason = " ".join(str(error).split()) or type(error).__name__
            is_full = _is_full(error, final.parent / UNFINISHED_FOLDER)
            problem = reason, "Make room or choose another disk." if is_full else "Mend that or choose another folder."
        problem = next(filter(None, gathered(problem, self.args)), None)
        if problem is None:
            return
        if self.args.should_save:
            shutil.rmtree(final.parent / UNFINISHED_FOLDER, ignore_errors=True)
        left = last_checkpoint(final.parent)
        found = "There is no earlier one." if left is None else f"{left} is whole."
        raise CheckpointError(f"{final} could not be written: {problem[0]}. {found} {problem[1]}")

    def _write_parts(self, folder: Path) -> None:
        """Write each process's files: the first writes all but the states of the others' random numbers."""
        self.save_model(str(folder), _internal_call=True)
        if not self.args.save_only_model:
            self._save_optimizer_and_scheduler(str(folder))
            self._save_scaler(str(folder))
            self._save_rng_state(str(folder))
            self.save_log_sums(folder)

    def _complete(self, unfinished: Path, final: Path) -> None:
        """Add state and manifest when all files are there, and move the folder."""
        if not self.args.should_save:
            return
        for part in (*self.callback_handler.callbacks, self.control):
            if isinstance(part, ExportableState):
                self.state.stateful_callbacks[type(part).__name__] = part.state()
        self.state.save_to_json(str(unfinished / STATE_FILE))
        write_manifest(unfinished)
        replaced = final.with_name(f"{REPLACED_PREFIX}{final.name}")
        if final.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            final.rename(replaced)
        unfinished.rename(final)
        unfinished.parent.rmdir()
        shutil.rmtree(replaced, ignore_errors=True)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        with named_checkpoint_errors(resume_from_checkpoint, "The weights"):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with named_checkpoint_errors(str(checkpoint), "optimizer.pt or scheduler.pt"):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_scaler(self, checkpoint: str | None) -> None:
        with named_checkpoint_errors(str(checkpoint), "scaler.pt"):
            super()._load_scaler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with named_checkpoint_errors(str(checkpoint), "The states of the random numbers"):
            super()._load_rng_state(checkpoint)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Refuse weights of another model; of tied ones a file has only one."""
        tied = self.model.all_tied_weights_keys
        missing = [name for name in load_result.missing_keys if name not in tied]
        if missing or load_result.unexpected_keys:
            raise SettingError(
                f"The checkpoint is of another model: it lacks {len(missing)} weights of this one and has "
                f"{len(load_result.unexpected_keys)} others ({', '.join([*missing, *load_result.unexpected_keys][:3])}"
                "). Resume with the settings that it was written with, such as lora_rank, or start anew."
            )

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        """End as the library does, with two exceptions.

        A damaged best checkpoint is not loaded: the weights stay those of the last step. The newest checkpoint is kept:
        at a limit of one the library would remove it in favor of the best.
        """
        best = self.state.best_model_checkpoint
        if self.args.load_best_model_at_end and best is not None and (damage := find_damage(best)):
            logger.warning(f"The best checkpoint is damaged, so the last weights stay: {damage}.")
            self.state.best_model_checkpoint = None
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            return super()._finalize_training(*args, **kwargs)
        finally:
            self.args.save_total_limit = limit


def _is_full(error: Exception, folder: Path) -> bool:
    """Whether a write failed since the disk, or the share of it that the user has, is full."""
    if isinstance(error, OSError):
        return error.errno in FULL_DISK
    if isinstance(error, SafetensorError):  # says why in the system's words
        return any(os.strerror(number) in str(error) for number in FULL_DISK)
    try:  # torch does not say why: ask the disk
        (folder / "probe").write_bytes(bytes(1 << 24))
    except OSError as reason:
        return reason.errno in FULL_DISK
    return False
