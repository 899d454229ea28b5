# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""ALBEF: two towers, their projections, and the heads built on them.

Shapes: B batch, I images, N text rows, P image tokens, L text tokens, H width, E projection width, C candidates (the
teacher's batch, then the queue).
"""

import copy
import json
from dataclasses import dataclass
from os import PathLike
from typing import Any, ClassVar

import torch
from safetensors import safe_open
from torch import nn
from torch.nn import functional as F  # noqa: N812, the field's own name
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, cached_file
from transformers.utils.generic import can_return_tuple

from .configuration_albef import AlbefConfig
from .gather_albef import PairPool, gather_pairs
from .hub_albef import AlbefHubMixin
from .losses_albef import contrastive_positives, distill_targets, itc_loss, itm_loss, sample_hard_negatives
from .modeling_albef_text import AlbefTextModel, KeyValue
from .modeling_albef_vision import AlbefVisionModel
from .shape_checks_albef import check_shapes


@dataclass
class AlbefOutput(ModelOutput):
    """Features of images and texts, and their similarities.

    Attributes:
        logits_per_image: (I, N) cosine similarity / temperature.
        logits_per_text: (N, I) its transpose.
        image_embeds: (I, E) projected, unit length.
        text_embeds: (N, E) projected, unit length.
        image_hidden_states: (I, P, H of the vision tower).
        text_hidden_states: (N, L, H) after the text layers; the image has no part in them.
    """

    logits_per_image: torch.Tensor | None = None
    logits_per_text: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    image_hidden_states: torch.Tensor | None = None
    text_hidden_states: torch.Tensor | None = None


@dataclass
class AlbefImageTextRetrievalOutput(AlbefOutput):
    """Scores of images and texts or, in training, the losses of B matching pairs.

    Attributes:
        loss: `itc_loss` + `itm_loss`.
        itc_loss: Image-text contrastive loss.
        itm_loss: Image-text matching loss.
        itm_logits: Scoring: (I, N, 2), every image with every text. Training: (3B, 2), the matching pairs, each text
            with a wrong image, each image with a wrong text. Index 1 = match.
        multimodal_hidden_states: Training only: (3B, L, H) after the fusion layers.
        logits_per_image: In training (B, C), against the candidates; so is `logits_per_text`.
    """

    loss: torch.Tensor | None = None
    itc_loss: torch.Tensor | None = None
    itm_loss: torch.Tensor | None = None
    itm_logits: torch.Tensor | None = None
    multimodal_hidden_states: torch.Tensor | None = None


class AlbefPreTrainedModel(AlbefHubMixin, PreTrainedModel):  # type: ignore[misc]  # more arguments to push_to_hub
    """What all ALBEF models share: initialisation, loading, and the resolution of their images."""

    config: AlbefConfig
    base_model_prefix = "albef"
    main_input_name = "pixel_values"
    input_modalities = ["image", "text"]
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # losses are means over the batch, not normalised over accumulated batches
    _no_split_modules = ["AlbefVisionLayer", "AlbefTextEmbeddings", "AlbefTextLayer", "AlbefAnswerHead"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _head: ClassVar[tuple[str, str] | None] = None  # how the names of its weights begin, and what it is called
    _lacks_head: bool = False

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, AlbefModel) and module.has_projections:
            init.constant_(module.temperature, self.config.temperature_init)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | PathLike | None,
        *model_args: Any,
        image_size: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Loads a model; position embeddings are resampled where the weights are of another resolution.

        Args:
            pretrained_model_name_or_path: Folder or Hub name.
            model_args: Passed on.
            image_size: Side of the images that the model is to take, pixels. Default: what the config says, whether
                it is given as `config` or is that of the checkpoint.
            kwargs: Those of `PreTrainedModel.from_pretrained`.

        Returns:
            The model in evaluation mode.
        """
        with_info = kwargs.pop("output_loading_info", False)
        config = copy.deepcopy(kwargs.pop("config", None))
        source = config if isinstance(config, str | PathLike) else pretrained_model_name_or_path
        hub_kwargs = {key: kwargs[key] for key in _HUB_ARGUMENTS if key in kwargs}
        if not isinstance(config, cls.config_class):
            dtype: dict[str, Any] = {key: kwargs.pop(key) for key in ("dtype", "torch_dtype") if key in kwargs}
            config, kwargs = cls.config_class.from_pretrained(source, **{**kwargs, "return_unused_kwargs": True})
            kwargs = {**kwargs, **hub_kwargs, **dtype}
        wanted = image_size or config.vision_config.image_size
        if wanted % config.vision_config.patch_size:
            patch_size = config.vision_config.patch_size
            raise ValueError(f"image_size is {wanted}, but must be a multiple of the patch size ({patch_size}).")
        stored = _stored_image_size(pretrained_model_name_or_path, config, kwargs.get("state_dict"), hub_kwargs)
        config.vision_config.image_size = stored or config.vision_config.image_size
        kwargs["output_loading_info"] = True
        loaded: Any = super().from_pretrained(pretrained_model_name_or_path, *model_args, config=config, **kwargs)
        model, info = loaded
        if cls._head is not None:
            model._lacks_head = any(key.startswith(cls._head[0]) for key in info["missing_keys"])
        vision_model: Any = getattr(model, cls.base_model_prefix, model).vision_model
        if vision_model.config.image_size != wanted:
            vision_model.resize_position_embeddings(wanted)
        return (model, info) if with_info else model

    def train(self, mode: bool = True) -> Any:
        """As `torch.nn.Module.train`; a head that was started at random counts as trained from then on."""
        self._lacks_head = self._lacks_head and not mode
        return super().train(mode)

    def check_head(self) -> None:
        """Refuses a model whose head was started at random, since the checkpoint had none, and was not trained since.

        Raises:
            ValueError: So it is; the message says which head.
        """
        if self._lacks_head and self._head is not None:
            name = self.config._name_or_path
            raise ValueError(f"The model {name!r} has no {self._head[1]}: give one that was trained for this.")


_HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
_POSITIONS = "vision_model.pos_embed"


def _stored_image_size(
    name: str | PathLike | None, config: Any, state_dict: dict[str, torch.Tensor] | None, hub_kwargs: dict
) -> int | None:
    """Side of the images that the stored position embeddings are for; None where the weights do not tell."""
    shape = None
    if state_dict is not None:
        shape = next((tensor.shape for key, tensor in state_dict.items() if key.endswith(_POSITIONS)), None)
    elif name is not None:
        missing_ok = {"_raise_exceptions_for_missing_entries": False, **hub_kwargs}
        index = cached_file(name, "model.safetensors.index.json", **missing_ok)
        file_name = "model.safetensors"
        if index is not None:
            with open(index, encoding="utf-8") as file:
                weight_map = json.load(file)["weight_map"]
            file_name = next((part for key, part in weight_map.items() if key.endswith(_POSITIONS)), file_name)
        path = cached_file(name, file_name, **missing_ok)
        if path is not None:
            with safe_open(path, framework="pt") as weights:
                key = next((key for key in weights.keys() if key.endswith(_POSITIONS)), None)
                shape = weights.get_slice(key).get_shape() if key else None
    return round((shape[1] - 1) ** 0.5) * config.vision_config.patch_size if shape else None


class AlbefModel(AlbefPreTrainedModel):
    """The two towers and their projections into one space (section 3.1 of the paper)."""

    _keys_to_ignore_on_load_unexpected = [r"^itm_head\.", r"^text_decoder\."]  # of the heads

    def __init__(self, config: AlbefConfig, add_projections: bool = True) -> None:
        """Makes a model.

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
        """The word embeddings."""
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the word embeddings."""
        self.text_model.set_input_embeddings(value)

    @can_return_tuple
    def get_image_features(
        self, pixel_values: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> BaseModelOutputWithPooling:
        """Encodes images.

        Args:
            pixel_values: (I, 3, S, S).
            kwargs: `output_hidden_states`, `output_attentions`, `return_dict`.

        Returns:
            `last_hidden_state` (I, P, H); `pooler_output` (I, E), the projected class token, unit length.
        """
        outputs = self.vision_model(pixel_values, **kwargs)
        embeds = F.normalize(self.vision_proj(outputs.last_hidden_state[:, 0]), dim=-1)
        return BaseModelOutputWithPooling(pooler_output=embeds, **outputs)

    @can_return_tuple
    def get_text_features(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """Encodes texts by the text layers, without an image.

        Args:
            input_ids: (N, L) `[CLS] w1 .. wn` without `[SEP]`, as the processor makes them.
            attention_mask: (N, L), 1 = token; None = no padding.
            kwargs: `output_hidden_states`, `output_attentions`, `return_dict`.

        Returns:
            `last_hidden_state` (N, L, H); `pooler_output` (N, E), the projected `[CLS]`, unit length.
        """
        outputs = self.text_model(input_ids, attention_mask, **kwargs)
        embeds = F.normalize(self.text_proj(outputs.last_hidden_state[:, 0]), dim=-1)
        return BaseModelOutputWithPooling(
            last_hidden_state=outputs.last_hidden_state,
            pooler_output=embeds,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> AlbefOutput:
        """Compares every image with every text; or encodes images alone or texts alone.

        Args:
            pixel_values: (I, 3, S, S); None = texts alone.
            input_ids: (N, L); None = images alone.
            attention_mask: (N, L), 1 = token; None = no padding.

        Returns:
            Similarities, embeddings and states; see `AlbefOutput`.

        Raises:
            ValueError: There are neither images nor texts.
        """
        if pixel_values is None or input_ids is None:
            return self._encode_one_kind(pixel_values, input_ids, attention_mask)
        image = self.get_image_features(pixel_values)
        text = self.get_text_features(input_ids, attention_mask)
        logits_per_image = image.pooler_output @ text.pooler_output.T / self.temperature
        return AlbefOutput(
            logits_per_image=logits_per_image,
            logits_per_text=logits_per_image.T,
            image_embeds=image.pooler_output,
            text_embeds=text.pooler_output,
            image_hidden_states=image.last_hidden_state,
            text_hidden_states=text.last_hidden_state,
        )

    def _encode_one_kind(
        self, pixel_values: torch.Tensor | None, input_ids: torch.Tensor | None, attention_mask: torch.Tensor | None
    ) -> AlbefOutput:
        """Embeddings and states without similarities: what the feature pipelines ask for."""
        if pixel_values is not None:
            image = self.get_image_features(pixel_values)
            return AlbefOutput(image_embeds=image.pooler_output, image_hidden_states=image.last_hidden_state)
        if input_ids is None:
            raise ValueError("Give pixel_values, input_ids or both.")
        text = self.get_text_features(input_ids, attention_mask)
        return AlbefOutput(text_embeds=text.pooler_output, text_hidden_states=text.last_hidden_state)


class AlbefForImageTextRetrieval(AlbefPreTrainedModel):
    """ALBEF with the matching head: scores images against texts, by similarity and by matching."""

    auto_class = "AutoModelForZeroShotImageClassification"
    _head = ("itm_head.", "matching head")
    _keys_to_ignore_on_load_unexpected = [r"^mlm_head\."]  # of a pre-trained model

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__(config)
        self.albef = AlbefModel(config)
        self.itm_head = nn.Linear(config.text_config.hidden_size, 2)
        self.post_init()

    def get_image_features(self, *args: Any, **kwargs: Any) -> BaseModelOutputWithPooling:
        """See `AlbefModel.get_image_features`."""
        return self.albef.get_image_features(*args, **kwargs)

    def get_text_features(self, *args: Any, **kwargs: Any) -> BaseModelOutputWithPooling:
        """See `AlbefModel.get_text_features`."""
        return self.albef.get_text_features(*args, **kwargs)

    def match(
        self,
        text_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        image_hidden_states: torch.Tensor | None = None,
        image_key_values: list[KeyValue] | None = None,
        image_index: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Matches encoded texts with encoded images, a pair for each text row.

        Args:
            text_hidden_states: (N, L, H), `last_hidden_state` of `get_text_features`.
            attention_mask: (N, L); None = no padding.
            image_hidden_states: (I, P, H), `last_hidden_state` of `get_image_features`.
            image_key_values: In its place, what `text_model.project_images` made of it.
            image_index: (N,) the image of each row; see `AlbefTextModel.forward`.

        Returns:
            (N, 2) `itm_logits`; index 1 = match, and its plain value is the published score.
        """
        fused = self.albef.text_model(
            attention_mask=attention_mask,
            text_hidden_states=text_hidden_states,
            image_hidden_states=image_hidden_states,
            image_key_values=image_key_values,
            image_index=image_index,
        )
        return self.itm_head(fused.last_hidden_state[:, 0])

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        image_ids: torch.Tensor | None = None,
        image_candidates: torch.Tensor | None = None,
        text_candidates: torch.Tensor | None = None,
        candidate_ids: torch.Tensor | None = None,
        alpha: float | torch.Tensor = 0.0,
        global_negatives: bool = False,
    ) -> AlbefImageTextRetrievalOutput:
        """Scores every image against every text or, given `image_ids`, computes the losses of matching pairs.

        Args:
            pixel_values: (I, 3, S, S).
            input_ids: (N, L).
            attention_mask: (N, L), 1 = token; None = no padding.
            image_ids: (B,) the picture that each pair shows; switches to training, where B == I == N.
            image_candidates: (C, E) image embeddings of the teacher: this batch, then the queue. Default: the
                model's own of this batch, without a teacher.
            text_candidates: (C, E) likewise for texts.
            candidate_ids: (C,) the picture of each candidate; -100 in slots of the queue not filled yet.
            alpha: Weight of the teacher in the targets, 0..1; with 0 the targets are the hard ones.
            global_negatives: Draw negatives from the batches of all processes of `torch.distributed`; published: from
                this batch.

        Returns:
            See `AlbefImageTextRetrievalOutput`.

        Raises:
            ValueError: A shape is wrong, or some of the three kinds of candidates are given, but not all.
        """
        outputs = self.albef(pixel_values, input_ids, attention_mask, return_dict=True)
        if image_ids is None:
            return self._scores(outputs, attention_mask)
        candidates = (image_candidates, text_candidates, candidate_ids)
        if all(part is None for part in candidates):
            image_candidates, text_candidates = outputs.image_embeds, outputs.text_embeds
            candidate_ids = image_ids
        elif any(part is None for part in candidates):
            raise ValueError("Give image_candidates, text_candidates and candidate_ids together, or none of them.")
        temperature, batch = self.albef.temperature, outputs.image_embeds.shape[0]
        check_shapes(
            {"B": batch, "E": outputs.image_embeds.shape[1]},
            input_ids=(input_ids, "BL"),
            image_ids=(image_ids, "B"),
            image_candidates=(image_candidates, "CE"),
            text_candidates=(text_candidates, "CE"),
            candidate_ids=(candidate_ids, "C"),
        )
        if candidate_ids.shape[0] < batch:
            raise ValueError(
                f"candidate_ids has the shape {tuple(candidate_ids.shape)}, but the first {batch} candidates must be "
                "those of this batch."
            )
        logits_per_image = outputs.image_embeds @ text_candidates.T / temperature  # (B, C)
        logits_per_text = outputs.text_embeds @ image_candidates.T / temperature  # (B, C)
        image_targets = text_targets = contrastive_positives(image_ids, candidate_ids)
        if isinstance(alpha, torch.Tensor) or alpha:
            with torch.no_grad():  # the teacher's own embeddings of this batch are the first candidates
                teacher_per_image = image_candidates[:batch] @ text_candidates.T / temperature
                teacher_per_text = text_candidates[:batch] @ image_candidates.T / temperature
                image_targets = distill_targets(image_targets, teacher_per_image, alpha)
                text_targets = distill_targets(text_targets, teacher_per_text, alpha)
        itc = itc_loss(logits_per_image, logits_per_text, image_targets, text_targets)
        pool = PairPool(
            outputs.image_hidden_states,
            outputs.text_hidden_states,
            attention_mask,
            outputs.image_embeds.detach(),
            outputs.text_embeds.detach(),
            image_ids,
            torch.arange(batch, device=image_ids.device),
        )
        if global_negatives:
            pool = gather_pairs(pool)
            negatives_per_image = outputs.image_embeds.detach() @ pool.text_embeds.T / temperature  # (B, N)
            negatives_per_text = outputs.text_embeds.detach() @ pool.image_embeds.T / temperature  # (B, N)
        else:
            negatives_per_image, negatives_per_text = logits_per_image[:, :batch], logits_per_text[:, :batch]
        wrong_images = sample_hard_negatives(negatives_per_text, image_ids, pool.image_ids)
        wrong_texts = sample_hard_negatives(negatives_per_image, image_ids, pool.image_ids)
        fused = self._fuse_pairs(pool, wrong_images, wrong_texts)  # (3B, L, H)
        itm_logits = self.itm_head(fused[:, 0])
        itm = itm_loss(itm_logits, pool.image_ids)
        return AlbefImageTextRetrievalOutput(
            loss=itc + itm,
            itc_loss=itc,
            itm_loss=itm,
            itm_logits=itm_logits,
            multimodal_hidden_states=fused,
            **{**outputs, "logits_per_image": logits_per_image, "logits_per_text": logits_per_text},
        )

    def _scores(self, outputs: AlbefOutput, attention_mask: torch.Tensor | None) -> AlbefImageTextRetrievalOutput:
        images, texts = outputs.logits_per_image.shape
        itm_logits = self.match(
            outputs.text_hidden_states.repeat(images, 1, 1),
            None if attention_mask is None else attention_mask.repeat(images, 1),
            outputs.image_hidden_states,
        )
        return AlbefImageTextRetrievalOutput(itm_logits=itm_logits.view(images, texts, 2), **outputs)

    def _fuse_pairs(self, pool: PairPool, wrong_images: torch.Tensor, wrong_texts: torch.Tensor) -> torch.Tensor:
        """Fuses each text with its image, each text with a wrong image, and each image with a wrong text."""
        text_index = torch.cat([pool.own, pool.own, wrong_texts])
        fused = self.albef.text_model(
            attention_mask=None if pool.attention_mask is None else pool.attention_mask[text_index],
            text_hidden_states=pool.text_hidden_states.index_select(0, text_index),
            image_hidden_states=pool.image_hidden_states,
            image_index=torch.cat([pool.own, wrong_images, pool.own]),
        )
        return fused.last_hidden_state
