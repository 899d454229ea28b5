"""Fine-tuning for image-text retrieval."""

from __future__ import annotations

from typing import Any, cast

import torch
from transformers import PreTrainedModel

from ..modeling_albef_retrieval import AlbefForImageTextRetrieval, AlbefImageTextRetrievalOutput
from .arguments import RetrievalTrainingArguments
from .callbacks import TemperatureCallback
from .evaluation.retrieval import RetrievalEvaluator, RetrievalResult
from .momentum import FeatureQueue
from .trainer import AlbefTrainer


class RetrievalTrainer(AlbefTrainer):
    """Fine-tunes an `AlbefForImageTextRetrieval` and evaluates it by recall.

    Training rows become `pixel_values input_ids attention_mask image_ids` in the collator. Evaluation rows have an
    `image` and a list of `caption`s.
    """

    args: RetrievalTrainingArguments

    def __init__(self, model: PreTrainedModel, args: RetrievalTrainingArguments, **kwargs: Any) -> None:
        super().__init__(model, args, **kwargs)
        self.queue = FeatureQueue(args.queue_size, model.config.projection_dim, seed=args.seed).to(args.device)
        # Differs from ALBEF, which clamps the temperature in pre-training only.
        self.add_callback(TemperatureCallback(self.model.albef.temperature, args.min_temperature, args.max_temperature))

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, AlbefImageTextRetrievalOutput]:
        """One step's loss: the teacher's features, the student's forward, then the queue."""
        alpha = self.alpha
        if self.queue.size or (self.args.distill and self.args.alpha):
            features = self._teacher_features(inputs)
            candidates = self.queue.candidates(**features)
            outputs = model(**inputs, **candidates, alpha=alpha, global_negatives=self.args.global_negatives)
            self.queue.enqueue(**self.accelerator.gather(features))
        else:  # nothing asks the teacher: the batch is contrasted with itself
            outputs = model(**inputs, global_negatives=self.args.global_negatives)
        temperature = self.accelerator.unwrap_model(model).albef.temperature
        self.record_loss_parts(
            itc_loss=outputs.itc_loss, itm_loss=outputs.itm_loss, alpha=alpha, temperature=temperature
        )
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def _teacher_features(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        with torch.no_grad(), self.accelerator.autocast():
            network = cast(AlbefForImageTextRetrieval, self.teacher.model)
            text = network.get_text_features(inputs["input_ids"], inputs.get("attention_mask"))
            return {
                "image_embeds": network.get_image_features(inputs["pixel_values"]).pooler_output.float(),
                "text_embeds": text.pooler_output.float(),
                "image_ids": inputs["image_ids"],
            }

    def assess(self, dataset: Any) -> RetrievalResult:
        """Ranks a data set's images and captions; see `RetrievalEvaluator`."""
        evaluator = RetrievalEvaluator(
            self.model,
            self.processing_class,
            k_test=self.args.k_test,
            batch_size=self.args.per_device_eval_batch_size,
            image_memory=self.args.image_memory,
            num_workers=self.args.dataloader_num_workers,
            accelerator=self.accelerator,
        )
        return evaluator(dataset)

    def save_teacher(self, checkpoint: str) -> None:
        """Writes the teacher and the queue."""
        super().save_teacher(checkpoint)
        self.queue.save(checkpoint)

    def load_teacher(self, checkpoint: str) -> None:
        """Reads back what `save_teacher` wrote."""
        super().load_teacher(checkpoint)
        self.queue.load(checkpoint)
