"""Which parameters of a model are trained, and at which rate each."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from .errors import SettingError

# name of a parameter -> its tower, and the index of its layer; embeddings have none
_LAYER = re.compile(r"(vision_model\.blocks|text_model\.encoder\.layer)\.(\d+)\.")
_EMBEDDINGS = re.compile(r"(vision_model|text_model)\.(embeddings|patch_embed|cls_token|pos_embed)\b")
NEW_FACTOR = 10
NEW = "new"  # for what a model that starts from encoders did not take from them


def matching_names(model: nn.Module, pattern: str) -> list[str]:
    """Return the names of the parameters that a pattern means.

    Args:
        model: Any model.
        pattern: Part of a name between dots, such as `vision_model` or `encoder.layer.0`; a whole name with `*` and
            `?`, such as `*crossattention*`; or `new`, what did not come from the encoders that the model starts from.
    """
    if pattern == NEW:
        return list(getattr(model, "new_parameters", ()))
    if set("*?[") & set(pattern):
        return [name for name, _ in model.named_parameters() if fnmatchcase(name, pattern)]
    return [name for name, _ in model.named_parameters() if f".{pattern}." in f".{name}."]


def freeze(model: nn.Module, patterns: Iterable[str]) -> None:
    """Take parameters out of training, in place; a SettingError names a pattern without any, or that none is left."""
    parameters = dict(model.named_parameters())
    for pattern in patterns:
        for name in _found(model, pattern, "freeze"):
            parameters[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise SettingError(f"freeze is {', '.join(patterns)}, which leaves nothing to train: name fewer parts.")


def parse_rates(value: Any) -> dict[str, float]:
    """Return learning rates by pattern, of a mapping or of text such as "vision_model=1e-5, *crossattention*=1e-3"."""
    pairs = value if isinstance(value, Mapping) else _split(value)
    rates = {}
    for pattern, rate in pairs.items():
        try:
            rates[str(pattern)] = float(rate)
        except (TypeError, ValueError):
            rates[str(pattern)] = math.nan
        if not 0 <= rates[str(pattern)] < math.inf:
            raise SettingError(f"learning_rates has the rate {rate!r} for {pattern!r}, but it must be a number >= 0.")
    return rates


def _split(value: Any) -> dict[str, str]:
    parts = [part for part in re.split(r"[,\s]+(?=[^=]*=)|,\s*$", str(value).strip()) if part]
    pairs = [part.strip().rpartition("=") for part in parts]
    if not pairs or not all(pattern and rate for pattern, _, rate in pairs):
        raise SettingError(f'learning_rates is {value!r}, but must be like "vision_model=1e-5, *crossattention*=1e-3".')
    return {pattern.strip(): rate.strip() for pattern, _, rate in pairs}


def rates_of(
    model: nn.Module, learning_rate: float, rates: Mapping[str, float] | None = None, layer_decay: float = 1.0
) -> dict[str, float]:
    """Return the peak learning rate of each parameter, by its name.

    Args:
        model: A model with a vision tower and a text tower.
        learning_rate: Of all that no pattern means.
        rates: By pattern, see `matching_names`; where several mean a parameter, the last counts. Default: 10 times
            `learning_rate` for `new`, in a model that starts from encoders.
        layer_decay: See `rate_factors`; it counts beside the patterns' rates.
    """
    found = dict.fromkeys((name for name, _ in model.named_parameters()), learning_rate)
    if not rates and matching_names(model, NEW):
        rates = {NEW: NEW_FACTOR * learning_rate}
    for pattern, rate in (rates or {}).items():
        found |= dict.fromkeys(_found(model, pattern, "learning_rates"), rate)
    factors = rate_factors(model, layer_decay) if layer_decay != 1 else {}
    return {name: rate * factors.get(name, 1.0) for name, rate in found.items()}


def _found(model: nn.Module, pattern: str, setting: str) -> list[str]:
    if names := matching_names(model, pattern):
        return names
    if pattern == NEW:
        raise SettingError(f"{setting} has 'new', but the model does not start from encoders: leave it out.")
    known = {part for name, _ in model.named_parameters() for part in name.split(".")[:2]}
    parts = sorted(known - {"albef", "weight", "bias"})
    raise SettingError(f"{setting} has {pattern!r}, which is no part of the model; some are {', '.join(parts)}.")


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


def split_groups(optimizer: torch.optim.Optimizer, model: nn.Module, rates: Mapping[str, float]) -> None:
    """Split the parameter groups of an optimizer, in place, so that each has one rate; the highest comes first."""
    by_parameter = {parameter: rates[name] for name, parameter in model.named_parameters()}
    groups: list[dict[str, Any]] = []
    for group in optimizer.param_groups:
        by_rate: dict[float, list[Any]] = defaultdict(list)
        for parameter in group["params"]:
            by_rate[by_parameter[parameter]].append(parameter)
        groups += [{**group, "params": own, "lr": rate} for rate, own in by_rate.items()]
    optimizer.param_groups[:] = sorted(groups, key=lambda group: -float(group["lr"]))
