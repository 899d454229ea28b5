"""The teacher and the queue, outside the student."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from golden_cases import tiny_config
from safetensors.torch import save_file

from modeling_albef import AlbefForImageTextRetrieval
from modeling_albef.training import FeatureQueue, MomentumTeacher, RankSeedCallback, TemperatureCallback
from modeling_albef.training.momentum import raise_to_float32, update_momentum
from modeling_albef.training.queue_file import check_queue, read_queue


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


def test_a_queue_starts_from_the_newest_rows_of_another() -> None:
    other = FeatureQueue(4, 4)
    other.enqueue(**features(range(5)))  # 4, 1, 2, 3; the next goes to slot 1
    for size, expected in ((2, [3, 4]), (3, [2, 3, 4]), (4, [1, 2, 3, 4]), (6, [1, 2, 3, 4])):
        queue, fresh = FeatureQueue(size, 4), FeatureQueue(size, 4)
        queue.start_from(other.state_dict())
        kept = torch.cat([queue.image_embeds, queue.text_embeds], dim=1)[:, [0, 4]].tolist()
        assert sorted(row for row in kept if row[0] in range(6)) == [[row, -row] for row in map(float, expected)]
        assert queue.image_ids.tolist() == [-100] * size and queue.image_ids.dtype == torch.int64
        assert int(queue.pointer) == 4 % size
        assert size < 6 or torch.equal(queue.image_embeds[4:], fresh.image_embeds[4:])
    before = {name: value.clone() for name, value in queue.state_dict().items()}
    queue.start_from(FeatureQueue(0, 4).state_dict())
    assert all(torch.equal(value, queue.state_dict()[name]) for name, value in before.items())


def test_a_fresh_queue_has_unit_vectors_of_its_seed() -> None:
    generator = torch.Generator().manual_seed(0)
    queue = FeatureQueue(5, 4)
    for name in ("image_embeds", "text_embeds"):
        drawn = torch.randn(5, 4, generator=generator)
        torch.testing.assert_close(getattr(queue, name), drawn / drawn.norm(dim=1, keepdim=True))
    assert queue.image_ids.tolist() == [-100] * 5 and int(queue.pointer) == 0
    assert not torch.equal(FeatureQueue(5, 4, seed=1).image_embeds, queue.image_embeds)


def test_new_tensors_of_the_queue_are_where_its_slots_are() -> None:
    """Another default device would put them elsewhere, and mixing devices is an error."""
    queue, state = FeatureQueue(5, 4), FeatureQueue(3, 4).state_dict()
    batch = features(range(3))
    with torch.device("meta"):
        queue.enqueue(**batch)
        queue.start_from(state)
    assert queue.image_ids.tolist() == [-100, 1, 2, -100, -100] and int(queue.pointer) == 1
    elsewhere = FeatureQueue(5, 4).to("meta")
    elsewhere.start_from(state)  # a file is read on the CPU
    assert {tensor.device.type for tensor in elsewhere.state_dict().values()} == {"meta"}


def test_rows_of_half_precision_enter_the_queue() -> None:
    queue, rows = FeatureQueue(4, 4), features(range(2))
    queue.enqueue(rows["image_embeds"].bfloat16(), rows["text_embeds"].bfloat16(), rows["image_ids"])
    assert queue.image_embeds.dtype == torch.float32 and queue.image_embeds[:2, 0].tolist() == [0, 1]


def test_a_row_that_is_not_finite_leaves_its_slot_as_it_is() -> None:
    for name in ("image_embeds", "text_embeds"):
        queue, rows = FeatureQueue(5, 4), features(range(1, 4))
        before = {key: value.clone() for key, value in queue.state_dict().items()}
        rows[name] = rows[name].clone()
        rows[name][1, 2] = float("nan")
        queue.enqueue(**rows)
        assert queue.image_ids.tolist() == [1, -100, 3, -100, -100] and int(queue.pointer) == 3
        assert torch.equal(queue.image_embeds[1], before["image_embeds"][1])
        assert torch.equal(queue.text_embeds[1], before["text_embeds"][1])
        assert queue.image_embeds[2, 0] == 3 and queue.text_embeds[2, 0] == -3


def test_no_gradient_enters_the_queue() -> None:
    queue, rows = FeatureQueue(4, 4), features(range(2))
    queue.enqueue(rows["image_embeds"].clone().requires_grad_(), rows["text_embeds"], rows["image_ids"])
    assert not queue.image_embeds.requires_grad


def test_a_teacher_starts_from_a_model_of_its_own() -> None:
    student, other = (AlbefForImageTextRetrieval(tiny_config()).eval() for _ in range(2))
    teacher = MomentumTeacher(student, 0.5, model=other)
    assert teacher.model is other and other.training and not student.training
    teacher.start_from(student, torch.device("cpu"))
    assert teacher.model is not student and not student.training
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
    moved = MomentumTeacher(student, 0.5)
    moved.start_from(other, torch.device("meta"), copies=False)
    assert {parameter.device.type for parameter in moved.model.parameters()} == {"meta"}


def test_what_is_raised_to_float32() -> None:
    for dtype, before, after in (
        (torch.bfloat16, {torch.bfloat16}, torch.float32),
        (torch.float16, {torch.float16}, torch.float32),
        (torch.float32, set(), torch.float32),
        (torch.float64, set(), torch.float64),
    ):
        model = AlbefForImageTextRetrieval(tiny_config()).to(dtype)
        assert raise_to_float32(model) == before
        assert {parameter.dtype for parameter in model.parameters()} == {after}
    model = AlbefForImageTextRetrieval(tiny_config()).half()
    model.is_quantized = True
    assert raise_to_float32(model) == set() and next(model.parameters()).dtype == torch.float16


def test_a_teacher_follows_a_student_of_half_precision() -> None:
    """A step of a thousandth of 1 is less than bfloat16 can tell from nothing."""
    teacher, student = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2).bfloat16()
    before = [parameter.detach().clone() for parameter in teacher.parameters()]
    update_momentum(teacher, student, 0.999)
    for mine, theirs, start in zip(teacher.parameters(), student.parameters(), before, strict=True):
        torch.testing.assert_close(mine.detach(), 0.999 * start + 0.001 * theirs.detach().float())
    with pytest.raises(ValueError, match="zip"):
        update_momentum(teacher, torch.nn.Linear(3, 2, bias=False), 0.5)


def test_a_teacher_that_is_missing_is_named(tmp_path: Path) -> None:
    teacher = MomentumTeacher(AlbefForImageTextRetrieval(tiny_config()), 0.5)
    with pytest.raises(ValueError, match=r"The teacher in .*teacher.model\.safetensors cannot be used \(.+\): resume"):
        teacher.load(tmp_path)
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher/model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="resume an older checkpoint"):
        teacher.load(tmp_path)


def test_the_folder_of_a_saved_queue_is_made(tmp_path: Path) -> None:
    queue = FeatureQueue(3, 4)
    queue.save(tmp_path / "new/checkpoint-1")
    queue.save(tmp_path / "new/checkpoint-1")
    assert torch.equal(read_queue(tmp_path / "new/checkpoint-1/teacher/queue.safetensors")["pointer"], queue.pointer)


def test_a_file_of_a_queue_is_read_and_checked(tmp_path: Path) -> None:
    """Each tensor that is no part of a queue, lacks, or has another shape or type is refused with all shapes."""
    good, file = FeatureQueue(6, 4).state_dict(), tmp_path / "queue.safetensors"
    save_file(good, file)
    for width in (None, 4):
        assert all(torch.equal(value, good[name]) for name, value in read_queue(file, width).items())
    with pytest.raises(ValueError, match=r"has .*image_embeds \(6, 4\).*, but expected are .*\(slots, 5\)"):
        read_queue(file, 5)
    with pytest.raises(ValueError, match=r"There is no queue .*none\.safetensors: give a folder"):
        read_queue(tmp_path / "none.safetensors")
    save_file({**good, "more": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match=r"queue\.safetensors has .*more \(1,\).*, but expected"):
        read_queue(file)
    bad: list[dict[str, torch.Tensor]] = [
        {name: value for name, value in good.items() if name != "pointer"},
        {**good, "text_embeds": torch.zeros(6, 5)},
        {**good, "text_embeds": torch.zeros(5, 4), "image_embeds": torch.zeros(5, 4)},
        {**good, "image_ids": torch.zeros(5, dtype=torch.int64)},
        {**good, "image_ids": torch.zeros(6)},
        {**good, "image_ids": torch.zeros(6, dtype=torch.int32)},
        {**good, "pointer": torch.zeros(1, dtype=torch.int64)},
        {**good, "pointer": torch.tensor(0.0)},
        {**good, "image_embeds": torch.zeros(6, 4, dtype=torch.int64)},
        {**good, "image_embeds": torch.zeros(6, 4, 1), "text_embeds": torch.zeros(6, 4, 1)},
    ]
    for state in bad:
        with pytest.raises(ValueError, match=r"The queue in a\.file has .*\(slots, width\), image_ids \(slots,\)"):
            check_queue(state, "a.file")
    check_queue(good, "a.file")
    check_queue(good, "a.file", 4)
    with pytest.raises(ValueError, match=r"has pointer \(\), image_ids \(6,\), but expected"):
        check_queue({name: good[name] for name in ("pointer", "image_ids")}, "a.file")


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_a_training_on_a_cpu_reuses_the_memory_of_freed_tensors() -> None:
    """A page that is given back and taken again costs a fault; a process of its own, since it stays so."""
    code = (
        "import resource, torch; from modeling_albef.training.hardware import keep_freed_memory\n"
        "def faults():\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    for _ in range(4): torch.zeros(25_000_000).fill_(1)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "faults(); first = faults(); assert keep_freed_memory(); faults(); print(first, faults())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert after < before / 20
