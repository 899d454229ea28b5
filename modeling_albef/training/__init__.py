"""Training of ALBEF with the Hugging Face Trainer."""

from .arguments import AlbefTrainingArguments, RetrievalTrainingArguments, VQATrainingArguments
from .callbacks import EpochCallback, MomentumTeacherCallback, RankSeedCallback, TemperatureCallback
from .checkpoints.manifest import find_damage, last_checkpoint
from .classification.evaluator import ClassificationEvaluator
from .classification.result import ClassificationResult
from .classification.trainer import ClassificationTrainer, ClassificationTrainingArguments
from .errors import CheckpointError, LossNotFiniteError, PushError, SettingError, TrainingInterruptedError
from .evaluation.ranking import RankedCandidates
from .evaluation.results import EvaluationRecord, RetrievalResult, VQAResult
from .evaluation.retrieval import RetrievalEvaluator
from .evaluation.retrieval_metrics import recall_at_k, retrieval_metrics
from .evaluation.vqa import VQAEvaluator, question_only_accuracy
from .evaluation.vqa_metrics import answer_accuracy, vqa_accuracy, vqa_accuracy_by_question_type
from .evaluation.vqa_records import QuestionRecord, read_annotations, read_questions
from .grounding.evaluator import GroundingEvaluator, GroundingResult
from .grounding.trainer import GroundingTrainer, GroundingTrainingArguments
from .metrics.label_metrics import accuracy, auroc_by_label, classification_metrics, f1_by_label, f1_macro, f1_micro
from .momentum import FeatureQueue, MomentumTeacher, update_momentum
from .pretraining.arguments import PreTrainingTrainingArguments
from .pretraining.evaluator import PreTrainingEvaluator
from .pretraining.trainer import PreTrainingTrainer
from .reasoning.text_assignment import TextAssignmentTrainer, TextAssignmentTrainingArguments
from .report.image_log import ImageLogCallback
from .report.run_report import RunReport
from .retrieval_trainer import RetrievalTrainer
from .schedule import PublishedSchedule
from .trainer import AlbefTrainer
from .vqa_trainer import VQATrainer

__all__ = [
    "AlbefTrainer",
    "AlbefTrainingArguments",
    "CheckpointError",
    "ClassificationEvaluator",
    "ClassificationResult",
    "ClassificationTrainer",
    "ClassificationTrainingArguments",
    "EpochCallback",
    "EvaluationRecord",
    "FeatureQueue",
    "GroundingEvaluator",
    "GroundingResult",
    "GroundingTrainer",
    "GroundingTrainingArguments",
    "ImageLogCallback",
    "LossNotFiniteError",
    "MomentumTeacher",
    "MomentumTeacherCallback",
    "PreTrainingEvaluator",
    "PreTrainingTrainer",
    "PreTrainingTrainingArguments",
    "PublishedSchedule",
    "PushError",
    "QuestionRecord",
    "RankSeedCallback",
    "RankedCandidates",
    "RetrievalEvaluator",
    "RetrievalResult",
    "RetrievalTrainer",
    "RetrievalTrainingArguments",
    "RunReport",
    "SettingError",
    "TemperatureCallback",
    "TextAssignmentTrainer",
    "TextAssignmentTrainingArguments",
    "TrainingInterruptedError",
    "VQAEvaluator",
    "VQAResult",
    "VQATrainer",
    "VQATrainingArguments",
    "accuracy",
    "answer_accuracy",
    "auroc_by_label",
    "classification_metrics",
    "f1_by_label",
    "f1_macro",
    "f1_micro",
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
