# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""ALBEF for Hugging Face Transformers: importing this package registers it with the Auto classes."""

from transformers import AutoConfig, AutoModel
from transformers.models.auto import (
    AutoModelForImageTextToText,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoModelForVisualQuestionAnswering,
    AutoModelForZeroShotImageClassification,
)
from transformers.pipelines import PIPELINE_REGISTRY

from .answer_tree_albef import AnswerTree, RankedAnswers
from .configuration_albef import AlbefConfig, AlbefError, AlbefTextConfig, AlbefTextDecoderConfig, AlbefVisionConfig
from .modeling_albef import AlbefModel, AlbefOutput, AlbefPreTrainedModel
from .modeling_albef_classification import AlbefForImageTextClassification, AlbefImageTextClassificationOutput
from .modeling_albef_decoder import AlbefTextDecoder
from .modeling_albef_pretraining import AlbefForPreTraining, AlbefPreTrainingOutput
from .modeling_albef_question_answering import AlbefForQuestionAnswering, AlbefQuestionAnsweringOutput
from .modeling_albef_retrieval import AlbefForImageTextRetrieval, AlbefImageTextRetrievalOutput
from .modeling_albef_text import AlbefTextModel
from .modeling_albef_vision import AlbefVisionModel
from .modeling_albef_visual_reasoning import (
    AlbefForTextAssignment,
    AlbefForVisualReasoning,
    AlbefTextAssignmentOutput,
    AlbefVisualReasoningOutput,
)
from .pipelines_albef import PIPELINES, AlbefVqaPipeline, ImageTextClassificationPipeline, ImageTextRetrievalPipeline

__version__ = "0.2.0"  # a literal: packaging reads it without importing

_HEADS = {
    AutoModelForZeroShotImageClassification: AlbefForImageTextRetrieval,
    AutoModelForImageTextToText: AlbefForQuestionAnswering,
    AutoModelForVisualQuestionAnswering: AlbefForQuestionAnswering,
    AutoModelForPreTraining: (AlbefForPreTraining, AlbefForTextAssignment),  # a checkpoint says which
    AutoModelForSequenceClassification: (AlbefForImageTextClassification, AlbefForVisualReasoning),
}
for _auto_class, _head in _HEADS.items():
    _auto_class.register(AlbefConfig, _head, exist_ok=True)
for _config_class, _model_class in (
    (AlbefConfig, AlbefModel),
    (AlbefVisionConfig, AlbefVisionModel),
    (AlbefTextConfig, AlbefTextModel),
    (AlbefTextDecoderConfig, AlbefTextDecoder),
):
    AutoConfig.register(_config_class.model_type, _config_class, exist_ok=True)
    AutoModel.register(_config_class, _model_class, exist_ok=True)
for _task, (_pipeline, _name) in PIPELINES.items():
    PIPELINE_REGISTRY.register_pipeline(
        _task, _pipeline, next(one for one in _HEADS if one.__name__ == _name), type="multimodal"
    )

__all__ = [
    "AlbefConfig",
    "AlbefError",
    "AlbefForImageTextClassification",
    "AlbefForImageTextRetrieval",
    "AlbefForPreTraining",
    "AlbefForQuestionAnswering",
    "AlbefForTextAssignment",
    "AlbefForVisualReasoning",
    "AlbefImageTextClassificationOutput",
    "AlbefImageTextRetrievalOutput",
    "AlbefModel",
    "AlbefOutput",
    "AlbefPreTrainedModel",
    "AlbefPreTrainingOutput",
    "AlbefQuestionAnsweringOutput",
    "AlbefTextAssignmentOutput",
    "AlbefTextConfig",
    "AlbefTextDecoder",
    "AlbefTextDecoderConfig",
    "AlbefTextModel",
    "AlbefVisionConfig",
    "AlbefVisionModel",
    "AlbefVisualReasoningOutput",
    "AlbefVqaPipeline",
    "AnswerTree",
    "ImageTextClassificationPipeline",
    "ImageTextRetrievalPipeline",
    "RankedAnswers",
    "__version__",
]
