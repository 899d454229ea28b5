# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Image-text retrieval with ALBEF: images and texts are compared by similarity and by the matching head.

Shapes: B batch, I images, N text rows, P image tokens, L text tokens, H width, E projection width, C candidates (the
teacher's batch, then the queue), S tokens of packed texts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, ClassVar, NamedTuple

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import can_return_tuple

from .attention_albef import every_layer, output_options, select_layers
from .configuration_albef import AlbefConfig, AlbefError, check_shapes
from .losses_albef import (
    PairPool,
    contrast,
    contrastive_positives,
    distill_targets,
    gather_pairs,
    itc_loss,
    itm_loss,
    sample_hard_negatives,
)
from .modeling_albef import AlbefModel, AlbefOutput, AlbefPreTrainedModel
from .modeling_albef_text import KeyValue, first_token
from .packed_fusion_albef import Packing, finish_fusion


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
        hidden_states: Where asked for: of the text tower: the embeddings, then after each text layer, (N, L, H) each;
            then after each fusion layer, a row for each pair: (I * N, L, H) or, in training, (3B, L, H).
        attentions: Where asked for: likewise, (rows, heads, L, L) each.
        cross_attentions: Where asked for: of the fusion layers, to the image: (rows, heads, L, P) each.
    """

    cross_attentions: tuple[torch.Tensor, ...] | None = None
    itc_loss: torch.Tensor | None = None
    itm_loss: torch.Tensor | None = None
    itm_logits: torch.Tensor | None = None
    multimodal_hidden_states: torch.Tensor | None = None


class Candidates(NamedTuple):
    """What images and texts are contrasted with."""

    image_embeds: torch.Tensor  # (C, E)
    text_embeds: torch.Tensor  # (C, E)
    ids: torch.Tensor  # (C,) the image of each candidate


def number_pairs(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Give `forward` the `image_ids` 0..B-1 where it lacks them and `return_loss=True` is written out.

    The default of `return_loss` has to be True, by which the library's `Trainer` knows that a batch without labels has
    a loss; so the default alone asks for none.
    """

    @wraps(forward)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = args[3] if len(args) > 3 else kwargs.get("image_ids")
        pixel_values = args[0] if args else kwargs.get("pixel_values")
        pixel_values = kwargs.get("image_hidden_states") if pixel_values is None else pixel_values
        if given is None and kwargs.get("return_loss") and isinstance(pixel_values, torch.Tensor):
            ids = torch.arange(pixel_values.shape[0], device=pixel_values.device)
            if len(args) > 3:
                args = (*args[:3], ids, *args[4:])
            else:
                kwargs["image_ids"] = ids
        return forward(self, *args, **kwargs)

    return wrapper


class AlbefForImageTextRetrieval(AlbefPreTrainedModel):
    """ALBEF with the matching head: scores images against texts, by similarity and by matching."""

    auto_classes: ClassVar[tuple[str, ...]] = ("AutoModelForZeroShotImageClassification",)
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
        """Match encoded texts with encoded images, a pair for each text row.

        Args:
            text_hidden_states: (N, L, H), `last_hidden_state` of `get_text_features`.
            attention_mask: (N, L); padding may be on either side. None = no padding.
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
        return self.itm_head(first_token(fused.last_hidden_state, attention_mask))

    def match_packed(self, states: torch.Tensor, packing: Packing, image_key_values: list[KeyValue]) -> torch.Tensor:
        """Match packed texts with one image: the fast form of `match` for many texts.

        Args:
            states: (S, H), what `start_fusion` made of the texts, once for all images.
            packing: How the texts stand in them.
            image_key_values: What `text_model.project_images` made of the image.

        Returns:
            (N, 2) `itm_logits` in packed order.
        """
        return self.itm_head(finish_fusion(self.albef.text_model, states, packing, image_key_values))

    @number_pairs
    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        image_ids: torch.Tensor | None = None,
        image_candidates: torch.Tensor | None = None,
        text_candidates: torch.Tensor | None = None,
        candidate_ids: torch.Tensor | None = None,
        alpha: float | torch.Tensor = 0.0,
        global_negatives: bool = False,
        use_itm_head: bool = True,
        return_loss: bool = True,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        image_hidden_states: torch.Tensor | None = None,
    ) -> AlbefImageTextRetrievalOutput:
        """Score every image against every text or, given `image_ids`, compute the losses of matching pairs.

        Args:
            pixel_values: (I, 3, S, S).
            input_ids: (N, L).
            attention_mask: (N, L), 1 = token; padding may be on either side. None = no padding.
            image_ids: (B,) the image that each pair shows; switches to training, where B == I == N.
            image_candidates: (C, E) image embeddings of the teacher: this batch, then the queue. Default: the
                model's own of this batch, without a teacher.
            text_candidates: (C, E) likewise for texts.
            candidate_ids: (C,) the image of each candidate; -100 in slots of the queue not filled yet.
            alpha: Weight of the teacher in the targets, 0..1; with 0 the targets are the hard ones.
            global_negatives: Draw negatives from the batches of all processes of `torch.distributed`; published: from
                this batch.
            use_itm_head: Whether the matching head is used; without it there are similarities, which are quick, and
                in training the contrastive loss alone.
            return_loss: False leaves the losses out and scores. True, if written out, computes them without
                `image_ids`, too: each pair shows an image of its own then.
            position_ids: (N, L); default: 0, 1 .. from `[CLS]`.
            inputs_embeds: (N, L, H) embeddings of the words, in place of `input_ids`.
            interpolate_pos_encoding: Whether images may have other sides; see `AlbefVisionModel.forward`.
            output_attentions: Whether the attention maps of both towers are returned; default: what the
                configuration says.
            output_hidden_states: Whether the states after each layer of both towers are returned; likewise.
            image_hidden_states: (I, P, H) in place of `pixel_values`; see `AlbefModel.encode_images`.

        Returns:
            See `AlbefImageTextRetrievalOutput`.

        Raises:
            ValueError: A shape is wrong, or some of the three kinds of candidates are given, but not all.
        """
        options = output_options(
            self.config, output_attentions=output_attentions, output_hidden_states=output_hidden_states
        )
        text = {"position_ids": position_ids, "inputs_embeds": inputs_embeds}
        outputs = self.albef(
            pixel_values,
            input_ids,
            attention_mask,
            interpolate_pos_encoding=interpolate_pos_encoding,
            image_hidden_states=image_hidden_states,
            return_dict=True,
            **text,
            **every_layer(options),
        )
        if outputs.text_embeds is None or outputs.image_embeds is None:
            lacking = "texts: give input_ids" if outputs.text_embeds is None else "images: give pixel_values"
            raise AlbefError(f"There are no {lacking}; get_image_features and get_text_features take either alone.")
        if image_ids is None or not return_loss:
            return self._scores(outputs, attention_mask, use_itm_head, options)
        candidates = self._candidates(outputs, image_ids, image_candidates, text_candidates, candidate_ids)
        itc, logits_per_image, logits_per_text = self._contrast(outputs, image_ids, candidates, alpha)
        fields: dict[str, Any] = {**outputs, "logits_per_image": logits_per_image, "logits_per_text": logits_per_text}
        fields |= {"loss": itc, "itc_loss": itc}
        fused = None
        if use_itm_head:
            pool = PairPool(
                outputs.image_hidden_states,
                outputs.text_hidden_states,
                attention_mask,
                outputs.image_embeds.detach(),
                outputs.text_embeds.detach(),
                image_ids,
                torch.arange(len(image_ids), device=image_ids.device),
            )
            matched, fused = self._match_pairs(pool, fields, global_negatives, options)
            fields |= {**matched, "loss": itc + matched["itm_loss"]}
        return AlbefImageTextRetrievalOutput(**{**fields, **_join_layers(outputs, fused, options)})

    def _candidates(self, outputs: Any, image_ids: torch.Tensor, *given: torch.Tensor | None) -> Candidates:
        """Return what a batch is contrasted with: what is given or else the batch itself; all shapes are checked."""
        image_candidates, text_candidates, candidate_ids = given
        if all(part is None for part in given):
            candidates = Candidates(outputs.image_embeds, outputs.text_embeds, image_ids)
        elif image_candidates is None or text_candidates is None or candidate_ids is None:
            raise ValueError("Give image_candidates, text_candidates and candidate_ids together, or none of them.")
        else:
            candidates = Candidates(image_candidates, text_candidates, candidate_ids)
        batch, width = outputs.image_embeds.shape
        check_shapes(
            {"B": batch, "E": width},
            input_ids=(outputs.text_hidden_states[:, :, 0], "BL"),
            image_ids=(image_ids, "B"),
            image_candidates=(candidates.image_embeds, "CE"),
            text_candidates=(candidates.text_embeds, "CE"),
            candidate_ids=(candidates.ids, "C"),
        )
        if candidates.ids.shape[0] < batch:
            raise ValueError(
                f"candidate_ids has the shape {tuple(candidates.ids.shape)}, but the first {batch} candidates must be "
                "those of this batch."
            )
        return candidates

    def _contrast(
        self, outputs: Any, image_ids: torch.Tensor, candidates: Candidates, alpha: float | torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the contrastive loss, and the logits (B, C) of images and of texts that it is made of."""
        temperature, batch = self.albef.temperature, len(image_ids)
        logits_per_image = contrast(outputs.image_embeds, candidates.text_embeds, temperature)
        logits_per_text = contrast(outputs.text_embeds, candidates.image_embeds, temperature)
        image_targets = text_targets = contrastive_positives(image_ids, candidates.ids)
        if isinstance(alpha, torch.Tensor) or alpha:
            with torch.no_grad():  # the teacher's own embeddings of this batch are the first candidates
                teacher_per_image = contrast(candidates.image_embeds[:batch], candidates.text_embeds, temperature)
                teacher_per_text = contrast(candidates.text_embeds[:batch], candidates.image_embeds, temperature)
                image_targets = distill_targets(image_targets, teacher_per_image, alpha)
                text_targets = distill_targets(text_targets, teacher_per_text, alpha)
        loss = itc_loss(logits_per_image, logits_per_text, image_targets, text_targets)
        return loss, logits_per_image, logits_per_text

    def _scores(
        self, outputs: Any, attention_mask: torch.Tensor | None, use_itm_head: bool, options: dict[str, Any]
    ) -> AlbefImageTextRetrievalOutput:
        """Return the similarities of every image with every text and, with the matching head, their matching."""
        fields, fused = {**outputs}, None
        if use_itm_head:
            images, texts = outputs.logits_per_image.shape
            mask = None if attention_mask is None else attention_mask.repeat(images, 1)
            fused = self.albef.text_model(
                attention_mask=mask,
                text_hidden_states=outputs.text_hidden_states.repeat(images, 1, 1),
                image_hidden_states=outputs.image_hidden_states,
                **every_layer(options),
            )
            fields["itm_logits"] = self.itm_head(first_token(fused.last_hidden_state, mask)).view(images, texts, 2)
        return AlbefImageTextRetrievalOutput(**{**fields, **_join_layers(outputs, fused, options)})

    def _match_pairs(
        self, pool: PairPool, fields: dict[str, Any], global_negatives: bool, options: dict[str, Any]
    ) -> tuple[dict[str, Any], Any]:
        """Match each text with its image, each text with a wrong image, and each image with a wrong text.

        Returns the fields of the output, and what the fusion layers gave for the 3B pairs.
        """
        batch, image_ids = len(pool.own), pool.image_ids
        if global_negatives:
            image_embeds, text_embeds = pool.image_embeds, pool.text_embeds
            pool, temperature = gather_pairs(pool), self.albef.temperature
            negatives_per_image = contrast(image_embeds, pool.text_embeds, temperature)  # (B, N)
            negatives_per_text = contrast(text_embeds, pool.image_embeds, temperature)  # (B, N)
        else:
            negatives_per_image = fields["logits_per_image"][:, :batch]
            negatives_per_text = fields["logits_per_text"][:, :batch]
        wrong_images = sample_hard_negatives(negatives_per_text, image_ids, pool.image_ids, hardest=not self.training)
        wrong_texts = sample_hard_negatives(negatives_per_image, image_ids, pool.image_ids, hardest=not self.training)
        text_index = torch.cat([pool.own, pool.own, wrong_texts])
        mask = None if pool.attention_mask is None else pool.attention_mask[text_index]
        image_states, image_index = matched_images(pool, wrong_images)
        fused = self.albef.text_model(
            attention_mask=mask,
            text_hidden_states=pool.text_hidden_states.index_select(0, text_index),
            image_hidden_states=image_states,
            image_index=image_index,
            **every_layer(options),
        )
        itm_logits = self.itm_head(first_token(fused.last_hidden_state, mask))
        loss = itm_loss(itm_logits, pool.image_ids)
        states = fused.last_hidden_state  # (3B, L, H)
        return {"itm_loss": loss, "itm_logits": itm_logits, "multimodal_hidden_states": states}, fused


def matched_images(pool: PairPool, wrong_images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return states of images, and which of them (3B,) belong to the matching pairs, wrong images, and wrong texts.

    Of a pool of more images than pairs, that of all processes, those are returned that are matched, so that no others
    are projected to keys and values. `wrong_images` (B,) count in the pool.
    """
    batch, index = len(pool.own), torch.cat([pool.own, wrong_images, pool.own])
    if pool.image_hidden_states.shape[0] <= batch:
        return pool.image_hidden_states, index
    rows = torch.arange(batch, device=index.device)
    return pool.image_hidden_states.index_select(0, index[: 2 * batch]), torch.cat([rows, batch + rows, rows])


def _join_layers(text: Any, fused: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Return states and attention maps of text layers and fusion layers, which were run one after the other."""
    states, attentions, cross_attentions = text.hidden_states, text.attentions, None
    if fused is not None:
        states = None if states is None else (*states, *fused.hidden_states[1:])
        attentions = None if attentions is None else (*attentions, *fused.attentions)
        cross_attentions = fused.cross_attentions
    states = select_layers(states, options.get("output_hidden_states"))
    return {"hidden_states": states, "attentions": attentions, "cross_attentions": cross_attentions}
