"""Pre-training for visual reasoning by text assignment: arguments, trainer, evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..classification.arguments import ClassificationTrainingArguments
from ..evaluation.base import Evaluator
from ..rows import as_rows, limit_lengths, retrieval_collator
from ..sampling import one_caption_a_row
from ..trainer import AlbefTrainer


@dataclass
class TextAssignmentTrainingArguments(ClassificationTrainingArguments):
    """Arguments of `TextAssignmentTrainer`; the defaults are the published recipe, for 256 pixels.

    The source is salesforce/ALBEF `configs/NLVR_pretrain.yaml`: 8 GPUs, 64 captions each, and no teacher.
    """

    learning_rate: float = field(default=2e-5, metadata={"help": "Peak learning rate."})
    min_learning_rate: float = field(default=1e-5, metadata={"help": "Last rate of the published cosine."})
    num_train_epochs: float = field(default=1.0, metadata={"help": "Passes over the training data."})
    per_device_train_batch_size: int = field(default=64, metadata={"help": "Captions per process and step."})
    distill: bool = field(default=False, metadata={"help": "Has no effect: text assignment has no teacher."})
    metric_for_best_model: str | None = field(
        default="assignment_accuracy", metadata={"help": "Decides which is best."}
    )


@dataclass
class TextAssignmentResult:
    """Outcome of an evaluation.

    Attributes:
        metrics: `assignment_accuracy`, per cent; a third is chance.
        details: Nothing.
    """

    metrics: dict[str, float]
    details: dict[str, Any] = field(default_factory=dict)

    def queries(self, dataset: Any) -> list[Any]:
        """Return nothing for the gallery, for the same reason as `write`."""
        return []

    def write(self, dataset: Any, folder: Path) -> Mapping[str, Path]:
        """Write nothing: the images of a batch, which are assigned, are of no interest alone."""
        return {}


@dataclass(eq=False)
class TextAssignmentEvaluator(Evaluator):
    """Assigns captions to images of their batch, of which the most similar ones are the wrong ones."""

    def __call__(self, dataset: Any) -> TextAssignmentResult:
        """Evaluate rows with `image` and `caption`, perhaps `image_id`, in their order, `batch_size` at a time."""
        rows = as_rows(one_caption_a_row(dataset))
        numbers = list(range(len(rows)))
        batches = [numbers[start : start + self.batch_size] for start in numbers[:: self.batch_size]]
        counts = torch.zeros(2)  # right ones, all
        limit = self.model.config.text_config.max_position_embeddings
        collate = partial(_collate, limit_lengths(retrieval_collator(self.processor), max_length=limit))
        with self.inference():
            for _, inputs in self.own_batches(rows, batches, collate, "Assigning"):
                outputs = self.model(**inputs)
                labels = outputs.assigned_labels
                right = (outputs.logits.argmax(dim=1) == labels).sum()
                counts += torch.stack([right, (labels != -100).sum()]).float().cpu()
        right, count = self.sum_over_processes(counts).tolist()
        return TextAssignmentResult({"assignment_accuracy": 100 * right / max(count, 1)})


def _collate(collator: Any, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in collator(rows).items() if isinstance(value, torch.Tensor)}


class TextAssignmentTrainer(AlbefTrainer):
    """Pre-trains an `AlbefForTextAssignment`.

    Training rows become `pixel_values input_ids attention_mask image_ids` in the collator, by default a
    `RetrievalCollator`; those with a list of `caption`s count as a row for each of them. Evaluation rows are the same.
    """

    ARGUMENTS = ClassificationTrainingArguments  # of the run script; TextAssignmentTrainingArguments has the recipe
    args: ClassificationTrainingArguments

    def prepare_training_data(self, dataset: Any) -> Any:
        """Return the training data with one caption a row."""
        return one_caption_a_row(dataset)

    def make_collator(self) -> Any:
        """Return a `RetrievalCollator` for `processing_class`."""
        return None if self.processing_class is None else retrieval_collator(self.processing_class)

    def _choose_deciding_metric(self) -> None:
        """Let the assignments choose, where a classification would be chosen by its accuracy."""
        if self.args.metric_for_best_model == "accuracy":
            self.args.metric_for_best_model = "assignment_accuracy"
        super()._choose_deciding_metric()

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """Return the loss of a step, for which the model draws the images of each caption."""
        outputs = model(**inputs)
        self.record_loss_parts(assignment_loss=outputs.loss)
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def evaluate_dataset(self, dataset: Any) -> TextAssignmentResult:
        """Assign the captions of a data set; see `TextAssignmentEvaluator`."""
        return TextAssignmentEvaluator(self.model, self.processing_class, **self.evaluator_options())(dataset)
