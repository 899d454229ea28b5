"""The published learning-rate schedule, step by step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .errors import SettingError

STEPS_A_LEVEL = 100  # the warm-up moves every hundred steps


@dataclass(frozen=True)
class PublishedSchedule:
    """Learning rate of salesforce/ALBEF (`scheduler/cosine_lr.py`, called as in `Retrieval.py`).

    In the first epoch the rate climbs a level every 100 steps, from `warmup_learning_rate` to `learning_rate`; each
    later epoch has one rate, on a cosine from `learning_rate` to `min_learning_rate`.

    With `restarts` the rates are those of facebookresearch/multimodal (`examples/albef/finetune_vqa.py`): the levels of
    the first epoch go down the cosine, too, and the cosine starts again where levels and epochs together are as many as
    the epochs of the run.

    Attributes:
        learning_rate: Peak.
        min_learning_rate: End of the cosine.
        warmup_learning_rate: Rate of the first steps.
        warmup_steps: Steps of the warm-up, a multiple of 100; a first epoch that is shorter ends it early.
        steps_per_epoch: Optimizer steps in an epoch.
        num_epochs: Epochs of the run.
        restarts: Whether the cosine starts at once and again, in place of a warm-up.
    """

    learning_rate: float
    min_learning_rate: float
    warmup_learning_rate: float
    warmup_steps: int
    steps_per_epoch: int
    num_epochs: int
    restarts: bool = False

    def __post_init__(self) -> None:
        if self.warmup_steps % STEPS_A_LEVEL:
            raise SettingError(
                f"warmup_steps is {self.warmup_steps}, but the published schedule warms up in levels of "
                f"{STEPS_A_LEVEL} steps: take a multiple, or set published_schedule to false."
            )

    def __call__(self, step: int) -> float:
        """Return the learning rate, > 0, that follows `step` optimizer steps."""
        epoch, levels = step // self.steps_per_epoch, self.warmup_steps // STEPS_A_LEVEL
        if epoch == 0:  # the level is set after the steps 0, 100, 200 ..
            return self._at(min(max(step - 1, 0) // STEPS_A_LEVEL, levels), levels)
        return self._at(epoch + levels, levels)

    def _at(self, time: int, levels: int) -> float:
        """Return the rate f(t) on the schedule's own time axis: warm-up levels, then epochs."""
        if self.restarts:
            time, levels = time % self.num_epochs, 0
        if time < levels:
            return self.warmup_learning_rate + time * (self.learning_rate - self.warmup_learning_rate) / levels
        progress = min((time - levels) / self.num_epochs, 1.0)
        span = self.learning_rate - self.min_learning_rate
        return self.min_learning_rate + 0.5 * span * (1 + math.cos(math.pi * progress))
