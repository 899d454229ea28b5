"""Callbacks of momentum distillation for the Trainer. Each does one thing."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from .errors import LossNotFiniteError, TrainingInterruptedError
from .momentum import MomentumTeacher

logger = logging.get_logger(__name__)
MAX_SKIPPED_IN_A_ROW = 20


class MomentumTeacherCallback(TrainerCallback):
    """Moves the teacher before each optimizer step, as published: first the teacher, then its features, then the step.

    A step that the gradient scaler skipped (float16 overflow) left the student where it was and does not count.
    """

    def __init__(self, teacher: MomentumTeacher, restore: Callable[[], None] | None = None) -> None:
        """Make the callback; it calls `restore` when training begins, after the student was read from a checkpoint."""
        self.teacher, self.restore = teacher, restore

    def on_train_begin(self, *_: Any, **kwargs: Any) -> None:
        """Restore the teacher of the checkpoint that training resumes from."""
        if self.restore is not None:
            self.restore()

    def on_step_begin(self, *_: Any, **kwargs: Any) -> None:
        """Move the teacher towards the student."""
        if not getattr(kwargs.get("optimizer"), "step_was_skipped", False):
            self.teacher.update(kwargs["model"])


class TemperatureCallback(TrainerCallback):
    """Keeps the learned temperature in a range after every optimizer step (pre-training clamps it likewise)."""

    def __init__(self, temperature: torch.nn.Parameter, lowest: float, highest: float) -> None:
        self.temperature, self.lowest, self.highest = temperature, lowest, highest

    def on_optimizer_step(self, *_: Any, **kwargs: Any) -> None:
        """Clamp the temperature."""
        with torch.no_grad():
            self.temperature.clamp_(self.lowest, self.highest)


class RankSeedCallback(TrainerCallback):
    """Gives each process its own random numbers for dropout and negatives, as published: seed + rank."""

    def on_train_begin(self, args: TrainingArguments, *_: Any, **kwargs: Any) -> None:
        """Seed after the order of the data, which all processes share, was drawn."""
        if args.world_size > 1:
            torch.manual_seed(args.seed + args.process_index)


class EpochCallback(TrainerCallback):
    """Tells the training data the epoch, so that its augmentation differs from epoch to epoch and survives a resume."""

    def __init__(self, dataset: Any) -> None:
        """Make the callback for training data with a method `set_epoch`."""
        self.dataset = dataset

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, *_: Any, **kwargs: Any) -> None:
        """Set the number of the epoch, also of one that is resumed half-way."""
        self.dataset.set_epoch(int(state.epoch or 0))


class InterruptionCallback(TrainerCallback):
    """Ends training after SIGTERM, which clusters send before they take a machine away: saves, then stops.

    All processes stop after the same step, whichever of them got the signal first: they vote on it in the background,
    on the CPU, and read the outcome a step later, so no step waits. A second SIGTERM ends the process at once.

    Where the epoch or an evaluation ends with that step, the evaluation comes first: a run that goes on would not make
    up for it. `was_received` is about this process; `is_due` says on all processes that training stops here.
    """

    def __init__(self) -> None:
        self.was_received = self.is_due = self._has_agreed = False
        self._previous: Any = None
        self._group: Any = None
        self._vote: tuple[torch.Tensor, Any] | None = None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.was_received = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def on_train_begin(self, args: TrainingArguments, *_: Any, **kwargs: Any) -> None:
        """Install the handler of SIGTERM; only the main thread can have one."""
        self.was_received = self.is_due = self._has_agreed = False
        if self._previous is None and threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._receive)
        if args.world_size > 1 and self._group is None:
            # without a time it would wait longer for a process that hangs than the other groups do
            self._group = torch.distributed.new_group(backend="gloo", timeout=args.ddp_timeout_delta)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask for a checkpoint and the end once all processes have agreed, unless the epoch ends here."""
        self._has_agreed = self._has_agreed or self._agree()
        if self._has_agreed and state.epoch != int(state.epoch or 0):
            self._ask(control)

    def on_epoch_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> None:
        """Ask for both if all processes have agreed to stop after the last step of the epoch."""
        if self._has_agreed:
            self._ask(control)

    def _ask(self, control: TrainerControl) -> None:
        self.is_due = control.should_save = control.should_training_stop = True

    def _agree(self) -> bool:
        if self._group is None:
            return self.was_received
        agreed = False
        if self._vote is not None:
            flag, work = self._vote
            work.wait()
            agreed = bool(flag.item())
        flag = torch.tensor(float(self.was_received))
        work = torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX, self._group, async_op=True)
        self._vote = flag, work
        return agreed

    def on_save(self, args: TrainingArguments, state: TrainerState, *_: Any, **kwargs: Any) -> None:
        """Raise to end the training, once the checkpoint that was asked for is saved."""
        if self.is_due:
            self._close()
            raise TrainingInterruptedError(
                f"Stopped by SIGTERM after step {state.global_step}, which is saved: go on with "
                "--resume_from_checkpoint last."
            )

    def on_train_end(self, args: TrainingArguments, state: TrainerState, *_: Any, **kwargs: Any) -> None:
        """Remove the handler; raise if the training ends at a step that was not saved."""
        self._close()
        if self.is_due:
            raise TrainingInterruptedError(
                f"Stopped by SIGTERM after step {state.global_step}, which is not the best and so not saved: go on "
                "from the best checkpoint with --resume_from_checkpoint last."
            )

    def _close(self) -> None:
        """Put the earlier handler of the signal back, and wait for the last vote."""
        if self._vote is not None:
            self._vote[1].wait()
            self._vote = None
        self.restore_handler()

    def ignore_launcher(self) -> None:
        """Make `restore_handler` leave SIGTERM ignored where other processes are, for a process that is ending.

        A launcher sends it once one of them is lost; it is not to come before the others have said so.
        """
        if self._previous is not None and self._group is not None:
            self._previous = signal.SIG_IGN

    def restore_handler(self) -> None:
        """Put the earlier handler of SIGTERM back, without which processes that are forked later could not be ended."""
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
            self._previous = None


class FiniteLossCallback(TrainerCallback):
    """Keeps losses that are not finite away from the weights.

    Before each optimizer step the processes share whether a loss of it was not finite. If so, training stops or goes on
    without the step; queue and weights stay as they were in both cases. With a fused optimizer nothing waits
    for that: the optimizer itself leaves the step out, and the outcome is read before the next one, or at the end of
    the step where that is logged, evaluated or saved. With a gradient scaler likewise.
    """

    def __init__(self, skip: bool = False) -> None:
        """Make the callback; `skip` says whether to go on without the step."""
        self.skip = skip
        self.start()

    def start(self) -> None:
        """Forget what was seen in an earlier training."""
        self.num_skipped = self.num_skipped_in_a_row = 0
        self._watched: list[tuple[torch.Tensor, Any]] = []
        self._unread: _WatchedStep | None = None

    def watch(self, loss: torch.Tensor, names: Any) -> None:
        """Add the loss of a batch to those to check; `names` are its images' files, or a tensor of their ids."""
        self._watched.append((loss.detach(), names))

    def on_pre_optimizer_step(self, args: TrainingArguments, state: TrainerState, *_: Any, **kwargs: Any) -> None:
        """Check the losses of the step; raise if one is not finite or, with `skip`, in too many steps in a row."""
        earlier, watched, self._watched, self._unread = self._unread, self._watched, [], None
        optimizer = kwargs["optimizer"]
        if not watched:
            return
        is_bad = (~torch.stack([loss for loss, _ in watched]).isfinite()).any().float()
        if args.world_size > 1:
            torch.distributed.all_reduce(is_bad, torch.distributed.ReduceOp.MAX)
        step = _WatchedStep(state.global_step + 1, is_bad, watched)
        inner = getattr(optimizer, "optimizer", optimizer)
        if getattr(optimizer, "scaler", None) is None:  # a gradient scaler skips the step by itself
            if not can_leave_out_steps(inner):
                if self._read(step, args):
                    for parameter in kwargs["model"].parameters():  # without gradients the optimizer changes nothing
                        parameter.grad = None
                return
            inner.found_inf = is_bad
        self._unread = step.start_reading()
        if earlier is not None:
            self._read(earlier, args)

    def on_step_end(self, args: TrainingArguments, state: Any, control: TrainerControl, **kwargs: Any) -> None:
        """Read the outcome of the step now where something is to be made of it."""
        if control.should_log or control.should_evaluate or control.should_save or control.should_training_stop:
            self._read_last(args)

    def on_epoch_end(self, args: TrainingArguments, *_: Any, **kwargs: Any) -> None:
        """Read the outcome of the last step of an epoch, which may be evaluated or saved."""
        self._read_last(args)

    def on_train_end(self, args: TrainingArguments, *_: Any, **kwargs: Any) -> None:
        """Read the outcome of the last step, and leave the optimizer as it was."""
        self._read_last(args)
        inner = getattr(kwargs.get("optimizer"), "optimizer", kwargs.get("optimizer"))
        vars(inner).pop("found_inf", None)

    def _read_last(self, args: TrainingArguments) -> None:
        step, self._unread = self._unread, None
        if step is not None:
            self._read(step, args)

    def _read(self, step: _WatchedStep, args: TrainingArguments) -> bool:
        """Return whether a step is left out; raise where the training is to stop."""
        if not step.read():
            self.num_skipped_in_a_row = 0
            return False
        message = step.describe()
        self.num_skipped, self.num_skipped_in_a_row = self.num_skipped + 1, self.num_skipped_in_a_row + 1
        if not self.skip:
            raise LossNotFiniteError(
                f"{message} Nothing of this step was applied. Look at these images and their texts, lower "
                "learning_rate, or leave such steps out with --non_finite_loss skip."
            )
        if self.num_skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise LossNotFiniteError(
                f"{message} It is the {self.num_skipped_in_a_row}th step in a row: lower learning_rate."
            )
        if args.process_index == 0:
            logger.warning(f"{message} The step is left out.")
        return True


@dataclass
class _WatchedStep:
    """The losses of an optimizer step, and whether one of any process is not finite."""

    number: int
    is_bad: torch.Tensor  # scalar, 0 or 1
    losses: list[tuple[torch.Tensor, Any]]  # of each batch of this process, with the names or ids of its images
    _done: Any = None  # what says that `is_bad` has arrived in main memory

    def start_reading(self) -> _WatchedStep:
        """Copy the outcome from a GPU in the background; return the step."""
        if self.is_bad.is_cuda:
            self.is_bad = torch.empty_like(self.is_bad, device="cpu", pin_memory=True).copy_(self.is_bad, True)
            self._done = torch.cuda.Event()
            self._done.record()
        return self

    def read(self) -> bool:
        """Return whether a loss is not finite."""
        if self._done is not None:
            self._done.synchronize()  # a step ago: it has long arrived
        return bool(self.is_bad.item())

    def describe(self) -> str:
        """Return, on all processes, which losses were not finite, and of which images."""
        own = []
        for loss, names in self.losses:
            if not loss.isfinite():
                listed = names.tolist() if isinstance(names, torch.Tensor) else names
                own.append(f"{loss.item()}, of the images {', '.join(map(str, listed or ['without names']))}")
        return f"The loss of step {self.number} is " + "; ".join(gather_object(own)) + "."


def can_leave_out_steps(optimizer: Any) -> bool:
    """Return whether an optimizer of torch leaves a step out where its `found_inf` is 1, which no host has to look at.

    Gradient scalers use it. Only fused optimizers have it.
    """
    is_adam = isinstance(optimizer, torch.optim.AdamW | torch.optim.Adam)
    return is_adam and all(group.get("fused") for group in optimizer.param_groups)
