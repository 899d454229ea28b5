"""Checkpoints that are whole or not there: written elsewhere, moved when complete, checked when read."""

from __future__ import annotations

import hashlib
import json
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
from .processes import first_message

logger = logging.get_logger(__name__)

STATE_FILE = "trainer_state.json"
MANIFEST_FILE = "manifest.json"
UNFINISHED_FOLDER = "unfinished"  # in the output folder: checkpoints that are being written
REPLACED_PREFIX = "replaced-"  # an older checkpoint of the same step, until the new one is moved there
DAMAGED_PREFIX = "damaged-"  # a checkpoint that was found damaged, kept for whoever wants to look at it
_FULL_DISK = re.compile("PytorchStreamWriter|inline_container|iostream error")  # torch says so in a RuntimeError


def write_manifest(folder: Path) -> None:
    """Write size and SHA-256 of every file of a folder, by its path in it, into `manifest.json`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST_FILE)
    entries = {path.relative_to(folder).as_posix(): _fingerprint(path) for path in files}
    (folder / MANIFEST_FILE).write_text(json.dumps(entries, indent=1), encoding="utf-8")


def _fingerprint(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return {"size": path.stat().st_size, "sha256": digest.hexdigest()}


def find_damage(checkpoint: str | Path) -> str | None:
    """Find out what is wrong with a checkpoint.

    Args:
        checkpoint: Folder `checkpoint-N`. One without a manifest, as the library's Trainer writes it, is taken as it is
            where its state file, which is written last, can be read.

    Returns:
        A few words that name the file; None where all is as it was written.
    """
    folder = Path(checkpoint)
    try:
        int(json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))["global_step"])
        if not (folder / MANIFEST_FILE).exists():
            return None
        entries = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
        for name, entry in entries.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != entry["size"]:
                return f"{name} has {path.stat().st_size} bytes in place of {entry['size']}"
            if _fingerprint(path) != entry:
                return f"{name} has other content than was written"
    except FileNotFoundError:
        return f"{STATE_FILE} is missing"
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        return f"{STATE_FILE} or {MANIFEST_FILE} is damaged"
    except OSError as error:
        return f"it cannot be read ({error})"
    return None


def last_checkpoint(output_dir: str | Path) -> str | None:
    """Find the newest whole checkpoint of a run; a warning says what is wrong with each newer one.

    Args:
        output_dir: Folder of the run.

    Returns:
        Its path; None where there is none.
    """
    for folder in reversed(_checkpoints(Path(output_dir))):
        damage = find_damage(folder)
        if damage is None:
            return str(folder)
        logger.warning(f"{folder} is not whole and is left aside: {damage}.")
    return None


def _checkpoints(output_dir: Path) -> list[Path]:
    """Return all `checkpoint-N`, by N."""
    steps = {
        int(number): path
        for path in output_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*")
        if (number := path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")).isdecimal()
    }
    return [steps[step] for step in sorted(steps)]


def quarantine_newer_checkpoints(output_dir: str | Path, checkpoint: str | None) -> None:
    """Prepare the folder of a run that goes on from its last whole checkpoint.

    What is newer than that is not whole and would count as the newest of the run: it is renamed
    `damaged-checkpoint-N`. What was being written when the earlier run ended is removed.

    Args:
        output_dir: Folder of the run.
        checkpoint: What `last_checkpoint` found.
    """
    folder = Path(output_dir)
    for path in (folder / UNFINISHED_FOLDER, *folder.glob(f"{REPLACED_PREFIX}{PREFIX_CHECKPOINT_DIR}-*")):
        shutil.rmtree(path, ignore_errors=True)
    for path in reversed(_checkpoints(folder)):
        if checkpoint is not None and path == Path(checkpoint):
            break
        aside = path.with_name(f"{DAMAGED_PREFIX}{path.name}")
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)


class WholeCheckpointMixin(Trainer):
    """How a trainer writes checkpoints.

    All files of a checkpoint are written into `unfinished/checkpoint-N`, with a manifest of their sizes and SHA-256,
    and moved to `checkpoint-N` when all processes are done: whatever ends the run, and whenever, each `checkpoint-N`
    is whole. `save_total_limit` is applied after that, so the best and the newest whole one are always there.
    """

    args: AlbefTrainingArguments
    state: Any
    control: Any
    callback_handler: Any
    model: Any

    def push_checkpoint(self, checkpoint: Path) -> None:
        """Push what was just saved; see `HubPushMixin`."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint of this step.

        Raises:
            CheckpointError: It could not be written, on all processes; the older ones are as they were.
        """
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
                use_mtime=True,
            )

    def _write_together(self, final: Path, write: Callable[[], None]) -> None:
        """Write on all processes; where one of them cannot, all stop."""
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
        """Warn as the library does, but not of tied weights, which a file has once."""
        tied = self.model.all_tied_weights_keys
        load_result.missing_keys[:] = [key for key in load_result.missing_keys if key not in tied]
        super()._issue_warnings_after_load(load_result)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        """End as the library does, but for two things.

        A best checkpoint that has been damaged is not loaded: the weights stay those of the last step. And the newest
        checkpoint stays: at a limit of one the library would remove it for the best.
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
