# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Matching one image with many texts and no work done twice: the arithmetic of re-ranking.

The texts stand one after the other without padding, sorted by length, so every linear map is one product over all
their tokens. They attend to themselves length by length, and to the image all at once. Two things are left out that
cannot change a score: the first fusion layer reads the text before it looks at the image, so that part is computed
once a text; and of the last layer only the `[CLS]` rows are computed, which alone are scored.

Shapes: N texts, S tokens of all of them, H width, P image tokens, d width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch

from .modeling_albef_text import AlbefTextLayer, AlbefTextModel, KeyValue


@dataclass(frozen=True)
class Packing:
    """Where texts of known lengths stand when they are put one after the other, the shortest first.

    Attributes:
        order: (N,) the texts as they are put.
        lengths: (N,) tokens of each, in that order.
        runs: For each length, (texts, tokens of each).
    """

    order: torch.Tensor
    lengths: torch.Tensor
    runs: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, lengths: torch.Tensor) -> Packing:
        """Packs texts.

        Args:
            lengths: (N,) tokens of each text, >= 1, on the CPU.
        """
        found, counts = lengths.unique(return_counts=True)
        order = lengths.argsort(stable=True)
        return cls(order, lengths[order], tuple(zip(counts.tolist(), found.tolist(), strict=True)))

    def first_tokens(self) -> torch.Tensor:
        """(N,) place of each text's first token, `[CLS]`, in packed order."""
        return self.lengths.cumsum(0) - self.lengths

    def tokens(self, starts: torch.Tensor) -> torch.Tensor:
        """(S,) places of the packed tokens in a store.

        Args:
            starts: (N,) place of each text's first token in the store, in the texts' own order.
        """
        first = (starts[self.order] - self.first_tokens()).repeat_interleave(self.lengths)
        return first + torch.arange(len(first))


def read_text(layer: AlbefTextLayer, states: torch.Tensor, packing: Packing, first_only: bool = False) -> torch.Tensor:
    """Self-attention of a layer over packed texts.

    Args:
        layer: A text or fusion layer.
        states: (S, H).
        packing: How the texts stand in them.
        first_only: Whether to compute the rows of the first tokens alone.

    Returns:
        (S, H), or (N, H) with `first_only`.
    """
    attention = layer.attention.self
    key, value = attention.key(states), attention.value(states)  # (S, H)
    residual = states[packing.first_tokens().to(states.device)] if first_only else states
    query = attention.query(residual)
    contexts, start, row = [], 0, 0
    for count, length in packing.runs:
        stop, rows = start + count * length, count * (1 if first_only else length)
        parts = (query[row : row + rows], key[start:stop], value[start:stop])
        split = (attention.split_heads(part.unflatten(0, (count, -1))) for part in parts)  # (count, heads, L, d)
        contexts.append(attention.attend(*split)[0].flatten(0, 1).flatten(1))  # (rows, H)
        start, row = stop, row + rows
    return layer.attention.output(torch.cat(contexts), residual)


def look_at_image(layer: AlbefTextLayer, states: torch.Tensor, image: KeyValue) -> torch.Tensor:
    """Cross-attention and feed-forward block of a fusion layer.

    Args:
        layer: A fusion layer.
        states: (S, H), after its self-attention.
        image: Keys and values of the one image, each (1, heads, P, d).

    Returns:
        (S, H).
    """
    states = layer.crossattention(states[None], image)[0]
    return layer.output(layer.intermediate(states), states)


def start_fusion(text_model: AlbefTextModel, states: torch.Tensor, packing: Packing) -> torch.Tensor:
    """What the fusion layers do before they see an image: the self-attention of the first.

    Args:
        text_model: The text tower.
        states: (S, H) after the text layers.
        packing: How the texts stand in them.

    Returns:
        (S, H).
    """
    return read_text(text_model.encoder.fusion_layers[0], states, packing)


def finish_fusion(
    text_model: AlbefTextModel, states: torch.Tensor, packing: Packing, image_key_values: list[KeyValue]
) -> torch.Tensor:
    """Fuses packed texts with one image.

    Args:
        text_model: The text tower.
        states: (S, H), what `start_fusion` made.
        packing: How the texts stand in them.
        image_key_values: What `AlbefTextModel.project_images` made of the one image.

    Returns:
        (N, H) states of the `[CLS]` tokens after the last layer, in packed order.
    """
    layers = cast(list[AlbefTextLayer], text_model.encoder.fusion_layers)
    if len(layers) == 1:
        states = states[packing.first_tokens().to(states.device)]
    for place, (layer, image) in enumerate(zip(layers, image_key_values, strict=True)):
        if place:
            states = read_text(layer, states, packing, first_only=place == len(layers) - 1)
        states = look_at_image(layer, states, image)
    return states
