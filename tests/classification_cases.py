"""A small model with three labels, rows of images and texts for it, and a trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from small_models import WORDS, _config

from modeling_albef import AlbefForImageTextClassification
from modeling_albef.training import ClassificationTrainer, ClassificationTrainingArguments
from processing import AlbefImageProcessor, AlbefProcessor, build_tokenizer

LABELS = ("contradiction", "neutral", "entailment")


def make_processor() -> AlbefProcessor:
    return AlbefProcessor(AlbefImageProcessor(size=32), build_tokenizer(WORDS))


def make_classifier(dropout: float = 0.0, labels: tuple[str, ...] = LABELS, **fields: Any) -> Any:
    config = _config(make_processor())
    config.text_config.hidden_dropout_prob = config.text_config.attention_probs_dropout_prob = dropout
    config.id2label = dict(enumerate(labels))
    config.label2id = {name: index for index, name in enumerate(labels)}
    for name, value in fields.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    return AlbefForImageTextClassification(config)


def labelled_rows(folder: Path, count: int = 12, label: Any = None) -> list[dict[str, Any]]:
    """Rows of which three in a row share an image; `label` gives that of a row by its number."""
    rows = []
    for number in range(count):
        path = folder / f"image{number // 3}.png"
        if not path.exists():
            Image.new("RGB", (40, 30), (60 * (number // 3) % 255, 90, 255 - 20 * number)).save(path)
        one = LABELS[number % 3] if label is None else label(number)
        rows.append({"image": str(path), "text": WORDS[number % 4], "label": one})
    return rows


def make_trainer(folder: Path, model: Any, rows: Any, eval_dataset: Any = None, **changes: Any) -> Any:
    options = {
        "output_dir": str(folder),
        "use_cpu": True,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "warmup_steps": 0,
        "logging_steps": 1,
        "eval_strategy": "no",
        "load_best_model_at_end": False,
        "report_to": "none",
        "disable_tqdm": True,
        "save_total_limit": None,
    }
    args = ClassificationTrainingArguments(**{**options, **changes})
    processor = make_processor()
    return ClassificationTrainer(model, args, train_dataset=rows, eval_dataset=eval_dataset, processing_class=processor)
