"""Fine-tuning for grounding: the training of retrieval on texts that refer to parts of images."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from ..errors import SettingError
from ..hardware import autocast
from ..retrieval_trainer import ContrastiveTrainer
from ..rows import grounding_collator
from .arguments import GroundingTrainingArguments
from .box_loss import box_attention_loss, box_masks, match_maps
from .evaluator import GroundingEvaluator, check_layer
from .result import GroundingResult


class GroundingTrainer(ContrastiveTrainer):
    """Fine-tunes an `AlbefForImageTextRetrieval` on images and texts, and evaluates where its maps lie.

    Training is that of retrieval, without boxes, as published (salesforce/ALBEF `Grounding.py`). Training rows
    become `pixel_values input_ids attention_mask image_ids` in the collator, by default a `GroundingCollator`.
    Evaluation rows are those of `GroundingEvaluator`. With `box_loss_weight` batches have `boxes`, and the maps of the
    pairs whose text has one are asked to lie in it; see `box_attention_loss`.
    """

    ARGUMENTS = GroundingTrainingArguments
    EXTRA_INPUTS = ("boxes",)
    args: GroundingTrainingArguments

    def __init__(
        self, model: PreTrainedModel | None = None, args: GroundingTrainingArguments | None = None, **kwargs: Any
    ) -> None:
        super().__init__(model, args, **kwargs)
        check_layer(self.model.config, self.args.gradcam_mode, self.args.gradcam_layer)
        names = getattr(self.train_dataset, "column_names", None) or ()
        if self.args.box_loss_weight and "box" in names and not any(self.train_dataset["box"]):
            raise SettingError(
                f"box_loss_weight is {self.args.box_loss_weight}, but no training row has a box: give boxes, or leave "
                "it out."
            )

    def make_collator(self) -> Any:
        """Return a `GroundingCollator` for `processing_class`."""
        if self.processing_class is None:
            return None
        return grounding_collator(self.processing_class, with_boxes=self.args.box_loss_weight > 0)

    def add_losses(
        self, outputs: Any, inputs: dict[str, Any], extra: dict[str, Any]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Add the loss of the boxes, where there are any."""
        weight, boxes = self.args.box_loss_weight, extra.get("boxes")
        if not weight or boxes is None:
            return outputs.loss, {}
        has_box = boxes.isfinite().all(dim=1)
        loss, mask = outputs.loss.new_zeros(()), inputs.get("attention_mask")
        if bool(has_box.any()):
            states = outputs.image_hidden_states[has_box], outputs.text_hidden_states[has_box]
            model = self.accelerator.unwrap_model(self.model)
            with autocast(self.accelerator):
                maps = match_maps(model, *states, None if mask is None else mask[has_box], self.args.gradcam_layer)
            loss = box_attention_loss(maps, box_masks(boxes[has_box], *maps.shape[1:]))
        return outputs.loss + weight * loss, {"box_loss": loss}

    def evaluate_dataset(self, dataset: Any) -> GroundingResult:
        """Ground a data set's texts; see `GroundingEvaluator`."""
        options = self.evaluator_options("gradcam_mode", "gradcam_layer")
        return GroundingEvaluator(self.model, self.processing_class, **options)(dataset)
