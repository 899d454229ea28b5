"""One step of pre-training and its evaluation, by as many processes as run this; writes what it finds into a folder.

python -m torch.distributed.run --nproc_per_node 2 tests/two_process_pretraining.py FOLDER
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from pretraining_cases import SGD, InOrder, make_model, make_trainer, pairs
from torch import distributed


def main(folder: Path) -> None:
    """Train one step on two pairs of rows, and evaluate."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    rows = pairs(folder / f"rank{os.environ.get('RANK', '0')}", 8)
    model = make_model(0.0)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    options = {**SGD, "max_steps": 1, "per_device_train_batch_size": 2, "mlm_probability": 0.5, "alpha_warmup": False}
    options |= {"max_temperature": 10.0, "per_device_eval_batch_size": 3, "gradient_accumulation_steps": 2 // world}
    # the parts of an accumulated step would meet each other in a queue, two processes do not
    trainer = make_trainer(folder / "out", rows[:4], model, InOrder, queue_size=0, learning_rate=0.5, **options)
    measured = trainer.evaluate(rows)
    trainer.train()
    queued = make_trainer(folder / "queued", rows[:4], make_model(0.0), InOrder, learning_rate=0.0, **options)
    queued.train()
    if trainer.is_world_process_zero():
        moved = {name: value - start[name] for name, value in trainer.model.state_dict().items()}
        metrics = {name: value for name, value in measured.items() if "runtime" not in name and "second" not in name}
        torch.save({"moved": moved, "metrics": metrics, "queue": queued.queue.state_dict()}, folder / "found.pt")
    if world > 1:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
