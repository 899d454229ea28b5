"""Training of ALBEF with the Hugging Face Trainer."""

from .arguments import AlbefTrainingArguments, RetrievalTrainingArguments, VQATrainingArguments
from .callbacks import EpochCallback, MomentumTeacherCallback, RankSeedCallback, TemperatureCallback
from .checkpoints.whole_checkpoints import CheckpointError, find_damage, last_checkpoint
from .evaluation.ranking import RankedCandidates
from .evaluation.retrieval import RetrievalEvaluator, RetrievalResult
from .evaluation.retrieval_metrics import recall_at_k, retrieval_metrics
from .evaluation.vqa import VQAEvaluator, VQAResult, question_only_accuracy
from .evaluation.vqa_metrics import (
    QuestionRecord,
    read_annotations,
    read_questions,
    vqa_accuracy,
    vqa_accuracy_by_question_type,
)
from .momentum import FeatureQueue, MomentumTeacher, update_momentum
from .report.image_log import PictureLogCallback
from .report.run_report import RunReport
from .retrieval_trainer import RetrievalTrainer
from .schedule import PublishedSchedule
from .trainer import AlbefTrainer
from .vqa_trainer import VQATrainer

__all__ = [
    "AlbefTrainer",
    "AlbefTrainingArguments",
    "CheckpointError",
    "EpochCallback",
    "FeatureQueue",
    "MomentumTeacher",
    "MomentumTeacherCallback",
    "PictureLogCallback",
    "PublishedSchedule",
    "QuestionRecord",
    "RankSeedCallback",
    "RankedCandidates",
    "RetrievalEvaluator",
    "RetrievalResult",
    "RetrievalTrainer",
    "RetrievalTrainingArguments",
    "RunReport",
    "TemperatureCallback",
    "VQAEvaluator",
    "VQAResult",
    "VQATrainer",
    "VQATrainingArguments",
    "find_damage",
    "last_checkpoint",
    "question_only_accuracy",
    "read_annotations",
    "read_questions",
    "recall_at_k",
    "retrieval_metrics",
    "update_momentum",
    "vqa_accuracy",
    "vqa_accuracy_by_question_type",
]
