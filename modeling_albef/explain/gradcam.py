# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Grad-CAM on the cross-attention: where in the image a word finds what speaks for the match, or for the answer.

Selvaraju et al., 2017, on attention maps as in section 6.4 of the paper (salesforce/ALBEF `Grounding.py`). Shapes: B
pairs, L text tokens, P image tokens, A answer tokens, H width.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch

from ..configuration_albef import AlbefError, AlbefTextConfig
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
    layer = _checked_layer(text_model.config, layer)
    attention = text_model.encoder.layer[layer].crossattention.self
    recorded: list[torch.Tensor] = []  # (B, heads, L, P)
    with torch.inference_mode(False), _plain_attention(model):
        with torch.no_grad():
            text = text_model(input_ids, attention_mask).last_hidden_state
            image = model.albef.vision_model(pixel_values).last_hidden_state
        # the first tensor of the graph, so that there is one where all parameters are frozen
        image = image.expand(len(text), -1, -1).clone().requires_grad_()
        hook = attention.register_forward_hook(lambda _module, _arguments, output: recorded.append(output[1]))
        try:
            with torch.enable_grad():
                fused = text_model(
                    text_hidden_states=text, attention_mask=attention_mask, image_hidden_states=image
                ).last_hidden_state
                score = _score(model, fused, attention_mask, answer_input_ids, answer_attention_mask)
        finally:
            hook.remove()
        (gradient,) = torch.autograd.grad(score, recorded)
    heat = (recorded[0].detach().float() * gradient.float().clamp(min=0)).mean(dim=1)  # (B, L, P)
    rows = pixel_values.shape[-2] // model.config.vision_config.patch_size
    heat = (heat[..., 1:] * attention_mask[..., None]).unflatten(-1, (rows, -1))  # without the image's class token
    if not average_tokens:
        return heat
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
def _plain_attention(model: ModelWithHead) -> Iterator[None]:
    """Give evaluation mode and attention that returns its probabilities, and put both back."""
    text_model = model.albef.text_model
    implementation = text_model.config._attn_implementation
    in_training = [module for module in model.modules() if module.training]
    model.eval()
    text_model.set_attn_implementation("eager")
    try:
        yield
    finally:
        text_model.set_attn_implementation(implementation)
        for module in in_training:
            module.training = True


def _checked_layer(config: AlbefTextConfig, layer: int | None) -> int:
    if not config.num_fusion_layers:
        raise AlbefError("The model has no fusion layers: there is no attention to the image.")
    layer = default_layer(config) if layer is None else layer
    if not config.num_text_layers <= layer < config.num_hidden_layers:
        raise AlbefError(
            f"layer is {layer}, but must be a fusion layer, {config.num_text_layers}..{config.num_hidden_layers - 1}."
        )
    return layer


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
