"""Fine-tuning for visual question answering."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from .arguments import VQATrainingArguments
from .evaluation.candidates import check_answers
from .evaluation.results import VQAResult
from .evaluation.vqa import VQAEvaluator
from .sampling import ImageGroupSampler
from .trainer import AlbefTrainer


class VQATrainer(AlbefTrainer):
    """Fine-tunes an `AlbefForQuestionAnswering` and evaluates it by ranking a list of answers.

    Training rows become `pixel_values input_ids attention_mask answer_input_ids answer_attention_mask answer_weights
    answers_per_question` and perhaps `image_index` in the collator. With `group_by_image` the training data also gives
    its column `image_id`, and the collator is to share images. Evaluation rows have `image`, `image_id`, `question`,
    `question_id`, `answers`.
    """

    args: VQATrainingArguments

    def __init__(
        self, model: PreTrainedModel, args: VQATrainingArguments, *, answer_list: Sequence[str], **kwargs: Any
    ) -> None:
        """Make a trainer as `AlbefTrainer` does; `answer_list` has the candidate answers of the evaluation.

        Of candidates that the tokenizer cannot tell apart, the most frequent spelling of the training data is kept.
        """
        super().__init__(model, args, **kwargs)
        self.answer_list = check_answers(answer_list, self.processing_class.tokenizer, _answers_of(self.train_dataset))
        self.model.config.decoder_config.answer_list = self.answer_list  # for the pipeline

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if self.args.group_by_image:
            return ImageGroupSampler(dataset["image_id"], self.args.seed)
        return super()._get_train_sampler(dataset)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """Return the loss of a step: the teacher's predictions, then the student's."""
        alpha, teacher_logits = self.alpha, None
        if alpha > 0:
            with torch.no_grad(), self.accelerator.autocast():
                teacher_logits = self.teacher.model(**inputs).logits
        outputs = model(**inputs, teacher_logits=teacher_logits, alpha=alpha)
        self.record_loss_parts(answer_loss=outputs.loss, alpha=alpha)
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def evaluate_dataset(self, dataset: Any) -> VQAResult:
        """Answer the questions of a data set; see `VQAEvaluator`."""
        names = ("k_test", "count_first_token_twice", "best_answer_only", "vqa_rules", "fold_answers")
        options = self.evaluator_options(*names)
        return VQAEvaluator(self.model, self.processing_class, self.answer_list, **options)(dataset)


def _answers_of(dataset: Any) -> Iterator[Sequence[str]]:
    """Return the answers of each row, read when they are asked for; none of a stream or of rows without answers."""
    rows: Any = getattr(dataset, "dataset", dataset)  # of an `AugmentedDataset`
    if "answers" in (getattr(rows, "column_names", None) or ()) and hasattr(rows, "__len__"):
        yield from rows["answers"]
