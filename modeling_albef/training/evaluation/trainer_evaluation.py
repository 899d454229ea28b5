"""How the trainers evaluate: whole data sets, one or several, by the task's own metrics."""

from __future__ import annotations

import contextlib
import hashlib
import time
import weakref
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer_utils import PredictionOutput, denumpify_detensorize, speed_metrics
from transformers.utils import logging

from ..arguments import AlbefTrainingArguments
from ..checkpoints.processes import gathered
from ..errors import SettingError
from ..rows import as_rows
from .results import EvaluationRecord

logger = logging.get_logger(__name__)


class _Kept(NamedTuple):
    """An evaluation during training, for a later one of the same weights."""

    step: int
    state: str  # of model and arguments, as a digest
    source: Any  # the data set as it was given
    record: EvaluationRecord


class EvaluationMixin(Trainer):
    """Evaluation of a trainer.

    Attributes:
        last_evaluations: For callbacks, while `on_evaluate` or `on_predict` is called.
        evaluated_split: For `evaluate_dataset`, what stands before the metrics.
        results: Metrics by split, measured on the model as it is.
        image_store: Of a frozen vision tower: gives rows the stored states of their images, so that an evaluation
            encodes each image once and for all; see `image_store` of the run scripts. None: every time.
        keeps_evaluations: Whether `evaluate_once` may return an evaluation of the training: that of the best step and
            the last one are kept in memory.
    """

    args: AlbefTrainingArguments
    state: Any
    model: Any
    eval_dataset: Any
    compute_metrics: Any
    results: dict[str, dict[str, float]]
    _save_checkpoint: Any
    last_evaluations: tuple[EvaluationRecord, ...] = ()
    evaluated_split: str = "eval"
    image_store: Callable[[Any], Any] | None = None
    keeps_evaluations: bool = False
    _kept: tuple[_Kept, ...] = ()
    _loaders: dict[str, tuple[Any, dict[str, DataLoader]]] | None = None  # by split: its data as given, what reads it
    _own_loaders: dict[str, DataLoader] | None = None  # of the data that is being evaluated

    @abstractmethod
    def evaluate_dataset(self, dataset: Any) -> Any:
        """Apply the model to a data set; the outcome has `metrics`, the same on every process.

        For the run scripts it also has a method `write(dataset, folder)`, which returns files by what they hold.
        """

    def evaluator_options(self, *names: str) -> dict[str, Any]:
        """Return the options that every `Evaluator` takes, and the arguments with these names."""
        args = self.args
        loading: dict[str, Any] = {"pin_memory": args.dataloader_pin_memory and args.device.type == "cuda"}
        if args.dataloader_num_workers:
            loading["prefetch_factor"] = args.dataloader_prefetch_factor
            loading["multiprocessing_context"] = args.dataloader_multiprocessing_context
        return {
            "batch_size": args.per_device_eval_batch_size,
            "num_workers": args.dataloader_num_workers,
            "loading": loading,
            "kept_loaders": self._own_loaders if args.dataloader_persistent_workers else None,
            "accelerator": self.accelerator,
            "image_store": self.image_store,
            **{name: getattr(args, name) for name in names},
        }

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Return the metrics of the task, per cent, and the time they took.

        Of a dictionary of data sets all are evaluated, and their names stand before the metrics: `eval_NAME_r_mean`.
        `on_evaluate` is called once, with all metrics. Where the evaluation fails during training, what was trained is
        saved first.

        Args:
            eval_dataset: Rows of the task: a data set, a list of rows, a `Subset`; a dictionary of such; or a name of
                the trainer's `eval_dataset`, which is the default.
            ignore_keys: Of no use here; the library's.
            metric_key_prefix: What stands before the names of the metrics.

        Raises:
            SettingError: There is no data, or `metric_for_best_model` is not measured.
        """
        self._memory_tracker.start()
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(dataset, str):
            known = self.eval_dataset if isinstance(self.eval_dataset, Mapping) else {}
            if dataset not in known:
                raise SettingError(f"There is no data set {dataset!r} in eval_dataset, which has {', '.join(known)}.")
            dataset = known[dataset]
        if dataset is None:
            raise SettingError("There is no data to evaluate: give eval_dataset.")
        is_one = not isinstance(dataset, Mapping)
        named = {"": dataset} if is_one else {f"_{name}": rows for name, rows in dataset.items()}
        metrics: dict[str, float] = {}
        evaluations = []
        try:
            for name, rows in named.items():
                evaluations.append(self._evaluate_rows(rows, f"{metric_key_prefix}{name}"))
                metrics |= evaluations[-1].metrics
            if self.is_in_train and metric_key_prefix == "eval" and self.args.metric_for_best_model is not None:
                self._deciding_value(metrics)
        except Exception:
            if self.is_in_train and self.args.world_size == 1 and self.args.save_strategy != "no":
                self._save_checkpoint(self.model, None)
                logger.error(f"The evaluation failed; the training up to step {self.state.global_step} is saved.")
            raise
        if self.is_in_train and self.keeps_evaluations:
            self._keep(named.values(), evaluations)
        self.last_evaluations = tuple(evaluations)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.last_evaluations = ()
        self._memory_tracker.stop_and_update_metrics(metrics)
        return metrics

    def predict(self, test_dataset: Any, ignore_keys: Any = None, metric_key_prefix: str = "test") -> PredictionOutput:
        """Return the result of `evaluate_dataset` as `predictions`, and the `metrics` of `evaluate`; no `label_ids`."""
        self._memory_tracker.start()
        record = self._evaluate_rows(test_dataset, metric_key_prefix)
        self.last_evaluations, metrics = (record,), record.metrics
        self.control = self.callback_handler.on_predict(self.args, self.state, self.control, metrics)
        self.last_evaluations = ()
        self._memory_tracker.stop_and_update_metrics(metrics)
        return PredictionOutput(predictions=record.result, label_ids=None, metrics=metrics)

    def evaluate_once(self, dataset: Any, metric_key_prefix: str = "eval") -> EvaluationRecord:
        """Predict; or return the evaluation that the training made of this data set with these very weights.

        The latter is usual at the end of a training, whose weights are those of the last or of the best evaluation. The
        times are those that it took. With `skip_memory_metrics` false the evaluation is always done anew.
        """
        same_rows = [one for one in self._kept if one.source is dataset and one.record.split == metric_key_prefix]
        state = self._evaluated_state() if same_rows else ""
        found = [one.record for one in same_rows if one.state == state]
        if not self.args.skip_memory_metrics or not all(gathered(bool(found), self.args)):
            outcome = self.predict(dataset, metric_key_prefix=metric_key_prefix)
            return EvaluationRecord(metric_key_prefix, as_rows(dataset), outcome.predictions, outcome.metrics or {})
        record = found[-1]
        self.results[metric_key_prefix] = self._results_of(record.result)
        self.adopt(record.result)
        return record._replace(metrics={**record.metrics, "epoch": self.state.epoch})

    def adopt(self, result: Any) -> None:
        """Set on the model what the evaluation that had this result decided."""

    def _keep(self, sources: Iterable[Any], records: Iterable[EvaluationRecord]) -> None:
        """Keep evaluations of one step, and of earlier ones those of the best step."""
        state = self._evaluated_state()
        best = [one for one in self._kept if one.step == self.state.best_global_step]
        new = [_Kept(self.state.global_step, state, *pair) for pair in zip(sources, records, strict=True)]
        self._kept = (*best, *new)

    def _evaluated_state(self) -> str:
        """Return a digest of what an evaluation depends on beside its data: the weights, to the bit, and arguments."""
        digest = hashlib.sha256(self.args.to_json_string().encode())
        for name, tensor in self.model.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def _results_of(self, result: Any) -> dict[str, float]:
        return {name: result.metrics[name] for name in self.args.METRICS if name in result.metrics}

    def _evaluate_rows(self, dataset: Any, prefix: str) -> EvaluationRecord:
        """Evaluate one data set; return what came of it, with its metrics, which are logged, too."""
        start = time.time()
        rows = as_rows(dataset)
        self.evaluated_split = prefix
        with self._keep_loaders(dataset, prefix):
            outcome = self.evaluate_dataset(rows)
        self.results[prefix] = self._results_of(outcome)
        further = (self.compute_metrics and self.compute_metrics(outcome)) or {}
        measured = denumpify_detensorize({**outcome.metrics, **further})
        metrics = {f"{prefix}_{name.removeprefix(f'{prefix}_')}": value for name, value in measured.items()}
        metrics.update(speed_metrics(prefix, start, num_samples=len(rows)))
        self.log(metrics)
        return EvaluationRecord(prefix, rows, outcome, metrics)

    @contextlib.contextmanager
    def _keep_loaders(self, dataset: Any, split: str) -> Iterator[None]:
        """Let evaluators use the loaders of the last evaluation of a split, if it was of this very data set."""
        if self._loaders is None:
            self._loaders = {}
            weakref.finalize(self, self._loaders.clear)  # left to the garbage collection, workers take seconds to end
        source, loaders = self._loaders.pop(split, (None, {}))  # after a failure its workers may be gone
        self._own_loaders = loaders if source is dataset else {}
        del loaders  # ends those of other data before new ones start
        try:
            yield
            self._loaders[split] = (dataset, self._own_loaders)
        finally:
            self._own_loaders = None

    @property
    def last_evaluation(self) -> EvaluationRecord | None:
        """Return the last of `last_evaluations`."""
        return self.last_evaluations[-1] if self.last_evaluations else None

    def _choose_deciding_metric(self) -> None:
        """Complete `metric_for_best_model` by the first of several data sets; refuse one that no evaluation has."""
        args, names = self.args, list(self.args.METRICS)
        metric = str(args.metric_for_best_model).removeprefix("eval_")
        if isinstance(self.eval_dataset, Mapping):
            names = [f"{split}_{name}" for split in self.eval_dataset for name in args.METRICS]
            if metric in args.METRICS and names:
                args.metric_for_best_model = metric = f"{next(iter(self.eval_dataset))}_{metric}"
                logger.warning(
                    f"metric_for_best_model is {metric}, of the first of {len(self.eval_dataset)} data sets."
                )
        if args.METRICS and metric not in names and self.compute_metrics is None:
            raise SettingError(f"metric_for_best_model is {metric!r}, but must be one of {', '.join(names)}.")

    def _deciding_value(self, metrics: dict[str, float]) -> float:
        """Return the value of `metric_for_best_model`; a SettingError says which metrics there are instead."""
        name = f"eval_{str(self.args.metric_for_best_model).removeprefix('eval_')}"
        if name not in metrics:
            known = ", ".join(key.removeprefix("eval_") for key in metrics if key.startswith("eval_"))
            raise SettingError(
                f"metric_for_best_model is {self.args.metric_for_best_model!r}, which the evaluation does not have: "
                f"set it to one of {known}."
            )
        return metrics[name]
