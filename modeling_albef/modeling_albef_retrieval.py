# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Image-text retrieval with ALBEF: images and texts are compared by similarity and by the matching head.

Shapes: B batch, I images, N text rows, P image tokens, L text tokens, H width, E projection width, C candidates (the
teacher's batch, then the queue), S tokens of packed texts.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import can_return_tuple

from .configuration_albef import AlbefConfig, check_shapes
from .losses_albef import (
    PairPool,
    contrastive_positives,
    distill_targets,
    gather_pairs,
    itc_loss,
    itm_loss,
    sample_hard_negatives,
)
from .modeling_albef import AlbefModel, AlbefOutput, AlbefPreTrainedModel
from .modeling_albef_text import KeyValue
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
    """

    loss: torch.Tensor | None = None
    itc_loss: torch.Tensor | None = None
    itm_loss: torch.Tensor | None = None
    itm_logits: torch.Tensor | None = None
    multimodal_hidden_states: torch.Tensor | None = None


class Candidates(NamedTuple):
    """What images and texts are contrasted with."""

    image_embeds: torch.Tensor  # (C, E)
    text_embeds: torch.Tensor  # (C, E)
    ids: torch.Tensor  # (C,) the image of each candidate


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
        """Score every image against every text or, given `image_ids`, compute the losses of matching pairs.

        Args:
            pixel_values: (I, 3, S, S).
            input_ids: (N, L).
            attention_mask: (N, L), 1 = token; None = no padding.
            image_ids: (B,) the image that each pair shows; switches to training, where B == I == N.
            image_candidates: (C, E) image embeddings of the teacher: this batch, then the queue. Default: the
                model's own of this batch, without a teacher.
            text_candidates: (C, E) likewise for texts.
            candidate_ids: (C,) the image of each candidate; -100 in slots of the queue not filled yet.
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
        given = (image_candidates, text_candidates, candidate_ids)
        if all(part is None for part in given):
            candidates = Candidates(outputs.image_embeds, outputs.text_embeds, image_ids)
        elif image_candidates is None or text_candidates is None or candidate_ids is None:
            raise ValueError("Give image_candidates, text_candidates and candidate_ids together, or none of them.")
        else:
            candidates = Candidates(image_candidates, text_candidates, candidate_ids)
        batch, width = outputs.image_embeds.shape
        check_shapes(
            {"B": batch, "E": width},
            input_ids=(input_ids, "BL"),
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
        itc, logits_per_image, logits_per_text = self._contrast(outputs, image_ids, candidates, alpha)
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
            pool, temperature = gather_pairs(pool), self.albef.temperature
            negatives_per_image = outputs.image_embeds.detach() @ pool.text_embeds.T / temperature  # (B, N)
            negatives_per_text = outputs.text_embeds.detach() @ pool.image_embeds.T / temperature  # (B, N)
        else:
            negatives_per_image, negatives_per_text = logits_per_image[:, :batch], logits_per_text[:, :batch]
        wrong_images = sample_hard_negatives(negatives_per_text, image_ids, pool.image_ids, hardest=not self.training)
        wrong_texts = sample_hard_negatives(negatives_per_image, image_ids, pool.image_ids, hardest=not self.training)
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

    def _contrast(
        self, outputs: Any, image_ids: torch.Tensor, candidates: Candidates, alpha: float | torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the contrastive loss, and the logits (B, C) of images and of texts that it is made of."""
        temperature, batch = self.albef.temperature, len(image_ids)
        logits_per_image = outputs.image_embeds @ candidates.text_embeds.T / temperature
        logits_per_text = outputs.text_embeds @ candidates.image_embeds.T / temperature
        image_targets = text_targets = contrastive_positives(image_ids, candidates.ids)
        if isinstance(alpha, torch.Tensor) or alpha:
            with torch.no_grad():  # the teacher's own embeddings of this batch are the first candidates
                teacher_per_image = candidates.image_embeds[:batch] @ candidates.text_embeds.T / temperature
                teacher_per_text = candidates.text_embeds[:batch] @ candidates.image_embeds.T / temperature
                image_targets = distill_targets(image_targets, teacher_per_image, alpha)
                text_targets = distill_targets(text_targets, teacher_per_text, alpha)
        loss = itc_loss(logits_per_image, logits_per_text, image_targets, text_targets)
        return loss, logits_per_image, logits_per_text

    def _scores(self, outputs: Any, attention_mask: torch.Tensor | None) -> AlbefImageTextRetrievalOutput:
        images, texts = outputs.logits_per_image.shape
        itm_logits = self.match(
            outputs.text_hidden_states.repeat(images, 1, 1),
            None if attention_mask is None else attention_mask.repeat(images, 1),
            outputs.image_hidden_states,
        )
        return AlbefImageTextRetrievalOutput(itm_logits=itm_logits.view(images, texts, 2), **outputs)

    def _fuse_pairs(self, pool: PairPool, wrong_images: torch.Tensor, wrong_texts: torch.Tensor) -> torch.Tensor:
        """Fuse each text with its image, each text with a wrong image, and each image with a wrong text."""
        text_index = torch.cat([pool.own, pool.own, wrong_texts])
        fused = self.albef.text_model(
            attention_mask=None if pool.attention_mask is None else pool.attention_mask[text_index],
            text_hidden_states=pool.text_hidden_states.index_select(0, text_index),
            image_hidden_states=pool.image_hidden_states,
            image_index=torch.cat([pool.own, wrong_images, pool.own]),
        )
        return fused.last_hidden_state
