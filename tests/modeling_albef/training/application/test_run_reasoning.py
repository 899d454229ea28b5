"""run_classification.py trains and applies a model of two images where rows have two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from run_cases import ROOT, write_config
from small_models import save_retrieval
from transformers import AutoModelForSequenceClassification

from modeling_albef import AlbefForVisualReasoning
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


def test_the_recipe_of_nlvr2_is_the_published_one(tmp_path: Path) -> None:
    from modeling_albef.training import ClassificationTrainingArguments
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
