"""Evaluation of question answering: rank a list of answers for every question, and measure.

The ranking is the published one (salesforce/ALBEF `models/model_vqa.py`); see `AlbefForQuestionAnswering.rank_answers`.
Shapes: N questions.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator

from ...answer_tree_albef import AnswerTree
from ...modeling_albef_question_answering import AlbefForQuestionAnswering
from .base import Evaluator
from .vqa_metrics import QuestionRecord, vqa_accuracy, vqa_accuracy_by_question_type


@dataclass
class VQAResult:
    """Outcome of an evaluation.

    Attributes:
        metrics: See `vqa_accuracy`; empty where not all questions have answers.
        answers: `{"question_id", "answer"}` of every question, in the data set's order: the VQA server's format.
        probabilities: (N,) of the answers among the candidates that were scored; None where the best was looked for
            alone.
        by_question_type: Accuracy for each `question_type`; empty where the data set has no such column.
    """

    metrics: dict[str, float]
    answers: list[dict[str, Any]]
    probabilities: torch.Tensor | None
    by_question_type: dict[str, float] = field(default_factory=dict)


def check_answers(answer_list: Sequence[str], tokenizer: Any) -> None:
    """Checks candidate answers.

    Args:
        answer_list: The candidates.
        tokenizer: What is to represent them.

    Raises:
        ValueError: There are none, one is there twice or empty, or the tokenizer cannot represent one.
    """
    if not answer_list:
        raise ValueError("The answer list is empty: there is nothing to choose from.")
    twice = next((answer for answer, count in Counter(answer_list).items() if count > 1), None)
    if twice is not None:
        raise ValueError(f"The answer list has {twice!r} twice: keep one of them.")
    ids = tokenizer(list(answer_list), add_special_tokens=False)["input_ids"]
    for answer, tokens in zip(answer_list, ids, strict=True):
        if not tokens or tokenizer.unk_token_id in tokens:
            raise ValueError(f"The answer list has {answer!r}, which the tokenizer cannot represent: take it out.")


class VQAEvaluator(Evaluator):
    """Answers the questions of a data set, on one process or many; every question once.

    Questions are taken picture by picture, so that a picture is read and encoded once.
    """

    def __init__(
        self,
        model: AlbefForQuestionAnswering,
        processor: Any,
        answer_list: Sequence[str],
        k_test: int = 128,
        count_first_token_twice: bool = True,
        best_answer_only: bool = False,
        batch_size: int = 16,
        max_words: int = 50,
        num_workers: int = 0,
        accelerator: Accelerator | None = None,
    ) -> None:
        """Prepares an evaluation.

        Args:
            model: The model, not wrapped.
            processor: An `AlbefProcessor`.
            answer_list: Candidate answers, all different.
            k_test: Candidates a question that are scored whole; a shorter list is scored whole.
            count_first_token_twice: As the published score does.
            best_answer_only: Skips candidates that cannot win; the answers are the same, their probabilities unknown.
            batch_size: Questions that are answered together.
            max_words: Words of a question that are read; published: 50.
            num_workers: Processes that read images.
            accelerator: Of the run; default: a new one, which finds out about other processes.
        """
        super().__init__(model, processor, batch_size, num_workers, accelerator)
        check_answers(answer_list, processor.tokenizer)
        self.answer_list, self.max_words = list(answer_list), max_words
        self.ranking = {
            "k": k_test,
            "count_first_token_twice": count_first_token_twice,
            "best_only": best_answer_only,
        }

    def __call__(self, dataset: Any) -> VQAResult:
        """Evaluates.

        Args:
            dataset: Rows with `image`, `image_id`, `question`, `question_id` and `answers`, which may be empty.

        Returns:
            Metrics and answers, the same on every process.
        """
        best, probabilities = self.rank(dataset)
        ids = list(dataset["question_id"])
        answers = [
            {"question_id": number, "answer": self.answer_list[place]}
            for number, place in zip(ids, best.tolist(), strict=True)
        ]
        known = [tuple(row) for row in dataset["answers"]]
        if not known or not all(known):
            return VQAResult({}, answers, probabilities)
        has_types = "question_type" in getattr(dataset, "column_names", ())
        types = list(dataset["question_type"]) if has_types else [None] * len(ids)
        rows = zip(ids, dataset["question"], known, types, strict=True)
        records = [QuestionRecord(question_id=n, question=q, answers=a, question_type=t) for n, q, a, t in rows]
        by_type = vqa_accuracy_by_question_type(answers, records) if has_types else {}
        return VQAResult(vqa_accuracy(answers, records), answers, probabilities, by_type)

    def rank(self, dataset: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Finds the best candidate of every question.

        Args:
            dataset: As above.

        Returns:
            (N,) int64 places in the answer list, and (N,) float32 probabilities, or None with `best_answer_only`.
        """
        batches = group_questions(dataset["image_id"], self.batch_size)
        own = batches[self.accelerator.process_index :: self.accelerator.num_processes]
        device = self.model.device
        candidates = self.processor.encode_answers(self.answer_list).to(device)
        tree = AnswerTree.from_tokens(candidates["input_ids"], candidates["attention_mask"])
        best, probabilities = torch.zeros(len(dataset), dtype=torch.int64), torch.zeros(len(dataset))
        with self.inference():
            loader = self.progress(self.load(dataset, own, self._collate), "Answering questions")
            for batch, inputs in zip(own, loader, strict=True):
                inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
                ranked = self.model.rank_answers(**inputs, candidates=tree, **self.ranking)
                best[batch] = ranked.ids[:, 0].cpu()
                if ranked.probabilities is not None:
                    probabilities[batch] = ranked.probabilities[:, 0].cpu()
        best = self.join(best)
        return best, None if self.ranking["best_only"] else self.join(probabilities)

    def _collate(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        place: dict[Any, int] = {}
        index = [place.setdefault(row["image_id"], len(place)) for row in rows]
        first = [index.index(number) for number in range(len(place))]  # a row for each different picture
        inputs = self.processor(
            images=[rows[row]["image"] for row in first],
            text=[row["question"] for row in rows],
            text_type="question",
            max_words=self.max_words,
            padding=True,
            return_tensors="pt",
        )
        return {**inputs, "image_index": torch.tensor(index)}


def group_questions(image_ids: Sequence[int], batch_size: int) -> list[list[int]]:
    """Batches of questions, picture by picture.

    Args:
        image_ids: The picture of each question.
        batch_size: Questions of a batch; one picture's questions are never parted, so a batch may have more.

    Returns:
        Places of the questions. Every question stands in one batch.
    """
    questions_of: dict[int, list[int]] = defaultdict(list)
    for question, image in enumerate(image_ids):
        questions_of[image].append(question)
    batches: list[list[int]] = []
    for questions in questions_of.values():
        if not batches or len(batches[-1]) + len(questions) > batch_size:
            batches.append([])
        batches[-1] += questions
    return batches


def question_only_accuracy(train: Any, test: Any) -> float:
    """Accuracy of the best guesser that does not look at pictures.

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
