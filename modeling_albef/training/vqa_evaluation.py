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
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..modeling_albef_question_answering import AlbefForQuestionAnswering
from .vqa_metrics import QuestionRecord, vqa_accuracy, vqa_accuracy_by_question_type


@dataclass
class VQAResult:
    """Outcome of an evaluation.

    Attributes:
        metrics: See `vqa_accuracy`; empty where not all questions have answers.
        answers: `{"question_id", "answer"}` of every question, in the data set's order: the VQA server's format.
        probabilities: (N,) of the answers among the candidates that were scored.
        by_question_type: Accuracy for each `question_type`; empty where the data set has no such column.
    """

    metrics: dict[str, float]
    answers: list[dict[str, Any]]
    probabilities: torch.Tensor
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


class VQAEvaluator:
    """Answers the questions of a data set, on one process or many; every question once.

    What is computed together does not depend on the number of processes. Questions of one picture that stand in one
    batch share its encoding.
    """

    def __init__(
        self,
        model: AlbefForQuestionAnswering,
        processor: Any,
        answer_list: Sequence[str],
        k_test: int = 128,
        count_first_token_twice: bool = True,
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
            batch_size: Questions that are answered together.
            max_words: Words of a question that are read; published: 50.
            num_workers: Processes that read images.
            accelerator: Of the run; default: a new one, which finds out about other processes.
        """
        check_answers(answer_list, processor.tokenizer)
        self.model, self.processor, self.answer_list = model, processor, list(answer_list)
        self.k_test, self.count_first_token_twice = k_test, count_first_token_twice
        self.batch_size, self.max_words, self.num_workers = batch_size, max_words, num_workers
        self.accelerator = Accelerator() if accelerator is None else accelerator

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

    def rank(self, dataset: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Finds the best candidate of every question.

        Args:
            dataset: As above.

        Returns:
            (N,) int64 places in the answer list, and (N,) float32 probabilities.
        """
        batches = torch.arange(len(dataset)).split(self.batch_size)
        own = batches[self.accelerator.process_index :: self.accelerator.num_processes]
        loader = DataLoader(
            dataset,
            batch_sampler=[batch.tolist() for batch in own],
            collate_fn=self._collate,
            num_workers=self.num_workers,
        )
        device = self.model.device
        candidates = self.processor.encode_answers(self.answer_list).to(device)
        best, probabilities = torch.zeros(len(dataset), dtype=torch.int64), torch.zeros(len(dataset))
        was_training = self.model.training
        self.model.eval()
        with torch.inference_mode(), self.accelerator.autocast():
            for batch, inputs in zip(own, self._progress(loader), strict=True):
                ranked = self.model.rank_answers(
                    **{name: tensor.to(device) for name, tensor in inputs.items()},
                    candidate_input_ids=candidates["input_ids"],
                    candidate_attention_mask=candidates["attention_mask"],
                    k=self.k_test,
                    count_first_token_twice=self.count_first_token_twice,
                )
                best[batch], probabilities[batch] = ranked.ids[:, 0].cpu(), ranked.probabilities[:, 0].cpu()
        self.model.train(was_training)
        return self._sum(best), self._sum(probabilities)

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

    def _sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum over the processes; each entry is zero on all but one."""
        if self.accelerator.num_processes == 1:
            return tensor
        return self.accelerator.reduce(tensor.to(self.accelerator.device), "sum").cpu()

    def _progress(self, items: Any) -> Any:
        silent = None if self.accelerator.is_main_process else True
        return tqdm(items, "Answering questions", leave=False, disable=silent)


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
