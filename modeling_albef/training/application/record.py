"""What a run leaves behind: metrics, predictions, report, push, and the lines that say where everything is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import logging

from dataset_scripts.commands.thumbnails import thumbnail

from ..evaluation.results import EvaluationRecord
from ..report.image_log import ImageLogCallback
from ..report.run_report import RunReport
from ..trainer import AlbefTrainer
from .settings import FILES, DataArguments, ModelArguments

logger = logging.get_logger(__name__)


class RunRecord:
    """Collects the outcomes of a run, saves their metrics, and writes report, card and push at its end."""

    def __init__(
        self, trainer: AlbefTrainer, model_args: ModelArguments, data_args: DataArguments, checkpoint: str | None
    ) -> None:
        """Start a record. It names model and data in the trainer's card, and adds a callback for `log_images`.

        Args:
            trainer: The trainer of the run.
            model_args: Which model; the card has its name if it is one of the Hub.
            data_args: Which data; the card has names, no paths on this machine.
            checkpoint: What training is resumed from, or None.
        """
        self.trainer, self.args, self.folder = trainer, trainer.args, trainer.args.output_folder
        self.report = RunReport(trainer, thumbnail)
        self.written: dict[str, Any] = {}
        state_file = None if checkpoint is None else Path(checkpoint) / TRAINER_STATE_NAME
        self.first_step = 0 if state_file is None else TrainerState.load_from_json(str(state_file)).global_step
        trainer.dataset_names = _dataset_names(data_args)
        name = model_args.model_name_or_path
        trainer.base_model = None if name is None or Path(name).exists() else name
        if self.args.log_images:
            trainer.add_callback(ImageLogCallback(trainer, thumbnail, self.args.log_images))

    def add_training(self, outcome: Any) -> None:
        """Save the trained model, its state and its metrics.

        Args:
            outcome: What `trainer.train` returned.
        """
        self.trainer.save_model()
        self.trainer.save_state()
        metrics, saved = outcome.metrics, self.folder / "train_results.json"
        if outcome.global_step == self.first_step and saved.is_file():
            logger.warning(f"Step {self.first_step} is the end of the training: there was no step left.")
            metrics = json.loads(saved.read_text(encoding="utf-8"))
        self.trainer.save_metrics("train", metrics)
        self.report.add("train", metrics)
        self.written["model"] = self.folder

    def add_evaluation(self, split: str, dataset: Any, **further: float) -> None:
        """Evaluate a data set; save its metrics, the result's details and, of a test, the predictions.

        Args:
            split: "eval" or "test", which metrics and files are named after.
            dataset: Rows of the task.
            further: More metrics, named without the split.
        """
        outcome = self.trainer.predict(dataset, metric_key_prefix=split)
        evaluation = EvaluationRecord(split, dataset, outcome.predictions)
        if split == "eval" and getattr(self.args, "calibrate", False):
            self.trainer.calibrate(evaluation.result)  # type: ignore[attr-defined]
            self.trainer.save_model()
            self.written["model"] = self.folder
        metrics: dict[str, float] = dict(outcome.metrics or {})
        metrics |= {f"{split}_{name}": value for name, value in further.items()}
        details = {f"{split}_{name}": value for name, value in evaluation.result.details.items()}
        if split == "test" and self.trainer.is_world_process_zero():
            self.folder.mkdir(parents=True, exist_ok=True)
            self.written |= evaluation.result.write(dataset, self.folder)
        self.trainer.log_metrics(split, metrics)
        self.trainer.save_metrics(split, metrics | details)
        self.report.add(split, metrics, evaluation)
        self.written.pop("metrics", None)
        self.written["metrics"] = self.folder / "all_results.json"

    def finish(self) -> None:
        """Write the report, push where it is asked for, and print where everything is.

        Raises:
            PushError: The push failed.
        """
        if not (self.args.do_train or self.args.do_eval or self.args.do_predict or self.args.push_to_hub):
            logger.warning("There was nothing to do: give --do_train true, --do_eval true or --do_predict true.")
        reported = self.report.write()
        if self.args.push_to_hub and (pushed := self.trainer.push_to_hub()) is not None:
            self.written["on the Hub"] = pushed.repo_url
        if reported is not None:
            self.written["report"] = reported
        if self.trainer.is_world_process_zero():
            for name, path in self.written.items():
                print(f"{name}: {path}")


def _dataset_names(data_args: DataArguments) -> tuple[str, ...]:
    """Return what the data sets are called: their name on the Hub, that of their builder, or those of their files."""
    files = [Path(file).stem for name in FILES for file in getattr(data_args, name) or ()]
    on_hub = data_args.builder_fields().get("hub_dataset")
    if on_hub:
        return (Path(on_hub).absolute().name if Path(on_hub).exists() else on_hub,)
    return tuple(dict.fromkeys(files if data_args.dataset is None else [data_args.dataset]))
