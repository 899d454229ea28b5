"""What the library's hyperparameter search asks of optuna, for machines without it: a random search."""

from __future__ import annotations

import importlib.util
import random
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


class TrialPruned(Exception):  # noqa: N818  # its name in optuna
    """A trial that is not worth going on with."""


class Trial:
    """Draws values and keeps them."""

    def __init__(self, study: Study, number: int) -> None:
        self.study, self.number, self.value = study, number, 0.0
        self.params: dict[str, Any] = {}
        self.reported: list[tuple[float, int]] = []

    def _draw(self, name: str, draw: Callable[[], Any]) -> Any:
        return self.params.setdefault(name, draw())

    def suggest_float(self, name: str, low: float, high: float, **_: Any) -> float:
        return self._draw(name, lambda: self.study.random.uniform(low, high))

    def suggest_int(self, name: str, low: int, high: int, **_: Any) -> int:
        return self._draw(name, lambda: self.study.random.randint(low, high))

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        return self._draw(name, lambda: choices[self.number % len(choices)])

    def report(self, value: float, step: int) -> None:
        self.reported.append((value, step))

    def should_prune(self) -> bool:
        return False


class Study:
    """Trials in a row."""

    def __init__(self, direction: str | None) -> None:
        self.direction, self.random, self.trials = direction, random.Random(0), list[Trial]()

    def optimize(self, objective: Callable[[Trial], float], n_trials: int, **_: Any) -> None:
        for number in range(n_trials):
            trial = Trial(self, number)
            self.trials.append(trial)
            trial.value = objective(trial)

    @property
    def best_trial(self) -> Trial:
        return (max if self.direction == "maximize" else min)(self.trials, key=lambda trial: trial.value)

    def _is_multi_objective(self) -> bool:
        return False


def provide_optuna(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `import optuna` find the stand-in where there is no optuna."""
    if importlib.util.find_spec("optuna") is not None:
        return
    module: Any = ModuleType("optuna")
    module.__spec__ = ModuleSpec("optuna", None)
    module.Trial, module.TrialPruned, module.trial = Trial, TrialPruned, SimpleNamespace(BaseTrial=Trial)
    module.create_study = lambda direction=None, directions=None, **_: Study(direction)
    monkeypatch.setitem(sys.modules, "optuna", module)
