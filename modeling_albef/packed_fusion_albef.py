# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Matching one image with many texts and no work done twice: the arithmetic of re-ranking.

The texts stand one after the other without padding, sorted by length, so every linear map is one product over all
their tokens. They attend to themselves length by length, on a GPU padded and all at once, where many small calls would
cost more than padding; and to the image all at once. Two things are left out that
cannot change a score: the first fusion layer reads the text before it looks at the image, so that part is computed
once a text; and of the last layer only the `[CLS]` rows are computed, which alone are scored.

Shapes: N texts, S tokens of all of them, H width, P image tokens, d width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.masking_utils import create_bidirectional_mask

from .attention_albef import KeyValue, PaddedRows
from .modeling_albef_text import AlbefTextModel, AlbefTextSelfAttention

PLAIN = ("sdpa", "eager")  # implementations of attention whose masks are tensors (N, 1, L, L)


@dataclass(frozen=True)
class Packing:
    """Where texts of known lengths stand when they are put one after the other, the shortest first."""

    order: torch.Tensor  # (N,) the texts as they are put
    lengths: torch.Tensor  # (N,) tokens of each, in that order
    runs: tuple[tuple[int, int], ...]  # for each length, (texts, tokens of each)
    first: torch.Tensor  # (N,) row of each text's first token, where the states are
    slots: torch.Tensor  # (S,) index of each token among those of padded texts, N times the longest; likewise

    @classmethod
    def from_lengths(cls, lengths: torch.Tensor) -> Packing:
        """Pack texts of `lengths` (N,) tokens, >= 1, on the CPU."""
        found, counts = lengths.unique(return_counts=True)
        order = lengths.argsort(stable=True)
        rising = lengths[order]
        first, runs = rising.cumsum(0) - rising, tuple(zip(counts.tolist(), found.tolist(), strict=True))
        before = torch.arange(len(rising)) * runs[-1][1] - first  # unused slots, by the text
        slots = torch.arange(int(rising.sum())) + before.repeat_interleave(rising)
        return cls(order, rising, runs, first, slots)

    def to(self, device: torch.device) -> Packing:
        """Return the packing for states on a device."""
        return self.moved(self.first.to(device), self.slots.to(device))

    def moved(self, first: torch.Tensor, slots: torch.Tensor) -> Packing:
        """Return the packing with `first` and `slots` as they are on another device."""
        return Packing(self.order, self.lengths, self.runs, first, slots)

    def first_tokens(self) -> torch.Tensor:
        """Return the row (N,) of each text's first token, `[CLS]`, in packed order."""
        return self.first

    def tokens(self, starts: torch.Tensor) -> torch.Tensor:
        """Return the rows (S,) of the packed tokens in a store; `starts` (N,) are the rows of first tokens there."""
        first = (starts[self.order] - self.first.cpu()).repeat_interleave(self.lengths)
        return first + torch.arange(len(first))


class PackedTexts(PaddedRows):
    """Attention pattern of packed texts (1, S, H): each attends to itself, and all to one image."""

    def __init__(self, packing: Packing, first_only: bool = False) -> None:
        """Make a pattern; with `first_only` it computes the rows of the first tokens alone, (1, N, H)."""
        self.packing = packing
        self.first_tokens = packing.first if first_only else None

    def residual(self, states: torch.Tensor) -> torch.Tensor:
        """Return the states of which self-attention is computed."""
        return states if self.first_tokens is None else states.index_select(1, self.first_tokens.to(states.device))

    def self_attention(
        self, module: AlbefTextSelfAttention, states: torch.Tensor, *_: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, None]:
        """Return the context of `residual(states)`; see `attend_padded` and `attend_by_length`."""
        query, key, value = module.query(self.residual(states))[0], module.key(states)[0], module.value(states)[0]
        attend = self.attend_padded if states.is_cuda else self.attend_by_length
        return attend(module, query, key, value, **kwargs)[None], None

    def attend_padded(
        self,
        module: AlbefTextSelfAttention,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Return the context of queries (S or, of first tokens, N, H) by one product over padded texts."""
        texts, longest = len(self.packing.lengths), self.packing.runs[-1][1]
        slots = self.packing.slots.to(query.device)
        visible = torch.zeros(texts * longest, dtype=torch.bool, device=query.device).index_fill(0, slots, True)

        def pad(tokens: torch.Tensor) -> torch.Tensor:
            padded = tokens.new_zeros(texts * longest, tokens.shape[1]).index_copy(0, slots, tokens)
            return module.split_heads(padded.unflatten(0, (texts, longest)))  # (N, heads, L, d)

        queries = pad(query) if self.first_tokens is None else module.split_heads(query[:, None])
        mask = visible.view(texts, 1, 1, longest)
        context = module.attend(queries, pad(key), pad(value), mask, **kwargs)[0].flatten(0, 1)
        return context.index_select(0, slots) if self.first_tokens is None else context

    def attend_by_length(
        self,
        module: AlbefTextSelfAttention,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Return the same by a product for each length, so that no padding is needed."""
        sizes = [texts * length for texts, length in self.packing.runs]
        rows = [texts for texts, _ in self.packing.runs] if self.first_tokens is not None else sizes
        contexts: list[torch.Tensor] = []
        parts = zip(query.split(rows), key.split(sizes), value.split(sizes), strict=True)
        for run, part in zip(self.packing.runs, parts, strict=True):
            heads = [module.split_heads(tokens.unflatten(0, (run[0], -1))) for tokens in part]  # (texts, heads, L, d)
            contexts.append(module.attend(heads[0], heads[1], heads[2], **kwargs)[0].flatten(0, 1))
        return torch.cat(contexts)


def start_fusion(text_model: AlbefTextModel, states: torch.Tensor, packing: Packing) -> torch.Tensor:
    """Return states (S, H) after what fusion does before it sees an image: the self-attention of its first layer."""
    return text_model.encoder.fusion_layers[0].attention(states[None], pattern=PackedTexts(packing))[0]


def finish_fusion(
    text_model: AlbefTextModel, states: torch.Tensor, packing: Packing, image_key_values: list[KeyValue]
) -> torch.Tensor:
    """Return the states (N, H) of the `[CLS]` tokens after the last layer, in packed order, fused with one image.

    `states` (S, H) are what `start_fusion` made, `image_key_values` what `AlbefTextModel.project_images` made of the
    image.
    """
    first, *others = zip(text_model.encoder.fusion_layers, image_key_values, strict=True)
    whole, first_only = PackedTexts(packing), PackedTexts(packing, first_only=True)
    states = first[0].finish((whole if others else first_only).residual(states[None]), *first[1])
    for index, (layer, image) in enumerate(others, start=1):
        states = layer(states, None, *image, pattern=first_only if index == len(others) else whole)
    return states[0]


class FoldedImages(PaddedRows):
    """Attention pattern of short texts (N, L, H) with an image each, whose states (N, P, W) stand for keys and values.

    The maps to keys and values are applied to the query and to the context, of `heads * L` rows, in place of the P
    rows of the image: the same sums in another order. The bias of the keys adds the same number to all of a row's
    scores, which softmax does not see.
    """

    def __init__(self, image_index: torch.Tensor | None = None, first: torch.Tensor | None = None) -> None:
        """Make a pattern.

        Args:
            image_index: (N,) the image of each text; default: 0, 1 ..
            first: (N,) the only tokens whose rows are computed, (N, 1, H).
        """
        self.image_index, self.first = image_index, first

    def residual(self, states: torch.Tensor) -> torch.Tensor:
        """Return the states of which self-attention is computed."""
        return states if self.first is None else states[torch.arange(len(states)), self.first][:, None]

    def self_attention(
        self, module: AlbefTextSelfAttention, states: torch.Tensor, mask: torch.Tensor | None, *_: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the context of `residual(states)`; the rows of a `mask` (N, 1, L, L) are all the same."""
        if mask is not None and self.first is not None:
            mask = mask[:, :, :1]
        query = module.split_heads(module.query(self.residual(states)))
        return module.attend(query, *module.project(states), mask, **kwargs)

    def cross_attention(
        self, module: AlbefTextSelfAttention, states: torch.Tensor, key_value: KeyValue, *_: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, None]:
        """Return the context (N, L, H) of the states, which may be those of one text (1, L, H) for all images.

        `key_value` holds the images' states twice, of any type: they are converted part by part.
        """
        images, width = key_value[0], module.head_dim
        count, length = len(images if self.image_index is None else self.image_index), states.shape[1]
        query = (module.query(states) * width**-0.5).flatten(0, 1)  # (T * L, H), T either N or 1
        folded = torch.stack(
            [
                nn.functional.linear(part, weight.t())
                for part, weight in zip(query.split(width, 1), module.key.weight.split(width), strict=True)
            ],
            dim=1,
        ).unflatten(0, (-1, length))  # (T, L, heads, W)
        seen = self._look(folded.flatten(1, 2).expand(count, -1, -1), images).unflatten(1, folded.shape[1:3])
        context = torch.cat(
            [
                nn.functional.linear(part, weight)
                for part, weight in zip(seen.unbind(2), module.value.weight.split(width), strict=True)
            ],
            dim=2,
        )
        return (context if module.value.bias is None else context + module.value.bias), None

    def _look(self, rows: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Return the states that `rows` (N, R, W) see: (N, R, W)."""
        index = self.image_index
        if rows.device.type != "cpu":
            own = (images if index is None else images[index]).to(rows.dtype)
            return (rows @ own.transpose(1, 2)).softmax(dim=-1) @ own
        seen = rows.new_empty(rows.shape)
        for pair, image in enumerate(range(len(rows)) if index is None else index.tolist()):
            own = images[image].to(rows.dtype)  # an image stays in the processor's cache for both products
            weights = nn.functional.linear(rows[pair], own).softmax(dim=-1)  # (R, P)
            seen[pair] = nn.functional.linear(weights, own.t())
        return seen


def match_images(
    model: Any,
    states: torch.Tensor,
    attention_mask: torch.Tensor,
    image_states: torch.Tensor,
    text_index: torch.Tensor | None = None,
    image_index: torch.Tensor | None = None,
) -> torch.Tensor:
    """Match pairs of texts and images: `match` of a retrieval model, with less work for short texts.

    What a text needs before it sees an image is computed once a text, and of the last layer the `[CLS]` rows alone.

    Args:
        model: With `match`, `itm_head` and the towers.
        states: (T, L, H) of the text layers.
        attention_mask: (T, L), 1 = token; padding may be on either side.
        image_states: (I, P, W) of the vision tower; kept ones may be float16, whatever the model's type.
        text_index: (N,) the text of each pair; default: 0, 1 ..
        image_index: (N,) the image of each pair; default: 0, 1 ..

    Returns:
        (N, 2) `itm_logits`.
    """
    text_model = model.albef.text_model
    cross = text_model.encoder.fusion_layers[0].crossattention.self
    is_plain = all(
        type(linear) is nn.Linear  # no adapter, no int8
        for layer in text_model.encoder.fusion_layers
        for linear in (layer.crossattention.self.key, layer.crossattention.self.value)
    )
    if not is_plain or states.shape[1] >= cross.head_dim or text_model.config._attn_implementation not in PLAIN:
        index = slice(None) if text_index is None else text_index
        seen = image_states if image_index is None else image_states[image_index]
        return model.match(states[index], attention_mask[index], seen.to(states.dtype))
    mask = create_bidirectional_mask(config=text_model.config, inputs_embeds=states, attention_mask=attention_mask)
    first, whole = attention_mask.int().argmax(dim=1), FoldedImages(image_index)
    layers, images = text_model.encoder.fusion_layers, (image_states, image_states)
    for turn, layer in enumerate(layers):
        pattern = whole if turn < len(layers) - 1 else FoldedImages(image_index, first)
        states = layer.attention(states, None, mask, pattern)
        if turn == 0 and text_index is not None and len(first) > 1:  # a single text stays one row until it sees images
            states, first = states[text_index], first[text_index]
            mask = None if mask is None else mask[text_index]
        states = layer.finish(states, *images, pattern=pattern)
    return model.itm_head(states[:, 0])
