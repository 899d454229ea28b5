"""The trainer of pre-training: recorded steps, masks that survive a resume, evaluation, two processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_cases import INDEX, assert_after, build, load_case, training_step
from pretraining_cases import OPTIONS, SGD, InOrder, make_model, make_processor, make_trainer, pairs
from run_cases import ROOT, run, two_processes
from safetensors.torch import load_file
from trainer_cases import weights
from transformers import TrainerCallback

from modeling_albef import AlbefForPreTraining
from modeling_albef.conversion.checkpoint_names import convert_state_dict
from modeling_albef.training import PreTrainingTrainer, PreTrainingTrainingArguments, SettingError
from processing import PreTrainingCollator

INPUTS = ("pixel_values", "input_ids", "attention_mask", "masked_input_ids", "labels")


def recorded_rows(case: dict[str, torch.Tensor], prefixes: tuple[str, ...] = ("",)) -> list[dict[str, torch.Tensor]]:
    """The recorded inputs, a row a pair; all pairs show image 7, which as published makes no difference."""
    rows = []
    for prefix in prefixes:
        inputs = {name.replace("labels", "mlm_labels"): case[prefix + name] for name in INPUTS}
        rows += [dict(zip(inputs, row, strict=True)) for row in zip(*inputs.values(), strict=True)]
    return rows


def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0] if name != "draw_key"}
    return {**batch, "image_ids": torch.full((len(rows),), 7)}


def recorded_trainer(folder: Path, case: str, rows: list[Any], **changes: Any) -> InOrder:
    """A trainer that starts as a recorded case does."""
    student, teacher, queue = build(load_case(case)[1], AlbefForPreTraining)
    model = INDEX["model"]
    sizes = {"queue_size": model["queue_size"], "momentum": model["momentum"], "per_device_train_batch_size": 2}
    args = PreTrainingTrainingArguments(str(folder), **{**OPTIONS, **SGD, **sizes, **changes})
    trainer = InOrder(student, args, teacher=teacher.model, train_dataset=rows, data_collator=collate)
    trainer.queue.load_state_dict(queue.state_dict())
    return trainer


def test_the_recorded_step(tmp_path: Path) -> None:
    case, _ = load_case("pretrain")
    options = {"learning_rate": 0.0, "alpha": INDEX["model"]["alpha"], "alpha_warmup": False, "max_steps": 1}
    trainer = recorded_trainer(tmp_path, "pretrain", recorded_rows(case), **options)
    trainer.train()
    line = trainer.state.log_history[0]
    for name in ("mlm", "itc", "itm"):
        assert line[f"{name}_loss"] == pytest.approx(case[f"loss_{name}"].item(), abs=1e-5)
    assert line["loss"] == pytest.approx(sum(case[f"loss_{name}"].item() for name in ("mlm", "itc", "itm")), abs=1e-4)
    assert_after(case, trainer.teacher, trainer.queue)


def test_two_recorded_steps(tmp_path: Path) -> None:
    """Alpha rises over two epochs, here of one step each; the temperature is clamped between the steps."""
    case, _ = load_case("pretrain_two_steps")
    options = {"learning_rate": INDEX["pretrain_two_steps"]["learning_rate"], "alpha": 0.4, "num_train_epochs": 2}
    rows = {prefix: recorded_rows(case, (prefix,)) for prefix in ("step0.", "step1.")}
    trainer = recorded_trainer(tmp_path, "pretrain_two_steps", rows["step0."], **options)

    class NextBatch(TrainerCallback):
        def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            trainer.train_dataset.dataset[:] = rows[f"step{int(state.epoch or 0)}."]

    trainer.add_callback(NextBatch())
    trainer.train()
    lines = [line for line in trainer.state.log_history if "loss" in line]
    assert [line["alpha"] for line in lines] == pytest.approx([0, 0.2])
    for step, line in enumerate(lines):
        for name in ("mlm", "itc", "itm"):
            assert line[f"{name}_loss"] == pytest.approx(case[f"step{step}.loss_{name}"].item(), abs=1e-5)
        assert line["temperature"] == pytest.approx(case[f"step{step}.temp"].item(), abs=1e-6)
    final = convert_state_dict({k.removeprefix("final."): v for k, v in case.items() if k.startswith("final.")})
    for key, expected in final.teacher.items():
        if "itm_head" in key or key.endswith("temperature"):  # which have no twin there
            continue
        torch.testing.assert_close(trainer.teacher.model.state_dict()[key], expected, atol=1e-6, rtol=0)
    for key, expected in final.student.items():
        expected = expected.clamp(0.001, 0.5) if key.endswith("temperature") else expected
        torch.testing.assert_close(trainer.model.state_dict()[key], expected, atol=1e-5, rtol=0, msg=key)
    assert trainer.queue.image_ids.tolist() == [-100] * len(trainer.queue.image_ids)  # match no later image
    for name in ("image_embeds", "text_embeds"):
        torch.testing.assert_close(trainer.queue.state_dict()[name], final.queue[name], atol=1e-6, rtol=0)


def test_a_temperature_out_of_range_is_clamped_before_the_first_step(tmp_path: Path) -> None:
    model = make_model()
    model.albef.temperature.data.fill_(0.9)
    trainer = make_trainer(tmp_path / "out", pairs(tmp_path), model, max_steps=1, save_strategy="no")
    trainer.train()
    assert trainer.state.log_history[0]["temperature"] == 0.5


def test_masks_do_not_depend_on_the_batch_and_differ_by_epoch(tmp_path: Path) -> None:
    rows, trainer = pairs(tmp_path, 8), make_trainer(tmp_path / "out", pairs(tmp_path, 8), mlm_probability=0.5)
    collator, keyed = trainer.data_collator, trainer.train_dataset
    whole = collator([keyed[n] for n in range(8)])
    for name in ("masked_input_ids", "mlm_labels"):
        alone = torch.nn.utils.rnn.pad_sequence(
            [collator([keyed[n]])[name][0] for n in range(8)], True, 0 if name.startswith("masked") else -100
        )
        assert torch.equal(whole[name], alone)
    keyed.set_epoch(1)
    later = collator([keyed[n] for n in range(8)])
    assert torch.equal(later["input_ids"], whole["input_ids"])
    assert not torch.equal(later["mlm_labels"], whole["mlm_labels"])
    assert len(keyed) == len(rows)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_is_the_same_to_the_bit(tmp_path: Path, workers: int) -> None:
    options = {"max_steps": 6, "save_steps": 2, "save_strategy": "steps", "dataloader_num_workers": workers}
    runs = []
    for name, resume in (("whole", None), ("resumed", "checkpoint-2")):
        trainer = make_trainer(tmp_path / "whole" if resume is None else tmp_path / name, pairs(tmp_path), **options)
        trainer.train(resume_from_checkpoint=resume and str(tmp_path / "whole" / resume))
        runs.append(weights(tmp_path / name / "checkpoint-6"))
    assert runs[0].keys() == runs[1].keys()
    assert all(torch.equal(value, runs[1][key]) for key, value in runs[0].items())


def test_training_equals_the_loop_written_out(tmp_path: Path) -> None:
    """Pairs of files through collator and trainer, against the published order of a step on the same batches."""
    options = {**SGD, "learning_rate": 0.05, "alpha": 0.4, "num_train_epochs": 2, "per_device_train_batch_size": 2}
    trainer = make_trainer(tmp_path / "out", pairs(tmp_path, 4), make_model(0.0), InOrder, **options)
    student, teacher, queue = make_model(0.0).train(), trainer.teacher.__class__(make_model(0.0), 0.995), trainer.queue
    queue = type(queue)(queue.size, queue.image_embeds.shape[1], seed=42)
    optimizer, expected = torch.optim.SGD(student.parameters(), 0.05), []
    keyed = trainer.train_dataset
    for step in range(4):
        keyed.set_epoch(step // 2)
        batch = trainer.data_collator([keyed[n] for n in range(4)][2 * (step % 2) :][:2])
        inputs = {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}
        inputs["image_ids"] = torch.arange(2)
        outputs = training_step(student, teacher, queue, inputs, 0.4 * step / 4)
        queue.image_ids.fill_(-100)
        optimizer.zero_grad()
        outputs.loss.backward()
        optimizer.step()
        with torch.no_grad():
            student.albef.temperature.clamp_(0.001, 0.5)
        expected.append([getattr(outputs, f"{name}_loss").item() for name in ("itc", "itm", "mlm")])
    trainer.train()
    logged = [
        [line[f"{n}_loss"] for n in ("itc", "itm", "mlm")] for line in trainer.state.log_history if "loss" in line
    ]
    torch.testing.assert_close(torch.tensor(logged), torch.tensor(expected), atol=1e-5, rtol=1e-5)


def test_captions_of_an_image_match_it_all_where_they_are_grouped(tmp_path: Path) -> None:
    """Two captions an image: as published the other one is a wrong text, grouped it is a right one."""
    rows = [{**row, "caption": WORDS_OF_ONE, "image_id": n} for n, row in enumerate(pairs(tmp_path, 2))]
    losses = {}
    for grouped in (False, True):
        options = {"group_captions": grouped, "distill": False, "learning_rate": 0.0, "max_steps": 1, "queue_size": 0}
        trainer = make_trainer(tmp_path / f"{grouped}", rows, make_model(0.0), InOrder, **{**SGD, **options})
        trainer.train()
        losses[grouped] = trainer.state.log_history[0]["itc_loss"]
        batch = trainer.data_collator([trainer.train_dataset[n] for n in range(4)])
    assert batch["image_ids"].tolist() == [0, 0, 1, 1]
    with torch.no_grad():
        outputs = make_model(0.0).eval()(batch["pixel_values"], batch["input_ids"], batch["attention_mask"])
    for grouped, positives in ((False, torch.eye(4)), (True, torch.block_diag(*[torch.full((2, 2), 0.5)] * 2))):
        parts = [-(positives * logits.log_softmax(dim=1)).sum(dim=1).mean() for logits in _both(outputs)]
        assert losses[grouped] == pytest.approx((sum(parts) / 2).item(), abs=1e-5)


WORDS_OF_ONE = ["a blue circle", "what color is the circle?"]


def _both(outputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return outputs.logits_per_image, outputs.logits_per_text


def test_evaluation_has_recalls_and_losses(tmp_path: Path) -> None:
    rows = [{**row, "caption": [row["caption"], "a red star"]} for row in pairs(tmp_path, 5)]
    trainer = make_trainer(tmp_path / "out", pairs(tmp_path), make_model(), per_device_eval_batch_size=3)
    metrics = trainer.evaluate(rows)
    assert trainer.evaluate(rows)["eval_loss"] == metrics["eval_loss"]  # the same masks, no dropout
    assert 0 <= metrics["eval_r_mean"] <= 100 and 0 <= metrics["eval_mlm_accuracy"] <= 100
    collator, model = PreTrainingCollator(make_processor(), seed=42), trainer.model.eval()
    sums = torch.zeros(3)
    for batch in ([0, 1, 2], [3, 4]):
        inputs = collator([{**rows[n], "caption": rows[n]["caption"][0], "draw_key": (n,)} for n in batch])
        with torch.no_grad():
            outputs = model(**inputs)
        sums += len(batch) * torch.stack([outputs.itc_loss, outputs.itm_loss, outputs.mlm_loss])
    found = [metrics[f"eval_{name}_loss"] for name in ("itc", "itm", "mlm")]
    torch.testing.assert_close(torch.tensor(found), sums / 5, atol=1e-5, rtol=1e-5)
    assert metrics["eval_loss"] == pytest.approx(sum(found))


def test_a_loss_may_choose_the_best_checkpoint(tmp_path: Path) -> None:
    options = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    options |= {"metric_for_best_model": "mlm_loss", "load_best_model_at_end": True}
    trainer = make_trainer(tmp_path / "out", pairs(tmp_path), eval_dataset=pairs(tmp_path, 4), **options)
    trainer.train()
    measured = [line["eval_mlm_loss"] for line in trainer.state.log_history if "eval_mlm_loss" in line]
    assert len(measured) == 2 and trainer.state.best_metric == min(measured)


@pytest.mark.parametrize(("name", "value"), [("mlm_probability", 1.5), ("alpha_warmup_epochs", 0.0)])
def test_values_out_of_range(tmp_path: Path, name: str, value: float) -> None:
    with pytest.raises(SettingError, match=f"{name} is {value}, but must"):
        PreTrainingTrainingArguments(str(tmp_path), use_cpu=True, **{name: value})


@pytest.mark.slow
def test_two_processes_do_what_one_does(tmp_path: Path) -> None:
    """Two pairs each, or four in two parts of a step: the same masks, weights, metrics and queue."""
    script = str(ROOT / "tests" / "two_process_pretraining.py")
    run(script, [str(tmp_path / "one")])
    run(script, [str(tmp_path / "two")], launcher=two_processes())
    one, two = (torch.load(tmp_path / name / "found.pt") for name in ("one", "two"))
    for name, value in one["moved"].items():
        torch.testing.assert_close(two["moved"][name], value, atol=1e-5, rtol=1e-3, msg=name)
    assert one["metrics"] == two["metrics"] and "eval_mlm_loss" in one["metrics"]
    assert torch.equal(one["queue"]["image_ids"], two["queue"]["image_ids"])
    torch.testing.assert_close(two["queue"]["text_embeds"], one["queue"]["text_embeds"], atol=1e-5, rtol=0)


def test_the_teacher_is_in_a_checkpoint_and_loads_as_a_model(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path / "out", pairs(tmp_path), max_steps=1, save_strategy="steps", save_steps=1)
    trainer.train()
    folder = tmp_path / "out/checkpoint-1"
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["AlbefForPreTraining"]
    assert "mlm_head.dense.weight" in load_file(folder / "teacher/model.safetensors")
    assert isinstance(trainer, PreTrainingTrainer)
