# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""ALBEF: what its models share, and the two towers with their projections, on which the heads are built.

Shapes: I images, N text rows, P image tokens, L text tokens, H width, E projection width.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, cast

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812, the field's own name
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, logging
from transformers.utils.generic import can_return_tuple

from .attention_albef import AlbefAttentionModel, NestedOutput, every_layer, output_options, select_layers
from .configuration_albef import AlbefConfig, AlbefError, check_shapes
from .hub_albef import AlbefHubMixin
from .losses_albef import contrast, contrastive_positives, itc_loss
from .modeling_albef_text import AlbefTextModel, first_token
from .modeling_albef_vision import AlbefVisionModel

logger = logging.get_logger(__name__)


@dataclass
class AlbefOutput(NestedOutput):
    """Features of images and texts, and their similarities.

    Attributes:
        loss: With `return_loss`: image-text contrastive loss of matching pairs.
        logits_per_image: (I, N) cosine similarity / temperature.
        logits_per_text: (N, I) its transpose.
        image_embeds: (I, E) projected, unit length.
        text_embeds: (N, E) projected, unit length.
        image_hidden_states: (I, P, H of the vision tower).
        text_hidden_states: (N, L, H) after the text layers; the image has no part in them.
        hidden_states: Where asked for: of the text tower, (N, L, H) each: the embeddings, then after each layer that
            was run.
        attentions: Where asked for: of the text tower's layers that were run, (N, heads, L, L) each.
        text_model_output: All that the text layers gave, `last_hidden_state`, `hidden_states`, `attentions` and, as
            `pooler_output`, `text_embeds`.
        vision_model_output: Likewise of the vision tower, with `image_embeds`.
    """

    loss: torch.Tensor | None = None
    logits_per_image: torch.Tensor | None = None
    logits_per_text: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    image_hidden_states: torch.Tensor | None = None
    text_hidden_states: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor | None, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    text_model_output: BaseModelOutputWithPooling | None = None
    vision_model_output: BaseModelOutputWithPooling | None = None


class AlbefPreTrainedModel(AlbefHubMixin, AlbefAttentionModel):  # type: ignore[misc]  # more arguments to push_to_hub
    """What all ALBEF models share: initialisation, loading, saving with their code."""

    config: AlbefConfig
    base_model_prefix = "albef"
    main_input_name = "pixel_values"
    input_modalities = ["image", "text"]
    new_parameters: tuple[str, ...] = ()
    _no_split_modules = ["AlbefVisionLayer", "AlbefTextEmbeddings", "AlbefTextLayer", "AlbefAnswerHead"]
    _reads_more_images: ClassVar[bool] = False  # than one with a text

    def __init__(self, config: AlbefConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        if (count := config.text_config.images_per_text) > 1 and not self._reads_more_images:
            raise AlbefError(
                f"The model {config._name_or_path!r} reads {count} images with each text, {type(self).__name__} one: "
                f"load it as {(config.architectures or ['AlbefForVisualReasoning'])[0]}."
            )

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if getattr(module, "has_projections", False):
            init.constant_(cast(torch.Tensor, module.temperature), self.config.temperature_init)

    @classmethod
    def from_encoders(
        cls,
        vision: Any,
        text: Any,
        num_text_layers: int | None = None,
        num_fusion_layers: int | None = None,
        attn_implementation: str | None = None,
        **fields: Any,
    ) -> Any:
        """Make a model of a vision transformer and a BERT, as the paper starts from DeiT and BERT.

        Sizes come from the encoders. Cross-attention, projections and heads are new; what stayed new is listed in a
        warning and in `new_parameters`. `AlbefProcessor.from_encoders` makes the processor that belongs to it.

        Args:
            vision: ViT, DeiT or DINOv2: folder, Hub name, or model of the library.
            text: BERT, RoBERTa, XLM-RoBERTa, CamemBERT or DistilBERT, of any language: likewise.
            num_text_layers: Layers that read text alone. Default: the lower half of the text encoder's.
            num_fusion_layers: Layers with cross-attention. Default: the rest of them. Where both numbers are given,
                there may be more layers than the text encoder has; those on top are new.
            attn_implementation: As in `from_pretrained`.
            fields: Of the configuration, such as `image_size`, to which the position embeddings are resampled, or
                `projection_dim`.

        Returns:
            The model in evaluation mode, in float32. Its head, where it has one, is untrained.

        Raises:
            AlbefError: An encoder cannot be loaded or is of a form that does not fit, with the reason.
        """
        encoders = import_module("modeling_albef.conversion.encoders")  # the Hub has no copy of it
        image_size = fields.pop("image_size", None)
        towers = encoders.read_vision_encoder(vision), encoders.read_text_encoder(text)
        config = encoders.combined_config(*towers, num_text_layers, num_fusion_layers, fields)
        if image_size is not None:
            config.image_size = image_size
        model = cls._from_config(config, attn_implementation=attn_implementation, dtype=torch.float32).eval()
        model.new_parameters = tuple(encoders.load_encoders(model, *towers))
        model._lacks_head = cls._head is not None
        logger.warning(f"New, to be trained: {encoders.describe_new(model.new_parameters)}.")
        return model


class AlbefModel(AlbefPreTrainedModel):
    """The two towers and their projections into one space (section 3.1 of the paper)."""

    _keys_to_ignore_on_load_unexpected = [
        r"^(itm|assignment)_head\.",
        r"^text_decoder\.",
        r"^classifier\.",
    ]  # of the heads
    _reads_more_images = True  # in the text tower

    def __init__(self, config: AlbefConfig, add_projections: bool = True) -> None:
        """Make a model.

        Args:
            config: Its sizes.
            add_projections: Whether it compares images and texts; False for heads that use the towers alone.
        """
        super().__init__(config)
        self.has_projections = add_projections
        self.vision_model = AlbefVisionModel._from_config(config.vision_config)
        self.text_model = AlbefTextModel._from_config(config.text_config)
        if add_projections:
            self.vision_proj = nn.Linear(config.vision_config.hidden_size, config.projection_dim)
            self.text_proj = nn.Linear(config.text_config.hidden_size, config.projection_dim)
            self.temperature = nn.Parameter(torch.tensor(config.temperature_init))
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the word embeddings."""
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the word embeddings."""
        self.text_model.set_input_embeddings(value)

    def encode_images(
        self,
        pixel_values: torch.Tensor | None,
        interpolate_pos_encoding: bool = False,
        image_hidden_states: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """Run the vision tower, or take the states that it gave before.

        Args:
            pixel_values: (I, 3, S, S).
            interpolate_pos_encoding: Whether images may have other sides; see `AlbefVisionModel.forward`.
            image_hidden_states: (I, P, H) in its place, of a tower that is frozen for example.
            kwargs: `output_hidden_states`, `output_attentions`; states that are given have none.

        Returns:
            `last_hidden_state` (I, P, H).

        Raises:
            ValueError: Both are given or none of them, or a shape is wrong.
        """
        if (pixel_values is None) == (image_hidden_states is None):
            raise AlbefError("Give pixel_values or image_hidden_states, one of the two.")
        if image_hidden_states is None:
            return self.vision_model(pixel_values, interpolate_pos_encoding, **kwargs)
        check_shapes({"H": self.config.vision_config.hidden_size}, image_hidden_states=(image_hidden_states, "IPH"))
        return BaseModelOutput(last_hidden_state=image_hidden_states.to(self.vision_model.dtype))

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        image_hidden_states: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """Encode images.

        Args:
            pixel_values: (I, 3, S, S).
            interpolate_pos_encoding: Whether images may have other sides; see `AlbefVisionModel.forward`.
            image_hidden_states: (I, P, H) in place of `pixel_values`: `last_hidden_state` of an earlier call.
            kwargs: `output_hidden_states`, `output_attentions`, `return_dict`.

        Returns:
            `last_hidden_state` (I, P, H); `pooler_output` (I, E), the projected class token, unit length.
        """
        options = output_options(self.config, **kwargs)
        outputs = self.encode_images(
            pixel_values, interpolate_pos_encoding, image_hidden_states, **every_layer(options)
        )
        embeds = F.normalize(self.vision_proj(cast(torch.Tensor, outputs.last_hidden_state)[:, 0]), dim=-1)
        states = select_layers(outputs.hidden_states, options.get("output_hidden_states"))
        return BaseModelOutputWithPooling(**{**outputs, "pooler_output": embeds, "hidden_states": states})

    @can_return_tuple
    def get_text_features(  # type: ignore[misc]  # position_ids is in both
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """Encode texts by the text layers, without an image.

        Args:
            input_ids: (N, L) `[CLS] w1 .. wn` without `[SEP]`, as the processor makes them.
            attention_mask: (N, L), 1 = token; padding may be on either side. None = no padding.
            position_ids: (N, L); default: 0, 1 .. from `[CLS]`.
            inputs_embeds: (N, L, H) embeddings of the words, in place of `input_ids`.
            kwargs: `output_hidden_states`, `output_attentions`, `return_dict`.

        Returns:
            `last_hidden_state` (N, L, H); `pooler_output` (N, E), the projected `[CLS]`, unit length.
        """
        options = output_options(self.config, **kwargs)
        outputs = self.text_model(
            input_ids, attention_mask, position_ids=position_ids, inputs_embeds=inputs_embeds, **every_layer(options)
        )
        embeds = F.normalize(self.text_proj(first_token(outputs.last_hidden_state, attention_mask)), dim=-1)
        return BaseModelOutputWithPooling(
            last_hidden_state=outputs.last_hidden_state,
            pooler_output=embeds,
            hidden_states=select_layers(outputs.hidden_states, options.get("output_hidden_states")),
            attentions=outputs.attentions,
        )

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        return_loss: bool | None = None,
        interpolate_pos_encoding: bool = False,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        image_hidden_states: torch.Tensor | None = None,
    ) -> AlbefOutput:
        """Compare every image with every text; or encode images alone or texts alone.

        Args:
            pixel_values: (I, 3, S, S); None = texts alone.
            input_ids: (N, L); None = images alone.
            attention_mask: (N, L), 1 = token; padding may be on either side. None = no padding.
            position_ids: (N, L); default: 0, 1 .. from `[CLS]`.
            inputs_embeds: (N, L, H) embeddings of the words, in place of `input_ids`.
            return_loss: Whether the contrastive loss is computed; text i belongs to image i then, and to no other.
            interpolate_pos_encoding: Whether images may have other sides; see `AlbefVisionModel.forward`.
            output_attentions: Whether the attention maps of both towers are returned; default: what the
                configuration says.
            output_hidden_states: Whether the states after each layer of both towers are returned; likewise.
            image_hidden_states: (I, P, H) in place of `pixel_values`: what an earlier call returned.

        Returns:
            Similarities, embeddings and states; see `AlbefOutput`.

        Raises:
            ValueError: There are neither images nor texts; or a loss is asked for without as many of each.
        """
        options = output_options(
            self.config, output_attentions=output_attentions, output_hidden_states=output_hidden_states
        )
        fields: dict[str, Any] = {}
        if pixel_values is not None or image_hidden_states is not None:
            image = self.get_image_features(
                pixel_values, interpolate_pos_encoding, image_hidden_states, return_dict=True, **options
            )
            fields |= {"image_embeds": image.pooler_output, "image_hidden_states": image.last_hidden_state}
            fields["vision_model_output"] = image
        if input_ids is not None or inputs_embeds is not None:
            text = self.get_text_features(
                input_ids, attention_mask, position_ids, inputs_embeds, return_dict=True, **options
            )
            fields |= {"text_embeds": text.pooler_output, "text_hidden_states": text.last_hidden_state}
            fields |= {"hidden_states": text.hidden_states, "attentions": text.attentions, "text_model_output": text}
        if not fields:
            raise ValueError("Give pixel_values, input_ids or both.")
        if "image_embeds" in fields and "text_embeds" in fields:
            logits_per_image = contrast(fields["image_embeds"], fields["text_embeds"], self.temperature)
            fields |= {"logits_per_image": logits_per_image, "logits_per_text": logits_per_image.T}
        if return_loss:
            fields["loss"] = _pair_loss(fields.get("logits_per_image"))
        return AlbefOutput(**fields)


def _pair_loss(logits_per_image: torch.Tensor | None) -> torch.Tensor:
    """Return the contrastive loss of B pairs (B, B), each of which shows an image of its own."""
    if logits_per_image is None or logits_per_image.shape[0] != logits_per_image.shape[1]:
        found = "one of the two" if logits_per_image is None else " and ".join(map(str, logits_per_image.shape))
        raise AlbefError(f"A loss needs as many images as texts, but there are {found}: give matching pairs.")
    ids = torch.arange(logits_per_image.shape[0], device=logits_per_image.device)
    positives = contrastive_positives(ids, ids)
    return itc_loss(logits_per_image, logits_per_image.T, positives, positives)
