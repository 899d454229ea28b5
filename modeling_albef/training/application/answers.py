"""What models choose from, candidate answers or labels, and the accuracy of guesses from texts alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from datasets import Dataset, LargeList, List

from dataset_scripts import DataError, load_answer_list

from ...configuration_albef import AlbefConfig
from ...hub_albef import named_model_errors
from ..arguments import VQATrainingArguments
from ..evaluation.base import progress
from ..evaluation.candidates import choose_folding
from ..evaluation.vqa_baselines import guesses_from_each_other, learn_guesses
from ..evaluation.vqa_metrics import vqa_accuracy
from ..evaluation.vqa_records import QuestionRecord
from ..rows import features_of
from .errors import StartError
from .settings import ClassificationDataArguments, VQADataArguments


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


def load_labels(
    data_args: ClassificationDataArguments, splits: dict[str, Any], model_name: str | None = None
) -> dict[str, Any]:
    """Return `problem_type`, `id2label` and `label2id` for the model's configuration.

    The labels are those of `labels`, else of the model that a run applies or goes on with, else of the training data,
    sorted. A regression has one number. Text assignment has no labels; the result is empty.

    Raises:
        StartError: There are no labels, they do not fit the model, or a row of a split has another one.
    """
    if data_args.is_assignment:
        return {}
    known = [] if model_name is None else _labels_of_model(model_name)
    rows = splits.get("train")
    feature: Any = features_of(splits).get("label")
    is_list = isinstance(feature, List | LargeList)
    kind = "multi_label_classification" if is_list else "single_label_classification"
    if feature is not None and str(feature.dtype if not is_list else "").startswith("float"):
        names, kind = ["number"], "regression"
    elif data_args.labels:
        names = data_args.labels
    elif isinstance(rows, Dataset):
        found = {name for row in rows["label"] for name in (row if is_list else [row])}
        names = known if found <= set(known) else sorted(found, key=_by_number)
    else:
        names = known
    if not names:
        raise StartError("Labels are needed: give --labels, or training data, not streamed, to take them from.")
    if known and len(known) != len(names):
        raise StartError(
            f"The model {model_name} has the {len(known)} labels {', '.join(known)}, this run {len(names)}, "
            f"{', '.join(names)}: correct the data or --labels, or start from a model without a classifier."
        )
    ids = {name: index for index, name in enumerate(names)}
    if len(ids) < len(names):
        raise StartError(f"labels is {', '.join(names)}, which has a name twice: give each once.")
    if kind != "regression":
        _check_labels(splits, ids)
    return {"problem_type": kind, "id2label": dict(enumerate(names)), "label2id": ids}


def _by_number(name: str) -> tuple[float, str]:
    """Return what names are sorted by: whole numbers come first and count as numbers."""
    return (int(name) if name.isascii() and name.isdigit() else math.inf), name


def _check_labels(splits: dict[str, Any], known: Collection[str]) -> None:
    """Refuse labels that a model will not have, before it is trained: the first of each split, with its row."""
    for split, rows in splits.items():
        for number, label in enumerate(rows["label"] if isinstance(rows, Dataset) else ()):
            given = label if isinstance(label, list) else [] if label is None else [label]
            if unknown := next((one for one in given if one not in known), None):
                raise StartError(
                    f"Row {number} of the {split} data has the label {unknown[:60]!r}, but the labels are "
                    f"{', '.join(map(repr, known)):.300}: correct it, or name all of them by --labels."
                )


def _labels_of_model(name: str) -> list[str]:
    """Return the labels of a model with a classifier; none of another model."""
    with named_model_errors(name, OSError):
        config = AlbefConfig.from_pretrained(name)
    is_classifier = any("Classification" in one or "Reasoning" in one for one in config.architectures or ())
    return list(config.id2label.values()) if is_classifier and config.id2label else []


def label_baselines(splits: dict[str, Any], split: str) -> dict[str, Any]:
    """Return the accuracy of guesses from texts alone, and of one label for all; see `baseline_metrics`.

    Empty where not all rows have one label.
    """
    rows, train = splits[split], splits.get("train")
    if isinstance(rows, dict):  # sources of a mixture
        return {name: label_baselines({**splits, split: own}, split) for name, own in rows.items()}
    labels: list[Any] = list(rows["label"]) if "label" in rows.column_names else [None]
    if not all(isinstance(label, str) for label in labels):
        return {}
    if isinstance(train, Dataset):
        guesses = learn_guesses(train["text"], [[label] for label in train["label"]], rows["text"])
    else:
        guesses = guesses_from_each_other(rows["text"], [[label] for label in labels])
    right = sum(guess == label for guess, label in zip(guesses.by_question, labels, strict=True))
    return {
        "text_only_accuracy": 100 * right / len(labels),
        "majority_accuracy": 100 * labels.count(guesses.majority) / len(labels),
        "majority_answer": guesses.majority,
        "baselines_learned_from": "the training data" if isinstance(train, Dataset) else "the split itself",
    }
