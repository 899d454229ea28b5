# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Losses of ALBEF as pure functions of tensors (Li et al., 2021, section 3.2 and 3.3; salesforce/ALBEF `models/`).

Shapes: B batch, C candidates (the teacher's batch, then the queue), N rows of the pool that negatives are drawn from, A
answers, L tokens, P image tokens, H width, E projection width.
"""

from typing import NamedTuple

import torch
from torch import distributed
from torch.nn import functional as F  # noqa: N812, the field's own name


def contrastive_positives(image_ids: torch.Tensor, candidate_ids: torch.Tensor) -> torch.Tensor:
    """Return the hard targets (B, C), rows sum to 1: the candidates that show the same image share the mass equally.

    `image_ids` (B,), `candidate_ids` (C,): the image of each row and candidate; a row's own id is among the
    candidates'.
    """
    same = (image_ids[:, None] == candidate_ids[None, :]).float()
    return same / same.sum(dim=1, keepdim=True)


def distill_targets(positives: torch.Tensor, teacher_logits: torch.Tensor, alpha: float | torch.Tensor) -> torch.Tensor:
    """Return the soft targets (B, C): the hard ones mixed with the teacher's distribution (equation 6 of the paper).

    `teacher_logits` (B, C): the teacher's similarities / temperature; `alpha`: its weight, 0..1.
    """
    return alpha * teacher_logits.float().softmax(dim=1) + (1 - alpha) * positives


def soft_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of logits (B, C) against distributions (B, C), mean over the rows, float32."""
    return -(targets * logits.float().log_softmax(dim=1)).sum(dim=1).mean()


def itc_loss(
    logits_per_image: torch.Tensor,
    logits_per_text: torch.Tensor,
    image_targets: torch.Tensor,
    text_targets: torch.Tensor,
) -> torch.Tensor:
    """Return the image-text contrastive loss: the mean of both directions (equation 2 of the paper); all (B, C)."""
    per_image = soft_cross_entropy(logits_per_image, image_targets)
    per_text = soft_cross_entropy(logits_per_text, text_targets)
    return (per_image + per_text) / 2


@torch.no_grad()
def sample_hard_negatives(
    logits: torch.Tensor, image_ids: torch.Tensor, pool_ids: torch.Tensor | None = None, hardest: bool = False
) -> torch.Tensor:
    """Draw a negative for each row, the more similar the likelier, never one of the same image: (B,) into the pool.

    With `hardest` it is the most similar one, so that an evaluation gives the same loss each time.

    `logits` (B, N): similarity of the rows to the pool / temperature; `image_ids` (B,), `pool_ids` (N,; default: the
    pool is the batch). Where it all shows one image, any index is returned, and `itm_loss` leaves these rows out.
    """
    same = image_ids[:, None] == (image_ids if pool_ids is None else pool_ids)[None, :]
    # Differs from ALBEF: masked before the softmax, so no row can underflow to zero and stop `multinomial`.
    weights = logits.float().masked_fill(same, -torch.inf).softmax(dim=1)
    # of rows that are not finite any will do: their loss is not finite either, and `multinomial` would end the process
    weights = torch.where(same.all(dim=1, keepdim=True) | ~weights.isfinite(), 1.0, weights)
    return weights.argmax(dim=1) if hardest else torch.multinomial(weights, 1).squeeze(1)


def answer_loss(
    logits: torch.Tensor,
    answer_ids: torch.Tensor,
    answer_mask: torch.Tensor,
    answer_weights: torch.Tensor,
    num_questions: int,
    teacher_logits: torch.Tensor | None = None,
    alpha: float | torch.Tensor = 0.0,
) -> torch.Tensor:
    """Return the weighted, distilled loss of answers' tokens (section 3.4 of the paper; salesforce/ALBEF `xbert.py`).

    `logits`, `teacher_logits` (A, L, vocabulary): predictions of the token after each position; `answer_ids` (A, L)
    `[CLS] a1 .. an [SEP]`, `answer_mask` (A, L) which of them are counted, `answer_weights` (A,); the sum is divided by
    `num_questions`.
    """
    if teacher_logits is not None:
        teacher_logits = teacher_logits[:, :-1]
    losses = _token_losses(logits[:, :-1], answer_ids[:, 1:], teacher_logits, alpha)  # (A, L - 1)
    return ((losses * answer_mask[:, 1:]).sum(dim=1) * answer_weights).sum() / num_questions


def predicted_tokens(mask: torch.Tensor) -> torch.Tensor:
    """Return which tokens (A, L) of `mask` are predicted by one before them; padding on the left predicts nothing.

    The first column, which no loss counts, stays as it is.
    """
    return mask * F.pad(mask[:, :-1], (1, 0), value=1)


def next_token_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy of tokens, predicted at the position before: logits (A, L, vocabulary).

    `labels` (A, L) are the tokens, -100 where they do not count.
    """
    return mlm_loss(logits[:, :-1], labels[:, 1:])


def mlm_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    teacher_logits: torch.Tensor | None = None,
    alpha: float | torch.Tensor = 0.0,
) -> torch.Tensor:
    """Return the masked-language loss, distilled: the mean over the masked tokens (equations 3 and 7 of the paper).

    `logits`, `teacher_logits` (B, L, vocabulary): predictions of the token at each position; `labels` (B, L) the token
    at each masked position, -100 elsewhere.
    """
    masked = labels != -100
    losses = _token_losses(logits, labels.clamp(min=0), teacher_logits, alpha)
    # Differs from ALBEF, whose mean is not a number where nothing is masked: such a batch costs nothing.
    return (losses * masked).sum() / masked.sum().clamp(min=1)


def _token_losses(
    logits: torch.Tensor, targets: torch.Tensor, teacher_logits: torch.Tensor | None, alpha: float | torch.Tensor
) -> torch.Tensor:
    """Return the cross-entropy of each token (rows, tokens), mixed by `alpha` with that against the teacher."""
    log_probabilities = logits.float().log_softmax(dim=-1)
    losses = -log_probabilities.gather(2, targets[..., None]).squeeze(2)
    if teacher_logits is not None:
        soft = -(teacher_logits.float().softmax(dim=-1) * log_probabilities).sum(dim=-1)
        losses = (1 - alpha) * losses + alpha * soft
    return losses


def itm_loss(itm_logits: torch.Tensor, image_ids: torch.Tensor) -> torch.Tensor:
    """Return the matching loss: mean cross-entropy of B matching pairs and 2B negatives (equation 4 of the paper).

    `itm_logits` (3B, 2), index 1 = match: the matching pairs, then the two kinds of negatives; `image_ids` (N,): images
    that negatives were drawn from. Where all are equal the negatives are left out.
    """
    batch = len(itm_logits) // 3
    labels = torch.zeros(3 * batch, dtype=torch.long, device=itm_logits.device)
    labels[:batch] = 1
    losses = F.cross_entropy(itm_logits.float(), labels, reduction="none")
    # Differs from ALBEF, which stops with an error: a batch of one image trains on its matching pairs alone.
    has_negatives = (image_ids != image_ids[0]).any().float()
    kept = torch.where(labels == 1, 1.0, has_negatives)
    return (losses * kept).sum() / kept.sum()


class PairPool(NamedTuple):
    """Pairs that negatives are drawn from."""

    image_hidden_states: torch.Tensor  # (N, P, H)
    text_hidden_states: torch.Tensor  # (N, L, H)
    attention_mask: torch.Tensor | None  # (N, L)
    image_embeds: torch.Tensor  # (N, E), without gradients
    text_embeds: torch.Tensor  # (N, E), without gradients
    image_ids: torch.Tensor  # (N,)
    own: torch.Tensor  # (B,) the rows of this process


def gather_pairs(pool: PairPool) -> PairPool:
    """Return the pairs of all processes, in the order of their ranks; on one process, or outside of a run, the same.

    All processes have as many pairs; texts may differ in length. The gradients of the states flow back, summed, to the
    process that they come from.
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
