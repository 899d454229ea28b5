"""Trainings that start or stop by themselves: students of `model_init`, hyperparameter search, early stopping."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from transformers import EarlyStoppingCallback, PreTrainedModel, Trainer, TrainerState

from ..configuration_albef import is_from_library
from .arguments import AlbefTrainingArguments
from .errors import SettingError
from .momentum import MomentumTeacher


class TrialMixin(Trainer):
    """Trials of a trainer: each starts with a student of `model_init`, and with a teacher and a queue of its own."""

    args: AlbefTrainingArguments
    teacher: MomentumTeacher
    prepare_model: Callable[[Any], Any]
    _deciding_value: Callable[[dict[str, float]], float]
    _first_teacher: PreTrainedModel | None

    def call_model_init(self, trial: Any = None) -> Any:
        """Return the student that `model_init` makes, prepared as any, and start the teacher from it."""
        model = self.prepare_model(super().call_model_init(trial))
        if hasattr(self, "teacher"):
            self.teacher.start_from(self._first_teacher or model, self.args.device)
        return model

    def _hp_search_setup(self, trial: Any) -> None:
        """Set the arguments of a trial, and what depends on them."""
        super()._hp_search_setup(trial)
        self.args.check()
        if self.model_init is not None:
            self.start_training_parts()

    def start_training_parts(self) -> None:
        """Start anew what stands beside a student that `model_init` made, by the arguments as they are now."""
        self.teacher.momentum = self.args.momentum

    def hyperparameter_search(
        self,
        hp_space: Any = None,
        compute_objective: Any = None,
        n_trials: int = 20,
        direction: str | list[str] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Search as the library does; by default for the best `metric_for_best_model`.

        Every trial starts with a student of `model_init`, and with a teacher and a queue of its own.

        Raises:
            SettingError: There is no `model_init`, or no backend is installed.
        """
        if self.model_init is None:
            raise SettingError("hyperparameter_search needs model_init, a function that makes a model for each trial.")
        if direction is None:
            direction = "maximize" if self.args.greater_is_better else "minimize"
        compute_objective = compute_objective or self._deciding_value
        try:
            return super().hyperparameter_search(hp_space, compute_objective, n_trials, direction, *args, **kwargs)
        except RuntimeError as error:
            if not is_from_library(error) or "pip install" not in str(error):
                raise
            raise SettingError(" ".join(str(error).split())) from error
        finally:
            self.hp_search_backend = None

    # ---- early stopping

    def _early_stopping(self) -> list[EarlyStoppingCallback]:
        return [one for one in self.callback_handler.callbacks if isinstance(one, EarlyStoppingCallback)]

    def _restore_early_stopping(self, state: TrainerState) -> bool:
        """Count on where the checkpoint's training did; return whether it had stopped early."""
        for callback in self._early_stopping():
            saved: Any = cast(Any, state.stateful_callbacks).get(type(callback).__name__, {})
            saved = saved[0] if isinstance(saved, list) else saved
            counted = saved.get("attributes", {}).get("early_stopping_patience_counter", 0)
            callback.early_stopping_patience_counter = counted
        return any(one.early_stopping_patience_counter >= one.early_stopping_patience for one in self._early_stopping())
