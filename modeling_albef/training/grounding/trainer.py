"""Fine-tuning for grounding: the training of retrieval on texts that refer to parts of images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from transformers import PreTrainedModel

from ..arguments import ContrastiveTrainingArguments
from ..errors import SettingError
from ..hardware import autocast
from ..retrieval_trainer import ContrastiveTrainer
from ..rows import grounding_collator
from .box_loss import box_attention_loss, box_masks
from .boxes import GROUNDING_METRICS
from .evaluator import GroundingEvaluator, GroundingResult


@dataclass
class GroundingTrainingArguments(ContrastiveTrainingArguments):
    """Arguments of `GroundingTrainer`; the defaults are those of salesforce/ALBEF `configs/Grounding.yaml`."""

    METRICS: ClassVar[tuple[str, ...]] = GROUNDING_METRICS

    gradcam_mode: str = field(default="itm", metadata={"help": "Maps of the match (itm), or of the similarity (itc)."})
    gradcam_layer: int | None = field(
        default=None,
        metadata={"help": "Text layer of itm maps, vision layer of itc maps; default: 8 of 12, or its equal."},
    )
    box_loss_weight: float = field(
        default=0.0, metadata={"help": "Weight of the loss that asks maps to lie in the given boxes; 0 = no boxes."}
    )
    per_device_eval_batch_size: int = field(default=32, metadata={"help": "Texts per process and step."})
    metric_for_best_model: str | None = field(default="box_accuracy", metadata={"help": "Decides which is best."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.box_loss_weight < 0:
            raise SettingError(f"box_loss_weight is {self.box_loss_weight}, but must be 0 or more.")
        if self.box_loss_weight and self.gradcam_mode != "itm":
            raise SettingError("box_loss_weight supervises maps of the match: leave gradcam_mode at itm.")
        if self.box_loss_weight and self.gradient_checkpointing:
            raise SettingError("box_loss_weight needs gradients of gradients: leave gradient_checkpointing out.")


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
        from ...explain.text_maps import check_mode

        check_mode(self.model.config, self.args.gradcam_mode, self.args.gradcam_layer)
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
        from ...explain.text_maps import match_maps

        weight, boxes = self.args.box_loss_weight, extra.get("boxes")
        if not weight or boxes is None:
            return outputs.loss, {}
        rows = boxes.isfinite().all(dim=1).nonzero()[:, 0]  # those with a box: the host waits for their number
        loss, mask = outputs.loss.new_zeros(()), inputs.get("attention_mask")
        if len(rows):
            image, text = (
                one.index_select(0, rows) for one in (outputs.image_hidden_states, outputs.text_hidden_states)
            )
            model = self.accelerator.unwrap_model(self.model)
            with autocast(self.accelerator):
                mask = None if mask is None else mask.index_select(0, rows)
                maps = match_maps(model, image, text.index_select(0, rows), mask, self.args.gradcam_layer)
            loss = box_attention_loss(maps, box_masks(boxes.index_select(0, rows), *maps.shape[1:]))
        return outputs.loss + weight * loss, {"box_loss": loss}

    def evaluate_dataset(self, dataset: Any) -> GroundingResult:
        """Ground a data set's texts; see `GroundingEvaluator`."""
        options = self.evaluator_options("gradcam_mode", "gradcam_layer")
        return GroundingEvaluator(self.model, self.processing_class, **options)(dataset)
