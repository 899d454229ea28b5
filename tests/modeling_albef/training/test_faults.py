"""A run through SIGTERM, Ctrl-C, losses that are not finite, overflows and batches without variety."""

from __future__ import annotations

import os
import signal
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from golden_cases import tiny_config
from trainer_cases import InOrder, logged, make_trainer, random_rows, weights
from transformers import TrainerCallback

from modeling_albef import AlbefForImageTextRetrieval
from modeling_albef.training import FeatureQueue, MomentumTeacher, MomentumTeacherCallback, last_checkpoint
from modeling_albef.training.application import exit_without_traceback
from modeling_albef.training.errors import LossNotFiniteError, TrainingInterruptedError


class At(TrainerCallback):
    """Does something at the start of a step."""

    def __init__(self, step: int, action: Any) -> None:
        self.step, self.action = step, action

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 == self.step:
            self.action()


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


STEPS = {"save_strategy": "steps", "save_steps": 100}


@pytest.mark.parametrize("step", [3, *(pytest.param(step, marks=pytest.mark.slow) for step in (1, 4, 8))])  # 4 an epoch
def test_sigterm_saves_and_the_run_goes_on_to_the_same_end(tmp_path: Path, step: int) -> None:
    whole = make_trainer(tmp_path / "whole", save_strategy="steps", save_steps=8)
    whole.train()
    cut = make_trainer(tmp_path / "cut", **STEPS)
    cut.add_callback(At(step, terminate))
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(TrainingInterruptedError) as stopped:
        cut.train()
    assert signal.getsignal(signal.SIGTERM) is handler
    assert stopped.value.code == 143 and f"after step {step}" in str(stopped.value)
    assert last_checkpoint(tmp_path / "cut") == str(tmp_path / f"cut/checkpoint-{step}")
    again = make_trainer(tmp_path / "cut", save_strategy="steps", save_steps=8)
    again.train(resume_from_checkpoint=str(tmp_path / f"cut/checkpoint-{step}"))
    expected, found = (weights(tmp_path / name / "checkpoint-8") for name in ("whole", "cut"))
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_a_step_that_is_not_the_best_is_not_said_to_be_saved(tmp_path: Path) -> None:
    """With the `save_strategy` "best" the evaluation of the step decides."""
    every_step = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "best", "load_best_model_at_end": True}
    trainer = make_trainer(tmp_path, **every_step, eval_dataset=[0])
    scores = iter([9.0, 1.0, 2.0])
    trainer.evaluate = lambda *_, **__: {"eval_r_mean": next(scores)}  # type: ignore[method-assign]
    trainer.add_callback(At(2, terminate))
    with pytest.raises(
        TrainingInterruptedError, match="after step 2, which is not the best and so not saved"
    ) as stopped:
        trainer.train()
    assert stopped.value.code == 143 and last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-1")


def test_an_epoch_that_ends_is_evaluated_before_the_stop(tmp_path: Path) -> None:
    """A run that goes on from the end of an epoch would not make up for it."""
    trainer = make_trainer(
        tmp_path, save_strategy="epoch", eval_strategy="epoch", load_best_model_at_end=True, eval_dataset=[0]
    )
    done: list[int] = []

    def evaluate(*_: Any, **__: Any) -> dict[str, float]:
        done.append(trainer.state.global_step)
        return {"eval_r_mean": 1.0}

    trainer.evaluate = evaluate  # type: ignore[method-assign]
    trainer.add_callback(At(4, terminate))
    with pytest.raises(TrainingInterruptedError):
        trainer.train()
    assert done == [4] and trainer.state.best_global_step == 4


def spoil(rows: list[dict[str, torch.Tensor]], *indices: int) -> list[dict[str, torch.Tensor]]:
    for index in indices:
        rows[index]["pixel_values"] = torch.full_like(rows[index]["pixel_values"], float("nan"))
    return rows


def in_order(folder: Path, rows: Any, **options: Any) -> InOrder:
    plain = make_trainer(folder, rows=rows, num_train_epochs=1, **options)
    return InOrder(plain.model, plain.args, train_dataset=rows, data_collator=plain.data_collator)


OPTIMIZERS = ("adamw_torch", "adamw_torch_fused")  # the second leaves steps out by itself; the host looks later


@pytest.mark.parametrize("optim", OPTIMIZERS)
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_batch(tmp_path: Path, optim: str) -> None:
    trainer = in_order(tmp_path, spoil(random_rows(16), 9), optim=optim)
    before: dict[str, torch.Tensor] = {}
    trainer.add_callback(At(3, lambda: before.update({n: v.clone() for n, v in trainer.model.state_dict().items()})))
    with pytest.raises(LossNotFiniteError, match=r"The loss of step 3 is nan, of the images 8, 9, 10, 11\."):
        trainer.train()
    assert before and all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
    assert trainer.queue.image_embeds.isfinite().all()
    assert trainer.queue.image_ids.tolist() == [*range(9), -100, 10, 11]


@pytest.mark.parametrize("optim", OPTIMIZERS)
@pytest.mark.parametrize("ends", ["next step", "save", "epoch", "end"])
def test_a_later_look_finds_the_right_step(tmp_path: Path, optim: str, ends: str) -> None:
    """Nothing is logged: the host looks before the next step, or where the step is saved or is the last one."""
    bad = {"next step": 9, "save": 9, "epoch": 13, "end": 9}[ends]
    options: dict[str, Any] = {"logging_steps": 100, "logging_first_step": False, "save_strategy": "no", "optim": optim}
    options |= {"save_strategy": "steps", "save_steps": 3} if ends == "save" else {}
    trainer = in_order(tmp_path, spoil(random_rows(16), bad), **options, **({"max_steps": 3} if ends == "end" else {}))
    before: dict[str, torch.Tensor] = {}
    step = bad // 4 + 1
    trainer.add_callback(At(step, lambda: before.update({n: v.clone() for n, v in trainer.model.state_dict().items()})))
    with pytest.raises(LossNotFiniteError, match=rf"The loss of step {step} is nan, of the images {step * 4 - 4}, "):
        trainer.train()
    assert before and all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
    assert not list(tmp_path.glob("checkpoint-*"))


def test_both_kinds_of_optimizers_skip_the_same_steps(tmp_path: Path) -> None:
    ends = []
    for optim in OPTIMIZERS:
        rows, options = spoil(random_rows(16), 5), {"logging_steps": 100, "save_strategy": "no"}
        trainer = in_order(tmp_path, rows, non_finite_loss="skip", optim=optim, **options)
        trainer.train()
        assert trainer._finite_loss.num_skipped == 1 and "found_inf" not in vars(trainer.optimizer.optimizer)
        ends.append(trainer.model.state_dict())
    start = in_order(tmp_path, random_rows(16)).model.state_dict()
    flat = [torch.cat([end[name].flatten() for name in start]) for end in (*ends, start)]
    assert (flat[0] - flat[1]).norm() < 0.01 * (flat[0] - flat[2]).norm()  # rounding, where gradients are all but 0


@pytest.mark.parametrize("optim", OPTIMIZERS)
def test_such_steps_are_skipped(tmp_path: Path, optim: str) -> None:
    """The end is that of a run in which these steps moved nothing; losses and parts in the log are finite."""
    trainer = in_order(tmp_path, spoil(random_rows(16), 5), non_finite_loss="skip", optim=optim)
    states: list[dict[str, torch.Tensor]] = []
    for step in (1, 2, 3, 4):
        trainer.add_callback(
            At(step, lambda: states.append({n: v.clone() for n, v in trainer.model.state_dict().items()}))
        )
    trainer.train()
    moved = [any(not torch.equal(a[name], b[name]) for name in a) for a, b in pairwise(states)]
    assert moved == [True, False, True]
    steps = {int(entry["step"]) for entry in trainer.optimizer.state_dict()["state"].values()}
    assert steps == {3}  # of four
    lines = logged(trainer)
    assert [line.get("skipped_steps") for line in lines] == [None, 1, 1, 1]
    assert all(
        torch.tensor([v for v in line.values()]).isfinite().all() for line in lines if "skipped_steps" not in line
    )
    assert lines[2]["itc_loss"] > 0 and lines[2]["loss"] > 0
    assert lines[1]["loss"] == lines[1]["itc_loss"] == 0
    assert all(value.isfinite().all() for value in trainer.model.state_dict().values())


@pytest.mark.parametrize("optim", OPTIMIZERS)
def test_skipping_ends_where_nothing_else_happens(tmp_path: Path, optim: str) -> None:
    rows = spoil(random_rows(16), *range(16))
    trainer = in_order(tmp_path, rows, non_finite_loss="skip", max_steps=30, optim=optim)
    with pytest.raises(LossNotFiniteError, match="the 20th step in a row"):
        trainer.train()


def test_a_skipped_half_leaves_out_the_whole_accumulated_step(tmp_path: Path) -> None:
    options = {"non_finite_loss": "skip", "gradient_accumulation_steps": 2}
    trainer = in_order(tmp_path, spoil(random_rows(16), 5), **options)
    start = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    unmoved: list[bool] = []
    trainer.add_callback(
        At(2, lambda: unmoved.append(all(torch.equal(v, start[n]) for n, v in trainer.model.state_dict().items())))
    )
    trainer.train()
    assert unmoved == [True]


def test_queue_keeps_what_is_finite() -> None:
    queue = FeatureQueue(4, 2)
    before = queue.image_embeds.clone()
    rows = torch.ones(3, 2)
    bad = rows.clone()
    bad[1, 0] = float("inf")
    queue.enqueue(bad, rows, torch.tensor([7, 8, 9]))
    assert queue.image_ids.tolist() == [7, -100, 9, -100] and queue.pointer == 3
    assert torch.equal(queue.image_embeds[1], before[1]) and torch.equal(queue.image_embeds[2], rows[2])
    assert not torch.equal(queue.text_embeds[1], rows[1])


def test_an_overflow_that_skips_a_step_does_not_move_the_teacher() -> None:
    Accelerator(cpu=True)
    student = AlbefForImageTextRetrieval(tiny_config())
    teacher = MomentumTeacher(student, 0.5)
    start = {name: value.clone() for name, value in teacher.model.state_dict().items()}
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    inner = torch.optim.SGD(student.parameters(), 0.1)
    optimizer = AcceleratedOptimizer(inner, device_placement=False, scaler=scaler)
    moves = []
    for scale in (1e3, 1e-38):  # the first overflows
        loss = sum(parameter.sum() for parameter in student.parameters()) * scale
        scaler.scale(loss).backward()
        optimizer.step()
        optimizer.zero_grad()
        MomentumTeacherCallback(teacher).on_step_begin(None, None, None, model=student, optimizer=optimizer)
        state = teacher.model.state_dict()
        moves.append((optimizer.step_was_skipped, any(not torch.equal(v, start[n]) for n, v in state.items())))
        scaler.update(2.0**100)
    assert moves[0] == (True, False)
    assert moves[1][0] is False


def test_a_training_that_fails_puts_the_handler_of_sigterm_back(tmp_path: Path) -> None:
    """With the trainer's own, no process that is forked later could be ended, as pools of processes do."""

    class Failing(TrainerCallback):
        def on_step_end(self, *_: Any, **kwargs: Any) -> None:
            raise RuntimeError("a fault of one's own")

    before, trainer = signal.getsignal(signal.SIGTERM), make_trainer(tmp_path, save_strategy="no")
    trainer.add_callback(Failing())
    with pytest.raises(RuntimeError, match="of one's own"):
        trainer.train()
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("batch", ["one pair", "one image", "one text"])
def test_batches_without_variety_train(tmp_path: Path, batch: str) -> None:
    rows = random_rows(8)
    for row in rows:
        if batch == "one image":
            row["image_ids"], row["pixel_values"] = torch.tensor(3), rows[0]["pixel_values"]
        if batch == "one text":
            row["input_ids"] = rows[0]["input_ids"]
    size = 1 if batch == "one pair" else 4
    trainer = make_trainer(tmp_path, rows=rows, per_device_train_batch_size=size, max_steps=4, save_strategy="no")
    start = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    assert all(torch.tensor(line["loss"]).isfinite() for line in logged(trainer))
    assert any(not torch.equal(value, start[name]) for name, value in trainer.model.state_dict().items())
    assert all(value.isfinite().all() for value in trainer.model.state_dict().values())


def test_bfloat16_is_not_emulated_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the processor lacks the instructions float32 is faster; where it has them the run is as asked for."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    for has_them in (False, True):
        monkeypatch.setattr("modeling_albef.training.arguments.has_bfloat16_instructions", lambda has=has_them: has)
        trainer = make_trainer(tmp_path, bf16=True, max_steps=1, save_strategy="no")
        assert trainer.args.bf16 is has_them
        assert (trainer.accelerator.mixed_precision == "bf16") is has_them
        trainer.train()
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")


def test_ctrl_c_ends_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    @exit_without_traceback
    def main() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)  # the interpreter raises when it comes to it

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with pytest.raises(SystemExit) as caught:
            main()
    finally:
        signal.signal(signal.SIGINT, before)
    assert caught.value.code == 130
    assert capsys.readouterr().err == (
        "Interrupted. What was saved is whole: --resume_from_checkpoint last goes on from it.\n"
    )
