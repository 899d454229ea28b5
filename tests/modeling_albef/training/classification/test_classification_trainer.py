"""Fine-tuning and evaluating a classifier: one step by hand, resume, labels of every kind, adapters, two processes."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from classification_cases import LABELS, labelled_rows, make_classifier, make_processor, make_trainer
from run_cases import ROOT, run, two_processes
from safetensors.torch import load_file

from modeling_albef import AlbefForImageTextClassification
from modeling_albef.training import (
    ClassificationEvaluator,
    ClassificationTrainer,
    MomentumTeacher,
    SettingError,
)
from modeling_albef.training.lora import add_lora, merged_state_dict, save_adapter
from processing import ClassificationCollator, ProcessingError


def test_a_step_is_the_published_one(tmp_path: Path) -> None:
    model, rows = make_classifier(), labelled_rows(tmp_path, 4)
    expected = copy.deepcopy(model).train()
    options = {"optim": "sgd", "learning_rate": 0.5, "max_steps": 2, "weight_decay": 0.0, "save_strategy": "no"}
    options |= {"published_schedule": False, "lr_scheduler_type": "constant"}
    trainer = make_trainer(tmp_path / "out", model, rows, **options)
    trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(rows)
    batch = trainer.data_collator(rows)
    batch.pop("image_names")
    teacher = MomentumTeacher(expected, 0.995)
    losses = []
    for _ in range(2):
        teacher.update(expected)
        with torch.no_grad():
            opinion = teacher.model(**batch).logits.softmax(1)
        targets = 0.4 * opinion + 0.6 * torch.nn.functional.one_hot(batch["labels"], 3)  # alpha from the first step on
        loss = -(targets * expected(**batch).logits.log_softmax(1)).sum(1).mean()
        expected.zero_grad()
        loss.backward()
        losses.append(loss.item())
        with torch.no_grad():
            for parameter in expected.parameters():
                parameter -= 0.5 * parameter.grad
    trainer.train()
    lines = [line for line in trainer.state.log_history if "classification_loss" in line]
    assert [line["classification_loss"] for line in lines] == pytest.approx(losses, abs=1e-5)
    assert [line["alpha"] for line in lines] == pytest.approx([0.4, 0.4])
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, atol=1e-5, rtol=1e-4, msg=name)
        theirs = trainer.teacher.model.state_dict()[name]
        torch.testing.assert_close(theirs, teacher.model.state_dict()[name], atol=1e-6, rtol=0, msg=name)


def test_a_resumed_run_ends_bit_identical(tmp_path: Path) -> None:
    rows = labelled_rows(tmp_path, 12)
    whole = make_trainer(tmp_path / "whole", make_classifier(0.1), rows, num_train_epochs=2)
    whole.train()
    steps = whole.state.global_step
    assert steps == 6
    resumed = make_trainer(tmp_path / "whole", make_classifier(0.1), rows, num_train_epochs=2)
    (tmp_path / "whole" / f"checkpoint-{steps}").rename(tmp_path / "last")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    for file in ("model.safetensors", "teacher/model.safetensors"):
        one, other = load_file(tmp_path / "last" / file), load_file(tmp_path / "whole" / f"checkpoint-{steps}" / file)
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_evaluation_is_the_model_row_by_row(batch_size: int, tmp_path: Path) -> None:
    model, rows, processor = make_classifier().eval(), labelled_rows(tmp_path, 12), make_processor()
    result = ClassificationEvaluator(model, processor, batch_size=batch_size)(rows)
    right = []
    for number, row in enumerate(rows):
        inputs = processor(images=row["image"], text=row["text"], return_tensors="pt")
        with torch.no_grad():
            logits = model(**inputs).logits[0]
        torch.testing.assert_close(result.scores[number], logits.softmax(0), atol=1e-5, rtol=0)
        label = LABELS[int(logits.argmax())]
        assert result.predictions[number] == label
        right.append(label == row["label"])
    assert result.metrics["accuracy"] == pytest.approx(100 * sum(right) / 12)
    assert set(result.metrics) == {"accuracy", "f1_macro", "f1_micro", "auroc"}
    low, high = result.details["accuracy_interval"]
    assert low <= result.metrics["accuracy"] <= high
    assert {name: facts["rows"] for name, facts in result.by_label.items()} == dict.fromkeys(LABELS, 4)
    assert list(map(result.credit, range(12))) == right

    written = result.write(rows, tmp_path)
    lines = [json.loads(line) for line in written["predictions"].read_text().splitlines()]
    assert [line["prediction"] for line in lines] == result.predictions
    assert [line["label"] for line in lines] == [row["label"] for row in rows]
    assert lines[3]["image"] == rows[3]["image"] and lines[3]["text"] == rows[3]["text"]
    assert sum(lines[3]["scores"].values()) == pytest.approx(1)


def test_rows_without_labels_are_predicted(tmp_path: Path) -> None:
    rows = [{**row, "label": None} for row in labelled_rows(tmp_path, 3)]
    result = ClassificationEvaluator(make_classifier(), make_processor())(rows)
    assert result.metrics == {} and result.truths is None and set(result.predictions) <= set(LABELS)
    bare = [{"image": row["image"], "text": row["text"]} for row in rows]
    assert ClassificationEvaluator(make_classifier(), make_processor())(bare).predictions == result.predictions


def test_several_labels_and_numbers_are_trained_and_measured(tmp_path: Path) -> None:
    several = labelled_rows(tmp_path, 12, lambda number: [LABELS[k] for k in range(3) if number & (1 << k)])
    model = make_classifier(problem_type="multi_label_classification")
    trainer = make_trainer(tmp_path / "several", model, several, several, num_train_epochs=1, save_strategy="no")
    trainer.train()
    metrics = trainer.evaluate()
    assert {"eval_accuracy", "eval_f1_macro", "eval_f1_micro", "eval_auroc"} <= metrics.keys()
    result = trainer.evaluate_dataset(several)
    assert result.truths == [row["label"] for row in several]

    numbers = labelled_rows(tmp_path, 12, lambda number: number / 4)
    model = make_classifier(labels=("mark",))
    options = {"eval_strategy": "epoch", "save_strategy": "no", "num_train_epochs": 1}
    trainer = make_trainer(tmp_path / "numbers", model, numbers, numbers, **options)
    assert trainer.args.metric_for_best_model == "pearson"
    trainer.train()
    result = trainer.evaluate_dataset(numbers)
    expected = sum((a - b["label"]) ** 2 for a, b in zip(result.predictions, numbers, strict=True)) / 12
    assert result.metrics["mse"] == pytest.approx(expected, rel=1e-4)
    assert trainer.evaluate()["eval_mse"] == pytest.approx(expected, rel=1e-4)
    with pytest.raises(SettingError, match="greater_is_better"):
        make_trainer(tmp_path / "error", model, numbers, numbers, **{**options, "metric_for_best_model": "mse"})


def test_labels_of_rows() -> None:
    label2id = {name: index for index, name in enumerate(LABELS)}
    collator = ClassificationCollator(make_processor(), label2id=label2id)
    assert collator.encode_labels(["neutral", 2, "contradiction"]).tolist() == [1, 2, 0]
    assert collator.encode_labels([["neutral"], []]).tolist() == [[0, 1, 0], [0, 0, 0]]
    assert collator.encode_labels([[0.5, 0.0, 1.0]]).tolist() == [[0.5, 0, 1]]
    for wrong in ("Neutral", 3, -1, True, None, 1.0):
        with pytest.raises(ProcessingError, match="A row has the label"):
            collator.encode_labels([wrong])
    one = ClassificationCollator(make_processor(), label2id={"mark": 0})
    assert one.encode_labels([0.5, 2]).tolist() == [0.5, 2.0]
    with pytest.raises(ProcessingError, match="a number is expected"):
        one.encode_labels(["high"])


def test_images_that_rows_share_are_encoded_once(tmp_path: Path) -> None:
    rows, model = labelled_rows(tmp_path, 6), make_classifier().eval()
    plain, shared = (
        ClassificationCollator(make_processor(), label2id=model.config.label2id, share_images=share)(rows)
        for share in (False, True)
    )
    assert (len(plain["pixel_values"]), len(shared["pixel_values"])) == (6, 2)
    assert shared["image_index"].tolist() == [0, 0, 0, 1, 1, 1]
    torch.testing.assert_close(model(**shared).loss, model(**plain).loss)
    trainer = make_trainer(tmp_path / "out", model, rows, group_by_image=True, max_steps=1, save_strategy="no")
    trainer.train()
    two = ClassificationCollator(make_processor(), label2id=model.config.label2id, image_columns=("image", "image_2"))
    pairs = [{**row, "image_2": other["image"]} for row, other in zip(rows, rows[::-1], strict=True)]
    pixels = two(pairs)["pixel_values"]
    assert torch.equal(pixels[:6], plain["pixel_values"]) and torch.equal(pixels[6:], plain["pixel_values"].flip(0))


def test_adapters_leave_the_classifier_whole(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    from peft import PeftModel

    model, rows = make_classifier().eval(), labelled_rows(tmp_path, 4)
    plain = copy.deepcopy(model)
    add_lora(model, 2)
    start = copy.deepcopy(model.state_dict())
    trainer = make_trainer(tmp_path / "out", model, rows, max_steps=2, save_strategy="no", learning_rate=0.05)
    trainer.train()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, start[name])}
    assert {"classifier.0.weight", "classifier.2.bias"} <= moved
    assert all(".lora_" in name or name.startswith("classifier.") for name in moved)
    batch = {name: value for name, value in trainer.data_collator(rows).items() if name != "image_names"}
    expected = model.eval()(**batch).logits
    trainer.save_model(str(tmp_path / "whole"))
    loaded = AlbefForImageTextClassification.from_pretrained(tmp_path / "whole")
    torch.testing.assert_close(loaded(**batch).logits, expected, atol=1e-5, rtol=1e-5)
    save_adapter(model, tmp_path / "adapter")
    again = PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    torch.testing.assert_close(again(**batch).logits, expected, atol=1e-5, rtol=1e-5)
    assert merged_state_dict(model).keys() == make_classifier().state_dict().keys()


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], pytest.param(["pairs"], marks=pytest.mark.slow)], ids=["one", "two"])
def test_two_processes_do_what_one_does(words: list[str], tmp_path: Path) -> None:
    """For a text with one image, and with two."""
    script = str(ROOT / "tests" / "two_process_classification.py")
    run(script, [str(tmp_path / "one"), *words])
    run(script, [str(tmp_path / "two"), *words], launcher=two_processes())
    one, two = (torch.load(tmp_path / name / "found.pt") for name in ("one", "two"))
    for name, value in one["moved"].items():
        torch.testing.assert_close(two["moved"][name], value, atol=1e-5, rtol=1e-3, msg=name)
    assert torch.equal(one["scores"], two["scores"]) and one["metrics"] == two["metrics"]


def test_it_is_a_trainer_of_its_own_arguments(tmp_path: Path) -> None:
    from modeling_albef.training import VQATrainingArguments

    with pytest.raises(SettingError, match="must be ClassificationTrainingArguments"):
        ClassificationTrainer(make_classifier(), VQATrainingArguments(output_dir=str(tmp_path), use_cpu=True))
