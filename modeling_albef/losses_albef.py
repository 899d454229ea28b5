# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Losses of ALBEF as pure functions of tensors (Li et al., 2021, section 3.2 and 3.3; salesforce/ALBEF `models/`).

Shapes: B batch, C candidates (the teacher's batch, then the queue), N rows of the pool that negatives are drawn from, A
answers, L tokens, P image tokens, H width, E projection width.
"""

from typing import Any, NamedTuple

import torch
from torch import distributed
from torch.nn import functional as F  # noqa: N812, the field's own name

from .configuration_albef import AlbefError, check_shapes

PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression")  # the library's names


def contrast(first: torch.Tensor, second: torch.Tensor, temperature: torch.Tensor | float) -> torch.Tensor:
    """Return the logits (B, C) of embeddings (B, E) and (C, E): their products over the temperature.

    Under autocast they are computed in float32: at a temperature of 0.07 the rounding of bfloat16 would be a tenth.
    """
    if not torch.is_autocast_enabled(first.device.type):
        return first @ second.T / temperature
    with torch.autocast(first.device.type, enabled=False):
        return first.float() @ second.float().T / temperature


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
    # of rows that are not finite any will do: their loss is not finite either
    weights = torch.where(same.all(dim=1, keepdim=True) | ~weights.isfinite(), 1.0, weights)
    if hardest:
        return weights.argmax(dim=1)
    # the draws of `torch.multinomial`, which would wait for a GPU to look whether there are weights to draw by
    return (weights / torch.empty_like(weights).exponential_()).argmax(dim=1)


def assignment_weights(image_embeds: torch.Tensor, image_ids: torch.Tensor | None = None) -> torch.Tensor:
    """Return how likely each wrong image is drawn for each text, not normalized: (B, B), 0 for the same image.

    `image_embeds` (B, E), unit length; `image_ids` (B,): same id = same image; default: all differ. The temperature is
    the constant of salesforce/ALBEF `models/model_pretrain_nlvr.py`, not the learned one.
    """
    ids = torch.arange(len(image_embeds), device=image_embeds.device) if image_ids is None else image_ids
    similarity = contrast(image_embeds.float(), image_embeds.float(), 0.07)
    # Differs from ALBEF, which leaves out the pair itself alone, and not its image in another pair.
    return similarity.softmax(dim=1).masked_fill(ids[:, None] == ids[None, :], 0.0)


@torch.no_grad()
def assign_texts(
    image_embeds: torch.Tensor, image_ids: torch.Tensor | None = None, hardest: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw two images for each text, of which one is its own twice in three times: (B, 2) rows, and labels (B,).

    Label 0: the first is its own, 1: the second, 2: neither; -100 where no image is another one. Wrong images are the
    likelier the more similar they are to its own, and two wrong ones differ; where there is but one, no label is 2.
    With `hardest` they are the most similar ones and labels take turns, so that an evaluation gives the same loss each
    time. `image_embeds`, `image_ids`: see `assignment_weights`.
    """
    weights = assignment_weights(image_embeds, image_ids)
    batch, device, others = len(weights), weights.device, (weights > 0).sum(dim=1)
    rows = torch.arange(batch, device=device)
    labels = rows % 3 if hardest else torch.randint(3, (batch,), device=device)
    labels = torch.where((labels == 2) & (others < 2), rows % 2, labels)
    labels = labels.masked_fill(others == 0, -100)
    # the largest of weight / Exp(1): drawn one after the other without replacement
    noise = torch.ones_like(weights) if hardest else torch.empty_like(weights).exponential_().clamp(min=1e-30)
    wrong = (weights / noise).topk(min(2, batch), dim=1).indices
    first, second = wrong[:, 0], wrong[:, -1]
    pairs = torch.stack([torch.where(labels == 0, rows, first), torch.where(labels == 1, rows, second)], dim=1)
    pairs[:, 1] = torch.where(labels == 0, first, pairs[:, 1])  # the likeliest wrong image beside its own
    return pairs, labels


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


def classification_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    problem_type: str = PROBLEM_TYPES[0],
    teacher_logits: torch.Tensor | None = None,
    alpha: float | torch.Tensor = 0.0,
) -> torch.Tensor:
    """Return the distilled loss of labels, mean over the rows (salesforce/ALBEF `models/model_ve.py`).

    Of one label a row it is the cross-entropy, of several the binary cross-entropy of each, of numbers the squared
    error; the teacher's distribution, probabilities or numbers are mixed into the targets.

    `logits`, `teacher_logits` (B, labels); `labels` (B,) the index of each row's label, -100 where it does not count;
    or (B, labels) 0..1 for several; or numbers of as many entries as the logits.
    """
    if problem_type == PROBLEM_TYPES[0]:
        opinions = None if teacher_logits is None else teacher_logits[:, None]
        return mlm_loss(logits[:, None], labels[:, None], opinions, alpha)
    scores, targets = logits.float(), labels.float().view_as(logits)
    is_number = problem_type == "regression"
    if teacher_logits is not None:
        opinion = teacher_logits.float() if is_number else teacher_logits.float().sigmoid()
        targets = alpha * opinion + (1 - alpha) * targets
    return F.mse_loss(scores, targets) if is_number else F.binary_cross_entropy_with_logits(scores, targets)


def find_problem_type(config: Any, labels: torch.Tensor | None = None) -> str:
    """Return what labels are: `config.problem_type` or, where that is None, what the library would take them for.

    A single label is a number; of several, whole numbers are one of them each, and others each a yes or no. The
    configuration stays as it is.
    """
    if config.problem_type is not None:
        if config.problem_type not in PROBLEM_TYPES:
            known = ", ".join(PROBLEM_TYPES)
            raise AlbefError(f"problem_type is {config.problem_type!r}, but must be one of {known}.")
        return config.problem_type
    if config.num_labels == 1:
        return PROBLEM_TYPES[2]
    return PROBLEM_TYPES[labels is not None and labels.is_floating_point()]


def label_loss(
    config: Any,
    logits: torch.Tensor,
    labels: torch.Tensor | None,
    teacher_logits: torch.Tensor | None = None,
    alpha: float | torch.Tensor = 0.0,
) -> torch.Tensor | None:
    """Return `classification_loss` by the problem type of a model, with shapes checked; None without labels.

    `labels` of a single number a row may be (B,) or (B, 1).
    """
    if labels is None:
        return None
    problem_type = find_problem_type(config, labels)
    is_single = problem_type == PROBLEM_TYPES[0] or labels.dim() == 1 == config.num_labels
    sizes = {"B": logits.shape[0], "C": logits.shape[1]}
    check_shapes(sizes, labels=(labels, "B" if is_single else "BC"), teacher_logits=(teacher_logits, "BC"))
    return classification_loss(logits, labels, problem_type, teacher_logits, alpha)


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
