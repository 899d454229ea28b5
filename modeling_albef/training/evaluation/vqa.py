"""Evaluation of visual question answering: rank a list of answers for every question, and measure.

The ranking is the published one (salesforce/ALBEF `models/model_vqa.py`); see `AlbefForQuestionAnswering.rank_answers`.
Shapes: N questions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any

import torch

from ...answer_tree_albef import AnswerTree
from ...index_albef import check_finite
from ..rows import Rows, as_rows, column, image_keys, row_sources
from .base import Evaluator, progress
from .bootstrap import bootstrap_means, interval
from .candidates import check_answers, choose_folding
from .results import VQAResult
from .vqa_baselines import learn_guesses
from .vqa_metrics import (
    accuracy_by_answer_type,
    accuracy_by_question_type,
    check_rules,
    question_scores,
    vqa_accuracy,
)
from .vqa_records import QuestionRecord


@dataclass(eq=False)
class VQAEvaluator(Evaluator):
    """Answers the questions of a data set with an `AlbefForQuestionAnswering`, on one process or many.

    Questions are taken image by image, so that an image is read and encoded once; every question once.

    Attributes:
        answer_list: Candidate answers, all different; of those that the tokenizer cannot tell apart one is kept.
        k_test: Candidates a question that are scored whole; a shorter list is scored whole.
        count_first_token_twice: As the published score does.
        best_answer_only: Skips candidates that cannot win; the answers are the same, their probabilities unknown.
        batch_size: Questions that are answered together.
        max_words: Words of a question that are read; published: 50.
        vqa_rules: Of the accuracy, "vqa" or "albef"; see `answer_accuracy`.
        fold_answers: Whether answers that the tokenizer cannot tell apart count as the same; None: in all data but
            that of the builder `vqa_v2`, whose published numbers are measured without.
    """

    answer_list: Sequence[str]
    _: KW_ONLY
    k_test: int = 128
    count_first_token_twice: bool = True
    best_answer_only: bool = False
    batch_size: int = 16
    max_words: int = 50
    vqa_rules: str = "vqa"
    fold_answers: bool | None = None

    def __post_init__(self) -> None:
        check_rules(self.vqa_rules)
        self.answer_list = check_answers(self.answer_list, self.processor.tokenizer)

    def __call__(self, dataset: Any) -> VQAResult:
        """Evaluate.

        Args:
            dataset: Rows with `image`, `question`, perhaps `answers`, which may be empty, and `image_id`, anything
                hashable, by default the image's path, and `question_id`, by default the row.

        Returns:
            Metrics and answers, the same on every process. Of a mixture there is the accuracy of each source, too.
        """
        dataset = as_rows(dataset)
        best, probabilities = self.rank(dataset)
        ids = list(dataset["question_id"] if "question_id" in dataset.column_names else range(len(dataset)))
        answers = [
            {"question_id": number, "answer": self.answer_list[index]}
            for number, index in zip(ids, best.tolist(), strict=True)
        ]
        has_answers = "answers" in dataset.column_names
        known = [tuple(row or ()) for row in dataset["answers"]] if has_answers else []
        if not known or not all(known):
            return VQAResult({}, answers, probabilities)
        types = (self._types(dataset, name) for name in ("answer_type", "question_type"))
        rows = zip(ids, column(dataset, "question"), known, *types, strict=True)
        records = [QuestionRecord(n, q, answers=a, answer_type=t, question_type=u) for n, q, a, t, u in rows]
        fold = choose_folding(self.fold_answers, dataset, self.processor.tokenizer)
        scores = question_scores(answers, records, self.vqa_rules, fold)
        has_types = all(record.question_type is not None for record in records)
        result = VQAResult(accuracy_by_answer_type(scores, records), answers, probabilities)
        result.by_question_type = accuracy_by_question_type(scores, records) if has_types else {}
        result.scores = torch.tensor(scores, dtype=torch.float64)
        sources = row_sources(dataset)
        for source in dict.fromkeys(sources):
            own = [score for score, of in zip(scores, sources, strict=True) if of == source]
            result.metrics[f"{source}_vqa_accuracy"] = sum(own) / len(own)
        numbers: dict[Any, int] = {}
        images = [numbers.setdefault(key, len(numbers)) for key in image_keys(dataset, warn=False)]
        samples = bootstrap_means([(result.scores[:, None], torch.tensor(images))])[0][:, 0]
        result.details = {
            "vqa_rules": self.vqa_rules,
            "fold_answers": fold is not None,
            "vqa_accuracy_interval": interval(samples),
        }
        return result

    @staticmethod
    def _types(dataset: Any, column: str) -> list[str | None]:
        """Return the annotated types of the questions, None where a question has none."""
        if column not in dataset.column_names:
            return [None] * len(dataset)
        return [None if value is None else str(value) for value in dataset[column]]

    def rank(self, dataset: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return (N,) indices of the best answers and (N,) their probabilities, or None with `best_answer_only`."""
        dataset = as_rows(dataset)
        batches = group_questions(image_keys(dataset, warn=False), self.batch_size)
        own = batches[self.accelerator.process_index :: self.accelerator.num_processes]
        device = self.model.device
        candidates = self.processor.encode_answers(self.answer_list).to(device)
        tree = AnswerTree.from_tokens(candidates["input_ids"], candidates["attention_mask"])
        options = {"k": self.k_test, "count_first_token_twice": self.count_first_token_twice}
        options["best_only"] = self.best_answer_only
        best, probabilities = torch.zeros(len(dataset), dtype=torch.int64), torch.zeros(len(dataset))
        with self.inference():
            loader = self.load(dataset, own, partial(_collate, self.processor, self.max_words))
            for batch, inputs in zip(own, progress(loader, "Answering questions"), strict=True):
                inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
                ranked = self.model.rank_answers(**inputs, candidates=tree, **options)
                best[batch] = ranked.ids[:, 0].cpu()
                if ranked.probabilities is not None:
                    probabilities[batch] = ranked.probabilities[:, 0].cpu()
        best, probabilities = self.sum_over_processes(best), self.sum_over_processes(probabilities)
        check_finite(probabilities, "scores", "question {}".format)
        return best, None if self.best_answer_only else probabilities


def _collate(processor: Any, max_words: int, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    numbers: dict[Any, int] = {}
    keys = image_keys(Rows(rows), warn=False)
    index = [numbers.setdefault(key, len(numbers)) for key in keys]
    first = [index.index(number) for number in range(len(numbers))]  # a row for each different image
    inputs = processor(
        images=[rows[row]["image"] for row in first],
        text=[row["question"] for row in rows],
        text_type="question",
        max_words=max_words,
        padding=True,
        return_tensors="pt",
    )
    return {**inputs, "image_index": torch.tensor(index)}


def group_questions(image_ids: Sequence[Any], batch_size: int) -> list[list[int]]:
    """Group questions, of which each has an image id, into batches of rows.

    An image's questions are never parted, so a batch may have more than `batch_size`.
    """
    questions_of: dict[Any, list[int]] = defaultdict(list)
    for question, image in enumerate(image_ids):
        questions_of[image].append(question)
    batches: list[list[int]] = []
    for questions in questions_of.values():
        if not batches or len(batches[-1]) + len(questions) > batch_size:
            batches.append([])
        batches[-1] += questions
    return batches


def question_only_accuracy(
    train: Any, test: Any, rules: str = "vqa", fold: Callable[[str], str] | None = None
) -> float:
    """Return the accuracy of the best guesser that does not look at images.

    It gives each question the answer most frequent for its words in the training data, and an unseen question the most
    frequent of all.

    Args:
        train: Rows with `question` and `answers`.
        test: Rows with `question`, `question_id` and `answers`.
        rules: See `answer_accuracy`.
        fold: See `answer_accuracy`.

    Returns:
        `vqa_accuracy` of its answers, per cent.
    """
    given = [row if fold is None else [fold(answer) for answer in row] for row in train["answers"]]
    guesses = learn_guesses(train["question"], given, test["question"]).by_question
    numbers, answers = list(test["question_id"]), test["answers"]
    records = [QuestionRecord(number, answers=tuple(given)) for number, given in zip(numbers, answers, strict=True)]
    return vqa_accuracy(dict(zip(numbers, guesses, strict=True)), records, rules, fold)["vqa_accuracy"]
