# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""What all models of ALBEF declare to the library, and the plain attention that it calls "eager"."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput


class AlbefAttentionModel(PreTrainedModel):
    """A model whose layers go through the library's attention interface."""

    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # losses are means over the batch, not normalised over accumulated batches
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: object,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend step by step, so that the attention maps can be returned and differentiated.

    Queries (B, heads, L, d), keys and values (B, heads, N, d), a mask broadcastable to (B, heads, L, N), which is added
    or, where it is boolean, says what is seen; gives the context (B, L, heads, d), and the probabilities
    (B, heads, L, N) before dropout.
    """
    scores = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    elif attention_mask is not None:
        scores = scores + attention_mask
    probabilities = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    kept = nn.functional.dropout(probabilities, p=dropout, training=module.training)
    return (kept @ value).transpose(1, 2).contiguous(), probabilities


def attention_name(name: str, attention_mask: Any, output_attentions: bool | None = None) -> str:
    """Return the attention of the library that does what is asked: `name` wherever it can.

    Only "eager" gives probabilities, so that it stands in for "sdpa" where they are asked for; and "sdpa" stands in for
    flash and flex attention, whose masks have forms of their own, where a plain mask says what is seen.
    """
    if name == "sdpa" and output_attentions:
        return "eager"
    plain = isinstance(attention_mask, torch.Tensor) and attention_mask.dim() == 4
    return "sdpa" if plain and ("flash" in name or name == "flex_attention") else name


def output_options(config: Any, **given: Any) -> dict[str, Any]:
    """Return which states a model asks its towers for: what is `given` or, where that is None, what `config` says."""
    options = {"output_attentions": None, "output_hidden_states": None, **given}
    said = {name: getattr(config, name, False) or None if value is None else value for name, value in options.items()}
    return {name: value for name, value in said.items() if value is not None}


def select_layers(states: tuple[torch.Tensor, ...] | None, wanted: Any) -> Any:
    """Return states of layers with None where `output_hidden_states`, a layer or a list of them, does not want them."""
    if states is None or wanted is None or isinstance(wanted, bool):
        return states
    kept = {index % len(states) for index in ([wanted] if isinstance(wanted, int) else wanted)}
    return tuple(state if index in kept else None for index, state in enumerate(states))


def every_layer(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options with all hidden states in place of some; for a tower that is run in two parts."""
    wanted = options.get("output_hidden_states")
    return options if wanted is None else {**options, "output_hidden_states": wanted is not False}


class NestedOutput(ModelOutput):
    """An output with outputs of towers in it, which are tuples in the tuple that it is turned to."""

    def to_tuple(self) -> tuple[Any, ...]:
        """Return what is there, without names."""
        return tuple(part.to_tuple() if isinstance(part, ModelOutput) else part for part in self.values())
