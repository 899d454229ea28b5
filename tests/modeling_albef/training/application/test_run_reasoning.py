"""run_classification.py trains and applies a model of two images where rows have two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from run_cases import ROOT, refused, write_config
from small_models import save_retrieval
from transformers import AutoModelForSequenceClassification

from modeling_albef import AlbefForTextAssignment, AlbefForVisualReasoning
from modeling_albef.training import ClassificationTrainingArguments
from run_classification import main

PAIRS = {"num_train": 8, "num_validation": 3, "num_test": 5, "image_size": 32, "statements_per_pair": 3}


def write(folder: Path, **changes: Any) -> str:
    folder.mkdir(exist_ok=True)
    fields = {"k_test": None, "dataset": "shape_pairs", "dataset_config": PAIRS, "labels": ["False", "True"]}
    return write_config(folder, **{**fields, **changes})


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "out" / "all_results.json").read_text())


def test_a_run_trains_evaluates_predicts_and_is_applied_again(tmp_path: Path) -> None:
    main([write(tmp_path)])
    found, out = results(tmp_path), tmp_path / "out"
    assert {"eval_accuracy", "test_accuracy", "test_text_only_accuracy"} <= found.keys()
    model = AutoModelForSequenceClassification.from_pretrained(out)
    assert type(model) is AlbefForVisualReasoning and model.config.id2label == {0: "False", 1: "True"}
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert set(lines[0]) == {"row", "image", "image_2", "text", "prediction", "scores", "label"}
    right = sum(line["prediction"] == line["label"] for line in lines)
    assert found["test_accuracy"] == pytest.approx(100 * right / len(lines))
    assert (out / "report.html").is_file()

    again = {"model_config": None, "model_name_or_path": str(out), "do_train": False, "augmentation": None}
    main([write(tmp_path / "again", **again)])
    for name in ("test_accuracy", "eval_f1_macro", "test_auroc"):
        assert results(tmp_path / "again")[name] == found[name]


def test_a_model_of_one_image_starts_it(tmp_path: Path) -> None:
    save_retrieval(tmp_path / "start")
    changes = {"model_config": None, "model_name_or_path": str(tmp_path / "start"), "num_train_epochs": 1}
    main([write(tmp_path, **changes)])
    model = AlbefForVisualReasoning.from_pretrained(tmp_path / "out")
    assert model.config.text_config.images_per_text == 2 and "test_accuracy" in results(tmp_path)


def test_text_assignment_starts_visual_reasoning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a model of one image, by the same script; what it leaves starts the fine-tuning with all its layers."""
    save_retrieval(tmp_path / "start")
    first = tmp_path / "first"
    first.mkdir()
    options = {"k_test": None, "task": "text_assignment", "distill": False, "model_config": None}
    options |= {"model_name_or_path": str(tmp_path / "start"), "num_train_epochs": 1, "report_items": 3}
    main([write_config(first, **options)])
    found = results(first)
    assert 0 <= found["eval_assignment_accuracy"] <= 100 and "eval_text_only_accuracy" not in found
    assert "test_assignment_accuracy" in found and "Captions assigned to the right image" in capsys.readouterr().out
    assert (first / "out/report.html").is_file() and not (first / "out/predictions.jsonl").exists()
    model = AlbefForTextAssignment.from_pretrained(first / "out")
    assert model.config.text_config.images_per_text == 2

    changes = {"model_config": None, "model_name_or_path": str(first / "out"), "max_steps": 1, "learning_rate": 1e-9}
    main([write(tmp_path / "second", **changes)])
    reasoning = AlbefForVisualReasoning.from_pretrained(tmp_path / "second/out")
    for name, weights in model.albef.text_model.encoder.state_dict().items():
        torch.testing.assert_close(reasoning.albef.text_model.encoder.state_dict()[name], weights, atol=1e-5, rtol=0)

    message = refused(main, [write_config(first, **options, labels=["a", "b"])])
    assert "labels is given, but text_assignment has none" in message


def test_the_recipe_of_text_assignment_is_the_published_one(tmp_path: Path) -> None:
    from modeling_albef.training import TextAssignmentTrainingArguments
    from modeling_albef.training.application import ClassificationDataArguments, ModelArguments, parse_arguments

    groups = (ModelArguments, ClassificationDataArguments, ClassificationTrainingArguments)
    words = [str(ROOT / "configs/text_assignment.yaml"), "--use_cpu", "--model_name_or_path", "pretrained"]
    model_args, data_args, args = parse_arguments(groups, [*words, "--report_to", "none"])
    published = {"num_train_epochs": 1, "per_device_train_batch_size": 64, "learning_rate": 2e-5, "distill": False}
    published |= {"min_learning_rate": 1e-5, "warmup_learning_rate": 1e-5, "warmup_steps": 100, "weight_decay": 0.02}
    assert {name: getattr(args, name) for name in published} == published
    defaults = TextAssignmentTrainingArguments(str(tmp_path), use_cpu=True)
    assert {name: getattr(defaults, name) for name in published} == published
    assert (model_args.image_size, data_args.max_words, data_args.builder_task) == (256, 30, "retrieval")


def test_the_recipe_of_nlvr2_is_the_published_one(tmp_path: Path) -> None:
    from modeling_albef.training.application import ClassificationDataArguments, ModelArguments, parse_arguments

    groups = (ModelArguments, ClassificationDataArguments, ClassificationTrainingArguments)
    words = [
        str(ROOT / "configs/nlvr2.yaml"),
        "--use_cpu",
        "--model_name_or_path",
        "pretrained",
        "--output_dir",
        str(tmp_path),
    ]
    model_args, data_args, args = parse_arguments(groups, words)
    published = {"num_train_epochs": 10, "per_device_train_batch_size": 16, "learning_rate": 2e-5, "alpha": 0.4}
    published |= {"min_learning_rate": 1e-6, "warmup_learning_rate": 1e-5, "warmup_steps": 100, "alpha_warmup": True}
    assert {name: getattr(args, name) for name in published} == published
    assert (model_args.image_size, data_args.dataset, data_args.labels) == (384, "nlvr2", ["False", "True"])
