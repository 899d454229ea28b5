"""What a run says before it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from trainer_cases import make_trainer, random_rows

from modeling_albef.training.application.summary import MAX_LINES, TimeEstimateCallback, planned_steps, summary

RECORD: dict[str, Any] = {
    "file": "out/run.yaml",
    "data": {"train": {}, "test": {"images": 5000, "captions": 25010, "fingerprint": "ab"}},
    "model": {
        "class": "C",
        "parameters": 209_000_000,
        "trained_parameters": 1234,
        "image_size": 384,
        "start": "from a/b",
    },
    "device": "A device",
    "precision": "bfloat16",
    "processes": 8,
    "threads": 1,
}


@pytest.mark.parametrize(
    "changes",
    [
        {"num_train_epochs": 2},
        {"num_train_epochs": 2.5, "gradient_accumulation_steps": 2},
        {"num_train_epochs": 1, "gradient_accumulation_steps": 3},
        {"per_device_train_batch_size": 3, "dataloader_drop_last": True},
        {"per_device_train_batch_size": 3, "dataloader_drop_last": False},
        {"per_device_train_batch_size": 7, "gradient_accumulation_steps": 9, "dataloader_drop_last": False},
        {"max_steps": 3},
    ],
)
def test_steps_are_those_that_the_library_makes(changes: dict[str, Any], tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, rows=random_rows(10), save_strategy="no", **changes)
    planned = planned_steps(trainer)
    trainer.train()
    assert trainer.state.max_steps == trainer.state.global_step == planned


def test_few_lines_with_all_that_counts(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, do_train=True, gradient_accumulation_steps=2)
    lines = summary(trainer, RECORD, first_step=2).splitlines()
    assert len(lines) <= MAX_LINES == 12
    assert [line.split("  ")[0] for line in lines] == [
        *("run", "train data", "test data", "model", "training", "device", "time")
    ]
    text = "\n".join(lines)
    for words in (
        *("streamed", "5,000 images, 25,010 captions", "209.0 million parameters, 1,234 of them trained, 384 pixels"),
        *("4 steps of 8 rows, 2 epochs, from step 2", "A device, 8 processes, 1 thread, bfloat16", "after 10 steps"),
    ):
        assert words in text
    trainer.args.do_train, trainer.args.output_dir = False, "a\nb"
    assert [line.split()[0] for line in summary(trainer, RECORD).splitlines()] == [
        "run",
        "train",
        "test",
        "model",
        "device",
    ]


def test_that_no_two_splits_overlap_is_said(tmp_path: Path) -> None:
    """Only where two were compared: a stream is not."""
    trainer, words = make_trainer(tmp_path, do_train=True), "overlap     none: no image and no text is in two splits"
    both = RECORD | {"data": {"train": {"images": 1}, "test": {"images": 1}}, "overlap": []}
    assert words in summary(trainer, both).splitlines()
    assert words not in summary(trainer, RECORD | {"overlap": []})
    assert words not in summary(trainer, both | {"overlap": ["1 of 1 (100.0 %) test images .."]})


def test_the_time_is_estimated_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = make_trainer(tmp_path, rows=random_rows(8), save_strategy="no", num_train_epochs=8)
    trainer.add_callback(TimeEstimateCallback())
    trainer.train()
    printed = capsys.readouterr().out
    assert printed.count("About ") == 1 and " for the other 6 steps, " in printed
    trainer = make_trainer(tmp_path, rows=random_rows(8), save_strategy="no", num_train_epochs=5)
    trainer.add_callback(TimeEstimateCallback())
    trainer.train()
    assert "About " not in capsys.readouterr().out  # it is over after ten steps
