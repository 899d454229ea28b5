"""The manifest of a checkpoint, by which whole checkpoints are told from damaged ones."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

logger = logging.get_logger(__name__)

STATE_FILE = "trainer_state.json"
MANIFEST_FILE = "manifest.json"
BLOCK_BYTES = 1 << 22
UNFINISHED_FOLDER = "unfinished"  # in the output folder: checkpoints that are being written
REPLACED_PREFIX = "replaced-"  # an older checkpoint of the same step, until the new one is moved there
DAMAGED_PREFIX = "damaged-"  # a checkpoint that was found damaged, kept for whoever wants to look at it


def write_manifest(folder: Path) -> None:
    """Write size and SHA-256 of every file of a folder, by its path in it, into `manifest.json`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST_FILE)
    entries = {path.relative_to(folder).as_posix(): _fingerprint(path) for path in files}
    (folder / MANIFEST_FILE).write_bytes(json.dumps(entries, indent=1).encode())


def _fingerprint(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return {"size": path.stat().st_size, "sha256": digest.hexdigest()}


def find_damage(checkpoint: str | Path) -> str | None:
    """Return in a few words what is wrong with the folder of a checkpoint; None where all is as it was written.

    A checkpoint without a manifest counts as damaged, since nothing says what its files were. To vouch for one that
    the library's Trainer wrote, call `write_manifest`.
    """
    folder = Path(checkpoint)
    try:
        if not isinstance(json.loads((folder / STATE_FILE).read_bytes())["global_step"], int):
            return f"{STATE_FILE} has no number of steps"
        if not (folder / MANIFEST_FILE).is_file():
            return f"{MANIFEST_FILE} is missing"
        entries = json.loads((folder / MANIFEST_FILE).read_bytes())
        if STATE_FILE not in entries:
            return f"{MANIFEST_FILE} does not list {STATE_FILE}"
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
    """Return the newest whole checkpoint of a run, or None; a warning says what is wrong with each newer one."""
    for folder in reversed(list_checkpoints(Path(output_dir))):
        damage = find_damage(folder)
        if damage is None:
            return str(folder)
        logger.warning(f"{folder} is not whole and is left aside: {damage}.")
    return None


def list_checkpoints(output_dir: Path) -> list[Path]:
    """Return all `checkpoint-N`, by N."""
    start = f"{PREFIX_CHECKPOINT_DIR}-"
    found = [path for path in output_dir.glob(f"{start}*") if path.name.removeprefix(start).isdecimal()]
    return sorted(found, key=lambda path: int(path.name.removeprefix(start)))


def quarantine_newer_checkpoints(output_dir: str | Path, checkpoint: str | None) -> None:
    """Prepare the folder of a run that goes on from its last whole checkpoint.

    What is newer than `checkpoint` is not whole and would count as the newest of the run: it is renamed
    `damaged-checkpoint-N`. What was being written when the earlier run ended is removed.
    """
    folder = Path(output_dir)
    for path in (folder / UNFINISHED_FOLDER, *folder.glob(f"{REPLACED_PREFIX}{PREFIX_CHECKPOINT_DIR}-*")):
        shutil.rmtree(path, ignore_errors=True)
    for path in reversed(list_checkpoints(folder)):
        if checkpoint is not None and path == Path(checkpoint):
            return
        aside = path.with_name(f"{DAMAGED_PREFIX}{path.name}")
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
