"""One step of a classifier and its evaluation, by as many processes as run this; writes what it finds into a folder.

python -m torch.distributed.run --nproc_per_node 2 tests/two_process_classification.py FOLDER [pairs]
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from classification_cases import labelled_rows, make_classifier, make_trainer
from torch import distributed

from modeling_albef import AlbefForVisualReasoning

OPTIONS = {"optim": "sgd", "learning_rate": 0.5, "max_steps": 1, "weight_decay": 0.0, "save_strategy": "no"}
PLAIN = {"published_schedule": False, "lr_scheduler_type": "constant"}


def main(folder: Path, reads_pairs: bool = False) -> None:
    """Train one step on four rows, and evaluate."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    images = folder / f"rank{os.environ.get('RANK', '0')}"
    images.mkdir(parents=True)
    rows, model = labelled_rows(images, 12), make_classifier()
    if reads_pairs:
        rows = [{**row, "image_2": rows[number - 4]["image"]} for number, row in enumerate(rows)]
        torch.manual_seed(0)
        model = AlbefForVisualReasoning(model.config)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    batch = {"per_device_train_batch_size": 4 // world}
    trainer = make_trainer(folder / "out", model, rows[:4], **OPTIONS, **PLAIN, **batch)
    result = trainer.evaluate_dataset(rows)
    trainer.train()
    if trainer.is_world_process_zero():
        moved = {name: value - start[name] for name, value in trainer.model.state_dict().items()}
        found = {"moved": moved, "scores": result.scores, "metrics": result.metrics}
        torch.save(found, folder / "found.pt")
    if world > 1:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), reads_pairs="pairs" in sys.argv[2:])
