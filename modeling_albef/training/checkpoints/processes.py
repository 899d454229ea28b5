"""Messages between the processes of a run, and the engines that it may use."""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers import TrainingArguments

from ..errors import SettingError


def first_message(message: str | None, args: TrainingArguments) -> str | None:
    """Return the message of the first process that has one, or None, on all processes; all must call it."""
    return next(filter(None, gathered(message, args)), None)


def gathered(value: Any, args: TrainingArguments) -> list[Any]:
    """Return the values of all processes, in the order of their ranks, on all processes; all must call it."""
    values: list[Any] = [value] * args.world_size
    if args.world_size > 1:
        torch.distributed.all_gather_object(values, value)
    return values


def check_engine(args: Any) -> None:
    """Refuse FSDP and DeepSpeed ZeRO-3, which shard parameters, and what DeepSpeed cannot do."""
    if args.fsdp or os.environ.get("ACCELERATE_USE_FSDP") == "true":  # on a CPU it silently becomes DDP
        raise SettingError(
            "FSDP shards the parameters, of which the momentum teacher needs whole ones: train with DDP "
            "(configs/accelerate/gpus_8.yaml); the model has 210 million."
        )
    if (plugin := args.deepspeed_plugin) is None:
        return
    if plugin.zero_stage > 2:
        raise SettingError(
            f"DeepSpeed ZeRO-{plugin.zero_stage} shards the parameters, of which the momentum teacher needs whole "
            "ones: set zero_stage to 1 or 2, or train with DDP (configs/accelerate/gpus_8.yaml)."
        )
    if args.non_finite_loss == "skip":
        raise SettingError("DeepSpeed cannot leave out a step: set non_finite_loss to stop, or train with DDP.")
