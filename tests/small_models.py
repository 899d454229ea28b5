"""Small models with random weights in folders, as `save_pretrained` leaves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from golden_cases import tiny_config

from modeling_albef import AlbefForImageTextRetrieval, AlbefForPreTraining, AlbefForQuestionAnswering
from processing import AlbefImageProcessor, AlbefProcessor, build_tokenizer

WORDS = ["what color is the circle?", "what is left of a red square", "a blue circle", "a green star above it"]
ANSWERS = ["red", "blue", "green", "star", "square"]


def _config(processor: AlbefProcessor) -> Any:
    """Weights large enough for different inputs to give clearly different outputs."""
    config = tiny_config(vocab_size=len(processor.tokenizer))
    for part in (config, config.vision_config, config.text_config):
        part.initializer_range = 0.3
    return config


def save_retrieval(folder: Path, model_class: Any = AlbefForImageTextRetrieval) -> Any:
    """A retrieval model, or another with captions, and its processor."""
    processor = AlbefProcessor(AlbefImageProcessor(size=32), build_tokenizer(WORDS))
    torch.manual_seed(0)
    model = model_class(_config(processor)).eval()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model


def save_pretraining(folder: Path) -> AlbefForPreTraining:
    """A model with both heads of pre-training, and its processor."""
    return save_retrieval(folder, AlbefForPreTraining)


def save_vqa(folder: Path) -> AlbefForQuestionAnswering:
    """A model that answers questions, with its candidate answers, and its processor."""
    processor = AlbefProcessor(AlbefImageProcessor(size=32), build_tokenizer(WORDS), text_type="question", max_words=50)
    torch.manual_seed(0)
    model = AlbefForQuestionAnswering(_config(processor)).eval()
    decoder_config, tokenizer = model.config.decoder_config, processor.tokenizer
    decoder_config.bos_token_id, decoder_config.eos_token_id = tokenizer.cls_token_id, tokenizer.sep_token_id
    decoder_config.answer_list = ANSWERS
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model
