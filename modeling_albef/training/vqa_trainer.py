"""Fine-tuning for visual question answering."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from transformers import PreTrainedModel

from .arguments import VQATrainingArguments
from .errors import SettingError
from .evaluation.candidates import check_answers
from .evaluation.results import VQAResult
from .evaluation.vqa import VQAEvaluator
from .rows import limit_lengths, vqa_collator
from .trainer import AlbefTrainer


class VQATrainer(AlbefTrainer):
    """Fine-tunes an `AlbefForQuestionAnswering` and evaluates it by ranking a list of answers, or by writing them.

    Training rows become `pixel_values input_ids attention_mask answer_input_ids answer_attention_mask answer_weights
    answers_per_question` and perhaps `image_index` in the collator, by default a `VQACollator`; with `group_by_image`
    the collator is to share images. Evaluation rows have `image`, `question` and `answers`, and perhaps `image_id`, the
    same for rows of the same image, and `question_id`.
    """

    ARGUMENTS = VQATrainingArguments
    LOSS_NAME = "answer_loss"
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
