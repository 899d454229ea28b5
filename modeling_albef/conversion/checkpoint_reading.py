# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Reading a checkpoint of any source, without running code from it."""

import pickle
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..configuration_albef import AlbefError
from ..training.momentum import QUEUE_FILE, TEACHER_FOLDER
from ..training.queue_file import check_queue, read_queue
from .checkpoint_names import OWN, ConvertedCheckpoint, convert_state_dict, find_source

_WRAPPERS = ("model", "state_dict")
_DEEPEST = 5  # wrappers within each other
_SHOWN = 5


class ConversionError(AlbefError):
    """A checkpoint that is refused; the message says which, why, and what helps."""


def read_checkpoint(path: Path) -> ConvertedCheckpoint:
    """Return the parts of a file of PyTorch (mapped, not copied) or safetensors, or of a folder of this package."""
    if path.is_dir():
        return _read_folder(path)
    tensors = _read_tensors(path)
    source = find_source(tensors)
    if source is None:
        raise ConversionError(
            f"{path} is no ALBEF: its tensors, {shorten(tensors)}, have the names of neither salesforce/ALBEF, LAVIS, "
            "torchmultimodal nor this package."
        )
    try:
        checkpoint = convert_state_dict(tensors, source)
    except (IndexError, RuntimeError) as error:  # dimensions that are not there
        raise ConversionError(
            f"{path} has a queue or embeddings of another shape ({error}): download it again."
        ) from error
    if checkpoint.queue:
        check_queue(checkpoint.queue, path)
    return checkpoint


def _read_folder(folder: Path) -> ConvertedCheckpoint:
    """Return a model that this package saved, and its teacher and queue where they are beside it."""
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise ConversionError(f"The folder {folder} has no model.safetensors: give a folder that a model was saved to.")
    checkpoint = convert_state_dict(_read_tensors(weights), OWN)
    teacher, queue = folder / TEACHER_FOLDER / "model.safetensors", folder / TEACHER_FOLDER / QUEUE_FILE
    if teacher.is_file():
        checkpoint.teacher = convert_state_dict(_read_tensors(teacher), OWN).student
    if queue.is_file():
        checkpoint.queue = read_queue(queue)
    return checkpoint


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise ConversionError(
            f"There is no checkpoint {path}: download one, or check the path; see docs/checkpoints.md."
        )
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ConversionError(f"{path} is damaged or cut short ({error!s:.300}): download it again.") from error
    content: Any = _load_safely(path)
    for _ in range(_DEEPEST):  # not for ever: a dictionary may hold itself
        if isinstance(content, dict):
            content = next((content[name] for name in _WRAPPERS if isinstance(content.get(name), dict)), content)
    tensors = {}
    if isinstance(content, dict):
        tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise ConversionError(f"{path} holds no tensors by name: a checkpoint is a state dict, alone or under `model`.")
    if all(name.startswith("module.") for name in tensors):  # saved from within a data-parallel wrapper
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    odd = [
        key for key, value in tensors.items() if value.layout != torch.strided or value.is_quantized or value.is_meta
    ]
    if odd:
        raise ConversionError(f"{path} has tensors that are sparse, quantized or empty shells: {shorten(odd)}.")
    return tensors


def _load_safely(path: Path) -> Any:
    """Return what a file of PyTorch holds; if that is more than tensors and plain containers it is refused, not run."""
    is_zip = zipfile.is_zipfile(path)  # PyTorch's format since 1.6; older files cannot be mapped
    with path.open("rb") as file:
        starts_like_zip = file.read(4) == b"PK\x03\x04"
    damaged = f"{path} is damaged or cut short, or no checkpoint of PyTorch: download it again."
    if starts_like_zip and not is_zip:
        raise ConversionError(damaged)
    try:
        return torch.load(path, map_location="cpu", mmap=is_zip, weights_only=True)
    except pickle.UnpicklingError as error:
        needed = re.search(r"GLOBAL ([\w.]+)", str(error))
        if needed is None:
            raise ConversionError(damaged) from error
        raise ConversionError(
            f"{path} needs {needed[1]} to be unpickled, which could run code, and is not read: save its state dict "
            "alone, with torch.save or as safetensors, on a machine where you trust it."
        ) from error
    except Exception as error:  # bytes at random make the unpickler raise nearly anything
        raise ConversionError(damaged) from error


def shorten(names: Iterable[str]) -> str:
    """Return the first names of many, for a message."""
    names = list(names)
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + rest
