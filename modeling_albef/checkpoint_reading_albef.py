# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Opens a checkpoint of any source, without running code from it, and takes it apart."""

import pickle
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from .checkpoint_names_albef import OWN, ConvertedCheckpoint, convert_state_dict, find_source

_WRAPPERS = ("model", "state_dict")
_SHOWN = 5


class CheckpointError(ValueError):
    """A checkpoint that is refused; the message says which, why, and what helps."""


def read_checkpoint(path: Path) -> ConvertedCheckpoint:
    """Reads a checkpoint of any source.

    Args:
        path: A file of PyTorch or of safetensors, or a folder with a `model.safetensors` of this package.

    Returns:
        Its parts; tensors of a file of PyTorch are mapped, not copied.

    Raises:
        CheckpointError: The file is missing, damaged, would run code, or is of another model.
    """
    if path.is_dir():
        return _read_folder(path)
    tensors = _read_tensors(path)
    source = find_source(tensors)
    if source is None:
        raise CheckpointError(
            f"{path} is no ALBEF: its tensors, {shorten(tensors)}, have the names of neither salesforce/ALBEF, LAVIS, "
            "torchmultimodal nor this package."
        )
    heads = sorted({name.split(".")[0] for name in tensors if name.startswith(("cls_head", "ta_head"))})
    if heads:
        raise CheckpointError(
            f"{path} is a classifier ({', '.join(heads)}), for visual reasoning or entailment: there is no model class "
            "for it here; retrieval and question answering can be converted."
        )
    return convert_state_dict(tensors, source)


def _read_folder(folder: Path) -> ConvertedCheckpoint:
    """A model that this package saved; its teacher and queue, too, where they are beside it."""
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise CheckpointError(f"The folder {folder} has no model.safetensors: give a folder that a model was saved to.")
    checkpoint = convert_state_dict(_read_tensors(weights), OWN)
    teacher, queue = folder / "teacher" / "model.safetensors", folder / "teacher" / "queue.safetensors"
    if teacher.is_file():
        checkpoint.teacher = convert_state_dict(_read_tensors(teacher), OWN).student
    if queue.is_file():
        checkpoint.queue = _read_tensors(queue)
    return checkpoint


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint {path}.")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise CheckpointError(f"{path} is damaged or cut short ({error}): download it again.") from error
    content: Any = _load_safely(path)
    while isinstance(content, dict) and any(isinstance(content.get(name), dict) for name in _WRAPPERS):
        content = next(content[name] for name in _WRAPPERS if isinstance(content.get(name), dict))
    tensors = {}
    if isinstance(content, dict):
        tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors by name: a checkpoint is a state dict, alone or under `model`.")
    if all(name.startswith("module.") for name in tensors):  # saved from within a data-parallel wrapper
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return tensors


def _load_safely(path: Path) -> Any:
    """Loads a file of PyTorch; one that needs more than tensors and plain containers is refused, never run."""
    is_zip = zipfile.is_zipfile(path)  # PyTorch's format since 1.6; older files cannot be mapped
    with path.open("rb") as file:
        starts_like_zip = file.read(4) == b"PK\x03\x04"
    damaged = f"{path} is damaged or cut short, or no checkpoint of PyTorch: download it again."
    if starts_like_zip and not is_zip:
        raise CheckpointError(damaged)
    try:
        return torch.load(path, map_location="cpu", mmap=is_zip, weights_only=True)
    except pickle.UnpicklingError as error:
        needed = re.search(r"GLOBAL ([\w.]+)", str(error))
        if needed is None:
            raise CheckpointError(damaged) from error
        raise CheckpointError(
            f"{path} needs {needed[1]} to be unpickled, which could run code, and is not read: save its state dict "
            "alone, with torch.save or as safetensors, on a machine where you trust it."
        ) from error
    except (RuntimeError, EOFError, KeyError, UnicodeDecodeError, OSError) as error:
        raise CheckpointError(damaged) from error


def shorten(names: Iterable[str]) -> str:
    """The first names of many, for a message."""
    names = list(names)
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + rest
