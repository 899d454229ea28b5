"""The published algorithms written out plainly, as an oracle and for comparison of speed.

What salesforce/ALBEF does (`models/xbert.py`, `models/vit.py`, `Retrieval.py`, `models/model_vqa.py`,
`models/model_retrieval.py`), operation for operation, on the parameters of our models: every text padded, an image's
tokens repeated for every text, keys and values for every row, attention in steps, a dense score matrix.
Shapes: N rows, L text tokens, P image tokens, H width.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from modeling_albef import AlbefForImageTextRetrieval
from modeling_albef.modeling_albef_text import AlbefTextAttention, AlbefTextLayer
from modeling_albef.modeling_albef_vision import AlbefVisionModel

MASKED = -10_000.0  # added to the scores of padding, as published


def additive_mask(attention_mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(N, L) with 1 = token -> (N, 1, 1, L) to be added to the scores."""
    return (1.0 - attention_mask[:, None, None, :].to(dtype)) * MASKED


def attend(attention: AlbefTextAttention, states: torch.Tensor, memory: torch.Tensor, mask: torch.Tensor | None):  # noqa: ANN201
    """BERT's attention with its output map and residual: (N, L, H) reads `memory` (N, M, width)."""
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
    """(N, tokens, H) -> (N, heads, tokens, d)."""
    return states.unflatten(-1, (-1, head_dim)).permute(0, 2, 1, 3)


def text_layer(
    layer: AlbefTextLayer,
    states: torch.Tensor,
    mask: torch.Tensor,
    memory: torch.Tensor | None = None,
    memory_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """A BERT layer, with cross-attention to `memory` (N, M, width) where it is given."""
    states = attend(layer.attention, states, states, mask)
    if memory is not None:
        states = attend(layer.crossattention, states, memory, memory_mask)
    return layer.output(layer.intermediate(states), states)


def encode_images(vision_model: AlbefVisionModel, pixel_values: torch.Tensor) -> torch.Tensor:
    """(I, 3, S, S) -> (I, P, H), attention in steps."""
    patches = vision_model.patch_embed(pixel_values)
    states = torch.cat([vision_model.cls_token.expand(len(patches), -1, -1), patches], dim=1) + vision_model.pos_embed
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
    """(N, L) -> (N, L, H) by the text layers."""
    text_model = model.albef.text_model
    states = text_model.embeddings(input_ids)
    mask = additive_mask(attention_mask, states.dtype)
    for layer in text_model.encoder.text_layers:
        states = text_layer(layer, states, mask)
    return states


def fuse(
    model: AlbefForImageTextRetrieval, states: torch.Tensor, attention_mask: torch.Tensor, images: torch.Tensor
) -> torch.Tensor:
    """Texts (N, L, H) with an image's tokens each (N, P, width) -> (N, L, H)."""
    mask = additive_mask(attention_mask, states.dtype)
    image_mask = additive_mask(torch.ones(images.shape[:2], device=images.device), states.dtype)
    for layer in model.albef.text_model.encoder.fusion_layers:
        states = text_layer(layer, states, mask, images, image_mask)
    return states


def score_texts(
    model: AlbefForImageTextRetrieval, image: torch.Tensor, texts: torch.Tensor, attention_mask: torch.Tensor
) -> torch.Tensor:
    """Matching logits of one image (P, H) with texts (k, L, H): its tokens are repeated for every text."""
    fused = fuse(model, texts, attention_mask, image.repeat(len(texts), 1, 1))
    return model.itm_head(fused[:, 0])[:, 1]


def score_images(
    model: AlbefForImageTextRetrieval, images: torch.Tensor, text: torch.Tensor, attention_mask: torch.Tensor
) -> torch.Tensor:
    """Matching logits of one text (L, H) with images (k, P, H): it is repeated for every image."""
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
    """Dense scores of both directions, -100 where a pair was not scored.

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
