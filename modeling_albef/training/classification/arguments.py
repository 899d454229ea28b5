"""Arguments of fine-tuning for the classification of images with texts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from ..arguments import AlbefTrainingArguments
from ..metrics.label_metrics import CLASSIFICATION_METRICS


@dataclass
class ClassificationTrainingArguments(AlbefTrainingArguments):
    """Arguments of `ClassificationTrainer`; the defaults are the published recipe for SNLI-VE.

    The source is salesforce/ALBEF `configs/VE.yaml`.
    """

    METRICS: ClassVar[tuple[str, ...]] = (*CLASSIFICATION_METRICS, "assignment_accuracy")  # the last of pre-training

    learning_rate: float = field(default=2e-5, metadata={"help": "Peak learning rate."})
    alpha_warmup: bool = field(default=False, metadata={"help": "Raise alpha linearly from 0 over the first epoch."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Rows per process and step."})
    group_by_image: bool = field(default=False, metadata={"help": "Train image by image: a batch encodes each once."})
    metric_for_best_model: str | None = field(default="accuracy", metadata={"help": "Metric of the best checkpoint."})
