"""Training of ALBEF with the Hugging Face Trainer."""

from .arguments import AlbefTrainingArguments, RetrievalTrainingArguments, VQATrainingArguments
from .callbacks import EpochCallback, MomentumTeacherCallback, RankSeedCallback, TemperatureCallback
from .checkpoints import CheckpointError, find_damage, last_checkpoint
from .evaluation import RetrievalEvaluator, RetrievalResult
from .metrics import recall_at_k, retrieval_metrics
from .momentum import FeatureQueue, MomentumTeacher, update_momentum
from .picture_log import PictureLogCallback
from .ranking import RankedCandidates
from .report import RunReport
from .retrieval_trainer import RetrievalTrainer
from .schedule import PublishedSchedule
from .trainer import AlbefTrainer
from .vqa_evaluation import VQAEvaluator, VQAResult, question_only_accuracy
from .vqa_metrics import (
    QuestionRecord,
    read_annotations,
    read_questions,
    vqa_accuracy,
    vqa_accuracy_by_question_type,
)
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
