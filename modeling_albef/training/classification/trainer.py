"""Fine-tuning for the classification of images with texts."""

from __future__ import annotations

from typing import Any

from ..errors import SettingError
from ..rows import classification_collator
from ..trainer import AlbefTrainer
from .arguments import ClassificationTrainingArguments
from .evaluator import ClassificationEvaluator
from .result import ClassificationResult


class ClassificationTrainer(AlbefTrainer):
    """Fine-tunes an `AlbefForImageTextClassification`, or another model with `logits` and `labels`, and evaluates it.

    Training rows become `pixel_values input_ids attention_mask labels` in the collator, by default a
    `ClassificationCollator`. Evaluation rows have an `image`, a `text`, perhaps a `label`, and perhaps an `image_id`,
    the same for rows of the same image.
    For a model of two images, such as `AlbefForVisualReasoning`, rows have an `image_2`, too.
    """

    ARGUMENTS = ClassificationTrainingArguments
    LOSS_NAME = "classification_loss"
    args: ClassificationTrainingArguments

    def make_collator(self) -> Any:
        """Return a `ClassificationCollator` for `processing_class` and the model's labels; shared images if grouped."""
        if self.processing_class is None:
            return None
        is_shared = self.args.group_by_image
        return classification_collator(
            self.processing_class, self.model.config, share_images=is_shared, with_names=True
        )

    def _choose_deciding_metric(self) -> None:
        """Let a regression choose by its correlation; it has no accuracy."""
        config, args = self.model.config, self.args
        is_regression = config.problem_type == "regression" or (config.problem_type is None and config.num_labels == 1)
        if is_regression and args.metric_for_best_model == "accuracy":
            args.metric_for_best_model = "pearson"
        if args.greater_is_better and str(args.metric_for_best_model).endswith(("mse", "mae")):
            raise SettingError(
                f"metric_for_best_model is {args.metric_for_best_model}, an error, but greater_is_better is true: set "
                "it to false."
            )
        super()._choose_deciding_metric()

    def evaluate_dataset(self, dataset: Any) -> ClassificationResult:
        """Give the rows of a data set their labels; see `ClassificationEvaluator`."""
        return ClassificationEvaluator(self.model, self.processing_class, **self.evaluator_options())(dataset)
