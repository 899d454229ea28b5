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
from .modeling_albef_retrieval import AlbefForImageTextRetrieval, AlbefImageTextRetrievalOutput


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
        self, masked_input_ids: torch.Tensor, attention_mask: torch.Tensor | None, image_hidden_states: torch.Tensor
    ) -> torch.Tensor:
        """Predict masked words from the words around them and the image; of a teacher, its `teacher_mlm_logits`.

        Args:
            masked_input_ids: (N, L) texts with masked tokens.
            attention_mask: (N, L), 1 = token; None = no padding.
            image_hidden_states: (I, P, H of the vision tower); which rows belong to which image: see
                `AlbefTextModel.forward`.

        Returns:
            (N, L, vocabulary) logits of the token at each position.
        """
        states = self.albef.text_model(masked_input_ids, attention_mask, image_hidden_states=image_hidden_states)
        return self.mlm_head(states.last_hidden_state)

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
        masked_input_ids: torch.Tensor | None = None,
        mlm_labels: torch.Tensor | None = None,
        teacher_mlm_logits: torch.Tensor | None = None,
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
            masked_input_ids: (B, L) the same texts with masked tokens.
            mlm_labels: (B, L) the token at each masked position, -100 elsewhere.
            teacher_mlm_logits: (B, L, vocabulary) `predict_masked` of the momentum teacher.

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
        candidates = (image_candidates, text_candidates, candidate_ids)
        scores = super().forward(
            pixel_values, input_ids, attention_mask, image_ids, *candidates, alpha, return_dict=True
        )
        outputs: Any = AlbefPreTrainingOutput(**scores)
        if masked_input_ids is not None:
            outputs.mlm_logits = self.predict_masked(masked_input_ids, attention_mask, outputs.image_hidden_states)
        if mlm_labels is not None:
            if outputs.mlm_logits is None:
                raise ValueError("mlm_labels are given without masked_input_ids, the texts that they belong to.")
            outputs.mlm_loss = mlm_loss(outputs.mlm_logits, mlm_labels, teacher_mlm_logits, alpha)
            outputs.loss = outputs.mlm_loss if outputs.loss is None else outputs.loss + outputs.mlm_loss
        return outputs
