"""Checkpoints are whole or not there, and damaged ones are found."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from run_cases import no_file_larger_than
from safetensors import SafetensorError
from safetensors.torch import load_file
from trainer_cases import make_trainer, weights
from transformers import TrainerCallback

from modeling_albef.training import CheckpointError, find_damage, last_checkpoint
from modeling_albef.training.checkpoints.manifest import quarantine_newer_checkpoints


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints after 2, 4, 6 and 8 steps."""
    folder = tmp_path_factory.mktemp("run")
    make_trainer(folder, save_strategy="steps", save_steps=2).train()
    return folder


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    shutil.copytree(run, tmp_path / "copy")
    return tmp_path / "copy"


def test_a_checkpoint_lists_its_files(run: Path) -> None:
    folder = run / "checkpoint-8"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {"model.safetensors", "teacher/model.safetensors", "teacher/queue.safetensors"} < set(manifest)
    assert {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"} < set(manifest)
    assert all((folder / name).stat().st_size == entry["size"] for name, entry in manifest.items())
    assert find_damage(folder) is None and last_checkpoint(run) == str(folder)
    assert not (run / "unfinished").exists()


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.pt", "teacher/queue.safetensors", "rng_state.pth", "trainer_state.json"]
)
@pytest.mark.parametrize("fault", ["a bit", "the end", "the file"])
def test_damage_anywhere_is_found(
    copy: Path, name: str, fault: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    path = copy / "checkpoint-8" / name
    data = bytearray(path.read_bytes())
    if fault == "a bit":
        data[len(data) // 2] ^= 1
    path.write_bytes(data[: len(data) - 1] if fault == "the end" else data)
    if fault == "the file":
        path.unlink()
    assert name in str(find_damage(copy / "checkpoint-8"))
    with caplog.at_level(logging.WARNING):
        assert last_checkpoint(copy) == str(copy / "checkpoint-6")
    assert "checkpoint-8 is not whole" in caplog.text and name in caplog.text


def test_a_run_goes_on_from_the_last_whole_one_to_the_same_end(copy: Path) -> None:
    expected = weights(copy / "checkpoint-8")
    (copy / "checkpoint-8/optimizer.pt").write_bytes(b"")
    (copy / "unfinished/checkpoint-9").mkdir(parents=True)
    found = last_checkpoint(copy)
    quarantine_newer_checkpoints(copy, found)
    assert found == str(copy / "checkpoint-6")
    assert sorted(path.name for path in copy.glob("*checkpoint*")) == [
        *("checkpoint-2", "checkpoint-4", "checkpoint-6", "damaged-checkpoint-8")
    ]
    assert not (copy / "unfinished").exists()
    trainer = make_trainer(copy, save_strategy="steps", save_steps=2, save_total_limit=2)
    trainer.train(resume_from_checkpoint=found)
    assert {path.name for path in copy.glob("checkpoint-*")} == {"checkpoint-6", "checkpoint-8"}
    again = weights(copy / "checkpoint-8")
    assert expected.keys() == again.keys()
    assert all(torch.equal(value, again[name]) for name, value in expected.items())


def test_a_checkpoint_of_the_same_step_is_replaced(copy: Path) -> None:
    (copy / "checkpoint-8/left_over.txt").write_text("of an earlier run")
    trainer = make_trainer(copy, save_strategy="steps", save_steps=2)
    trainer.train(resume_from_checkpoint=str(copy / "checkpoint-6"))
    assert not (copy / "checkpoint-8/left_over.txt").exists() and find_damage(copy / "checkpoint-8") is None
    assert not list(copy.glob("replaced-*"))


@pytest.mark.parametrize("size", [1000, 60_000, 150_000])
def test_a_full_disk_costs_no_earlier_checkpoint(copy: Path, size: int) -> None:
    model = (copy / "checkpoint-4/model.safetensors").stat().st_size
    assert size < model < (copy / "checkpoint-4/optimizer.pt").stat().st_size
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file() and "checkpoint-8" not in str(path)}
    shutil.rmtree(copy / "checkpoint-8")
    trainer = make_trainer(copy, save_strategy="steps", save_steps=2)
    with no_file_larger_than(size), pytest.raises(CheckpointError) as error:
        trainer.train(resume_from_checkpoint=str(copy / "checkpoint-6"))
    assert "checkpoint-8 could not be written" in str(error.value) and "checkpoint-6 is whole" in str(error.value)
    assert "File too large" in str(error.value)
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before
    with no_file_larger_than(model + 10_000), pytest.raises(CheckpointError, match="could not be written"):  # optimizer
        make_trainer(copy, save_strategy="steps", save_steps=2).train(resume_from_checkpoint=str(copy / "checkpoint-6"))
    assert last_checkpoint(copy) == str(copy / "checkpoint-6")


FULL = os.strerror(errno.ENOSPC)
NOT_FULL = "Mend that or choose another folder."


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OSError(errno.ENOSPC, FULL), "Make room or choose another disk."),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), "Make room or choose another disk."),
        (SafetensorError(f"Error while serializing: I/O error: {FULL} (os error 28)"), "Make room or choose another"),
        (OSError(errno.EFBIG, os.strerror(errno.EFBIG)), NOT_FULL),
        (OSError(errno.EROFS, os.strerror(errno.EROFS)), NOT_FULL),
        (FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)), NOT_FULL),
        (SafetensorError("Error while serializing: I/O error: Permission denied (os error 13)"), NOT_FULL),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"), NOT_FULL),
    ],
)
def test_room_is_asked_for_only_where_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, remedy: str
) -> None:
    trainer = make_trainer(tmp_path, save_strategy="steps", save_steps=1, max_steps=1)

    def refused(folder: str) -> None:
        raise error

    monkeypatch.setattr(trainer, "save_teacher", refused)
    with pytest.raises(CheckpointError, match="There is no earlier one") as caught:
        trainer.train()
    assert remedy in str(caught.value) and str(tmp_path / "checkpoint-1") in str(caught.value)
    assert not list(tmp_path.iterdir())  # what was begun and the lock are gone


@pytest.mark.parametrize("error", [KeyError("image"), RuntimeError("shapes differ"), TypeError("no tensor")])
def test_a_bug_in_saving_keeps_its_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Only what disks refuse becomes a `CheckpointError`."""
    trainer = make_trainer(tmp_path, save_strategy="steps", save_steps=1, max_steps=1)

    def broken(folder: str) -> None:
        raise error

    monkeypatch.setattr(trainer, "save_teacher", broken)
    with pytest.raises(type(error), match=str(error.args[0])):
        trainer.train()
    assert not list(tmp_path.glob("checkpoint-*"))


def evaluated(trainer: Any, scores: list[float]) -> None:
    """Gives the evaluations of a trainer these scores."""
    remaining = iter(scores)

    def evaluate(*_: object, **__: object) -> dict[str, float]:
        metrics = {"eval_r_mean": next(remaining)}
        trainer.log(metrics)
        trainer.control = trainer.callback_handler.on_evaluate(trainer.args, trainer.state, trainer.control, metrics)
        return metrics

    trainer.evaluate = evaluate


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_the_best_and_the_newest_are_kept(tmp_path: Path, limit: int) -> None:
    options = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    trainer = make_trainer(tmp_path, **options, save_total_limit=limit, load_best_model_at_end=True, eval_dataset=[0])
    evaluated(trainer, [1, 5, 9, 2, 3, 4, 5, 6])
    trainer.train()
    kept = {path.name for path in tmp_path.glob("checkpoint-*")}
    assert kept == {"checkpoint-3", "checkpoint-8"} | ({"checkpoint-7"} if limit == 3 else set())
    best = load_file(tmp_path / "checkpoint-3/model.safetensors")
    assert all(torch.equal(value, trainer.model.state_dict()[name]) for name, value in best.items())
    state = json.loads((tmp_path / "checkpoint-8/trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == str(tmp_path / "checkpoint-3")


def test_a_damaged_best_checkpoint_leaves_the_last_weights(tmp_path: Path) -> None:
    options = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    trainer = make_trainer(tmp_path, **options, load_best_model_at_end=True, eval_dataset=[0])
    evaluated(trainer, [9, 2, 3, 4, 5, 6, 7, 8])
    finish = trainer._finalize_training

    def damage_first(*arguments: object) -> object:
        (tmp_path / "checkpoint-1/model.safetensors").write_bytes(b"x")
        return finish(*arguments)

    trainer._finalize_training = damage_first  # type: ignore[method-assign]
    trainer.train()
    last = load_file(tmp_path / "checkpoint-8/model.safetensors")
    assert all(torch.equal(value, trainer.model.state_dict()[name]) for name, value in last.items())


def test_a_clock_that_jumps_back_costs_no_newer_checkpoint(tmp_path: Path) -> None:
    options = {"save_strategy": "steps", "save_steps": 1, "max_steps": 4, "save_total_limit": 2}
    trainer = make_trainer(tmp_path, **options)

    class Clock(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            os.utime(tmp_path / f"checkpoint-{state.global_step}", (10**9 - state.global_step,) * 2)

    trainer.add_callback(Clock())
    trainer.train()
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-3", "checkpoint-4"}


@pytest.mark.parametrize("options", [{"max_steps": 3}, {"num_train_epochs": 1}])
def test_a_finished_run_makes_no_further_step(tmp_path: Path, options: dict[str, Any]) -> None:
    make_trainer(tmp_path, **options, save_strategy="steps", save_steps=1).train()
    last = last_checkpoint(tmp_path)
    before = load_file(Path(str(last)) / "model.safetensors")
    for _ in range(2):
        trainer = make_trainer(tmp_path, **options, save_strategy="steps", save_steps=1)
        outcome = trainer.train(resume_from_checkpoint=last)
        assert outcome.global_step == int(str(last).rpartition("-")[2]) and last_checkpoint(tmp_path) == last
        assert all(torch.equal(value, trainer.model.state_dict()[name]) for name, value in before.items())
