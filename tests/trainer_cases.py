"""A trainer on random rows, and what its tests compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from golden_cases import tiny_config
from safetensors.torch import load_file
from torch.utils.data import SequentialSampler

from modeling_albef import AlbefForImageTextRetrieval
from modeling_albef.training import RetrievalTrainer, RetrievalTrainingArguments

NAMES = ("pixel_values", "input_ids", "attention_mask", "image_ids")


def collate(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([row[name] for row in rows]) for name in NAMES}


def random_rows(count: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(5)
    return [
        {
            "pixel_values": torch.randn(3, 32, 32, generator=generator),
            "input_ids": torch.randint(5, 64, (6,), generator=generator),
            "attention_mask": torch.ones(6, dtype=torch.long),
            "image_ids": torch.tensor(row),
        }
        for row in range(count)
    ]


def make_trainer(
    folder: Path, model: Any = None, rows: Any = None, eval_dataset: Any = None, **changes: Any
) -> RetrievalTrainer:
    torch.manual_seed(0)
    options = {
        "output_dir": str(folder),
        "use_cpu": True,
        "queue_size": 12,
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
    args = RetrievalTrainingArguments(**{**options, **changes})
    if model is None:  # with dropout, so that the random state matters
        model = AlbefForImageTextRetrieval(tiny_config(hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1))
    rows = random_rows(16) if rows is None else rows
    return RetrievalTrainer(model, args, train_dataset=rows, eval_dataset=eval_dataset, data_collator=collate)


def logged(trainer: RetrievalTrainer) -> list[dict[str, float]]:
    return [line for line in trainer.state.log_history if "loss" in line]


class InOrder(RetrievalTrainer):
    """Takes the rows as they come."""

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    files = ("model.safetensors", "teacher/model.safetensors", "teacher/queue.safetensors")
    return {f"{name}:{key}": value for name in files for key, value in load_file(folder / name).items()}
