# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Grad-CAM on attention: where in the image a text finds what speaks for the match, for the answer, for similarity.

Selvaraju et al., 2017, on attention maps as in section 6.4 of the paper (salesforce/ALBEF `Grounding.py`). Shapes: B
pairs, L text tokens, P image tokens, A answer tokens, H width.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn

from ..configuration_albef import AlbefError, AlbefTextConfig, AlbefVisionConfig
from ..losses_albef import answer_loss, predicted_tokens
from ..modeling_albef_question_answering import AlbefForQuestionAnswering
from ..modeling_albef_retrieval import AlbefForImageTextRetrieval
from ..modeling_albef_text import first_token

ModelWithHead = AlbefForImageTextRetrieval | AlbefForQuestionAnswering


def default_layer(config: AlbefTextConfig) -> int:
    """Return the layer, among all text layers, that the original looks at: 8 of 12, the third of six fusion layers.

    In other sizes its equal, a third of the way through the fusion layers.
    """
    return config.num_text_layers + config.num_fusion_layers // 3


def default_block(config: AlbefVisionConfig) -> int:
    """Return the layer of the vision tower that the original looks at for similarity: 8 of 12, or its equal."""
    return config.num_hidden_layers * 2 // 3


def gradcam(
    model: ModelWithHead,
    pixel_values: torch.Tensor,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    answer_input_ids: torch.Tensor | None = None,
    answer_attention_mask: torch.Tensor | None = None,
    layer: int | None = None,
    average_tokens: bool = False,
) -> torch.Tensor:
    """Return heat maps: cross-attention to the patches times its positive gradient, the mean over the heads.

    The gradient is that of the match logit or, in a model that answers questions, of the answer's log-likelihood. The
    model is left as it was: weights, their `.grad` and `requires_grad`, modes, attention implementation.

    Args:
        model: Its parameters may all be frozen.
        pixel_values: (B, 3, S, S), or (1, 3, S, S) for one image with all texts.
        input_ids: (B, L) captions or questions.
        attention_mask: (B, L), 1 = token; None = no padding.
        answer_input_ids: (B, A) `[CLS] a1 .. an [SEP]`, an answer for each question; not for captions.
        answer_attention_mask: (B, A), 1 = token; None = no padding.
        layer: Index of a fusion layer among all text layers; default: `default_layer`. In the last layer the match
            logit sees nothing but `[CLS]`: maps of all other tokens are 0 there.
        average_tokens: Give the mean over the tokens of a text, `[CLS]` among them, which the original grounds with.

    Returns:
        (B, L, rows, columns) float32, a value >= 0 for each token and patch, 0 at padding; with `average_tokens`
        (B, rows, columns).

    Raises:
        TypeError: The model has neither head.
        ValueError: The layer is no fusion layer, answers are missing or not wanted, or images and texts do not
            pair.
    """
    _check_arguments(model, pixel_values, input_ids, answer_input_ids)
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    text_model = model.albef.text_model
    layer = checked_layer(text_model.config, layer)
    with torch.inference_mode(False), _evaluation(model), eager_attention(text_model):
        with torch.no_grad():
            text = text_model(input_ids, attention_mask).last_hidden_state
            image = model.albef.vision_model(pixel_values).last_hidden_state
        # the first tensor of the graph, so that there is one where all parameters are frozen
        image = image.expand(len(text), -1, -1).clone().requires_grad_()

        def score() -> torch.Tensor:
            fused = text_model(
                text_hidden_states=text, attention_mask=attention_mask, image_hidden_states=image
            ).last_hidden_state
            return _score(model, fused, attention_mask, answer_input_ids, answer_attention_mask)

        with torch.enable_grad():
            heat = attention_heat(text_model.encoder.layer[layer].crossattention.self, score)  # (B, L, P - 1)
    rows = pixel_values.shape[-2] // model.config.vision_config.patch_size
    heat = (heat.detach() * attention_mask[..., None]).unflatten(-1, (rows, -1))
    return average_over_tokens(heat, attention_mask) if average_tokens else heat


def similarity_gradcam(
    model: AlbefForImageTextRetrieval,
    pixel_values: torch.Tensor,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    block: int | None = None,
) -> torch.Tensor:
    """Return heat maps of the similarity: attention of the image's class token times its positive gradient.

    The gradient is that of the similarity by the temperature; the mean is over the heads (mode `itc` of
    salesforce/ALBEF `Grounding.py`). The model is left as it was, as by `gradcam`.

    Args:
        model: Its parameters may all be frozen.
        pixel_values: (B, 3, S, S), or (1, 3, S, S) for one image with all texts.
        input_ids: (B, L) captions.
        attention_mask: (B, L), 1 = token; None = no padding.
        block: Index of a layer of the vision tower; default: `default_block`.

    Returns:
        (B, rows, columns) float32, values >= 0.

    Raises:
        TypeError: The model is of another task.
        ValueError: There is no such layer, or images and texts do not pair.
    """
    if not isinstance(model, AlbefForImageTextRetrieval):
        raise TypeError(f"Maps of similarity need AlbefForImageTextRetrieval, not {type(model).__name__}.")
    _check_arguments(model, pixel_values, input_ids, None)
    vision_model = model.albef.vision_model
    block = checked_block(vision_model.config, block)
    with torch.inference_mode(False), _evaluation(model), eager_attention(vision_model):
        with torch.no_grad():
            text: Any = model.get_text_features(input_ids, attention_mask).pooler_output
        # the first tensor of the graph, so that there is one where all parameters are frozen
        images = pixel_values.expand(len(text), -1, -1, -1).clone().requires_grad_()

        def score() -> torch.Tensor:
            image: Any = model.get_image_features(images).pooler_output
            return (image * text / model.albef.temperature).sum()

        with torch.enable_grad():
            heat = attention_heat(vision_model.blocks[block].attn, score)[:, 0]  # (B, P - 1), of the class token
    return heat.detach().unflatten(-1, (pixel_values.shape[-2] // vision_model.config.patch_size, -1))


def attention_heat(attention: nn.Module, score: Callable[[], torch.Tensor], create_graph: bool = False) -> torch.Tensor:
    """Return attention times the positive part of a score's gradient by it, the mean over the heads.

    Args:
        attention: A layer that is run once by `score`, and returns its context and its probabilities (B, heads, L, P).
        score: Returns the sum over B rows of what the gradient is of.
        create_graph: Whether the result can be differentiated itself, by the gradient of the gradient.

    Returns:
        (B, L, P - 1) float32, without the image's class token.
    """
    recorded: list[torch.Tensor] = []
    hook = attention.register_forward_hook(lambda _module, _arguments, output: recorded.append(output[1]))
    try:
        value = score()
    finally:
        hook.remove()
    (gradient,) = torch.autograd.grad(value, recorded, create_graph=create_graph)
    return (recorded[0].float() * gradient.float().clamp(min=0)).mean(dim=1)[..., 1:]


def average_over_tokens(heat: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Return the mean (B, rows, columns) of maps (B, L, rows, columns) over the tokens of each text.

    Maps of padding have to be 0.
    """
    # Differs from ALBEF, which divides by the padded length: a map does not depend on the texts beside it.
    return heat.sum(dim=1) / attention_mask.sum(dim=1)[:, None, None]


def _score(
    model: ModelWithHead,
    fused: torch.Tensor,
    attention_mask: torch.Tensor,
    answer_input_ids: torch.Tensor | None,
    answer_attention_mask: torch.Tensor | None,
) -> torch.Tensor:
    """Return the sum over the pairs of the match logit, or of the answer's log-likelihood; `fused` is (B, L, H)."""
    if isinstance(model, AlbefForImageTextRetrieval):
        return model.itm_head(first_token(fused, attention_mask))[:, 1].sum()
    answers = cast(torch.Tensor, answer_input_ids)  # checked with the other arguments
    if answer_attention_mask is None:
        answer_attention_mask = torch.ones_like(answers)
    logits = model.text_decoder(
        answers, answer_attention_mask, encoder_hidden_states=fused, encoder_attention_mask=attention_mask
    ).logits
    weights = torch.ones(len(fused), device=fused.device)
    return -answer_loss(logits, answers, predicted_tokens(answer_attention_mask), weights, num_questions=1)


@contextmanager
def _evaluation(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, and put each of its parts back."""
    in_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in in_training:
            module.training = True


@contextmanager
def eager_attention(tower: Any) -> Iterator[None]:
    """Give a tower attention that returns its probabilities and can be differentiated twice, and put its own back."""
    implementation = tower.config._attn_implementation
    tower.set_attn_implementation("eager")
    try:
        yield
    finally:
        tower.set_attn_implementation(implementation)


def checked_layer(config: AlbefTextConfig, layer: int | None) -> int:
    """Return a fusion layer, by default `default_layer`; raises AlbefError for any other."""
    if not config.num_fusion_layers:
        raise AlbefError("The model has no fusion layers: there is no attention to the image.")
    layer = default_layer(config) if layer is None else layer
    if not config.num_text_layers <= layer < config.num_hidden_layers:
        raise AlbefError(
            f"layer is {layer}, but must be a fusion layer, {config.num_text_layers}..{config.num_hidden_layers - 1}."
        )
    return layer


def checked_block(config: AlbefVisionConfig, block: int | None) -> int:
    """Return a layer of the vision tower, by default `default_block`; raises AlbefError for any other."""
    block = default_block(config) if block is None else block
    if not 0 <= block < config.num_hidden_layers:
        raise AlbefError(
            f"block is {block}, but must be a layer of the vision tower, 0..{config.num_hidden_layers - 1}."
        )
    return block


def _check_arguments(
    model: ModelWithHead, pixel_values: torch.Tensor, input_ids: torch.Tensor, answer_input_ids: torch.Tensor | None
) -> None:
    if not isinstance(model, ModelWithHead):
        raise TypeError(
            f"Grad-CAM needs AlbefForImageTextRetrieval or AlbefForQuestionAnswering, not {type(model).__name__}."
        )
    answers_wanted = isinstance(model, AlbefForQuestionAnswering)
    if answers_wanted and (answer_input_ids is None or len(answer_input_ids) != len(input_ids)):
        raise ValueError("Give answer_input_ids, an answer for each question.")
    if not answers_wanted and answer_input_ids is not None:
        raise ValueError("answer_input_ids are for AlbefForQuestionAnswering: leave them out.")
    if len(pixel_values) not in (1, len(input_ids)):
        raise ValueError(f"{len(pixel_values)} images and {len(input_ids)} texts do not pair: give one for each text.")
