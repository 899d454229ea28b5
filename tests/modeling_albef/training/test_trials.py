"""Students of `model_init`, hyperparameter search, and trainings that stop early."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_cases import tiny_config
from optuna_stand_in import provide_optuna
from run_cases import refused, write_run
from trainer_cases import collate, logged, make_trainer, random_rows, weights
from transformers import EarlyStoppingCallback, TrainerCallback

import run_retrieval
from modeling_albef import AlbefForImageTextRetrieval
from modeling_albef.training import RetrievalResult, RetrievalTrainer, RetrievalTrainingArguments, SettingError
from modeling_albef.training.evaluation.ranking import RankedCandidates


def new_student() -> AlbefForImageTextRetrieval:
    return AlbefForImageTextRetrieval(tiny_config(hidden_dropout_prob=0.1)).bfloat16()


class Measured(RetrievalTrainer):
    """Evaluates to numbers that are given, one after the other."""

    values: list[float]

    def evaluate_dataset(self, dataset: Any) -> RetrievalResult:
        value = self.values.pop(0) if len(self.values) > 1 else self.values[0]
        nothing = RankedCandidates(torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1))
        return RetrievalResult({"r_mean": value}, nothing, nothing, ["a"], torch.tensor([0]))


def trainer_of(folder: Path, values: list[float] | None = None, model_init: Any = None, **changes: Any) -> Measured:
    plain = make_trainer(folder, eval_dataset=[{}], **{"save_strategy": "no", **changes})
    rows: dict[str, Any] = {"train_dataset": plain.train_dataset, "data_collator": collate, "eval_dataset": [{}]}
    model = plain.model if model_init is None else None
    made = Measured(model, plain.args, model_init=model_init, **rows)
    made.values = values or [1.0]
    return made


class Watch(TrainerCallback):
    """Compares student, teacher and queue when a training begins."""

    def __init__(self, trainer: RetrievalTrainer) -> None:
        self.trainer, self.starts, self.students = trainer, list[dict[str, Any]](), list[Any]()

    def on_train_begin(self, *_: Any, **kwargs: Any) -> None:
        trainer, state = self.trainer, kwargs["model"].state_dict()
        teacher = trainer.teacher.model.state_dict()
        self.students.append({name: value.clone() for name, value in state.items()})
        self.starts.append(
            {
                "teacher is the student": all(torch.equal(value, teacher[name]) for name, value in state.items()),
                "another object": kwargs["model"] is not trainer.teacher.model,
                "queue is empty": bool((trainer.queue.image_ids == -100).all()) and int(trainer.queue.pointer) == 0,
                "slots": trainer.queue.size,
                "momentum": trainer.teacher.momentum,
                "dtype": kwargs["model"].dtype,
                "temperature": trainer._temperature.temperature is kwargs["model"].albef.temperature,
            }
        )


FRESH = {"teacher is the student": True, "another object": True, "queue is empty": True, "temperature": True}


def test_every_training_starts_with_a_student_a_teacher_and_a_queue_of_its_own(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, model_init=new_student, max_steps=3)
    watch = Watch(trainer)
    trainer.add_callback(watch)
    runs = []
    for _ in range(2):
        trainer.train()
        runs.append([line["loss"] for line in logged(trainer)])
        assert int(trainer.queue.pointer) == 0 and (trainer.queue.image_ids >= 0).all()  # 12 slots, 12 rows
    assert runs[0] == runs[1]
    for start in watch.starts:
        assert start == {**FRESH, "slots": 12, "momentum": 0.995, "dtype": torch.float32}
    assert all(torch.equal(value, watch.students[1][name]) for name, value in watch.students[0].items())


def test_each_machine_saves_what_model_init_made(tmp_path: Path) -> None:
    """The library asks a model whether its process saves; by itself that is the first process of all machines."""
    trainer = trainer_of(tmp_path, model_init=new_student, max_steps=1, save_on_each_node=True)
    trainer.train()
    for model in (trainer.model, trainer.teacher.model):
        assert vars(model)["should_save_on_this_rank"](True) is True


def test_a_teacher_that_is_handed_in_starts_every_training(tmp_path: Path) -> None:
    plain = make_trainer(tmp_path, save_strategy="no", max_steps=2)
    torch.manual_seed(7)
    teacher = new_student()
    given = {name: value.float().clone() for name, value in teacher.state_dict().items()}
    trainer = RetrievalTrainer(
        None, plain.args, teacher=teacher, model_init=new_student, train_dataset=random_rows(16), data_collator=collate
    )
    starts = []

    class Note(TrainerCallback):
        def on_train_begin(self, *_: Any, **kwargs: Any) -> None:
            starts.append({name: value.clone() for name, value in trainer.teacher.model.state_dict().items()})

    trainer.add_callback(Note())
    trainer.train()
    trainer.train()
    for start in starts:
        assert all(torch.equal(value, start[name]) for name, value in given.items())


def test_a_model_and_a_function_that_makes_one_are_too_many(tmp_path: Path) -> None:
    plain = make_trainer(tmp_path)
    for model, model_init in ((plain.model, new_student), (None, None)):
        with pytest.raises((SettingError, RuntimeError), match="requires either a `model` or `model_init`"):
            RetrievalTrainer(model, plain.args, model_init=model_init)


# ---- hyperparameter search


def space(trial: Any) -> dict[str, Any]:
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-3),
        "queue_size": trial.suggest_categorical("queue_size", [4, 8, 12]),
        "momentum": trial.suggest_categorical("momentum", [0.5, 0.9, 0.99]),
    }


@pytest.mark.slow
def test_a_search_has_trials_that_know_nothing_of_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    provide_optuna(monkeypatch)
    trainer = trainer_of(tmp_path, [20.0, 70.0, 40.0], new_student, max_steps=2, eval_strategy="no")
    watch = Watch(trainer)
    trainer.add_callback(watch)
    best = trainer.hyperparameter_search(space, n_trials=3)
    assert best.objective == 70.0  # the largest r_mean, by default
    assert len(watch.starts) == 3
    for start in watch.starts:
        assert {name: start[name] for name in FRESH} == FRESH and start["slots"] in (4, 8, 12)
    assert len({start["slots"] for start in watch.starts}) > 1 or "optuna_stand_in" not in sys.modules
    found = [(start["slots"], start["momentum"]) for start in watch.starts]
    assert (best.hyperparameters["queue_size"], best.hyperparameters["momentum"]) in found
    first = watch.students[0]
    assert all(torch.equal(value, other[name]) for other in watch.students[1:] for name, value in first.items())
    assert trainer.hp_search_backend is None


@pytest.mark.slow
def test_a_trial_is_a_run_with_a_folder_evaluations_and_early_stopping_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provide_optuna(monkeypatch)
    values = [10.0, 9.0, 8.0, 12.0, 13.0, 14.0, 14.5]  # of the first trial, then of the second
    options = {"num_train_epochs": 4, "eval_strategy": "epoch", "save_strategy": "epoch", "early_stopping_patience": 2}
    trainer = trainer_of(tmp_path, values, new_student, **options)
    best = trainer.hyperparameter_search(lambda trial: {"seed": trial.suggest_int("seed", 1, 9)}, n_trials=2)
    assert (best.run_id, best.objective) == ("1", 14.5)
    steps = {
        folder.name: {int(one.name.split("-")[1]) for one in folder.glob("checkpoint-*")}
        for folder in tmp_path.glob("run-*")
    }
    assert steps == {"run-0": {4, 8, 12}, "run-1": {4, 8, 12, 16}}
    assert (tmp_path / "run-1/checkpoint-16/teacher/queue.safetensors").is_file()


def test_a_search_needs_a_function_a_backend_and_a_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingError, match="hyperparameter_search needs model_init"):
        trainer_of(tmp_path).hyperparameter_search(space)
    trainer = trainer_of(tmp_path, model_init=new_student, max_steps=1)
    with pytest.raises(SettingError, match=r"You picked the wandb backend, but it is not installed.*pip install"):
        trainer.hyperparameter_search(space, backend="wandb")
    provide_optuna(monkeypatch)
    trainer.args.metric_for_best_model = "recall"
    with pytest.raises(
        SettingError, match="metric_for_best_model is 'recall', which the evaluation does not have: set"
    ):
        trainer.hyperparameter_search(space, n_trials=1)
    trainer.args.metric_for_best_model = "r_mean"
    for given in ({"label_smoothing_factor": 0.2}, {"lr_scheduler_type": "cosine"}):  # as in the constructor
        with pytest.raises(SettingError, match=f"{next(iter(given))} is "):
            trainer.hyperparameter_search(lambda trial, given=given: given, n_trials=1)
        setattr(trainer.args, next(iter(given)), None if "lr_scheduler_type" in given else 0.0)


# ---- early stopping

STOPS = {"num_train_epochs": 6, "eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}


def test_training_stops_after_evaluations_that_are_no_better(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, [10.0, 30.0, 20.0, 30.0, 40.0], early_stopping_patience=2, **STOPS)
    trainer.train()
    assert trainer.state.global_step == 4 * 4 and trainer.state.best_metric == 30.0
    assert trainer.state.best_global_step == 8
    threshold = trainer_of(
        tmp_path / "t", [10.0, 10.5, 10.9, 40.0], early_stopping_patience=2, early_stopping_threshold=1.0, **STOPS
    )
    threshold.train()
    assert threshold.state.global_step == 3 * 4


def test_a_stopped_training_that_is_resumed_makes_no_step_and_a_cut_one_counts_on(tmp_path: Path) -> None:
    values = [30.0, 20.0, 10.0, 5.0]
    whole = trainer_of(tmp_path / "whole", list(values), early_stopping_patience=3, **STOPS)
    whole.train()
    assert whole.state.global_step == 16
    again = trainer_of(tmp_path / "whole", [99.0], early_stopping_patience=3, **STOPS)
    start = len(again.values)
    assert again.train(resume_from_checkpoint=True).global_step == 16 and len(again.values) == start
    assert not (tmp_path / "whole/checkpoint-20").exists()

    cut = trainer_of(tmp_path / "whole", values[3:], early_stopping_patience=3, **STOPS)  # after 3 of 4 evaluations
    cut.args.output_dir = str(tmp_path / "cut")
    assert cut.train(resume_from_checkpoint=str(tmp_path / "whole/checkpoint-12")).global_step == 16
    expected, found = weights(tmp_path / "whole/checkpoint-16"), weights(tmp_path / "cut/checkpoint-16")
    assert all(torch.equal(value, found[name]) for name, value in expected.items())

    longer = trainer_of(tmp_path / "whole", [1.0], early_stopping_patience=5, **STOPS)  # more patience goes on
    assert longer.train(resume_from_checkpoint=True).global_step == 24


@pytest.mark.slow
@pytest.mark.parametrize("limit", [{"num_train_epochs": 2}, {"max_steps": 5}])
def test_a_finished_training_that_is_resumed_makes_no_step(tmp_path: Path, limit: dict[str, Any]) -> None:
    options = {"save_strategy": "steps", "save_steps": 1, **limit}
    first = make_trainer(tmp_path, **options)
    steps = first.train().global_step
    for _ in range(2):
        again = make_trainer(tmp_path, **options)
        assert again.train(resume_from_checkpoint=True).global_step == steps
    assert sorted(int(path.name.split("-")[1]) for path in tmp_path.glob("checkpoint-*")) == list(range(1, steps + 1))


def test_a_test_raises_no_alarm_about_early_stopping(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The library's callback warns where an evaluation lacks the metric; a prediction is no evaluation."""
    trainer = trainer_of(tmp_path, [1.0, 2.0], **{**STOPS, "num_train_epochs": 1})
    events: list[str] = []

    class Watch(TrainerCallback):
        def on_evaluate(self, *_: Any, **kwargs: Any) -> None:
            events.append(f"evaluate {kwargs['metrics']['eval_r_mean']}")

        def on_predict(self, *_: Any, **kwargs: Any) -> None:
            events.append(f"predict {kwargs['metrics']['test_r_mean']}")
            assert trainer.last_evaluation is not None and trainer.last_evaluation.split == "test"

    trainer.add_callback(EarlyStoppingCallback(1))
    trainer.add_callback(Watch())
    trainer.train()
    outcome = trainer.predict([{}])
    assert outcome.metrics["test_r_mean"] == 2.0 and trainer.last_evaluation is None
    assert events == ["evaluate 1.0", "predict 2.0"]
    assert not [record for record in caplog.records if "early stopping" in record.message]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"early_stopping_patience": 0}, "early_stopping_patience is 0, but must be at least 1"),
        (
            {"early_stopping_patience": 2, "early_stopping_threshold": -1.0},
            "early_stopping_threshold is -1.0, but must be",
        ),
        ({"early_stopping_threshold": 0.5}, "early_stopping_threshold is 0.5, but early_stopping_patience is not set"),
        (
            {"early_stopping_patience": 2, "eval_strategy": "no"},
            "early_stopping_patience needs evaluations: set eval_str",
        ),
        (
            {"early_stopping_patience": 2, "metric_for_best_model": None, "load_best_model_at_end": False},
            "needs a metric",
        ),
    ],
)
def test_fields_of_early_stopping_that_contradict_each_other(tmp_path: Path, given: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        RetrievalTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **given)


def test_early_stopping_is_a_field_of_the_run_scripts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_run(tmp_path, num_train_epochs=6, early_stopping_threshold=90.0, early_stopping_patience=2)
    run_retrieval.main([config])  # no epoch is 90 points better
    folder = tmp_path / "out"
    evaluations = sorted(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*"))
    printed = capsys.readouterr()
    assert "early stopping required" not in printed.out + printed.err
    steps = [int(path) for path in evaluations]
    assert max(steps) < 6 * max(1, min(steps)) and (folder / "predictions.json").is_file()
    words = [
        write_run(tmp_path, early_stopping_patience=2, eval_strategy="no", do_eval=False),
        "--overwrite_output_dir",
    ]
    assert "early_stopping_patience needs evaluations" in refused(run_retrieval.main, words)
