"""The teacher and the queue, outside the student."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from golden_cases import tiny_config

from modeling_albef import AlbefForImageTextRetrieval
from modeling_albef.training import FeatureQueue, MomentumTeacher, RankSeedCallback, TemperatureCallback


def features(rows: range) -> dict[str, torch.Tensor]:
    values = torch.tensor([float(row) for row in rows])
    return {
        "image_embeds": values[:, None].expand(-1, 4),
        "text_embeds": -values[:, None].expand(-1, 4),
        "image_ids": torch.tensor(list(rows)),
    }


def test_teacher_is_apart_and_moves_by_the_momentum() -> None:
    student = AlbefForImageTextRetrieval(tiny_config())
    teacher = MomentumTeacher(student, momentum=0.9)
    assert teacher.model.training and not any(p.requires_grad for p in teacher.model.parameters())
    before = {name: value.clone() for name, value in student.state_dict().items()}
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(value, before[name]) for name, value in teacher.model.state_dict().items())
    teacher.update(student)
    teacher.update(student)
    for name, value in teacher.model.state_dict().items():  # 1 - 0.9 ** 2
        torch.testing.assert_close(value, before[name] + 0.19, atol=1e-5, rtol=0)


def test_queue_takes_any_batch_and_wraps() -> None:
    queue = FeatureQueue(5, 4)
    queue.enqueue(**features(range(3)))
    assert queue.image_ids.tolist() == [0, 1, 2, -100, -100] and queue.pointer == 3
    queue.enqueue(**features(range(3, 7)))
    assert queue.image_ids.tolist() == [5, 6, 2, 3, 4] and queue.pointer == 2
    assert queue.image_embeds[:, 0].tolist() == [5, 6, 2, 3, 4]
    assert queue.text_embeds[:, 0].tolist() == [-5, -6, -2, -3, -4]
    queue.enqueue(**features(range(10, 22)))  # more than the queue holds: the last five remain
    assert sorted(queue.image_ids.tolist()) == [17, 18, 19, 20, 21] and queue.pointer == 4


def test_queue_puts_the_batch_first() -> None:
    candidates = FeatureQueue(3, 4).candidates(**features(range(2)))
    assert candidates["candidate_ids"].tolist() == [0, 1, -100, -100, -100]
    assert candidates["text_candidates"].shape == (5, 4)
    assert torch.allclose(candidates["image_candidates"][2:].norm(dim=1), torch.ones(3))


def test_queue_of_no_slots() -> None:
    queue = FeatureQueue(0, 4)
    queue.enqueue(**features(range(2)))
    assert queue.candidates(**features(range(2)))["image_candidates"].shape == (2, 4)


def test_same_seed_same_queue_and_round_trip(tmp_path: Path) -> None:
    first, second = FeatureQueue(6, 4, seed=3), FeatureQueue(6, 4, seed=3)
    assert torch.equal(first.image_embeds, second.image_embeds)
    first.enqueue(**features(range(4)))
    first.save(tmp_path)
    second.load(tmp_path)
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
    with pytest.raises(ValueError, match="has 6 slots, this run has 7: set queue_size to 6"):
        FeatureQueue(7, 4).load(tmp_path)
    with pytest.raises(ValueError, match=r"queue\.safetensors has .* but expected are .*\(slots, 5\)"):
        FeatureQueue(6, 5).load(tmp_path)
    file = tmp_path / "teacher/queue.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"queue\.safetensors is damaged or cut short"):
        FeatureQueue(6, 4).load(tmp_path)


def test_teacher_round_trip(tmp_path: Path) -> None:
    student = AlbefForImageTextRetrieval(tiny_config())
    teacher, other = MomentumTeacher(student, 0.5), MomentumTeacher(AlbefForImageTextRetrieval(tiny_config()), 0.5)
    teacher.save(tmp_path)
    other.load(tmp_path)
    state = other.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in teacher.model.state_dict().items())
    smaller = MomentumTeacher(AlbefForImageTextRetrieval(tiny_config(vocab_size=9)), 0.5)
    with pytest.raises(ValueError, match=r"The teacher in .*model\.safetensors cannot be used \(.*size mismatch"):
        smaller.load(tmp_path)


def test_the_temperature_is_clamped_on_both_sides() -> None:
    temperature = torch.nn.Parameter(torch.tensor(0.9))
    callback = TemperatureCallback(temperature, 0.001, 0.5)
    for value, kept in ((0.9, 0.5), (0.0001, 0.001), (0.07, 0.07)):
        temperature.data.fill_(value)
        callback.on_optimizer_step(None, None, None)
        assert temperature.item() == pytest.approx(kept)


def test_each_rank_has_its_own_random_numbers() -> None:
    drawn = []
    for rank in range(3):
        RankSeedCallback().on_train_begin(SimpleNamespace(world_size=3, seed=7, process_index=rank))
        drawn.append(torch.initial_seed())
    assert drawn == [7, 8, 9]
