"""Training of ALBEF with the Hugging Face Trainer."""

from .arguments import AlbefTrainingArguments, RetrievalTrainingArguments
from .callbacks import EpochCallback, MomentumTeacherCallback, TemperatureCallback
from .evaluation import RankedCandidates, RetrievalEvaluator, RetrievalResult
from .metrics import recall_at_k, retrieval_metrics
from .momentum import FeatureQueue, MomentumTeacher, update_momentum
from .schedule import PublishedSchedule
from .trainer import AlbefTrainer, RetrievalTrainer, last_checkpoint

__all__ = [
    "AlbefTrainer",
    "AlbefTrainingArguments",
    "EpochCallback",
    "FeatureQueue",
    "MomentumTeacher",
    "MomentumTeacherCallback",
    "PublishedSchedule",
    "RankedCandidates",
    "RetrievalEvaluator",
    "RetrievalResult",
    "RetrievalTrainer",
    "RetrievalTrainingArguments",
    "TemperatureCallback",
    "last_checkpoint",
    "recall_at_k",
    "retrieval_metrics",
    "update_momentum",
]
