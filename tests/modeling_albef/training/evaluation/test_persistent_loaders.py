"""Worker processes that read evaluation data stay for the next evaluation of the same data, where that is asked for."""

from __future__ import annotations

import gc
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from task_trainers import TASKS, evaluation_rows, task_trainer
from torch.utils.data import Dataset

OPTIONS = {"dataloader_num_workers": 2, "per_device_eval_batch_size": 4, "use_cpu": True, "report_to": "none"}
OPTIONS |= {"per_device_train_batch_size": 4, "eval_strategy": "no", "disable_tqdm": True}
TIMES = ("runtime", "per_second")


class ReadRows(Dataset):
    """Rows that note in a folder which processes read them; while the file `fault` exists, its workers fail."""

    def __init__(self, rows: list[dict[str, Any]], folder: Path, fault: Path | None = None) -> None:
        self.rows, self.folder, self.fault = rows, folder, fault
        self.folder.mkdir(parents=True, exist_ok=True)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        (self.folder / str(os.getpid())).touch()
        if self.fault is not None and self.fault.exists() and multiprocessing.parent_process() is not None:
            raise OSError("The disk is gone.")
        return self.rows[index]

    def readers(self) -> set[int]:
        """Return the worker processes that read since the last call."""
        found = {int(path.name) for path in self.folder.iterdir()} - {os.getpid()}
        for path in self.folder.iterdir():
            path.unlink()
        return found


def measured(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.endswith((*TIMES, "epoch"))}


@pytest.mark.parametrize(
    "task",
    [
        "retrieval",
        "vqa",
        *(pytest.param(task, marks=pytest.mark.slow) for task in TASKS if task not in ("retrieval", "vqa", "boxes")),
    ],
)
def test_the_same_processes_read_in_two_evaluations(tmp_path: Path, task: str) -> None:
    rows = ReadRows(evaluation_rows(task, tmp_path), tmp_path / "readers")
    torch.manual_seed(0)
    trainer = task_trainer(task, tmp_path, {**OPTIONS, "dataloader_persistent_workers": True})
    first, first_readers = measured(trainer.evaluate(rows)), rows.readers()
    second, second_readers = measured(trainer.evaluate(rows)), rows.readers()
    assert first_readers and first_readers == second_readers
    trainer.args.dataloader_persistent_workers = False
    third, third_readers = measured(trainer.evaluate(rows)), rows.readers()
    assert len(third_readers) >= 2 and not third_readers & first_readers
    assert first == second == third and first


def test_other_data_is_read_by_other_processes(tmp_path: Path) -> None:
    """Of one split there is one set of processes, and splits do not share theirs."""
    given = evaluation_rows("classification", tmp_path)
    one, other = (ReadRows(rows, tmp_path / name) for name, rows in (("one", given), ("other", given[:7])))
    torch.manual_seed(0)
    trainer = task_trainer("classification", tmp_path, {**OPTIONS, "dataloader_persistent_workers": True})
    gc.collect()  # trainers of other tests
    before = len(multiprocessing.active_children())
    trainer.evaluate(one)
    readers = one.readers()
    metrics = measured(trainer.evaluate(other))
    assert other.readers().isdisjoint(readers)
    assert len(multiprocessing.active_children()) == before + 2  # those of the first have ended
    trainer.args.dataloader_num_workers = 0
    assert measured(trainer.evaluate(other)) == metrics
    trainer.args.dataloader_num_workers = 2
    trainer.evaluate({"a": one, "b": other})
    by_split = one.readers(), other.readers()
    trainer.evaluate({"a": one, "b": other})
    assert (one.readers(), other.readers()) == by_split and by_split[0].isdisjoint(by_split[1])
    trainer.evaluate_dataset(one)  # no split says what may be kept
    assert one.readers().isdisjoint(by_split[0])


def test_a_failed_evaluation_leaves_no_processes_to_the_next(tmp_path: Path) -> None:
    fault = tmp_path / "fault"
    rows = ReadRows(evaluation_rows("classification", tmp_path), tmp_path / "readers", fault)
    trainer = task_trainer("classification", tmp_path, {**OPTIONS, "dataloader_persistent_workers": True})
    metrics, readers = measured(trainer.evaluate(rows)), rows.readers()
    fault.touch()
    with pytest.raises(OSError, match="disk is gone"):
        trainer.evaluate(rows)
    fault.unlink()
    rows.readers()
    assert measured(trainer.evaluate(rows)) == metrics
    assert len(rows.readers() - readers) == 2


def test_a_kept_loader_draws_no_random_number_of_the_training(tmp_path: Path) -> None:
    """A resumed training has a new one where the first had a kept one: both go on with the same numbers."""
    rows = evaluation_rows("classification", tmp_path)
    trainer = task_trainer("classification", tmp_path, {**OPTIONS, "dataloader_persistent_workers": True})
    state = torch.get_rng_state()
    for _ in range(2):
        trainer.evaluate(rows)
        assert torch.equal(torch.get_rng_state(), state)


def test_the_processes_end_with_the_trainer(tmp_path: Path) -> None:
    rows = evaluation_rows("classification", tmp_path)
    trainer = task_trainer("classification", tmp_path, {**OPTIONS, "dataloader_persistent_workers": True})
    gc.collect()  # trainers of other tests
    before = len(multiprocessing.active_children())
    trainer.evaluate(rows)
    assert len(multiprocessing.active_children()) == before + 2
    start = time.monotonic()
    del trainer
    gc.collect()
    assert len(multiprocessing.active_children()) == before
    assert time.monotonic() - start < 4  # each one that has to be killed takes 5 seconds
