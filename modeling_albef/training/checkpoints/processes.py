"""Messages between the processes of a run, and the engines that it may use."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainingArguments

from ...configuration_albef import AlbefError
from ..errors import SettingError


def first_message(message: str | None, args: TrainingArguments) -> str | None:
    """Return the message of the first process that has one, or None, on all processes; all must call it."""
    if args.world_size == 1:
        return message
    messages: list[str | None] = [None] * args.world_size
    torch.distributed.all_gather_object(messages, message)
    return next(filter(None, messages), None)


def from_first(make: Callable[[], Any], args: TrainingArguments) -> Any:
    """Return what `make` gives on the first process, on all processes; all must call it.

    If it raises an AlbefError or an OSError, an AlbefError is raised on all processes.
    """
    made: list[Any] = [None, None]
    if args.process_index == 0:
        try:
            made[0] = make()
        except (AlbefError, OSError) as error:
            made[1] = str(error)
    if args.world_size > 1:
        torch.distributed.broadcast_object_list(made)
    if made[1] is not None:
        raise AlbefError(made[1])
    return made[0]


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
