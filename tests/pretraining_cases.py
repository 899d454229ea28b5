"""A small model of pre-training, pairs for it, and a trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from small_models import WORDS, _config
from torch.utils.data import SequentialSampler

from modeling_albef import AlbefForPreTraining
from modeling_albef.training import PreTrainingTrainer, PreTrainingTrainingArguments
from processing import AlbefImageProcessor, AlbefProcessor, build_tokenizer

OPTIONS: dict[str, Any] = {
    "use_cpu": True,
    "queue_size": 12,
    "num_train_epochs": 2,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-3,
    "warmup_steps": 0,
    "logging_steps": 1,
    "eval_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "save_total_limit": None,
}
SGD: dict[str, Any] = {
    "optim": "sgd",
    "weight_decay": 0.0,
    "published_schedule": False,
    "lr_scheduler_type": "constant",
    "save_strategy": "no",
}


class InOrder(PreTrainingTrainer):
    """Takes the rows as they come."""

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


def make_processor() -> AlbefProcessor:
    return AlbefProcessor(AlbefImageProcessor(size=32), build_tokenizer(WORDS))


def make_model(dropout: float = 0.1) -> AlbefForPreTraining:
    config = _config(make_processor())
    config.text_config.hidden_dropout_prob = config.text_config.attention_probs_dropout_prob = dropout
    torch.manual_seed(0)
    return AlbefForPreTraining(config)


def pairs(folder: Path, count: int = 16) -> list[dict[str, Any]]:
    """Rows of an image and a caption each."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        if not (path := folder / f"{number}.png").exists():
            Image.new("RGB", (40, 30), (14 * number, 90, 255 - 14 * number)).save(path)
    return [{"image": str(folder / f"{n}.png"), "caption": WORDS[n % 4], "image_id": n} for n in range(count)]


def make_trainer(folder: Path, rows: Any, model: Any = None, trainer: Any = PreTrainingTrainer, **changes: Any) -> Any:
    given = {name: changes.pop(name) for name in ("eval_dataset", "data_collator", "teacher") if name in changes}
    args = PreTrainingTrainingArguments(**{"output_dir": str(folder), **OPTIONS, **changes})
    model = make_model() if model is None else model
    return trainer(model, args, train_dataset=rows, processing_class=make_processor(), **given)
