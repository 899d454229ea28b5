"""Fine-tuning for image-text retrieval."""

from __future__ import annotations

import json
from collections.abc import Sized
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from .arguments import RetrievalTrainingArguments
from .callbacks import TemperatureCallback
from .evaluation.results import RetrievalResult
from .evaluation.retrieval import RetrievalEvaluator
from .momentum import FeatureQueue
from .trainer import AlbefTrainer

logger = logging.get_logger(__name__)


class RetrievalTrainer(AlbefTrainer):
    """Fine-tunes an `AlbefForImageTextRetrieval` and evaluates it by recall.

    Training rows become `pixel_values input_ids attention_mask image_ids` in the collator. Evaluation rows have an
    `image` and a list of `caption`s.
    """

    args: RetrievalTrainingArguments

    def __init__(self, model: PreTrainedModel, args: RetrievalTrainingArguments, **kwargs: Any) -> None:
        super().__init__(model, args, **kwargs)
        captions = len(self.train_dataset) if isinstance(self.train_dataset, Sized) else None
        if captions is not None and args.queue_size > captions:
            logger.warning(
                f"queue_size is {args.queue_size}, but there are {captions} training captions: lower it, or the queue "
                "holds them several times."
            )
        self.queue = FeatureQueue(args.queue_size, model.config.projection_dim, seed=args.seed).to(args.device)
        # Differs from ALBEF, which clamps the temperature in pre-training only.
        self.add_callback(TemperatureCallback(self.model.albef.temperature, args.min_temperature, args.max_temperature))

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """Return the loss of a step: the teacher's features, the student's forward, then the queue."""
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
            network: Any = self.teacher.model
            text = network.get_text_features(inputs["input_ids"], inputs.get("attention_mask"))
            return {
                "image_embeds": network.get_image_features(inputs["pixel_values"]).pooler_output.float(),
                "text_embeds": text.pooler_output.float(),
                "image_ids": inputs["image_ids"],
            }

    def evaluate_dataset(self, dataset: Any) -> RetrievalResult:
        """Rank a data set's images and captions; see `RetrievalEvaluator`."""
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

    def write_predictions(self, dataset: Any, result: RetrievalResult, folder: Path) -> dict[str, Path]:
        """Write the ten best candidates of every query; images that are not files go by their row.

        Args:
            dataset: Rows whose `image` is not decoded.
            result: What `evaluate_dataset` returned for them.
            folder: Where `predictions.json` goes.

        Returns:
            The file, by what it holds.
        """
        names = [image["path"] or str(row) for row, image in enumerate(dataset["image"])]
        path = folder / "predictions.json"
        path.write_text(json.dumps(result.top_predictions(names), indent=1), encoding="utf-8")
        return {"predictions": path}

    def save_teacher(self, checkpoint: str) -> None:
        """Write the teacher and the queue."""
        super().save_teacher(checkpoint)
        self.queue.save(checkpoint)

    def load_teacher(self, checkpoint: str) -> None:
        """Read back what `save_teacher` wrote."""
        super().load_teacher(checkpoint)
        self.queue.load(checkpoint)
