"""Fine-tuning for visual question answering."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from .arguments import VQATrainingArguments
from .errors import SettingError
from .evaluation.candidates import check_answers
from .evaluation.results import VQAResult
from .evaluation.vqa import VQAEvaluator
from .rows import as_rows, image_keys, limit_lengths, vqa_collator
from .sampling import ImageGroupSampler
from .trainer import AlbefTrainer


class VQATrainer(AlbefTrainer):
    """Fine-tunes an `AlbefForQuestionAnswering` and evaluates it by ranking a list of answers, or by writing them.

    Training rows become `pixel_values input_ids attention_mask answer_input_ids answer_attention_mask answer_weights
    answers_per_question` and perhaps `image_index` in the collator, by default a `VQACollator`; with `group_by_image`
    the collator is to share images. Evaluation rows have `image`, `question` and `answers`, and perhaps `image_id`, the
    same for rows of the same image, and `question_id`.
    """

    ARGUMENTS = VQATrainingArguments
    args: VQATrainingArguments

    def __init__(
        self,
        model: PreTrainedModel | None = None,
        args: VQATrainingArguments | None = None,
        *,
        answer_list: Sequence[str],
        **kwargs: Any,
    ) -> None:
        """Make a trainer as `AlbefTrainer` does; `answer_list` has the candidate answers of the evaluation.

        Of candidates that the tokenizer cannot tell apart, the most frequent spelling of the training data is kept.
        """
        tokenizer = getattr(processor := kwargs.get("processing_class"), "tokenizer", None)
        if tokenizer is None:
            raise SettingError(f"processing_class is a {type(processor).__name__}, but must be an AlbefProcessor.")
        self.answer_list = check_answers(answer_list, tokenizer, _answers_of(kwargs.get("train_dataset")))
        super().__init__(model, args, **kwargs)
        self._check_answer_lengths()

    def _check_answer_lengths(self) -> None:
        limit = self.model.config.decoder_config.max_position_embeddings
        ids = self.processing_class.encode_answers(self.answer_list, padding=False, return_tensors=None)["input_ids"]
        for answer, tokens in zip(self.answer_list, ids, strict=True):
            if len(tokens) > limit:
                raise SettingError(
                    f"The answer list has {answer[:60]!r} .. of {len(tokens)} tokens, but the model's decoder reads at "
                    f"most {limit}: shorten it, or take it out."
                )

    def prepare_model(self, model: Any) -> Any:
        """Return the student with the candidate answers in its configuration, for the pipeline."""
        model.config.decoder_config.answer_list = self.answer_list
        return super().prepare_model(model)

    def make_collator(self) -> Any:
        """Return a `VQACollator` for `processing_class`, which shares images with `group_by_image`."""
        return vqa_collator(self.processing_class, share_images=self.args.group_by_image)

    def limit_collator(self, collator: Any) -> Any:
        """Return a collator that refuses answers longer than the decoder's positions, too."""
        limit = self.model.config.decoder_config.max_position_embeddings
        return limit_lengths(super().limit_collator(collator), max_answer_length=limit)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if self.args.group_by_image:
            seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
            return ImageGroupSampler(image_keys(as_rows(dataset), warn=False), seed)
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
        options = self.evaluator_options(*names, "generation_num_beams", "generation_max_length")
        options["inference_method"] = self.args.inference
        return VQAEvaluator(self.model, self.processing_class, self.answer_list, **options)(dataset)


def _answers_of(dataset: Any) -> Iterator[Sequence[str]]:
    """Return the answers of each row, read when they are asked for; none of a stream or of rows without answers."""
    rows: Any = getattr(dataset, "dataset", dataset)  # of an `AugmentedDataset`
    if "answers" in (getattr(rows, "column_names", None) or ()) and hasattr(rows, "__len__"):
        yield from rows["answers"]
