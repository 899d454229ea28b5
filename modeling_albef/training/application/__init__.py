"""What the run scripts share: arguments, data, processor, model, the record of a run, and how it ends."""

from .answers import baseline_metrics, check_answer_lengths, label_baselines, load_candidates, load_labels
from .data import image_columns, load_splits, training_rows
from .errors import exit_without_traceback
from .model import load_model, load_saved_queue
from .parsing import parse_arguments
from .processor import load_processor, load_text_processor, training_texts
from .record import RunRecord
from .settings import (
    ClassificationDataArguments,
    DataArguments,
    ModelArguments,
    PreTrainingDataArguments,
    VQADataArguments,
)
from .start import prepare_run
from .vocabulary import check_vocabulary

__all__ = [
    "ClassificationDataArguments",
    "DataArguments",
    "ModelArguments",
    "PreTrainingDataArguments",
    "RunRecord",
    "VQADataArguments",
    "baseline_metrics",
    "check_answer_lengths",
    "check_vocabulary",
    "exit_without_traceback",
    "image_columns",
    "label_baselines",
    "load_candidates",
    "load_labels",
    "load_model",
    "load_processor",
    "load_saved_queue",
    "load_splits",
    "load_text_processor",
    "parse_arguments",
    "prepare_run",
    "training_rows",
    "training_texts",
]
