# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""What all models of ALBEF declare to the library, and the plain attention that it calls "eager"."""

import torch
from torch import nn
from transformers import PreTrainedModel


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

    Queries (B, heads, L, d), keys and values (B, heads, N, d), an additive mask broadcastable to (B, heads, L, N);
    gives the context (B, L, heads, d), and the probabilities (B, heads, L, N) before dropout.
    """
    scores = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    probabilities = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    kept = nn.functional.dropout(probabilities, p=dropout, training=module.training)
    return (kept @ value).transpose(1, 2).contiguous(), probabilities
