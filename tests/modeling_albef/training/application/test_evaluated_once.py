"""The end of a run evaluates no data again that its training evaluated with the same weights."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from run_cases import write_config
from transformers import TrainerCallback

import run_classification
import run_grounding
import run_pretraining
import run_retrieval
import run_vqa
from modeling_albef.training import RetrievalTrainer
from modeling_albef.training.evaluation.trainer_evaluation import EvaluationMixin
from modeling_albef.training.trainer import AlbefTrainer

SHAPES = {"num_train": 16, "num_validation": 6, "num_test": 6, "image_size": 32}
PAIRS = {"num_train": 8, "num_validation": 3, "num_test": 5, "image_size": 32, "statements_per_pair": 3}
VQA = {"dataset_config": SHAPES, "k_test": 3}
CLASSES = {"k_test": None, "dataset": "shape_pairs", "dataset_config": PAIRS, "labels": ["False", "True"]}
TASKS: dict[str, tuple[Callable[[list[str]], None], dict[str, Any]]] = {
    "retrieval": (run_retrieval.main, {"dataset_config": SHAPES, "queue_size": 8, "rerank": "auto"}),
    "vqa": (run_vqa.main, VQA),
    "classification": (run_classification.main, CLASSES),
    "text_assignment": (run_classification.main, {"k_test": None, "task": "text_assignment", "distill": False}),
    "grounding": (run_grounding.main, {"k_test": None, "dataset_config": SHAPES, "queue_size": 8}),
    "pretraining": (run_pretraining.main, {"dataset_config": SHAPES, "queue_size": 8}),
}
BY_EPOCH = {"eval_strategy": "epoch", "save_strategy": "epoch", "do_predict": False, "report_items": 0}
# times, and what depends on the training or its data
OTHERS = re.compile("_runtime|_per_second|epoch|(text|question)_only_|majority_|baselines_")


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The splits that were evaluated, in order."""
    splits: list[str] = []
    evaluate_rows = EvaluationMixin._evaluate_rows

    def counting(self: Any, dataset: Any, prefix: str) -> Any:
        splits.append(prefix)
        return evaluate_rows(self, dataset, prefix)

    monkeypatch.setattr(EvaluationMixin, "_evaluate_rows", counting)
    return splits


def results(folder: Path, name: str = "eval_results") -> dict[str, Any]:
    return json.loads((folder / f"out/{name}.json").read_text())


def tables(printed: str) -> list[str]:
    """The rows of percentages that were measured."""
    rows = [" ".join(line.split()) for line in printed.splitlines() if "%" in line]
    return [row for row in rows if not row.startswith(("Guess from", "Always the"))]


@pytest.mark.parametrize(
    ("task", "learning_rate"),  # of the low one no step is better than the first
    [
        ("retrieval", "1e-3"),
        ("vqa", "1e-9"),
        *(pytest.param(task, "1e-9", marks=pytest.mark.slow) for task in TASKS if task not in ("vqa", "pretraining")),
        pytest.param("pretraining", "1e-3", marks=pytest.mark.slow),
    ],
)
def test_validation_is_evaluated_once_for_each_weights(
    task: str, learning_rate: str, tmp_path: Path, evaluated: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main, fields = TASKS[task]
    rates = {"learning_rate": learning_rate, "min_learning_rate": "1e-9"}
    main([write_config(tmp_path, **{**fields, **BY_EPOCH, **rates})])
    assert evaluated == ["eval", "eval"]  # one for each epoch, and none at the end
    found, printed = results(tmp_path), capsys.readouterr().out
    assert found.items() <= results(tmp_path, "all_results").items()
    state = json.loads((tmp_path / "out/trainer_state.json").read_text())
    assert learning_rate == "1e-3" or state["best_global_step"] == state["global_step"] / 2

    again = {"model_config": None, "model_name_or_path": str(tmp_path / "out"), "do_train": False}
    (tmp_path / "again").mkdir()
    main([write_config(tmp_path / "again", **{**fields, **BY_EPOCH, **again, "eval_strategy": "no"})])
    fresh = results(tmp_path / "again")
    assert len(evaluated) == 3 and found.keys() == fresh.keys() | {"epoch"} and found["epoch"] == 2
    for name in fresh:
        assert OTHERS.search(name) or found[name] == fresh[name], name
    assert tables(printed) == tables(capsys.readouterr().out) != []


def train(folder: Path, callbacks: Any, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    init = AlbefTrainer.__init__

    def with_callbacks(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        for callback in callbacks:
            self.add_callback(callback)

    monkeypatch.setattr(AlbefTrainer, "__init__", with_callbacks)
    run_retrieval.main([write_config(folder, **{**TASKS["retrieval"][1], **BY_EPOCH, **changes})])


class NewWeights(TrainerCallback):
    """Changes one bit of one weight at the end, as an average of weights would."""

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        bias = kwargs["model"].itm_head.bias
        with torch.no_grad():
            bias[0] = torch.nextafter(bias[0], torch.tensor(9.0))


class MoreCandidates(TrainerCallback):
    """Changes an argument that the evaluation reads."""

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        args.k_test += 1


@pytest.mark.parametrize("callback", [NewWeights, MoreCandidates])
def test_other_weights_or_arguments_are_evaluated(
    callback: type[TrainerCallback], tmp_path: Path, evaluated: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path, [callback()], monkeypatch, load_best_model_at_end=False)
    assert evaluated == ["eval", "eval", "eval"]


@pytest.mark.parametrize(
    "changes",
    [
        {"eval_strategy": "steps", "eval_steps": 3},
        pytest.param({"skip_memory_metrics": False}, marks=pytest.mark.slow),
    ],
)
def test_what_was_not_measured_is(
    changes: dict[str, Any], tmp_path: Path, evaluated: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path, [], monkeypatch, load_best_model_at_end=False, max_steps=7, **changes)
    assert evaluated[-1] == "eval" and len(evaluated) == 3


def test_sources_are_kept_apart(tmp_path: Path, evaluated: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [{"name": "shapes", "source": name, "dataset_config": SHAPES} for name in ("one", "two")]
    data = {"datasets": sources, "dataset": None, "dataset_config": None}
    train(tmp_path, [], monkeypatch, **data)
    assert evaluated == ["eval_one", "eval_two"] * 2
    found = results(tmp_path)
    assert found["eval_one_r_mean"] == found["eval_two_r_mean"] and "eval_two_rerank_weight" in found


def test_a_trainer_keeps_nothing_unasked() -> None:
    assert not RetrievalTrainer.keeps_evaluations and RetrievalTrainer._kept == ()
