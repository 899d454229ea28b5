"""Callbacks of momentum distillation for the Trainer. Each does one thing."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .momentum import MomentumTeacher


class MomentumTeacherCallback(TrainerCallback):
    """Moves the teacher before each optimizer step, as published: first the teacher, then its features, then the step.

    A step that the gradient scaler skipped (float16 overflow) left the student where it was and does not count.
    """

    def __init__(self, teacher: MomentumTeacher) -> None:
        self.teacher = teacher

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Moves the teacher towards the student."""
        if not getattr(kwargs.get("optimizer"), "step_was_skipped", False):
            self.teacher.update(kwargs["model"])


class TemperatureCallback(TrainerCallback):
    """Keeps the learned temperature in a range after every optimizer step (pre-training clamps it likewise)."""

    def __init__(self, temperature: torch.nn.Parameter, lowest: float, highest: float) -> None:
        self.temperature, self.lowest, self.highest = temperature, lowest, highest

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Clamps it."""
        with torch.no_grad():
            self.temperature.clamp_(self.lowest, self.highest)


class RankSeedCallback(TrainerCallback):
    """Gives each process its own random numbers for dropout and negatives, as published: seed + rank."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Seeds, after the order of the data was drawn, which all processes share."""
        if args.world_size > 1:
            torch.manual_seed(args.seed + args.process_index)


class _HasEpoch(Protocol):
    def set_epoch(self, epoch: int) -> None: ...


class EpochCallback(TrainerCallback):
    """Tells the training data the epoch, so that its augmentation differs from epoch to epoch and survives a resume."""

    def __init__(self, dataset: _HasEpoch) -> None:
        self.dataset = dataset

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Sets the epoch; in an epoch that is resumed half-way, its number."""
        self.dataset.set_epoch(int(state.epoch or 0))
