"""Evaluation of visual question answering: rank a list of answers for every question, and measure.

The ranking is the published one (salesforce/ALBEF `models/model_vqa.py`); see `AlbefForQuestionAnswering.rank_answers`.
Shapes: N questions.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any

import torch

from ...answer_tree_albef import AnswerTree
from ...configuration_albef import AlbefError
from ..rows import Rows, as_rows, column, image_keys
from .base import Evaluator, check_finite, progress
from .results import VQAResult
from .vqa_metrics import vqa_accuracy, vqa_accuracy_by_question_type
from .vqa_records import QuestionRecord


def check_answers(answer_list: Sequence[str], tokenizer: Any) -> None:
    """Refuse candidate answers if there are none, or one occurs twice, is empty, or cannot be represented by tokens."""
    if not answer_list:
        raise AlbefError("The answer list is empty: there is nothing to choose from.")
    twice = next((answer for answer, count in Counter(answer_list).items() if count > 1), None)
    if twice is not None:
        raise AlbefError(f"The answer list has {twice!r} twice: keep one of them.")
    ids = tokenizer(list(answer_list), add_special_tokens=False)["input_ids"]
    for answer, tokens in zip(answer_list, ids, strict=True):
        if not tokens or tokenizer.unk_token_id in tokens:
            raise AlbefError(f"The answer list has {answer!r}, which the tokenizer cannot represent: take it out.")


@dataclass(eq=False)
class VQAEvaluator(Evaluator):
    """Answers the questions of a data set with an `AlbefForQuestionAnswering`, on one process or many.

    Questions are taken image by image, so that an image is read and encoded once; every question once.

    Attributes:
        answer_list: Candidate answers, all different.
        k_test: Candidates a question that are scored whole; a shorter list is scored whole.
        count_first_token_twice: As the published score does.
        best_answer_only: Skips candidates that cannot win; the answers are the same, their probabilities unknown.
        batch_size: Questions that are answered together.
        max_words: Words of a question that are read; published: 50.
    """

    answer_list: Sequence[str]
    _: KW_ONLY
    k_test: int = 128
    count_first_token_twice: bool = True
    best_answer_only: bool = False
    batch_size: int = 16
    max_words: int = 50

    def __post_init__(self) -> None:
        check_answers(self.answer_list, self.processor.tokenizer)

    def __call__(self, dataset: Any) -> VQAResult:
        """Evaluate.

        Args:
            dataset: Rows with `image`, `question`, perhaps `answers`, which may be empty, and `image_id`, anything
                hashable, by default the image's path, and `question_id`, by default the row.

        Returns:
            Metrics and answers, the same on every process.
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
        has_types = "question_type" in getattr(dataset, "column_names", ())
        types = dataset["question_type"] if has_types else [None] * len(ids)
        rows = zip(ids, column(dataset, "question"), known, types, strict=True)
        records = [QuestionRecord(question_id=n, question=q, answers=a, question_type=t) for n, q, a, t in rows]
        by_type = vqa_accuracy_by_question_type(answers, records) if has_types else {}
        return VQAResult(vqa_accuracy(answers, records), answers, probabilities, by_type)

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
        check_finite(probabilities[:, None], "question")
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


def question_only_accuracy(train: Any, test: Any) -> float:
    """Return the accuracy of the best guesser that does not look at images.

    It gives each question the answer most frequent for its words in the training data, and an unseen question the most
    frequent of all.

    Args:
        train: Rows with `question` and `answers`.
        test: Rows with `question`, `question_id` and `answers`.

    Returns:
        `vqa_accuracy` of its answers, per cent.
    """
    overall: Counter[str] = Counter()
    by_question: dict[str, Counter[str]] = defaultdict(Counter)
    for question, answers in zip(train["question"], train["answers"], strict=True):
        overall.update(answers)
        by_question[question].update(answers)
    guesses, records = {}, []
    for number, question, answers in zip(test["question_id"], test["question"], test["answers"], strict=True):
        guesses[number] = by_question.get(question, overall).most_common(1)[0][0]
        records.append(QuestionRecord(question_id=number, question=question, answers=tuple(answers)))
    return vqa_accuracy(guesses, records)["vqa_accuracy"]
