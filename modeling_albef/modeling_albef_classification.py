# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Classification of an image with a text: the text looks at the image, an MLP reads the fused `[CLS]`.

Shapes: B texts, I images, P image tokens, L text tokens, H width, C labels.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .attention_albef import NestedOutput, every_layer, output_options, select_layers
from .configuration_albef import AlbefConfig
from .losses_albef import label_loss
from .modeling_albef import AlbefModel, AlbefPreTrainedModel
from .modeling_albef_text import first_token


@dataclass
class AlbefImageTextClassificationOutput(NestedOutput):
    """Loss and scores of the labels.

    Attributes:
        loss: Classification loss, distilled where a teacher's logits were given.
        logits: (B, C) scores of the labels before the softmax or the sigmoid; of a regression the numbers themselves.
        multimodal_hidden_states: (B, L, H) states of the texts, the image looked at.
        image_hidden_states: (I, P, H of the vision tower).
        hidden_states: Where asked for: of the text tower, (B, L, H) each: the embeddings, then after each layer.
        attentions: Where asked for: of the text tower's layers, (B, heads, L, L) each.
        cross_attentions: Where asked for: of its fusion layers, to the image: (B, heads, L, P) each.
        text_model_output: All that the text tower gave.
        vision_model_output: All that the vision tower gave.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    multimodal_hidden_states: torch.Tensor | None = None
    image_hidden_states: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None
    text_model_output: ModelOutput | None = None
    vision_model_output: ModelOutput | None = None


def make_classifier(config: AlbefConfig) -> nn.Sequential:
    """Return the published MLP (salesforce/ALBEF `models/model_ve.py`): (B, H) -> (B, C)."""
    width = config.text_config.hidden_size
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, cast(int, config.num_labels)))


class AlbefForImageTextClassification(AlbefPreTrainedModel):
    """ALBEF with a classifier on the fused `[CLS]`: visual entailment, and any other labels of an image with a text."""

    auto_classes = ("AutoModelForSequenceClassification",)
    _head = ("classifier.", "classifier")

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__(config)
        self.albef = AlbefModel(config, add_projections=False)
        self.classifier = make_classifier(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        teacher_logits: torch.Tensor | None = None,
        alpha: float | torch.Tensor = 0.0,
        image_index: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        image_hidden_states: torch.Tensor | None = None,
    ) -> AlbefImageTextClassificationOutput:
        """Score the labels of texts with their images and, given the right ones, compute the loss.

        Args:
            pixel_values: (I, 3, S, S).
            input_ids: (B, L) texts.
            attention_mask: (B, L), 1 = token; padding may be on either side. None = no padding.
            labels: (B,) whole numbers 0..C-1 (-100 does not count) for one label each; (B, C) floats 0..1 for several;
                (B,) or (B, C) numbers for a regression. `config.problem_type` says which; default: as the library does.
            teacher_logits: (B, C) of the momentum teacher.
            alpha: Weight of the teacher in the targets, 0..1.
            image_index: (B,) the image of each text; default: as many images as texts, or one for all.
            position_ids: (B, L); default: 0, 1 .. from `[CLS]`.
            inputs_embeds: (B, L, H) embeddings of the words, in place of `input_ids`.
            interpolate_pos_encoding: Whether images may have other sides; see `AlbefVisionModel.forward`.
            output_attentions: Whether the attention maps of both towers are returned; default: as the configuration
                says.
            output_hidden_states: Whether the states after each layer of both towers are returned; likewise.
            image_hidden_states: (I, P, H) in place of `pixel_values`; see `AlbefModel.encode_images`.

        Returns:
            See `AlbefImageTextClassificationOutput`.

        Raises:
            ValueError: A shape is wrong.
        """
        options = output_options(
            self.config, output_attentions=output_attentions, output_hidden_states=output_hidden_states
        )
        every, wanted = every_layer(options), options.get("output_hidden_states")
        image = self.albef.encode_images(pixel_values, interpolate_pos_encoding, image_hidden_states, **every)
        text = self.albef.text_model(
            input_ids,
            attention_mask,
            image_hidden_states=image.last_hidden_state,
            image_index=image_index,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            **every,
        )
        logits = self.classifier(first_token(text.last_hidden_state, attention_mask))
        return AlbefImageTextClassificationOutput(
            loss=label_loss(self.config, logits, labels, teacher_logits, alpha),
            logits=logits,
            multimodal_hidden_states=text.last_hidden_state,
            image_hidden_states=image.last_hidden_state,
            hidden_states=select_layers(text.hidden_states, wanted),
            attentions=text.attentions,
            cross_attentions=text.cross_attentions,
            text_model_output=text,
            vision_model_output=image,
        )
