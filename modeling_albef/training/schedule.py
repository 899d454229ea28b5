"""The published learning-rate schedule, step by step, and rates that fall layer by layer."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .errors import SettingError

STEPS_A_LEVEL = 100  # the warm-up moves every hundred steps
# name of a parameter -> its tower, and the index of its layer; embeddings have none
_LAYER = re.compile(r"(vision_model\.blocks|text_model\.encoder\.layer)\.(\d+)\.")
_EMBEDDINGS = re.compile(r"(vision_model|text_model)\.(embeddings|patch_embed|cls_token|pos_embed)\b")


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


def rate_factors(model: nn.Module, layer_decay: float) -> dict[str, float]:
    """Return the factor of the learning rate of each parameter, by its name.

    As BEiT fine-tunes (Bao et al., 2021, arXiv 2106.08254): of a tower of L layers, layer l = 0 .. L - 1 has
    `layer_decay ** (L - l)`, the embeddings `layer_decay ** (L + 1)`. The text tower's layers count all together, those
    that fuse included. All else has 1: norms above the towers, projections, heads, the answer decoder, the temperature.

    Args:
        model: A model with a vision tower and a text tower.
        layer_decay: Above 0, at most 1.
    """
    names = [name for name, _ in model.named_parameters()]
    depths: dict[str, int] = defaultdict(int)  # layers, by the tower
    for match in filter(None, map(_LAYER.search, names)):
        tower = match[1].split(".")[0]
        depths[tower] = max(depths[tower], int(match[2]) + 1)

    def factor(name: str) -> float:
        if match := _LAYER.search(name):
            return float(layer_decay ** (depths[match[1].split(".")[0]] - int(match[2])))
        if match := _EMBEDDINGS.search(name):
            return float(layer_decay ** (depths[match[1]] + 1))
        return 1.0

    return {name: factor(name) for name in names}


def split_groups(optimizer: torch.optim.Optimizer, model: nn.Module, layer_decay: float) -> None:
    """Split the parameter groups of an optimizer, in place, so that each has one rate; the full rate comes first."""
    factors = rate_factors(model, layer_decay)
    by_parameter = {parameter: factors[name] for name, parameter in model.named_parameters()}
    groups: list[dict[str, Any]] = []
    for group in optimizer.param_groups:
        by_factor: dict[float, list[Any]] = defaultdict(list)
        for parameter in group["params"]:
            by_factor[by_parameter[parameter]].append(parameter)
        groups += [{**group, "params": own, "lr": group["lr"] * factor} for factor, own in by_factor.items()]
    optimizer.param_groups[:] = sorted(groups, key=lambda group: -float(group["lr"]))  # the log shows the first one's
