"""RetrievalTrainer: the published step, the log, checkpoints and exact resume."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_cases import build, load_case
from trainer_cases import NAMES, InOrder, collate, logged, make_trainer, random_rows, weights
from transformers import TrainerCallback

from modeling_albef import AlbefForImageTextRetrieval
from modeling_albef.conversion.checkpoint_names import convert_state_dict
from modeling_albef.training import RetrievalTrainingArguments, SettingError, last_checkpoint
from modeling_albef.training.checkpoints.manifest import write_manifest


def test_last_checkpoint_leaves_damaged_ones_aside(tmp_path: Path) -> None:
    states = [
        "[]",
        "{}",
        '{"global_step": null}',
        '{"global_step": 1e400}',
        "[" * 9000,
        '{"global_step": "x"}',
        "",
        "\0",
    ]
    for number, state in enumerate(['{"global_step": 3}', *states]):
        (tmp_path / f"checkpoint-{number}").mkdir()
        (tmp_path / f"checkpoint-{number}/trainer_state.json").write_text(state)
        write_manifest(tmp_path / f"checkpoint-{number}")
    (tmp_path / "checkpoint-99").touch()
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-0")


def test_three_recorded_steps(tmp_path: Path) -> None:
    case, checkpoint = load_case("retrieval_three_steps")
    student, teacher, queue = build(checkpoint)
    rows = [{name: case[f"step{step}.{name}"][row] for name in NAMES} for step in range(3) for row in range(2)]
    plain = make_trainer(
        tmp_path,
        student,
        rows,
        num_train_epochs=1,
        per_device_train_batch_size=2,
        optim="sgd",
        learning_rate=0.05,
        weight_decay=0.0,
        max_temperature=10.0,  # these rough steps go beyond the usual range, which the recorded run did not keep
        published_schedule=False,
        lr_scheduler_type="constant",
        save_strategy="no",
    )
    trainer = InOrder(student, plain.args, teacher=teacher.model, train_dataset=rows, data_collator=collate)
    trainer.queue.load_state_dict(queue.state_dict())
    trainer.train()
    for step, line in enumerate(logged(trainer)):
        assert line["alpha"] == pytest.approx(case[f"step{step}.alpha"].item(), abs=1e-6)
        assert line["itc_loss"] == pytest.approx(case[f"step{step}.loss_itc"].item(), abs=1e-5)
        assert line["itm_loss"] == pytest.approx(case[f"step{step}.loss_itm"].item(), abs=1e-5)
        assert line["loss"] == pytest.approx(line["itc_loss"] + line["itm_loss"], abs=1e-5)
    final = convert_state_dict({k.removeprefix("final."): v for k, v in case.items() if k.startswith("final.")})
    for key, expected in final.student.items():
        torch.testing.assert_close(student.state_dict()[key], expected, atol=1e-5, rtol=0, msg=key)
    for key, expected in final.queue.items():
        torch.testing.assert_close(trainer.queue.state_dict()[key], expected, atol=1e-6, rtol=0, msg=key)
    name = "albef.text_model.embeddings.word_embeddings.weight"
    torch.testing.assert_close(trainer.teacher.model.state_dict()[name], final.teacher[name], atol=1e-6, rtol=0)


def test_log_has_every_part_and_the_schedule(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, learning_rate=1e-3, min_learning_rate=1e-4, num_train_epochs=2)
    trainer.train()
    lines = logged(trainer)
    assert len(lines) == 8  # 4 steps an epoch
    assert {"itc_loss", "itm_loss", "alpha", "temperature", "learning_rate"} <= set(lines[0])
    assert [line["alpha"] for line in lines] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.4])
    half_way = 1e-4 + 0.5 * 9e-4  # cosine after one of two epochs; the Trainer logs the rate of the step just done
    assert [line["learning_rate"] for line in lines[:4]] == pytest.approx([1e-3] * 4)
    assert [line["learning_rate"] for line in lines[4:]] == pytest.approx([half_way] * 4)
    assert lines[0]["temperature"] == pytest.approx(0.07)
    assert lines[7]["temperature"] != lines[0]["temperature"]


def test_without_distillation_alpha_is_zero(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, distill=False, max_steps=6)
    trainer.train()
    assert {line["alpha"] for line in logged(trainer)} == {0.0}
    assert trainer.queue.image_ids.min() >= 0  # the teacher still fills the queue


def test_accumulation_moves_the_teacher_once_a_step(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, gradient_accumulation_steps=2, max_steps=1, momentum=0.5)
    start = {name: value.clone() for name, value in trainer.teacher.model.state_dict().items()}
    trainer.train()
    assert all(torch.equal(value, start[name]) for name, value in trainer.teacher.model.state_dict().items())
    assert trainer.queue.pointer == 8  # both parts of the batch were enqueued
    assert sum(not torch.equal(v, start[n]) for n, v in trainer.model.state_dict().items()) > 50


def test_accumulated_loss_is_the_mean(tmp_path: Path) -> None:
    losses = {}
    for parts in (1, 2):
        trainer = make_trainer(tmp_path / str(parts), gradient_accumulation_steps=parts, max_steps=1, queue_size=0)
        trainer.train()
        losses[parts] = logged(trainer)[0]
    assert losses[2]["loss"] == pytest.approx(losses[2]["itc_loss"] + losses[2]["itm_loss"], abs=1e-4)
    assert losses[2]["loss"] < 1.5 * losses[1]["loss"]  # a sum over both parts would be twice as much


@pytest.mark.parametrize("step", [3, 4])  # in mid-epoch, and between two epochs
def test_resume_is_exact(tmp_path: Path, step: int) -> None:
    whole = make_trainer(tmp_path / "whole", save_strategy="steps", save_steps=1)
    whole.train()
    shutil.copytree(tmp_path / f"whole/checkpoint-{step}", tmp_path / f"again/checkpoint-{step}")
    torch.manual_seed(99)
    again = make_trainer(tmp_path / "again", save_strategy="steps", save_steps=1)
    with torch.no_grad():
        for parameter in [*again.model.parameters(), *again.teacher.model.parameters()]:
            parameter.add_(1.0)  # whatever it was, the checkpoint decides
    again.train(resume_from_checkpoint=last_checkpoint(tmp_path / "again"))
    expected, found = weights(tmp_path / "whole/checkpoint-8"), weights(tmp_path / "again/checkpoint-8")
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    assert logged(again)[-1] == logged(whole)[-1]


def test_interrupted_checkpoints_are_left_aside(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    for step, state in ((5, '{"global_step": 5}'), (10, '{"global_step": 10}'), (15, '{"global_'), (20, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if state is not None:
            (tmp_path / f"checkpoint-{step}/trainer_state.json").write_text(state)
            write_manifest(tmp_path / f"checkpoint-{step}")
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")


def test_a_checkpoint_without_teacher_starts_a_new_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = make_trainer(tmp_path, save_strategy="steps", save_steps=2, max_steps=2)
    trainer.train()
    shutil.rmtree(tmp_path / "checkpoint-2/teacher")
    write_manifest(tmp_path / "checkpoint-2")
    compared: list[bool] = []

    class Compare(TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            state = trainer.model.state_dict()
            pairs = ((value, state[name]) for name, value in trainer.teacher.model.state_dict().items())
            compared.append(all(torch.equal(own, other) for own, other in pairs))

    trainer.add_callback(Compare())
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert compared == [True]


def test_resuming_without_a_whole_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="has no whole checkpoint to go on from"):
        make_trainer(tmp_path).train(resume_from_checkpoint=True)


def test_settings_that_contradict_the_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="The training data has 3 rows, fewer than the 4 of one step"):
        make_trainer(tmp_path, rows=random_rows(3))
    with pytest.raises(SettingError, match="eval_dataset"):  # the library's own words
        make_trainer(tmp_path, eval_strategy="epoch")
    with pytest.raises(SettingError, match="pip install clearml"):
        make_trainer(tmp_path, report_to="clearml")


def test_a_failed_evaluation_costs_no_epoch(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, num_train_epochs=1, save_strategy="epoch")

    class Broken(list):
        def __getitem__(self, key: Any) -> Any:
            raise OSError("the disk with the images went away")

    trainer.args.eval_strategy = "epoch"
    trainer.eval_dataset = Broken([1])
    with pytest.raises(OSError, match="went away"):
        trainer.train()
    state = json.loads((tmp_path / "checkpoint-4/trainer_state.json").read_text())
    assert state["global_step"] == 4


def test_the_final_model_is_the_student_alone(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_steps=1, save_strategy="no")
    trainer.train()
    trainer.save_model()
    assert not (tmp_path / "teacher").exists()
    again = AlbefForImageTextRetrieval.from_pretrained(tmp_path)
    assert all(torch.equal(v, trainer.model.state_dict()[n]) for n, v in again.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"momentum": 1.5}, "momentum is 1.5, but must lie between 0 and 1"),
        ({"alpha": -0.1}, "alpha is -0.1"),
        ({"queue_size": -1}, "queue_size is -1"),
        ({"k_test": 0}, "k_test is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
    ],
)
def test_arguments_out_of_range(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RetrievalTrainingArguments(output_dir=str(tmp_path), use_cpu=True, eval_strategy="no", **change)


def test_defaults_are_the_published_recipe(tmp_path: Path) -> None:
    args = RetrievalTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    assert (args.learning_rate, args.min_learning_rate, args.warmup_learning_rate) == (1e-5, 1e-6, 1e-5)
    assert (args.weight_decay, args.momentum, args.alpha, args.queue_size) == (0.02, 0.995, 0.4, 65536)
    assert (args.num_train_epochs, args.per_device_train_batch_size, args.k_test, args.seed) == (5, 32, 256, 42)
    assert (args.adam_beta1, args.adam_beta2, args.adam_epsilon, args.max_grad_norm) == (0.9, 0.999, 1e-8, 0)
    assert (args.optim, args.dataloader_drop_last, args.metric_for_best_model) == ("adamw_torch_fused", True, "r_mean")


def test_temperature_stays_in_its_range(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_steps=3, min_temperature=0.08, max_temperature=0.09)
    trainer.train()
    assert 0.08 <= trainer.model.albef.temperature.item() <= 0.09
    assert logged(trainer)[0]["temperature"] == pytest.approx(0.07)  # clamped after the first step
