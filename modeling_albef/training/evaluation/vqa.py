"""Evaluation of visual question answering: rank a list of answers for every question, or write one, and measure.

The ranking is the published one (salesforce/ALBEF `models/model_vqa.py`); see `AlbefForQuestionAnswering.rank_answers`.
Shapes: N questions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any

import torch

from ...answer_tree_albef import AnswerTree
from ...configuration_albef import AlbefError
from ...index_albef import check_finite
from ..rows import Rows, as_rows, column, image_keys
from .base import Evaluator, to_device
from .bootstrap import bootstrap_means, interval
from .candidates import check_answers, choose_folding
from .results import VQAResult
from .vqa_baselines import learn_guesses
from .vqa_metrics import (
    INFERENCE,
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
        inference_method: "rank" chooses of the candidates; "generate" writes free answers, spelled as a candidate that
            has the same tokens.
        generation_num_beams: Of the beam search that writes answers; 1 takes the likeliest token at each step, and then
            the probabilities are unknown.
        generation_max_length: Tokens of an answer that is written, at most.
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
    inference_method: str = "rank"
    generation_num_beams: int = 3
    generation_max_length: int = 10

    def __post_init__(self) -> None:
        check_rules(self.vqa_rules)
        if self.inference_method not in INFERENCE:
            raise AlbefError(f"inference_method is {self.inference_method!r}, but must be {' or '.join(INFERENCE)}.")
        self.answer_list = check_answers(self.answer_list, self.processor.tokenizer)

    def __call__(self, dataset: Any) -> VQAResult:
        """Evaluate.

        Args:
            dataset: Rows with `image`, `question`, perhaps `answers`, which may be empty, and `image_id`, anything
                hashable, by default the image's path, `question_id`, by default the row, and `candidates` of their own,
                which are ranked in place of `answer_list`; none where they are empty.

        Returns:
            Metrics and answers, the same on every process.
        """
        dataset = as_rows(dataset)
        if self.inference_method == "generate":
            texts, probabilities = self.generate(dataset)
        else:
            best, probabilities = self.rank(dataset)
            own = self._own_candidates(dataset)
            texts = [(given or self.answer_list)[index] for given, index in zip(own, best.tolist(), strict=True)]
        ids = list(dataset["question_id"] if "question_id" in dataset.column_names else range(len(dataset)))
        answers = [{"question_id": number, "answer": text} for number, text in zip(ids, texts, strict=True)]
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
        numbers: dict[Any, int] = {}
        images = [numbers.setdefault(key, len(numbers)) for key in image_keys(dataset, warn=False)]
        samples = bootstrap_means([(result.scores[:, None], torch.tensor(images))])[0][:, 0]
        result.details = {
            "inference": self.inference_method,
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
        """Return (N,) indices of the best answers and (N,) their probabilities, or None with `best_answer_only`.

        An index counts among the row's own candidates, where it has some.
        """
        dataset = as_rows(dataset)
        own = self._own_candidates(dataset)
        options = {"k": self.k_test, "count_first_token_twice": self.count_first_token_twice}
        options["best_only"] = self.best_answer_only
        device = self.model.device
        best = torch.zeros(len(dataset), dtype=torch.int64, device=device)
        probabilities = torch.zeros(len(dataset), device=device)
        tree, made_of = None, None
        with self.inference():
            for batch, inputs in self._own_batches(dataset, own):
                if tree is None or own[batch[0]] is not made_of:
                    made_of = own[batch[0]]
                    candidates = self.processor.encode_answers(made_of or self.answer_list)
                    tree = AnswerTree.from_tokens(candidates["input_ids"], candidates["attention_mask"])
                ranked = self.model.rank_answers(**inputs, candidates=tree, **options)
                (rows,) = to_device([torch.tensor(batch)], device)
                best.index_copy_(0, rows, ranked.ids[:, 0])
                if ranked.probabilities is not None:
                    probabilities.index_copy_(0, rows, ranked.probabilities[:, 0].float())
        best, probabilities = self.sum_over_processes(best), self.sum_over_processes(probabilities)
        check_finite(probabilities, "scores", "question {}".format)
        return best, None if self.best_answer_only else probabilities

    def _own_candidates(self, dataset: Any) -> list[list[str] | None]:
        """Return the candidates of each row that are its own, the same list for the same candidates; None elsewhere."""
        if "candidates" not in dataset.column_names:
            return [None] * len(dataset)
        checked: dict[tuple[str, ...], list[str] | None] = {(): None}
        for row, given in enumerate(dataset["candidates"]):
            if (names := tuple(given or ())) not in checked:
                try:
                    checked[names] = check_answers(names, self.processor.tokenizer)
                except AlbefError as error:
                    raise AlbefError(f"The candidates of row {row} cannot be ranked. {error}") from error
        return [checked[tuple(given or ())] for given in dataset["candidates"]]

    def generate(self, dataset: Any) -> tuple[list[str], torch.Tensor | None]:
        """Return N free answers and (N,) their probabilities, or None where one beam writes them."""
        dataset = as_rows(dataset)
        config, beams = self.model.config.decoder_config, self.generation_num_beams
        length = min(self.generation_max_length, config.max_position_embeddings - 1)
        options: dict[str, Any] = {"num_beams": beams, "max_new_tokens": length, "return_dict_in_generate": True}
        options |= self.processor.answer_constraints()
        if beams > 1:  # a length penalty of 0 leaves the log-probabilities as they are
            options |= {"length_penalty": 0.0, "output_scores": True}
        written = torch.zeros(len(dataset), length + 1, dtype=torch.int64)
        probabilities = torch.zeros(len(dataset))
        with self.inference():
            for batch, inputs in self._own_batches(dataset, [None] * len(dataset)):
                outputs = self.model.generate(**inputs, **options)
                tokens = outputs.sequences.cpu()
                written[batch] = torch.nn.functional.pad(tokens, (0, length + 1 - tokens.shape[1]), value=-1) + 1
                if beams > 1:
                    probabilities[batch] = outputs.sequences_scores.exp().float().cpu()
        written, probabilities = self.sum_over_processes(written) - 1, self.sum_over_processes(probabilities)
        check_finite(probabilities, "scores", "question {}".format)
        return self._texts(written.tolist()), probabilities if beams > 1 else None

    def _texts(self, written: list[list[int]]) -> list[str]:
        """Return the texts of answers in tokens, where -1 is nothing, as the candidates spell them."""
        known = self.processor.encode_answers(self.answer_list, padding=False, return_tensors=None)["input_ids"]
        spelling = {tuple(tokens[1:-1]): text for tokens, text in zip(known, self.answer_list, strict=True)}
        special = {-1, *self.processor.tokenizer.all_special_ids}
        own = [[token for token in tokens if token not in special] for tokens in written]
        decoded = self.processor.batch_decode(own)
        return [spelling.get(tuple(tokens), text) for tokens, text in zip(own, decoded, strict=True)]

    def _own_batches(
        self, dataset: Any, candidates: Sequence[list[str] | None]
    ) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
        """Return the rows of each batch of this process, with the same candidates, and the model's inputs for them."""
        keys, rows_of = image_keys(dataset, warn=False), defaultdict[int, list[int]](list)
        for row, given in enumerate(candidates):
            rows_of[id(given)].append(row)
        batches = [
            [rows[number] for number in batch]
            for rows in rows_of.values()
            for batch in group_questions([keys[row] for row in rows], self.batch_size)
        ]
        collate = partial(_collate, self.processor, self.max_words)
        yield from self.own_batches(dataset, batches, collate, "Answering questions")


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
