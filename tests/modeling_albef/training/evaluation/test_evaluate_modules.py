"""The metrics of the `evaluate` library load from their folders and agree with the functions behind them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import evaluate
import pytest
import torch

from modeling_albef.training.evaluation.retrieval_metrics import retrieval_metrics
from modeling_albef.training.evaluation.vqa_metrics import vqa_accuracy
from modeling_albef.training.evaluation.vqa_records import QuestionRecord

ROOT = Path(__file__).parents[4]
FOLDER = "modeling_albef/training/evaluation/evaluate_modules"
ANNOTATIONS = {11: ["yes"] * 8 + ["no"] * 2, 12: ["2"] * 10, 13: ["The dog"] * 9 + ["cat"]}
PREDICTIONS = {11: "no", 12: "2", 13: "dog."}  # 60, 100, 100
ACCURACY = {
    "vqa_accuracy": 260 / 3,
    "vqa_accuracy_yes_no": 60.0,
    "vqa_accuracy_number": 100.0,
    "vqa_accuracy_other": 100.0,
}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Copies of the modules and what they collect go to a folder of the test."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setattr(evaluate.config, "HF_MODULES_CACHE", folder / "modules")
        patch.setattr(evaluate.config, "HF_METRICS_CACHE", folder / "metrics")
        patch.chdir(ROOT)
        yield folder


@pytest.mark.parametrize("name", ["vqa_accuracy", "retrieval_recall"])
@pytest.mark.parametrize("base", [FOLDER, str(ROOT / FOLDER)], ids=["relative", "absolute"])
def test_modules_load_from_their_folder(name: str, base: str) -> None:
    for path in (f"{base}/{name}", f"{base}/{name}/{name}.py"):
        metric = evaluate.load(path)
        assert metric.description and metric.citation.strip().startswith("@inproceedings")
        assert set(metric.features) == {"predictions", "references"}


def test_answers_in_batches() -> None:
    metric = evaluate.load(f"{FOLDER}/vqa_accuracy")
    answers, truths = list(PREDICTIONS.values()), list(ANNOTATIONS.values())
    metric.add_batch(predictions=answers[:2], references=truths[:2])
    metric.add(prediction=answers[2], reference=truths[2])
    assert metric.compute() == pytest.approx(ACCURACY)
    assert metric.compute(predictions=answers[1:2], references=truths[1:2])["vqa_accuracy"] == 100  # it starts anew


def test_result_rows_find_their_annotation() -> None:
    types = {11: "", 12: "other", 13: "other"}
    rows = [{"question_id": key, "answer": answer} for key, answer in reversed(PREDICTIONS.items())]
    references = [
        {"question_id": key, "answers": truths, "answer_type": types[key]} for key, truths in ANNOTATIONS.items()
    ]
    metric = evaluate.load(f"{FOLDER}/vqa_accuracy", "rows")
    expected = vqa_accuracy(
        PREDICTIONS,
        [QuestionRecord(key, answers=tuple(ANNOTATIONS[key]), answer_type=types[key] or None) for key in types],
    )
    assert metric.compute(predictions=rows, references=references) == pytest.approx(expected)
    assert "vqa_accuracy_number" not in expected
    with pytest.raises(ValueError, match="Two predictions for question 13"):
        metric.compute(predictions=[rows[0], *rows[:2]], references=references)


def test_answers_by_the_rules_of_the_original() -> None:
    metric = evaluate.load(f"{FOLDER}/vqa_accuracy")
    given = {"predictions": ["two", "yes."], "references": [["two"] * 9 + ["three"], ["yes"] * 10]}
    for rules, accuracy in (({}, 50), ({"rules": "vqa"}, 50), ({"rules": "albef"}, 50)):
        assert metric.compute(**given, **rules)["vqa_accuracy"] == accuracy
    assert metric.compute(**given)["vqa_accuracy_yes_no"] == 0
    assert metric.compute(**given, rules="albef")["vqa_accuracy_yes_no"] == 100
    with pytest.raises(ValueError, match="are 'old', but must be 'vqa' or 'albef'"):
        metric.compute(**given, rules="old")


RANKS = {"txt": [0, 4, 9], "img": [0, 0, 2, 30]}


def test_ranks() -> None:
    metric = evaluate.load(f"{FOLDER}/retrieval_recall")
    for name, ranks in RANKS.items():
        metric.add_batch(predictions=torch.tensor(ranks), references=[name] * len(ranks))
    result = metric.compute()
    assert result == retrieval_metrics(torch.tensor(RANKS["txt"]), torch.tensor(RANKS["img"]))
    assert result["txt_r1"] == pytest.approx(100 / 3) and result["img_r5"] == 75


def test_scores() -> None:
    metric = evaluate.load(f"{FOLDER}/retrieval_recall", "scores")
    rows = [
        ([0.1, 0.9, 0.3], "txt", [0, 2]),  # the better of two captions is second
        ([0.5, 0.5, 0.1], "img", [0]),  # equals keep their order
        ([0.5, 0.5], "img", [1]),
        ([3.0, 2.0, 1.0, 0.0, -1.0, float("-inf")], "img", [5]),
    ]
    for scores, name, matches in rows:
        metric.add(prediction=scores, reference={"retrieval": name, "matches": matches})
    assert metric.compute() == retrieval_metrics(torch.tensor([1]), torch.tensor([0, 1, 5]))


@pytest.mark.parametrize(
    ("config", "prediction", "reference", "message"),
    [
        ("default", 3, "text", "retrieval 'text'"),
        ("default", -1, "txt", "rank -1"),
        ("default", 3, "txt", "No query of img"),
        ("scores", [0.5], {"retrieval": "txt", "matches": []}, r"matches \[\]"),
        ("scores", [0.5], {"retrieval": "txt", "matches": [1]}, "list of 1 scores"),
        ("scores", [float("nan")], {"retrieval": "txt", "matches": [0]}, "not a number"),
    ],
)
def test_unusable_queries(config: str, prediction: Any, reference: Any, message: str) -> None:
    metric = evaluate.load(f"{FOLDER}/retrieval_recall", config)
    with pytest.raises(ValueError, match=message):
        metric.compute(predictions=[prediction], references=[reference])


@pytest.mark.parametrize("name", ["vqa_accuracy", "retrieval_recall"])
def test_unknown_configuration(name: str) -> None:
    with pytest.raises(ValueError, match="No configuration is called 'other'"):
        evaluate.load(f"{FOLDER}/{name}", "other")
