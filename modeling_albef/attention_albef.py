# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The plain attention that both towers hand to the library's attention interface under the name "eager"."""

import torch
from torch import nn


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

    Args:
        module: The calling attention; its `training` flag switches dropout.
        query: (B, heads, L, d).
        key: (B, heads, N, d).
        value: (B, heads, N, d).
        attention_mask: Additive, broadcastable to (B, heads, L, N), or None.
        scaling: Factor of the dot products.
        dropout: Share of probabilities that are dropped, 0..1.
        kwargs: Options of other attention functions; not used here.

    Returns:
        The context (B, L, heads, d), and the probabilities (B, heads, L, N) before dropout.
    """
    scores = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    probabilities = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    kept = nn.functional.dropout(probabilities, p=dropout, training=module.training)
    return (kept @ value).transpose(1, 2).contiguous(), probabilities
