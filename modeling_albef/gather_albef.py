# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Batches of all processes, with gradients: what hard negatives may be drawn from.

Shapes: B batch, P image tokens, L text tokens, H width, E projection width, N = B times the processes.
"""

from typing import NamedTuple

import torch
from torch import distributed
from torch.nn import functional as F  # noqa: N812, the field's own name


class PairPool(NamedTuple):
    """Pairs that negatives are drawn from.

    Attributes:
        image_hidden_states: (N, P, H).
        text_hidden_states: (N, L, H).
        attention_mask: (N, L) or None.
        image_embeds: (N, E), without gradients.
        text_embeds: (N, E), without gradients.
        image_ids: (N,).
        own: (B,) the rows of this process.
    """

    image_hidden_states: torch.Tensor
    text_hidden_states: torch.Tensor
    attention_mask: torch.Tensor | None
    image_embeds: torch.Tensor
    text_embeds: torch.Tensor
    image_ids: torch.Tensor
    own: torch.Tensor


def gather_pairs(pool: PairPool) -> PairPool:
    """The pairs of all processes, in the order of their ranks; on one process, or outside of a run, the same.

    Args:
        pool: This process's pairs, of which all processes have as many. Texts may differ in length.

    Returns:
        All pairs. The gradients of the states flow back to the process that they come from, summed.
    """
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return pool
    from torch.distributed.nn.functional import all_gather

    length = torch.tensor(pool.text_hidden_states.shape[1], device=pool.image_ids.device)
    distributed.all_reduce(length, distributed.ReduceOp.MAX)
    missing = int(length) - pool.text_hidden_states.shape[1]
    mask = pool.attention_mask
    if mask is None:
        mask = torch.ones(pool.text_hidden_states.shape[:2], dtype=torch.long, device=pool.image_ids.device)
    text = F.pad(pool.text_hidden_states, (0, 0, 0, missing)).contiguous()
    with torch.no_grad():
        plain = [F.pad(mask, (0, missing)), pool.image_embeds, pool.text_embeds, pool.image_ids]
        mask, image_embeds, text_embeds, image_ids = (torch.cat(all_gather(rows.contiguous())) for rows in plain)
    return PairPool(
        image_hidden_states=torch.cat(all_gather(pool.image_hidden_states.contiguous())),
        text_hidden_states=torch.cat(all_gather(text)),
        attention_mask=mask,
        image_embeds=image_embeds,
        text_embeds=text_embeds,
        image_ids=image_ids,
        own=pool.own + distributed.get_rank() * len(pool.own),
    )
