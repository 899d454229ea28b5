# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Pre-training of ALBEF: the retrieval model with a masked-language head, which the released pre-trained files hold.

Shapes: B matching pairs, I images, N text rows, P image tokens, L text tokens, H width.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers.utils.generic import can_return_tuple

from .configuration_albef import AlbefConfig, check_shapes
from .losses_albef import mlm_loss
from .modeling_albef import AlbefModel, AlbefPreTrainedModel
from .modeling_albef_decoder import AlbefAnswerHead
from .modeling_albef_retrieval import AlbefForImageTextRetrieval, AlbefImageTextRetrievalOutput, number_pairs


@dataclass
class AlbefPreTrainingOutput(AlbefImageTextRetrievalOutput):
    """What the retrieval model gives, and the prediction of masked words.

    Attributes:
        loss: Sum of the losses whose inputs were given: `itc_loss` + `itm_loss` + `mlm_loss`.
        mlm_loss: Masked-language loss.
        mlm_logits: (B, L, vocabulary) predictions of the token at each position.
    """

    mlm_loss: torch.Tensor | None = None
    mlm_logits: torch.Tensor | None = None


class AlbefForPreTraining(AlbefForImageTextRetrieval):
    """ALBEF with the matching head and the masked-language head, as it was pre-trained (section 3.2 of the paper)."""

    auto_classes = ("AutoModelForPreTraining", "AutoModelForZeroShotImageClassification")
    _tied_weights_keys = {"mlm_head.decoder.weight": "albef.text_model.embeddings.word_embeddings.weight"}

    def __init__(self, config: AlbefConfig) -> None:
        AlbefPreTrainedModel.__init__(self, config)  # the retrieval model's ties the head, which is not there yet
        self.albef = AlbefModel(config)
        self.itm_head = nn.Linear(config.text_config.hidden_size, 2)
        self.mlm_head = AlbefAnswerHead(config.text_config)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        """Return the output map of the masked-language head."""
        return self.mlm_head.decoder

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the output map of the masked-language head."""
        self.mlm_head.decoder = cast(nn.Linear, new_embeddings)

    def predict_masked(
        self,
        masked_input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        image_hidden_states: torch.Tensor,
        position_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Predict masked words from the words around them and the image; of a teacher, its `teacher_mlm_logits`.

        Args:
            masked_input_ids: (N, L) texts with masked tokens.
            attention_mask: (N, L), 1 = token; None = no padding.
            image_hidden_states: (I, P, H of the vision tower); which rows belong to which image: see
                `AlbefTextModel.forward`.
            position_ids: (N, L); default: 0, 1 .. from `[CLS]`.

        Returns:
            (N, L, vocabulary) logits of the token at each position.
        """
        states = self.albef.text_model(
            masked_input_ids, attention_mask, image_hidden_states=image_hidden_states, position_ids=position_ids
        )
        return self.mlm_head(states.last_hidden_state)

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
        masked_input_ids: torch.Tensor | None = None,
        mlm_labels: torch.Tensor | None = None,
        teacher_mlm_logits: torch.Tensor | None = None,
        use_itm_head: bool = True,
        return_loss: bool = True,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        image_hidden_states: torch.Tensor | None = None,
    ) -> AlbefPreTrainingOutput:
        """Do what the retrieval model does, and predict masked words.

        Args:
            pixel_values: See `AlbefForImageTextRetrieval.forward`, as for all up to `alpha`.
            input_ids: (B, L) whole texts.
            attention_mask: (B, L), of the masked texts too.
            image_ids: (B,); without them the contrastive and the matching loss are left out. As published, each pair
                is an image of its own: 0..B-1, and -100 in the queue.
            image_candidates: (C, E).
            text_candidates: (C, E).
            candidate_ids: (C,).
            alpha: Weight of the teacher in the targets of the contrastive and the masked-language loss, 0..1.
            global_negatives: See `AlbefForImageTextRetrieval.forward`.
            masked_input_ids: (B, L) the same texts with masked tokens.
            mlm_labels: (B, L) the token at each masked position, -100 elsewhere. The library's `Trainer` evaluates a
                loss where they are given; without them it has to be told `label_names=["image_ids"]`.
            teacher_mlm_logits: (B, L, vocabulary) `predict_masked` of the momentum teacher.
            use_itm_head: See `AlbefForImageTextRetrieval.forward`, as for all below.
            return_loss: Of the masked-language loss, too.
            position_ids: (B, L), of the masked texts too.
            inputs_embeds: (B, L, H) embeddings of the words of the whole texts, in place of `input_ids`.
            interpolate_pos_encoding: Whether images may have other sides.
            output_attentions: Whether the attention maps of both towers are returned.
            output_hidden_states: Whether the states after each layer of both towers are returned.
            image_hidden_states: (B, P, H) in place of `pixel_values`.

        Returns:
            See `AlbefPreTrainingOutput`.

        Raises:
            ValueError: There are labels, but no masked texts; or a shape is wrong.
        """
        check_shapes(
            {"V": self.mlm_head.decoder.out_features},
            input_ids=(input_ids, "BL"),
            masked_input_ids=(masked_input_ids, "BL"),
            mlm_labels=(mlm_labels, "BL"),
            teacher_mlm_logits=(teacher_mlm_logits, "BLV"),
        )
        scores: Any = super().forward(
            pixel_values,
            input_ids,
            attention_mask,
            image_ids if return_loss else None,
            *(image_candidates, text_candidates, candidate_ids),
            alpha,
            global_negatives,
            use_itm_head=use_itm_head,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            interpolate_pos_encoding=interpolate_pos_encoding,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            image_hidden_states=image_hidden_states,
            return_dict=True,
        )
        fields: dict[str, Any] = {**scores}
        if masked_input_ids is not None:
            fields["mlm_logits"] = self.predict_masked(
                masked_input_ids, attention_mask, scores.image_hidden_states, position_ids
            )
        if mlm_labels is not None and return_loss:
            if masked_input_ids is None:
                raise ValueError("mlm_labels are given without masked_input_ids, the texts that they belong to.")
            loss = mlm_loss(fields["mlm_logits"], mlm_labels, teacher_mlm_logits, alpha)
            fields |= {"mlm_loss": loss, "loss": loss if scores.loss is None else scores.loss + loss}
        return AlbefPreTrainingOutput(**fields)
