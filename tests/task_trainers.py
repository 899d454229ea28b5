"""A small trainer of each task, and rows that it trains on and evaluates."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import classification_cases
import pretraining_cases
import two_process_cases
from classification_cases import make_processor
from small_models import _config

from modeling_albef import (
    AlbefForImageTextRetrieval,
    AlbefForQuestionAnswering,
    AlbefForTextAssignment,
    AlbefForVisualReasoning,
)
from modeling_albef.training import (
    GroundingTrainer,
    GroundingTrainingArguments,
    RetrievalTrainer,
    RetrievalTrainingArguments,
    TextAssignmentTrainer,
    TextAssignmentTrainingArguments,
    VQATrainer,
    VQATrainingArguments,
)

TASKS = ["retrieval", "grounding", "boxes", "pretraining", "vqa", "classification", "reasoning", "text assignment"]


def evaluation_rows(task: str, folder: Path) -> list[dict[str, Any]]:
    """Return 16 rows of a task, whose images are files."""
    if task == "vqa":
        rows = classification_cases.labelled_rows(folder, 16)
        answers = two_process_cases.ANSWERS
        return [{**row, "question": row["text"], "answers": answers[:1] * 10} for row in rows]
    if task in ("classification", "reasoning"):
        rows = classification_cases.labelled_rows(folder, 16)
        return [{**row, "image_2": row["image"]} for row in rows] if task == "reasoning" else rows
    rows = pretraining_cases.pairs(folder / "images")
    return [{**row, "text": row["caption"], "box": [2, 3, 20, 10]} for row in rows]


def task_trainer(task: str, folder: Path, options: dict[str, Any]) -> Any:
    """Return a small trainer of a task with 16 rows."""
    rows: Any = evaluation_rows(task, folder)
    if task == "pretraining":
        return pretraining_cases.make_trainer(folder, rows, **options)
    if task == "classification":
        return classification_cases.make_trainer(folder, classification_cases.make_classifier(), rows, **options)
    if task == "reasoning":
        model: Any = AlbefForVisualReasoning(classification_cases.make_classifier().config)
        return classification_cases.make_trainer(folder, model, rows, **options)
    processor = make_processor()
    if task == "vqa":
        args: Any = VQATrainingArguments(str(folder), **options)
        model, rows = AlbefForQuestionAnswering(_config(processor)), two_process_cases.questions(16)
        given = {"data_collator": two_process_cases.collate_questions, "answer_list": two_process_cases.ANSWERS}
        return VQATrainer(model, args, train_dataset=rows, processing_class=processor, **given)
    if task == "text assignment":
        args = TextAssignmentTrainingArguments(str(folder), **options)
        model = AlbefForTextAssignment(_config(processor))
        return TextAssignmentTrainer(model, args, train_dataset=rows, processing_class=processor)
    kinds: Any = {
        "retrieval": (RetrievalTrainer, RetrievalTrainingArguments),
        "grounding": (GroundingTrainer, GroundingTrainingArguments),
        "boxes": (GroundingTrainer, partial(GroundingTrainingArguments, box_loss_weight=0.5)),
    }
    trainer, arguments = kinds[task]
    model = AlbefForImageTextRetrieval(pretraining_cases.make_model().config)
    args = arguments(str(folder), **options, queue_size=12)
    return trainer(model, args, train_dataset=rows, processing_class=processor)
