"""What the first process makes or refuses reaches all processes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from modeling_albef.configuration_albef import AlbefError
from modeling_albef.training import CheckpointError, LossNotFiniteError, PushError, SettingError
from modeling_albef.training.checkpoints.processes import check_engine, first_message, from_first


def process(rank: int, world_size: int) -> Any:
    return SimpleNamespace(process_index=rank, world_size=world_size)


def fail(error: Exception) -> Any:
    raise error


@pytest.mark.parametrize("error", [SettingError("no room"), OSError("no room")])
def test_a_refusal_of_the_first_process_is_raised_on_all(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AlbefError, match="no room"):
        from_first(lambda: fail(error), process(0, 1))
    sent: list[Any] = []
    monkeypatch.setattr(torch.distributed, "broadcast_object_list", sent.extend)
    with pytest.raises(AlbefError, match="no room"):
        from_first(lambda: fail(error), process(0, 2))
    monkeypatch.setattr(torch.distributed, "broadcast_object_list", lambda made: made.__setitem__(slice(None), sent))
    with pytest.raises(AlbefError, match="no room"):
        from_first(lambda: pytest.fail("only the first process makes it"), process(1, 2))


def test_a_bug_keeps_its_class() -> None:
    with pytest.raises(KeyError):
        from_first(lambda: fail(KeyError("image")), process(0, 1))


def test_what_the_first_process_makes_reaches_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert from_first(lambda: "made", process(0, 1)) == "made" and first_message(None, process(0, 1)) is None
    monkeypatch.setattr(torch.distributed, "broadcast_object_list", lambda made: made.__setitem__(0, "made"))
    assert from_first(lambda: pytest.fail("only the first process makes it"), process(1, 2)) == "made"


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
