# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The file of a feature queue: read and checked, whether training or the converter wrote it."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..configuration_albef import AlbefError

QUEUE_SHAPES = {"image_embeds": 2, "text_embeds": 2, "image_ids": 1, "pointer": 0}  # tensors of a queue: dimensions


def read_queue(path: str | Path, width: int | None = None) -> dict[str, torch.Tensor]:
    """Return the state of a `FeatureQueue` from a safetensors file; None takes features of any width E."""
    try:
        queue = load_file(path)
    except FileNotFoundError as error:
        raise AlbefError(f"There is no queue {path}: give a folder that has one, or start without.") from error
    except (SafetensorError, OSError) as error:
        raise AlbefError(f"{path} is damaged or cut short ({error!s:.300}): leave it out, or copy it again.") from error
    check_queue(queue, path, width)
    return queue


def check_queue(queue: dict[str, torch.Tensor], path: str | Path, width: int | None = None) -> None:
    """Refuse tensors that are no queue; `path` is for the message, and None takes features of any width E."""
    shapes = {name: tuple(tensor.shape) for name, tensor in queue.items()}
    whole_numbers = {name: tensor.dtype == torch.int64 for name, tensor in queue.items()}
    fits = {name: len(shape) for name, shape in shapes.items()} == QUEUE_SHAPES
    fits = fits and shapes["image_embeds"] == shapes["text_embeds"] and shapes["image_ids"] == shapes["text_embeds"][:1]
    fits = fits and whole_numbers == {name: dimensions < 2 for name, dimensions in QUEUE_SHAPES.items()}
    if not fits or (width is not None and shapes["image_embeds"][1] != width):
        found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise AlbefError(
            f"The queue in {path} has {found:.300}, but expected are image_embeds and text_embeds (slots, "
            f"{width or 'width'}), image_ids (slots,) and pointer (), the last two of whole numbers: leave it out."
        )
