"""run_classification.py as users start it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Features, List, Value
from PIL import Image
from run_cases import ROOT, TINY, refused, write_config

from modeling_albef import AlbefForImageTextClassification
from modeling_albef.training.application import ClassificationDataArguments, load_labels
from modeling_albef.training.application.errors import StartError
from run_classification import main

SCRIPT = "run_classification.py"
LABELS = ["true", "false", "cannot be told"]


def write(folder: Path, **changes: Any) -> str:
    data = {**TINY["dataset_config"], "claims_per_image": 2}
    return write_config(folder, **{"k_test": None, "dataset_config": data, **changes})


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "out" / "all_results.json").read_text())


def test_a_run_trains_evaluates_predicts_and_is_applied_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([write(tmp_path, labels=LABELS, group_by_image=True)])
    printed = capsys.readouterr().out
    found, out = results(tmp_path), tmp_path / "out"
    assert {"eval_accuracy", "eval_f1_macro", "test_auroc", "test_text_only_accuracy"} <= found.keys()
    assert "Guess from the text alone" in printed and "Accuracy" in printed
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 28 and set(lines[0]) == {"row", "image", "text", "prediction", "scores", "label"}
    right = sum(line["prediction"] == line["label"] for line in lines)
    assert found["test_accuracy"] == pytest.approx(100 * right / 28)
    model = AlbefForImageTextClassification.from_pretrained(out)
    assert list(model.config.id2label.values()) == LABELS
    report = (out / "report.html").read_text()
    assert "Right label: " in report and "Given answers" not in report
    for words in ("Texts and labels", "F1 by label", "Confusion of the most frequent labels", "28 texts"):
        assert words in report or words == "28 texts"
    assert (out / "run.yaml").read_text().count("texts:") == 3

    again = {"model_config": None, "model_name_or_path": str(out), "do_train": False, "augmentation": None}
    (tmp_path / "again").mkdir()
    main([write(tmp_path / "again", **again)])
    for name in ("test_accuracy", "eval_f1_macro", "test_auroc"):
        assert results(tmp_path / "again")[name] == found[name]


def test_the_guesser_of_the_text_alone_is_counted_by_hand(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.new("RGB", (40, 40), (200, 10, 60)).save(tmp_path / f"{name}.png")
    train = [("a", "one word", "yes"), ("b", "one word", "yes"), ("a", "one word", "no"), ("b", "two words", "no")]
    train += [("a", "three words", "no")] * 2
    test = [("a", "one word", "yes"), ("b", "one word", "no"), ("a", "two words", "no"), ("a", "other words", "yes")]
    for split, rows in (("train", train), ("test", test)):
        text = "image,text,label\n" + "".join(f"{image}.png,{words},{label}\n" for image, words, label in rows)
        (tmp_path / f"{split}.csv").write_text(text)
    options = {"dataset": "own_data", "dataset_config": None, "data_dir": str(tmp_path), "do_eval": False}
    options |= {"eval_strategy": "no", "num_train_epochs": 1, "per_device_train_batch_size": 3}
    main([write_config(tmp_path, **{"k_test": None, **options})])
    found = results(tmp_path)
    assert found["test_text_only_accuracy"] == 50.0  # yes, yes, no, no
    assert found["test_majority_accuracy"] == 50.0 and found["test_majority_answer"] == "no"
    config = AlbefForImageTextClassification.from_pretrained(tmp_path / "out").config
    assert config.id2label == {0: "no", 1: "yes"}  # sorted


def test_labels_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    main([write(tmp_path, labels=LABELS, do_eval=False, do_predict=False, eval_strategy="no", num_train_epochs=1)])
    model = {"model_config": None, "model_name_or_path": str(tmp_path / "out")}
    other = tmp_path / "other"
    other.mkdir()
    message = refused(main, [write(other, **model, labels=["true", "false"])])
    assert "has the 3 labels true, false, cannot be told, this run 2" in message
    message = refused(main, [write(other, labels=["true", "true"])])
    assert "has a name twice" in message
    message = refused(main, [write(other, labels=["true", "false", "maybe"], eval_strategy="no")])
    assert "of the train data has the label 'cannot be told', but the labels are 'true', 'false', 'maybe'" in message


def test_labels_are_checked_before_training_and_sorted_by_number() -> None:
    data_args = ClassificationDataArguments()

    def found(kind: Any, **splits: list[Any]) -> dict[str, Any]:
        features = Features({"label": kind})
        return load_labels(
            data_args, {name: Dataset.from_dict({"label": rows}, features) for name, rows in splits.items()}
        )

    one, several = Value("string"), List(Value("string"))
    assert list(found(one, train=["10", "2", "b", "a", "2"], test=[None, "a"])["label2id"]) == ["2", "10", "a", "b"]
    assert found(Value("float32"), train=[0.5], validation=[7.0])["problem_type"] == "regression"
    remedy = "correct it, or name all of them by --labels"
    with pytest.raises(StartError, match=f"Row 1 of the validation data has the label 'c', but .*'a', 'b': {remedy}"):
        found(one, train=["a", "b"], validation=["a", "c"])
    assert found(several, train=[["a"], ["a", "b"], []], validation=[[]])["problem_type"].startswith("multi_label")
    with pytest.raises(StartError, match=f"Row 0 of the test data has the label 'c', but .*'a', 'b': {remedy}"):
        found(several, train=[["a"], ["b"]], test=[["a", "c"]])


def test_recipe_is_the_published_one() -> None:
    from modeling_albef.training import ClassificationTrainingArguments
    from modeling_albef.training.application import ClassificationDataArguments, ModelArguments, parse_arguments

    classes = (ModelArguments, ClassificationDataArguments, ClassificationTrainingArguments)
    words = [str(ROOT / "configs" / "snli_ve.yaml"), "--model_name_or_path", "m", "--use_cpu", "--report_to", "none"]
    model_args, data_args, args = parse_arguments(classes, words)
    assert (model_args.image_size, data_args.max_words) == (384, 30)
    assert data_args.labels == ["contradiction", "neutral", "entailment"]  # in the order of their published indices
    expected = {"num_train_epochs": 5, "per_device_train_batch_size": 32, "learning_rate": 2e-5, "alpha": 0.4}
    expected |= {"min_learning_rate": 1e-6, "warmup_learning_rate": 1e-5, "alpha_warmup": False, "momentum": 0.995}
    expected |= {"weight_decay": 0.02, "warmup_steps": 100, "per_device_eval_batch_size": 64, "distill": True}
    assert {name: getattr(args, name) for name in expected} == expected
    defaults = ClassificationTrainingArguments(output_dir="out", use_cpu=True)
    assert {name: getattr(defaults, name) for name in expected} == expected


def test_scripts_are_short_and_share_no_long_run_of_lines() -> None:
    scripts = {path.name: path.read_text().splitlines() for path in ROOT.glob("run_*.py")}
    assert SCRIPT in scripts and all(len(lines) <= 90 for lines in scripts.values())
    runs: dict[tuple[str, ...], set[str]] = {}
    for name, lines in scripts.items():
        code = [line.strip() for line in lines if line.strip()]
        for start in range(len(code) - 5):
            runs.setdefault(tuple(code[start : start + 6]), set()).add(name)
    assert not [run for run, names in runs.items() if len(names) > 1]


def test_the_task_is_five_small_files() -> None:
    """Head, collator, trainer with its evaluator, script, recipe."""
    task = ROOT / "modeling_albef" / "training" / "classification"
    files = [ROOT / SCRIPT, ROOT / "configs" / "snli_ve.yaml", ROOT / "processing" / "label_collator.py"]
    files += [ROOT / "modeling_albef" / "modeling_albef_classification.py", *task.glob("*.py")]
    assert sum(len(path.read_text().splitlines()) for path in files) <= 600
