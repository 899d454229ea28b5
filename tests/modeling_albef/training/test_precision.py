"""Weights in half precision train as float32, and the teacher's averages are never rounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import two_process_cases as cases
from golden_cases import build, load_case, tiny_config
from safetensors.torch import load_file, save_file
from small_models import ANSWERS, save_vqa
from trainer_cases import logged, make_trainer, random_rows, weights

from modeling_albef import AlbefForImageTextRetrieval, AlbefForQuestionAnswering
from modeling_albef.training import MomentumTeacher, RetrievalTrainer, VQATrainer, VQATrainingArguments
from modeling_albef.training.checkpoints.manifest import write_manifest
from modeling_albef.training.lora import add_lora
from processing import AlbefProcessor

HALVES = [torch.bfloat16, torch.float16]


def moved(start: dict[str, torch.Tensor], now: dict[str, torch.Tensor]) -> float:
    """Share of the numbers that are not what they were."""
    changed = sum(int((start[name] != value).sum()) for name, value in now.items())
    return changed / sum(value.numel() for value in now.values())


def vqa_trainer(folder: Path, model: Any, processor: AlbefProcessor, **given: Any) -> VQATrainer:
    options = {"use_cpu": True, "eval_strategy": "no", "save_strategy": "no", "report_to": "none", "max_steps": 3}
    options |= {"per_device_train_batch_size": 2, "learning_rate": 1e-5, "warmup_steps": 0, "disable_tqdm": True}
    torch.manual_seed(0)
    return cases.InOrderVQA(
        model,
        VQATrainingArguments(output_dir=str(folder), logging_steps=1, **options),
        answer_list=ANSWERS,
        train_dataset=cases.questions(4),
        data_collator=cases.collate_questions,
        processing_class=processor,
        **given,
    )


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_a_folder_of_half_precision_moves_the_teacher_as_float32_does(
    tmp_path: Path, dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    """The share of the teacher's weights that move, and each of them to the bit."""
    save_vqa(tmp_path).to(dtype).save_pretrained(tmp_path)
    processor = AlbefProcessor.from_pretrained(tmp_path)
    shares, teachers = [], []
    for wanted in (torch.float32, "auto"):
        model = AlbefForQuestionAnswering.from_pretrained(tmp_path, dtype=wanted)
        assert model.dtype == (dtype if wanted == "auto" else torch.float32)
        caplog.clear()
        trainer = vqa_trainer(tmp_path / "out", model, processor)
        told = [record.message for record in caplog.records if "become float32" in record.message]
        assert len(told) == (wanted == "auto")
        assert not told or told[0].startswith(f"The weights are {str(dtype).removeprefix('torch.')} and become float32")
        start = {name: value.clone() for name, value in trainer.teacher.model.state_dict().items()}
        trainer.train()
        assert {value.dtype for value in trainer.teacher.model.parameters()} == {torch.float32}
        assert trainer.model.dtype == torch.float32
        shares.append(moved(start, trainer.teacher.model.state_dict()))
        teachers.append(trainer.teacher.model.state_dict())
        trainer.save_model(str(tmp_path / "saved"))
        assert AlbefForQuestionAnswering.from_pretrained(tmp_path / "saved").dtype == torch.float32
    assert shares[0] == shares[1] > 0.9
    assert all(torch.equal(value, teachers[1][name]) for name, value in teachers[0].items())


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_retrieval_trains_from_half_precision(tmp_path: Path, dtype: torch.dtype) -> None:
    runs = []
    for halved in (True, False):
        model = build(load_case("retrieval_plain")[1])[0].to(dtype)
        trainer = make_trainer(tmp_path, model if halved else model.float(), save_strategy="no", max_steps=3)
        trainer.train()
        assert trainer.queue.image_embeds.dtype == trainer.model.dtype == torch.float32
        runs.append([line["loss"] for line in logged(trainer)])
    assert runs[0] == runs[1] and len(runs[0]) == 3


def test_a_teacher_that_is_handed_in_is_float32_too(tmp_path: Path) -> None:
    student, teacher, _ = build(load_case("retrieval_plain")[1])
    plain = make_trainer(tmp_path, student, save_strategy="no", max_steps=2)
    rows, collate = plain.train_dataset, plain.data_collator
    halved = teacher.model.bfloat16()
    trainer = RetrievalTrainer(student, plain.args, teacher=halved, train_dataset=rows, data_collator=collate)
    start = {name: value.clone() for name, value in trainer.teacher.model.state_dict().items()}
    trainer.train()
    assert {value.dtype for value in trainer.teacher.model.parameters()} == {torch.float32}
    assert moved(start, trainer.teacher.model.state_dict()) > 0.9


def test_a_teacher_alone_averages_in_float32() -> None:
    student = AlbefForImageTextRetrieval(tiny_config()).bfloat16()
    teacher = MomentumTeacher(student, 0.995)
    start = {name: value.clone() for name, value in teacher.model.named_parameters()}
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.25)
    teacher.update(student)
    for (name, value), followed in zip(teacher.model.named_parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(value, 0.995 * start[name] + 0.005 * followed.float(), msg=name)


def test_a_teacher_that_is_resumed_from_half_precision_goes_on_in_float32(tmp_path: Path) -> None:
    options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    make_trainer(tmp_path, **options).train()
    path = tmp_path / "checkpoint-2/teacher/model.safetensors"
    save_file({name: value.bfloat16() for name, value in load_file(path).items()}, path, {"format": "pt"})
    write_manifest(tmp_path / "checkpoint-2")
    again = make_trainer(tmp_path, **options)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    start = {name: value.float() for name, value in load_file(path).items()}
    now = again.teacher.model.state_dict()
    assert {value.dtype for value in now.values() if value.is_floating_point()} == {torch.float32}
    assert moved(start, {name: now[name] for name in start}) > 0.9


def test_adapters_of_a_halved_model_and_their_teacher_are_float32(tmp_path: Path) -> None:
    shares = []
    for halved in (False, True):
        torch.manual_seed(0)
        model = AlbefForImageTextRetrieval(tiny_config()).bfloat16()
        model = model if halved else model.float()
        torch.manual_seed(1)
        add_lora(model, 2)
        trainer = make_trainer(tmp_path / str(halved), model, save_strategy="no", max_steps=3)
        adapters = {name: value.clone() for name, value in trainer.teacher.model.named_parameters() if "lora_" in name}
        trainer.train()
        assert {value.dtype for value in trainer.teacher.model.parameters()} == {torch.float32}
        now = dict(trainer.teacher.model.named_parameters())
        shares.append(moved(adapters, {name: now[name] for name in adapters}))
    assert shares[0] == shares[1] > 0.4  # the other half of an adapter starts at zero, which the first step only leaves


def test_bf16_is_autocast_over_float32_weights(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, build(load_case("retrieval_plain")[1])[0].bfloat16(), bf16=True, max_steps=2)
    trainer.train()
    states = weights(tmp_path / "checkpoint-2")
    assert {value.dtype for value in states.values() if value.is_floating_point()} == {torch.float32}


def test_double_precision_stays(tmp_path: Path) -> None:
    """Nothing is lost there; whoever asks for it has a reason."""
    rows = [{n: v.double() if v.is_floating_point() else v for n, v in row.items()} for row in random_rows(8)]
    trainer = make_trainer(
        tmp_path, build(load_case("retrieval_plain")[1])[0].double(), rows, distill=False, queue_size=0
    )
    assert trainer.model.dtype == trainer.teacher.model.dtype == torch.float64
