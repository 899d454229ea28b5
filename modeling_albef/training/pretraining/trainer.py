"""Pre-training by contrast, matching and masked words, with momentum distillation."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..checkpoints.stream_resume import StreamResumeMixin
from ..evaluation.results import RetrievalResult
from ..retrieval_trainer import RetrievalTrainer
from ..rows import pretraining_collator
from .arguments import PreTrainingTrainingArguments
from .evaluator import PARTS, PreTrainingEvaluator
from .keyed_rows import with_draw_keys


class PreTrainingTrainer(StreamResumeMixin, RetrievalTrainer):
    """Pre-trains an `AlbefForPreTraining`, and measures its losses and its recall without fine-tuning.

    Training rows are those of `RetrievalTrainer`. They become its inputs, `masked_input_ids` and `mlm_labels` in the
    collator, by default a `PreTrainingCollator`, which finds the epoch and the index of a row in its `draw_key`.
    """

    ARGUMENTS = PreTrainingTrainingArguments
    args: PreTrainingTrainingArguments

    def prepare_training_data(self, dataset: Any) -> Any:
        """Return the training data with one caption a row, each with what its masks depend on."""
        return with_draw_keys(super().prepare_training_data(dataset), self.args.process_index)

    def make_collator(self) -> Any:
        """Return a `PreTrainingCollator` for `processing_class`."""
        args = self.args
        options = {"mlm_probability": args.mlm_probability, "whole_word_masking": args.whole_word_masking}
        return self.processing_class and pretraining_collator(self.processing_class, seed=args.seed, **options)

    def start_new_parts(self) -> None:
        """Do what fine-tuning does, and clamp the temperature, as published, before the first step, too."""
        super().start_new_parts()
        with torch.no_grad():
            self.model.albef.temperature.clamp_(self.args.min_temperature, self.args.max_temperature)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """Return the loss of a step, see `ContrastiveTrainer`; as published, every pair is an image of its own."""
        if not self.args.group_captions:
            first = self.args.process_index * self.args.train_batch_size
            own = torch.arange(first, first + len(inputs["image_ids"]), device=inputs["image_ids"].device)
            inputs = {**inputs, "image_ids": own}
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def teacher_targets(self, inputs: dict[str, Any], image_hidden_states: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the teacher's predictions of the masked words, `teacher_mlm_logits`, where they count."""
        if not self.alpha:
            return {}
        masked, mask = inputs["masked_input_ids"], inputs.get("attention_mask")
        network: Any = self.teacher.model
        return {"teacher_mlm_logits": network.predict_masked(masked, mask, image_hidden_states)}

    def queue_entries(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return what the queue keeps of a batch: as published, images that match no later one."""
        if self.args.group_captions:
            return features
        return {**features, "image_ids": torch.full_like(features["image_ids"], -100)}

    def add_losses(
        self, outputs: Any, inputs: dict[str, Any], extra: dict[str, Any]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the loss of a step, and of it that of the masked words."""
        return outputs.loss, {"mlm_loss": outputs.mlm_loss}

    def _choose_deciding_metric(self) -> None:
        """Let a loss decide, too: the lowest is the best."""
        if str(self.args.metric_for_best_model).removeprefix("eval_") in ("loss", *PARTS):
            self.args.greater_is_better = False
        else:
            super()._choose_deciding_metric()

    def evaluate_dataset(self, dataset: Any) -> RetrievalResult:
        """Rank a data set's images and captions without fine-tuning, and measure the losses of the first captions."""
        result = super().evaluate_dataset(dataset)
        collator, options = self.limit_collator(self.make_collator()), self.evaluator_options()
        losses = PreTrainingEvaluator(self.model, self.processing_class, collator=collator, **options)(dataset)
        result.metrics |= losses
        return result
