# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""A text and two images: visual reasoning (NLVR2), and the text assignment that it is pre-trained with.

Section 4.2 of the paper; salesforce/ALBEF `models/model_nlvr.py`, `models/model_pretrain_nlvr.py`. Shapes: B texts, K
images a text (published: 2), I images, P image tokens, L text tokens, H width, C classes.
"""

import copy
import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812, the field's own name
from transformers.utils.generic import can_return_tuple

from .attention_albef import every_layer, output_options, select_layers
from .configuration_albef import AlbefConfig, AlbefError, check_shapes
from .losses_albef import assign_texts, label_loss
from .modeling_albef import AlbefModel, AlbefPreTrainedModel
from .modeling_albef_classification import AlbefImageTextClassificationOutput, make_classifier
from .modeling_albef_text import first_token

IMAGES = 2  # a text, as published


@dataclass
class AlbefVisualReasoningOutput(AlbefImageTextClassificationOutput):
    """As of one image, but for two.

    Attributes:
        loss: Cross-entropy with the labels, distilled where the teacher's logits are given.
        logits: (B, C).
        image_hidden_states: (I, P, H of the vision tower): all first images, then all second ones, unless
            `image_index` says which row is which.
        cross_attentions: Where asked for: of the fusion layers, to the image whose turn it is: (B, heads, L, P) each.
    """


@dataclass
class AlbefTextAssignmentOutput(AlbefVisualReasoningOutput):
    """As `AlbefVisualReasoningOutput`, and what was assigned.

    Attributes:
        assigned_labels: (B,) 0: the text describes the first image, 1: the second, 2: neither; -100: no image to draw.
        image_index: (B, 2) the images of each text, rows of `pixel_values`.
    """

    assigned_labels: torch.Tensor | None = None
    image_index: torch.Tensor | None = None


class AlbefImagePairModel(AlbefPreTrainedModel):
    """What the heads of two images share: a model of one image becomes one of two when it is loaded."""

    _reads_more_images = True

    def __init__(self, config: AlbefConfig, add_images: bool = True, add_projections: bool = False) -> None:
        """Make a model.

        Args:
            config: Its sizes. Where its `images_per_text` is 1, each fusion layer becomes two; the model's own copy of
                the configuration says so.
            add_images: Whether it does; False where the weights of one image are still to be loaded.
            add_projections: See `AlbefModel`.
        """
        super().__init__(copy.deepcopy(config) if add_images else config)
        self.albef = AlbefModel(self.config, add_projections=add_projections)
        self.make_head()
        self.post_init()
        if add_images:
            self._add_images()

    def make_head(self) -> None:
        """Make what maps the fused `[CLS]` to the classes."""
        raise NotImplementedError

    def _add_images(self) -> None:
        if self.config.text_config.images_per_text == 1:
            self.albef.text_model.add_images(IMAGES)
            for part in (self, self.albef, self.albef.text_model):
                part.all_tied_weights_keys = part.get_expanded_tied_weights_keys(all_submodels=True)

    @classmethod
    def from_encoders(cls, *args: Any, **kwargs: Any) -> Any:
        """Refuse two encoders, which start a model of one image, with an AlbefError that says the way."""
        raise AlbefError(
            f"Two encoders make no {cls.__name__}: save `AlbefModel.from_encoders(..)`, and load that by this class."
        )

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike | None, *model_args: Any, **kwargs: Any
    ) -> Any:
        """Load a model of two images; or of one, whose fusion layers are doubled, one for each image, as published.

        Args:
            pretrained_model_name_or_path: Folder or Hub name.
            model_args: Those of `PreTrainedModel.from_pretrained`.
            kwargs: Likewise.

        Returns:
            The model in evaluation mode.

        Raises:
            AlbefError: The model cannot be used, or has fewer layers than the configuration that was given.
        """
        with_info = kwargs.pop("output_loading_info", False)
        kwargs |= {"output_loading_info": True, "add_images": False}
        model, info = super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        last = f"albef.text_model.encoder.layer.{model.config.text_config.num_hidden_layers - 1}."
        if pretrained_model_name_or_path is not None and any(name.startswith(last) for name in info["missing_keys"]):
            raise AlbefError(
                f"The model {str(pretrained_model_name_or_path)!r} has fewer text layers than the configuration: "
                "leave config out, and its layers for one image are doubled."
            )
        model._add_images()
        return (model, info) if with_info else model

    def _fuse(
        self,
        pixel_values: torch.Tensor,
        texts: tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None, torch.Tensor | None],
        image_index: torch.Tensor | None,
        interpolate_pos_encoding: bool,
        options: dict[str, Any],
        image: Any = None,
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Return the fused `[CLS]` (B, H), and the fields of an output that do not depend on the head.

        `texts` are `input_ids`, `attention_mask`, `position_ids` and `inputs_embeds`; `image` what the vision tower
        gave, where that is known already.
        """
        input_ids, attention_mask, position_ids, inputs_embeds = texts
        if pixel_values.dim() == 5:  # (B, K, 3, S, S): all first images, then all second ones
            count = self.config.text_config.images_per_text
            check_shapes({"K": count}, pixel_values=(pixel_values, "BKCST"), image_index=(image_index, "BK"))
            pixel_values = pixel_values.transpose(0, 1).flatten(0, 1)
        every, wanted = every_layer(options), options.get("output_hidden_states")
        image = image or self.albef.vision_model(pixel_values, interpolate_pos_encoding, **every)
        states = image.last_hidden_state
        text = self.albef.text_model(
            input_ids,
            attention_mask,
            image_hidden_states=states,
            image_index=image_index,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            **every,
        )
        fields = {"attentions": text.attentions, "cross_attentions": text.cross_attentions}
        fields["hidden_states"] = select_layers(text.hidden_states, wanted)
        fields |= {"image_hidden_states": states, "multimodal_hidden_states": text.last_hidden_state}
        fields |= {"text_model_output": text, "vision_model_output": image}
        return first_token(text.last_hidden_state, attention_mask), fields


class AlbefForVisualReasoning(AlbefImagePairModel):
    """ALBEF with two cross-attention blocks a fusion layer, one for each image, and a classifier: is the text true?"""

    auto_classes = ("AutoModelForSequenceClassification",)
    _head = ("classifier.", "classifier")
    _keys_to_ignore_on_load_unexpected = [
        r"^(itm|mlm|assignment)_head\.",
        r"^(albef\.)?(vision_proj|text_proj|temperature)",
        r"^text_decoder\.",
    ]

    def make_head(self) -> None:
        """Make the classifier."""
        self.classifier = make_classifier(self.config)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        teacher_logits: torch.Tensor | None = None,
        alpha: float | torch.Tensor = 0.0,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> AlbefVisualReasoningOutput:
        """Classify texts about two images each.

        Args:
            pixel_values: (B, 2, 3, S, S) the images of each text; or (I, 3, S, S), of which `image_index` says whose
                they are, and without it: all first images, then all second ones.
            input_ids: (B, L) `[CLS] w1 .. wn`.
            attention_mask: (B, L), 1 = token; padding may be on either side. None = no padding.
            image_index: (B, 2) rows of `pixel_values`, so that several texts share images that are encoded once.
            labels: (B,) the class of each text; of other problem types: see `AlbefForImageTextClassification.forward`.
            teacher_logits: (B, C) of the momentum teacher.
            alpha: Weight of the teacher in the targets, 0..1.
            position_ids: (B, L); default: 0, 1 .. from `[CLS]`.
            inputs_embeds: (B, L, H) embeddings of the words, in place of `input_ids`.
            interpolate_pos_encoding: Whether images may have other sides; see `AlbefVisionModel.forward`.
            output_attentions: Whether attention maps are returned; default: as the configuration says.
            output_hidden_states: Whether the states after each layer are returned; likewise.

        Returns:
            See `AlbefVisualReasoningOutput`.

        Raises:
            ValueError: A shape is wrong.
        """
        options = output_options(
            self.config, output_attentions=output_attentions, output_hidden_states=output_hidden_states
        )
        texts = (input_ids, attention_mask, position_ids, inputs_embeds)
        first, fields = self._fuse(pixel_values, texts, image_index, interpolate_pos_encoding, options)
        logits = self.classifier(first)
        loss = label_loss(self.config, logits, labels, teacher_logits, alpha)
        return AlbefVisualReasoningOutput(loss=loss, logits=logits, **fields)


class AlbefForTextAssignment(AlbefImagePairModel):
    """ALBEF as it is pre-trained for visual reasoning: which of two images does a text describe, or neither?"""

    auto_classes = ("AutoModelForPreTraining",)
    _head = ("assignment_head.", "assignment head")
    _keys_to_ignore_on_load_unexpected = [r"^(itm|mlm)_head\.", r"^classifier\.", r"^text_decoder\."]

    def __init__(self, config: AlbefConfig, add_images: bool = True) -> None:
        """Make a model; see `AlbefImagePairModel`."""
        super().__init__(config, add_images, add_projections=True)  # for the draw

    def make_head(self) -> None:
        """Make the map to the three classes."""
        self.assignment_head = nn.Linear(self.config.text_config.hidden_size, IMAGES + 1)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        image_ids: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        return_loss: bool = True,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> AlbefTextAssignmentOutput:
        """Assign texts to images: text i belongs to image i, and is shown two images of the batch.

        Args:
            pixel_values: (B, 3, S, S).
            input_ids: (B, L).
            attention_mask: (B, L), 1 = token; padding may be on either side.
            image_ids: (B,) same id = same image, which is never a wrong one; default: 0..B-1.
            image_index: (B, 2) the images that each text is shown, rows of `pixel_values`; default: `assign_texts`
                draws them; in evaluation mode nothing is left to chance.
            labels: (B,) 0: the first of them is the text's, 1: the second, 2: neither. With `image_index` only.
            return_loss: Whether the loss is computed, for which images and labels may have to be drawn.
            position_ids: (B, L); default: 0, 1 .. from `[CLS]`.
            inputs_embeds: (B, L, H) embeddings of the words, in place of `input_ids`.
            interpolate_pos_encoding: Whether images may have other sides.
            output_attentions: Whether attention maps are returned.
            output_hidden_states: Whether the states after each layer are returned.

        Returns:
            See `AlbefTextAssignmentOutput`.

        Raises:
            ValueError: There are labels, but no images that they are of; or a shape is wrong.
        """
        if labels is not None and image_index is None:
            raise AlbefError("labels are given without image_index, the two images of each text: give both or none.")
        options = output_options(
            self.config, output_attentions=output_attentions, output_hidden_states=output_hidden_states
        )
        texts = input_ids if inputs_embeds is None else inputs_embeds[..., 0]
        check_shapes(
            pixel_values=(pixel_values, "ICST"),
            input_ids=(texts, "BL"),
            image_ids=(image_ids, "I"),
            labels=(labels, "B"),
        )
        image = self.albef.vision_model(pixel_values, interpolate_pos_encoding, **every_layer(options))
        if image_index is None:
            check_shapes({"B": pixel_values.shape[0]}, input_ids=(texts, "BL"))
            with torch.no_grad():
                embeds = F.normalize(self.albef.vision_proj(image.last_hidden_state[:, 0]), dim=-1)
            image_index, labels = assign_texts(embeds, image_ids, hardest=not self.training)
        first, fields = self._fuse(
            pixel_values,
            (input_ids, attention_mask, position_ids, inputs_embeds),
            image_index,
            interpolate_pos_encoding,
            options,
            image,
        )
        logits = self.assignment_head(first)
        if labels is not None and return_loss:
            counted = (labels != -100).sum().clamp(min=1)
            fields["loss"] = F.cross_entropy(logits.float(), labels.long(), reduction="sum") / counted
        return AlbefTextAssignmentOutput(logits=logits, assigned_labels=labels, image_index=image_index, **fields)
