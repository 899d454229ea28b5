"""The published algorithms written out plainly, as an oracle and for comparison of speed.

What salesforce/ALBEF does (`models/xbert.py`, `models/vit.py`, `Retrieval.py`, `models/model_vqa.py`,
`models/model_retrieval.py`), operation for operation, on the parameters of our models: every text padded, an image's
tokens repeated for every text, keys and values for every row, attention in steps, a dense score matrix.
Shapes: N rows, L text tokens, P image tokens, H width.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from modeling_albef import AlbefForImageTextRetrieval, AlbefForQuestionAnswering, AlbefTextDecoder
from modeling_albef.modeling_albef_text import AlbefTextAttention, AlbefTextLayer
from modeling_albef.modeling_albef_vision import AlbefVisionModel
from modeling_albef.training import FeatureQueue

MASKED = -10_000.0  # added to the scores of padding, as published


def additive_mask(attention_mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return (N, L) with 1 = token -> (N, 1, 1, L) to be added to the scores."""
    return (1.0 - attention_mask[:, None, None, :].to(dtype)) * MASKED


def attend(attention: AlbefTextAttention, states: torch.Tensor, memory: torch.Tensor, mask: torch.Tensor | None):  # noqa: ANN201
    """Return BERT's attention with its output map and residual: (N, L, H) reads `memory` (N, M, width)."""
    module = attention.self
    query, key, value = (
        split(linear(source), module.head_dim)
        for linear, source in ((module.query, states), (module.key, memory), (module.value, memory))
    )
    scores = query @ key.transpose(-1, -2) / math.sqrt(module.head_dim)
    if mask is not None:
        scores = scores + mask
    probabilities = nn.functional.dropout(scores.softmax(dim=-1), 0.0, attention.training)
    context = (probabilities @ value).permute(0, 2, 1, 3).contiguous().flatten(2)
    return attention.output(context, states)


def split(states: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Return (N, tokens, H) -> (N, heads, tokens, d)."""
    return states.unflatten(-1, (-1, head_dim)).permute(0, 2, 1, 3)


def text_layer(
    layer: AlbefTextLayer,
    states: torch.Tensor,
    mask: torch.Tensor,
    memory: torch.Tensor | None = None,
    memory_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return a BERT layer, with cross-attention to `memory` (N, M, width) where it is given."""
    states = attend(layer.attention, states, states, mask)
    if memory is not None:
        states = attend(layer.crossattention, states, memory, memory_mask)
    return layer.output(layer.intermediate(states), states)


def encode_images(vision_model: AlbefVisionModel, pixel_values: torch.Tensor) -> torch.Tensor:
    """Return (I, 3, S, S) -> (I, P, H), attention in steps."""
    patches = vision_model.patch_embed(pixel_values)
    states = torch.cat([vision_model.cls_token.expand(len(patches), -1, -1), patches], dim=1) + vision_model.pos_embed
    block: Any
    for block in vision_model.blocks:
        normed, attention = block.norm1(states), block.attn
        query, key, value = attention.qkv(normed).unflatten(-1, (3, -1, attention.head_dim)).permute(2, 0, 3, 1, 4)
        probabilities = (query @ key.transpose(-2, -1) * attention.head_dim**-0.5).softmax(dim=-1)
        states = states + attention.proj((probabilities @ value).transpose(1, 2).flatten(2))
        states = states + block.mlp(block.norm2(states))
    return vision_model.norm(states)


def encode_texts(
    model: AlbefForImageTextRetrieval, input_ids: torch.Tensor, attention_mask: torch.Tensor
) -> torch.Tensor:
    """Return (N, L) -> (N, L, H) by the text layers."""
    text_model = model.albef.text_model
    states = text_model.embeddings(input_ids)
    mask = additive_mask(attention_mask, states.dtype)
    for layer in text_model.encoder.text_layers:
        states = text_layer(layer, states, mask)
    return states


def fuse(
    model: AlbefForImageTextRetrieval, states: torch.Tensor, attention_mask: torch.Tensor, images: torch.Tensor
) -> torch.Tensor:
    """Return texts (N, L, H) with an image's tokens each (N, P, width) -> (N, L, H)."""
    mask = additive_mask(attention_mask, states.dtype)
    image_mask = additive_mask(torch.ones(images.shape[:2], device=images.device), states.dtype)
    for layer in model.albef.text_model.encoder.fusion_layers:
        states = text_layer(layer, states, mask, images, image_mask)
    return states


def score_texts(
    model: AlbefForImageTextRetrieval, image: torch.Tensor, texts: torch.Tensor, attention_mask: torch.Tensor
) -> torch.Tensor:
    """Return matching logits of one image (P, H) with texts (k, L, H): its tokens are repeated for every text."""
    fused = fuse(model, texts, attention_mask, image.repeat(len(texts), 1, 1))
    return model.itm_head(fused[:, 0])[:, 1]


def score_images(
    model: AlbefForImageTextRetrieval, images: torch.Tensor, text: torch.Tensor, attention_mask: torch.Tensor
) -> torch.Tensor:
    """Return matching logits of one text (L, H) with images (k, P, H): it is repeated for every image."""
    rows = len(images)
    fused = fuse(model, text.repeat(rows, 1, 1), attention_mask.repeat(rows, 1), images)
    return model.itm_head(fused[:, 0])[:, 1]


def rerank(
    model: AlbefForImageTextRetrieval,
    images: torch.Tensor,
    texts: torch.Tensor,
    attention_mask: torch.Tensor,
    similarity: torch.Tensor,
    k_test: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return dense scores of both directions, -100 where a pair was not scored.

    Args:
        model: The model.
        images: (I, P, width of the vision tower).
        texts: (T, L, H), padded.
        attention_mask: (T, L).
        similarity: (I, T).
        k_test: Candidates of each query.

    Returns:
        (I, T) and (T, I).
    """
    by_image, by_text = torch.full_like(similarity, -100.0), torch.full_like(similarity.T, -100.0)
    for row, image in enumerate(images):
        chosen = similarity[row].topk(min(k_test, len(texts))).indices
        by_image[row, chosen] = score_texts(model, image, texts[chosen], attention_mask[chosen]).float()
    for row, text in enumerate(texts):
        chosen = similarity[:, row].topk(min(k_test, len(images))).indices
        by_text[row, chosen] = score_images(model, images[chosen], text, attention_mask[row]).float()
    return by_image, by_text


def rank_answers(
    model: AlbefForQuestionAnswering,
    pixel_values: torch.Tensor,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    candidate_ids: torch.Tensor,
    candidate_mask: torch.Tensor,
    k: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rank candidates: every question has its image encoded, every candidate all tokens of the longest scored.

    Args:
        model: The model.
        pixel_values: (B, 3, S, S), an image for each question.
        input_ids: (B, M) questions.
        attention_mask: (B, M).
        candidate_ids: (C, L).
        candidate_mask: (C, L).
        k: Candidates whose first token is the likeliest.

    Returns:
        (B, k) indices of the candidates, best first, and their probabilities.
    """
    images, text_model = encode_images(model.albef.vision_model, pixel_values), model.albef.text_model
    states, mask = text_model.embeddings(input_ids), additive_mask(attention_mask, images.dtype)
    image_mask = additive_mask(torch.ones(images.shape[:2], device=images.device), images.dtype)
    for layer in text_model.encoder.text_layers:
        states = text_layer(layer, states, mask)
    for layer in text_model.encoder.fusion_layers:
        states = text_layer(layer, states, mask, images, image_mask)
    decoder, count = model.text_decoder, len(states)
    start = decode(decoder, candidate_ids[:1, :1].expand(count, 1), torch.ones_like(input_ids[:, :1]), states, mask)
    first = start[:, 0].softmax(dim=-1)[:, candidate_ids[:, 1]]
    first_scores, chosen = first.topk(k, dim=1)
    rows, row_mask = candidate_ids[chosen].flatten(0, 1), candidate_mask[chosen].flatten(0, 1)
    logits = decode(decoder, rows, row_mask, states.repeat_interleave(k, dim=0), mask.repeat_interleave(k, dim=0))
    losses = nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1),
        rows[:, 1:].masked_fill(row_mask[:, 1:] == 0, -100).flatten(),
        reduction="none",
    )
    scores = first_scores.log() - losses.view(len(rows), -1).sum(dim=1).view(count, k)
    probabilities, order = scores.softmax(dim=1).sort(dim=1, descending=True)
    return chosen.gather(1, order), probabilities


def decode(
    decoder: AlbefTextDecoder,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    questions: torch.Tensor,
    question_mask: torch.Tensor,
) -> torch.Tensor:
    """Return logits (N, L, vocabulary) of answers (N, L), with questions' states (N, M, H) and additive masks."""
    states, length = decoder.embeddings(input_ids), input_ids.shape[1]
    causal = torch.ones(length, length, device=states.device).tril()[None, None]
    mask = (1.0 - causal * attention_mask[:, None, None, :].to(states.dtype)) * MASKED
    layer: Any
    for layer in decoder.layer:
        states = text_layer(layer, states, mask, questions, question_mask)
    return decoder.head(states).float()


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Move the teacher, parameter by parameter."""
    for old, new in zip(teacher.parameters(), student.parameters(), strict=True):
        old.data = old.data * momentum + new.data * (1.0 - momentum)


def retrieval_loss(
    model: AlbefForImageTextRetrieval,
    teacher: AlbefForImageTextRetrieval,
    queue: FeatureQueue,
    inputs: dict[str, torch.Tensor],
    alpha: float,
    momentum: float,
) -> torch.Tensor:
    """Return loss of a training step in the published order, from the teacher's update to the queue.

    Args:
        model: The student.
        teacher: Changed in place.
        queue: Changed in place.
        inputs: `pixel_values`, `input_ids`, `attention_mask`, `image_ids`.
        alpha: Weight of the teacher in the targets.
        momentum: Decay of the teacher.

    Returns:
        Contrastive plus matching loss.
    """
    ids, batch, temperature = inputs["image_ids"], len(inputs["image_ids"]), model.albef.temperature
    image, text, image_embeds, text_embeds = _features(model, inputs)
    with torch.no_grad():
        update_teacher(teacher, model, momentum)
        _, _, teacher_images, teacher_texts = _features(teacher, inputs)
        all_images, all_texts = (
            torch.cat([teacher_images, queue.image_embeds]),
            torch.cat([teacher_texts, queue.text_embeds]),
        )
        same = (ids[:, None] == torch.cat([ids, queue.image_ids])[None]).float()
        positives = same / same.sum(dim=1, keepdim=True)
        image_targets = alpha * (teacher_images @ all_texts.T / temperature).softmax(dim=1) + (1 - alpha) * positives
        text_targets = alpha * (teacher_texts @ all_images.T / temperature).softmax(dim=1) + (1 - alpha) * positives
    per_image, per_text = image_embeds @ all_texts.T / temperature, text_embeds @ all_images.T / temperature
    contrastive = -(per_image.log_softmax(dim=1) * image_targets).sum(dim=1).mean() / 2
    contrastive = contrastive - (per_text.log_softmax(dim=1) * text_targets).sum(dim=1).mean() / 2
    queue.enqueue(teacher_images, teacher_texts, ids)
    wrong_images = draw_negatives(per_text[:, :batch], ids)
    wrong_texts = draw_negatives(per_image[:, :batch], ids)
    mask = inputs["attention_mask"]
    positive = fuse(model, text, mask, image)
    negative = fuse(
        model,
        torch.cat([text, text[wrong_texts]]),
        torch.cat([mask, mask[wrong_texts]]),
        torch.cat([image[wrong_images], image]),
    )
    logits = model.itm_head(torch.cat([positive[:, 0], negative[:, 0]])).float()
    labels = torch.cat([torch.ones(batch), torch.zeros(2 * batch)]).long()
    return contrastive + nn.functional.cross_entropy(logits, labels)


def _features(model: AlbefForImageTextRetrieval, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Return states of images and texts, and their projections of unit length in float32."""
    albef, normalize = model.albef, nn.functional.normalize
    image = encode_images(albef.vision_model, inputs["pixel_values"])
    text = encode_texts(model, inputs["input_ids"], inputs["attention_mask"])
    image_embeds = normalize(albef.vision_proj(image[:, 0]), dim=-1).float()
    return image, text, image_embeds, normalize(albef.text_proj(text[:, 0]), dim=-1).float()


@torch.no_grad()
def draw_negatives(logits: torch.Tensor, image_ids: torch.Tensor) -> list[int]:
    """Return a wrong row for each row, drawn one by one."""
    weights = (logits + 1e-4).softmax(dim=1).masked_fill(image_ids[:, None] == image_ids[None], 0)
    return [int(torch.multinomial(row, 1).item()) for row in weights]
