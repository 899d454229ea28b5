# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Shapes of arguments, checked where they enter a model: a wrong one is named, not found deep inside."""

from collections.abc import Mapping

import torch


def check_shapes(known: Mapping[str, int] | None = None, **tensors: tuple[torch.Tensor | None, str]) -> None:
    """Refuses tensors whose shapes do not fit each other.

    Only shapes are looked at, no values: nothing waits for a device, and compiled and exported graphs stay whole.

    Args:
        known: Sizes that are fixed, by letter.
        tensors: By the name of the argument the tensor, or None, which fits; and its shape, a letter a dimension, as
            "NL". The first tensor with a letter sets its size for the others; no size may be 0.

    Raises:
        ValueError: A shape is wrong; the text has the argument, its shape, and the one that is expected.
    """
    sizes = dict(known or {})
    for name, (tensor, letters) in tensors.items():
        if tensor is None:
            continue
        if not hasattr(tensor, "dim"):
            kind = type(tensor).__name__
            raise ValueError(f'{name} is a {kind}, but a tensor is expected: give the processor return_tensors="pt".')
        found, fits = dict(sizes), tensor.dim() == len(letters)
        for letter, size in zip(letters, tensor.shape, strict=False):
            fits = fits and size > 0 and size == found.setdefault(letter, size)
        if not fits:
            fixed = ", ".join(f"{letter} = {sizes[letter]}" for letter in dict.fromkeys(letters) if letter in sizes)
            raise ValueError(
                f"{name} has the shape {tuple(tensor.shape)}, but ({', '.join(letters)}) is expected, no size 0"
                + (f", with {fixed}." if fixed else ".")
            )
        sizes = found
