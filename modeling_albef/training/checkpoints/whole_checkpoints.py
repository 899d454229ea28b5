"""Checkpoints that are whole or absent: written elsewhere, moved when complete, checked when read."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import Trainer
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints
from transformers.utils import logging

from ..arguments import AlbefTrainingArguments
from ..errors import CheckpointError
from .manifest import REPLACED_PREFIX, STATE_FILE, UNFINISHED_FOLDER, find_damage, last_checkpoint, write_manifest
from .processes import first_message

logger = logging.get_logger(__name__)
_FULL_DISK = re.compile("PytorchStreamWriter|inline_container|iostream error")  # torch says so in a RuntimeError


class WholeCheckpointMixin(Trainer):
    """Checkpoints of a trainer.

    All files of a checkpoint are written into `unfinished/checkpoint-N`, with a manifest of their sizes and SHA-256,
    and moved to `checkpoint-N` when all processes are done: whatever ends the run, and whenever, each `checkpoint-N`
    is whole. `save_total_limit` is applied after that, so the best and the newest whole one are always there.
    """

    args: AlbefTrainingArguments
    state: Any
    model: Any
    push_checkpoint: Callable[[Path], None]  # of `HubPushMixin`

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint of this step; a CheckpointError, on all processes, leaves the older ones as they were."""
        self.store_flos()
        run = Path(self._get_output_dir(trial))
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
            if isinstance(error, RuntimeError) and not _FULL_DISK.search(str(error)):
                raise
            problem = " ".join(str(error).split()) or type(error).__name__
        problem = first_message(problem, self.args)
        if problem is None:
            return
        if self.args.should_save:
            shutil.rmtree(final.parent / UNFINISHED_FOLDER, ignore_errors=True)
        left = last_checkpoint(final.parent)
        raise CheckpointError(
            f"{final} could not be written: {problem}. "
            + ("There is no earlier one. " if left is None else f"{left} is whole. ")
            + "Make room or choose another disk."
        )

    def _write_parts(self, folder: Path) -> None:
        """Write each process's files: the first writes all but the states of the others' random numbers."""
        self.save_model(str(folder), _internal_call=True)
        if not self.args.save_only_model:
            self._save_optimizer_and_scheduler(str(folder))
            self._save_scaler(str(folder))
            self._save_rng_state(str(folder))

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

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Warn as the library does, except of tied weights, which a file has only once."""
        tied = self.model.all_tied_weights_keys
        load_result.missing_keys[:] = [key for key in load_result.missing_keys if key not in tied]
        super()._issue_warnings_after_load(load_result)

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
