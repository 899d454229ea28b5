"""Candidate answers of visual question answering, their lengths, and the accuracy of guesses from questions alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from datasets import Dataset

from dataset_scripts import DataError, load_answer_list

from ...configuration_albef import AlbefConfig
from ...hub_albef import named_model_errors
from ..arguments import VQATrainingArguments
from ..evaluation.base import progress
from ..evaluation.candidates import choose_folding
from ..evaluation.vqa_baselines import guesses_from_each_other, learn_guesses
from ..evaluation.vqa_metrics import vqa_accuracy
from ..evaluation.vqa_records import QuestionRecord
from .settings import VQADataArguments
from .start import StartError


def load_candidates(
    data_args: VQADataArguments, splits: dict[str, Any], model_name: str | None = None, checkpoint: str | None = None
) -> list[str]:
    """Return the candidate answers: those of `answer_list`, else of the training data, else of the model.

    Training that resumes from a checkpoint keeps those of the checkpoint; the trainer refuses an `answer_list` that has
    others.
    """
    if data_args.answer_list:
        try:
            return load_answer_list(data_args.answer_list)
        except DataError as error:
            raise StartError(f"answer_list {data_args.answer_list!r} cannot be used. {error}") from error
    if (name := checkpoint or (None if "train" in splits else model_name)) is not None:
        with named_model_errors(name, OSError):
            decoder_config = AlbefConfig.from_pretrained(name).decoder_config
        if decoder_config is not None and decoder_config.answer_list:
            return decoder_config.answer_list
    if not isinstance(splits.get("train"), Dataset):
        raise StartError(
            "Candidate answers are needed: give --answer_list, or training data, not streamed, to take them from."
        )
    return sorted(_answers(splits["train"]))


def check_answer_lengths(
    candidates: list[str], data_args: VQADataArguments, splits: dict[str, Any], processor: Any, limit: int
) -> None:
    """Refuse candidates and training answers that have more tokens than the decoder reads."""
    rows = splits.get("train") if data_args.answer_list else None
    answers = sorted({*candidates, *(_answers(rows) if isinstance(rows, Dataset) else ())})
    encoded = processor.encode_answers(answers, padding=False, return_tensors=None)["input_ids"] if answers else []
    for answer, ids in zip(answers, encoded, strict=True):
        if len(ids) > limit:
            raise StartError(
                f"The answer {answer[:60]!r} .. has {len(ids)} tokens, but the model's decoder reads at most "
                f"{limit}: shorten it, or leave its row out."
            )


def _answers(rows: Dataset) -> set[str]:
    return {answer for row in progress(rows["answers"], "Collecting answers") for answer in row}


def baseline_metrics(
    splits: dict[str, Any], split: str, args: VQATrainingArguments | None = None, tokenizer: Any = None
) -> dict[str, Any]:
    """Return what an accuracy has to be compared with: that of guesses from questions alone, and of one answer for all.

    The guesses are learned from the training data or, where there is none, for each question from the others of the
    split. Empty where not all questions have answers. Of a dictionary of data sets there is a dictionary of metrics.

    Args:
        splits: The data sets of the run.
        split: "validation" or "test".
        args: `vqa_rules` and `fold_answers` of the accuracy; None: the rules of VQA v2.
        tokenizer: What folds answers.
    """
    rows, train = splits[split], splits.get("train")
    if isinstance(rows, dict):  # sources of a mixture
        return {name: baseline_metrics({**splits, split: own}, split, args, tokenizer) for name, own in rows.items()}
    questions, answers = rows["question"], rows["answers"]
    if not all(answers):
        return {}
    fold = None if args is None or tokenizer is None else choose_folding(args.fold_answers, rows, tokenizer)
    if isinstance(train, Dataset):
        known = _folded(train["answers"], fold)
        guesses, source = learn_guesses(train["question"], known, questions), "the training data"
    else:
        guesses, source = (
            guesses_from_each_other(questions, _folded(answers, fold)),
            "the split itself",
        )
    numbers = list(rows["question_id"])
    records = [QuestionRecord(number, answers=tuple(given)) for number, given in zip(numbers, answers, strict=True)]
    accuracies = {
        "question_only_accuracy": dict(zip(numbers, guesses.by_question, strict=True)),
        "majority_accuracy": dict.fromkeys(numbers, guesses.majority),
    }
    rules = "vqa" if args is None else args.vqa_rules
    found = {name: vqa_accuracy(given, records, rules, fold)["vqa_accuracy"] for name, given in accuracies.items()}
    return {**found, "majority_answer": guesses.majority, "baselines_learned_from": source}


def _folded(answers: Iterable[Sequence[str]], fold: Callable[[str], str] | None) -> list[Sequence[str]]:
    """Return the answers of each row, folded where they are to be."""
    return [given if fold is None else [fold(answer) for answer in given] for given in answers]
