"""Evaluation of classification: score the labels of every row, and measure. Shapes: N rows, C labels."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, cast

import torch

from ...index_albef import check_finite
from ...losses_albef import find_problem_type
from ..evaluation.base import Evaluator
from ..evaluation.bootstrap import bootstrap_means, interval
from ..evaluation.vqa import group_questions
from ..metrics.label_metrics import auroc_by_label, classification_metrics, f1_by_label, right_rows
from ..rows import as_rows, classification_collator, image_columns, image_keys, image_numbers, optional_column
from .result import ClassificationResult


@dataclass(eq=False)
class ClassificationEvaluator(Evaluator):
    """Gives the texts and images of a data set labels, on one process or many.

    Rows are taken image by image, so that an image is read and encoded once.

    Attributes:
        batch_size: Rows that are scored together.
        max_words: Words of a text that are read; published: 30.
    """

    _: KW_ONLY
    max_words: int = 30

    def __call__(self, dataset: Any) -> ClassificationResult:
        """Evaluate.

        Args:
            dataset: Rows with `image`, for a model of two images `image_2`, `text`, perhaps `label`, which may be
                None, and `image_id`, anything hashable, by default the image's path.

        Returns:
            Metrics, predictions and scores, the same on every process.
        """
        rows = as_rows(dataset)
        logits, config = self.score(rows), self.model.config
        given = optional_column(rows, "label")
        labels = None if any(one is None for one in given) else self._collator().encode_labels(given)
        kind = find_problem_type(config, labels)
        scores = {"regression": logits, "single_label_classification": logits.softmax(dim=1)}.get(kind)
        names = [config.id2label[index] for index in range(logits.shape[1])]
        result = ClassificationResult({}, _named(logits, names, kind), logits.sigmoid(), names)
        result.scores = result.scores if scores is None else scores
        result.image_columns = image_columns(config)
        if labels is None:
            return result
        result.metrics = classification_metrics(logits, labels, kind)
        if kind == "regression":
            result.truths = labels.tolist()
            return result
        is_single = kind.startswith("single")
        truths = labels[:, None] == torch.arange(len(names)) if is_single else labels > 0.5
        result.truths = _named(truths.float() - 0.5, names, kind)
        predicted = logits.argmax(dim=1) if is_single else logits > 0
        of_labels = predicted[:, None] == torch.arange(len(names)) if is_single else predicted
        columns = zip(f1_by_label(of_labels, truths), auroc_by_label(result.scores, truths), truths.sum(0), strict=True)
        result.by_label = {
            name: {"f1": f1, "auroc": area, "rows": int(count)}
            for name, (f1, area, count) in zip(names, columns, strict=True)
        }
        groups = torch.tensor(image_numbers(rows))
        right = 100 * right_rows(predicted, labels if is_single else truths)
        result.details["accuracy_interval"] = interval(bootstrap_means([(right[:, None], groups)])[0][:, 0])
        return result

    def score(self, dataset: Any) -> torch.Tensor:
        """Return the logits (N, C) of all rows, float32."""
        rows = as_rows(dataset)
        logits = torch.zeros(len(rows), self.model.config.num_labels)
        with self.inference():
            batches = group_questions(image_keys(rows, warn=False), self.batch_size)
            for batch, inputs in self.own_batches(rows, batches, self._collator(), "Classifying"):
                logits[batch] = self.model(**inputs).logits.float().cpu()
        logits = self.sum_over_processes(logits)
        check_finite(logits, "scores", "row {}".format)
        return logits

    def _collator(self) -> Any:
        options = {"max_words": self.max_words, "share_images": True, "with_labels": False}
        return classification_collator(self.processor, self.model.config, **options)


def _named(logits: torch.Tensor, names: list[str], kind: str) -> list[Any]:
    """Return what logits (N, C) say: a name a row, a list of names, or numbers."""
    if kind == "regression":
        return cast(list[Any], (logits[:, 0] if logits.shape[1] == 1 else logits).tolist())
    if kind.startswith("single"):
        return [names[index] for index in logits.argmax(dim=1).tolist()]
    return [[name for name, one in zip(names, row, strict=True) if one > 0] for row in logits.tolist()]
