"""What the first process makes or refuses reaches all processes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from modeling_albef.configuration_albef import AlbefError
from modeling_albef.training import CheckpointError, LossNotFiniteError, PushError, SettingError
from modeling_albef.training.checkpoints.processes import check_engine, first_message, gathered


def process(rank: int, world_size: int) -> Any:
    return SimpleNamespace(process_index=rank, world_size=world_size)


def test_what_one_process_has_to_say_reaches_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert first_message(None, process(0, 1)) is None and first_message("no room", process(0, 1)) == "no room"
    sent = [None, "no room", "no name"]
    monkeypatch.setattr(
        torch.distributed, "all_gather_object", lambda values, own: values.__setitem__(slice(None), sent)
    )
    assert gathered(None, process(0, 3)) == sent and first_message(None, process(0, 3)) == "no room"


def test_engines_that_shard_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    args = SimpleNamespace(fsdp=None, deepspeed_plugin=None, non_finite_loss="skip")
    check_engine(args)
    args.deepspeed_plugin = SimpleNamespace(zero_stage=2)
    with pytest.raises(SettingError, match="DeepSpeed cannot leave out a step"):
        check_engine(args)
    args.deepspeed_plugin.zero_stage = 3
    with pytest.raises(SettingError, match="ZeRO-3 shards the parameters"):
        check_engine(args)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(SettingError, match="FSDP shards the parameters"):
        check_engine(args)


def test_what_a_user_can_mend_has_one_base() -> None:
    assert all(issubclass(kind, AlbefError) for kind in (SettingError, CheckpointError, PushError, LossNotFiniteError))
