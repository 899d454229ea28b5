"""What a run leaves behind: its record, metrics, predictions, report, push, and the lines that say where all is."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, ProgressCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import logging

from dataset_scripts import concatenate_sources
from dataset_scripts.commands.thumbnails import thumbnail
from dataset_scripts.mixtures import shares_of

from ...configuration_albef import AlbefError
from ..report.image_log import ImageLogCallback
from ..report.result_table import as_text
from ..report.run_report import RunReport
from ..trainer import AlbefTrainer
from .environment import git_revision, machine, versions
from .run_file import differences, given_arguments, write_run_file
from .settings import FILES, DataArguments, ModelArguments
from .split_contents import copies, overlaps, read_contents
from .summary import TimeEstimateCallback, summary
from .yaml_files import read_text, write_text

logger = logging.get_logger(__name__)


class RunRecord:
    """Records what a run is and what came of it: metrics as they are measured, report, card and push at its end."""

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
        self.model_args, self.data_args = model_args, data_args
        self.report = RunReport(trainer, thumbnail)
        self.written: dict[str, Any] = {}
        state_file = None if checkpoint is None else Path(checkpoint) / TRAINER_STATE_NAME
        self.first_step = 0 if state_file is None else TrainerState.load_from_json(str(state_file)).global_step
        trainer.keeps_evaluations = self.args.do_train and self.args.do_eval
        trainer.dataset_names = _dataset_names(data_args)
        trainer.base_model = [name for name in model_args.start if not Path(name).exists()] or None
        if self.args.log_images:
            trainer.add_callback(ImageLogCallback(trainer, thumbnail, self.args.log_images))

    def begin(self, splits: Mapping[str, Any]) -> None:
        """Write `run.yaml`, print what the run is about to do, and warn where splits share images or texts.

        Args:
            splits: The data sets of the run, as `load_splits` gives them.
        """
        if not self.trainer.is_world_process_zero():
            return
        given = given_arguments(self.model_args, self.data_args, self.args)
        record = {"command": given.command, "repeats": given.source} | self._describe(splits)
        record["differs"] = differences(record, given.record)
        path = write_run_file(self.folder, given, record, str(self.args.output_dir))
        record["file"], self.written["run"] = str(path), path
        print(summary(self.trainer, record, self.first_step))
        if record["overlap"]:
            logger.warning("The splits overlap: " + " ".join(record["overlap"]))
        if record["copies"]:
            remedy = "Texts of one count as wrong for the other: give --merge_duplicates true, or an image_id a row."
            logger.warning(" ".join(["Images are there twice:", *record["copies"], remedy]))
        if record["differs"]:
            logger.warning(f"This run repeats {given.source}, but {'; '.join(record['differs'])}: metrics may differ.")
        changed = {name: value for name, value in given.fields.items() if name in given.changed}
        self.report.describe(record, read_text(write_text(changed)))  # without secrets
        self.trainer.add_callback(TimeEstimateCallback())

    def _describe(self, splits: Mapping[str, Any]) -> dict[str, Any]:
        """Return what can be found out about the run."""
        model, start = self.trainer.model, " and ".join(self.model_args.start)
        splits = {name: concatenate_sources(rows) if isinstance(rows, dict) else rows for name, rows in splits.items()}
        read = {split: read_contents(rows, self.data_args.check_image_files) for split, rows in splits.items()}
        known = {split: contents for split, contents in read.items() if contents is not None}
        return {
            "trains": self.args.do_train,
            "started": datetime.now().astimezone().isoformat(timespec="seconds"),
            "folder": os.getcwd(),
            **machine(self.trainer),
            "git_revision": git_revision(),
            "versions": versions(),
            "model": {
                "class": type(model).__name__,
                "start": f"from {start}" if start else "from scratch",
                "parameters": model.num_parameters(),
                "trained_parameters": model.num_parameters(only_trainable=True),
                "image_size": model.config.vision_config.image_size,
            },
            "mixture": self._mixture(),
            "data": {split: contents.facts() if contents else {} for split, contents in read.items()},
            "overlap": overlaps(known, splits),
            "copies": copies(known, splits),
        }

    def _mixture(self) -> dict[str, Any]:
        """Return the share of each source; nothing where there is one data set."""
        if not (sources := self.data_args.sources):
            return {}
        shares = shares_of([source.weight for source in sources])
        named = {source.name: share for source, share in zip(sources, shares, strict=True)}
        return {"shares": named, "stopping_strategy": self.data_args.stopping_strategy}

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

    def add_evaluation(self, split: str, dataset: Any, **further: Any) -> None:
        """Evaluate a data set; save its metrics, their details and, of a test, the predictions.

        An evaluation that the training made with the same weights is not made again: `evaluate_once`.

        Of a dictionary, such as the sources of a mixture, each data set is evaluated apart, as the library does it: its
        name follows the split in the names of metrics, and in that of the folder with its predictions.

        Args:
            split: "eval" or "test", which metrics and files are named after.
            dataset: Rows of the task, or a dictionary of such.
            further: More metrics, named without the split, and words on them; of a dictionary, mappings by its names.
        """
        named = dataset if isinstance(dataset, dict) else {"": dataset}
        metrics: dict[str, Any] = {}
        for source, rows in named.items():
            metrics |= self._evaluate(split, source, rows, further.get(source, {}) if source else further)
        self.trainer.save_metrics(split, metrics)
        self.written.pop("metrics", None)
        self.written["metrics"] = self.folder / "all_results.json"

    def _evaluate(self, split: str, source: str, dataset: Any, further: Mapping[str, Any]) -> dict[str, Any]:
        """Evaluate one data set, and return its metrics and their details."""
        prefix = f"{split}_{source}" if source else split
        config = self.trainer.model.config
        order = getattr(config, "rerank_weight", None)
        with _without_printing(self.trainer):
            evaluation = self.trainer.evaluate_once(dataset, prefix)
        is_first = not any(one.startswith(split) for one in self.report.evaluations)
        if split == "eval" and is_first and getattr(self.args, "calibrate", False):
            self._calibrate(evaluation.result)
        elif self.args.do_train and getattr(config, "rerank_weight", None) != order:
            self.trainer.save_model()  # with the order of candidates that was chosen
        evaluation.result.details |= _at_start(self.trainer, prefix)
        metrics = evaluation.metrics | {f"{prefix}_{name}": value for name, value in further.items()}
        details = {f"{prefix}_{name}": value for name, value in evaluation.result.details.items()}
        if split == "test" and self.trainer.is_world_process_zero():
            folder = self.folder / prefix if source else self.folder
            folder.mkdir(parents=True, exist_ok=True)
            of = f" of {source}" if source else ""
            self.written |= {f"{what}{of}": path for what, path in evaluation.result.write(dataset, folder).items()}
        self.report.add(prefix, metrics, evaluation)
        return metrics | details

    def _calibrate(self, result: Any) -> None:
        """Fit the thresholds of a search and save the model with them; without a fit the run goes on."""
        try:
            self.trainer.calibrate(result)  # type: ignore[attr-defined]
        except AlbefError as error:
            logger.warning(f"The model is not calibrated. {error}")
            return
        self.trainer.save_model()
        self.written["model"] = self.folder

    def finish(self) -> None:
        """Write the report, push where it is asked for, and print what was measured and where everything is.

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
            if table := as_text(self.report.result()):
                print(f"\n{table}\n")
            for prefix, evaluation in self.report.evaluations.items():
                if words := _stage(evaluation.result.details):
                    print(f"order of {prefix}: {words}")
            for name, path in self.written.items():
                print(f"{name}: {path}")


def _dataset_names(data_args: DataArguments) -> tuple[str, ...]:
    """Return what the data sets are called: their name on the Hub, that of their builder, or those of their files."""
    if data_args.sources:
        return tuple(dict.fromkeys(name for source in data_args.sources for name in _dataset_names(source.data)))
    files = [Path(file).stem for name in FILES for file in getattr(data_args, name) or ()]
    on_hub = data_args.builder_fields().get("hub_dataset")
    if on_hub:
        return (Path(on_hub).absolute().name if Path(on_hub).exists() else on_hub,)
    return tuple(dict.fromkeys(files if data_args.dataset is None else [str(data_args.dataset)]))


def _at_start(trainer: AlbefTrainer, prefix: str) -> dict[str, float]:
    """Return the recalls before the first step of a training, where `eval_on_start` measured them: `.._at_start`."""
    if not trainer.args.do_train:
        return {}
    lines = [line for line in trainer.state.log_history if line.get("step") == 0 and f"{prefix}_r_mean" in line]
    names = trainer.args.METRICS if lines else ()
    return {f"{name}_at_start": lines[0][f"{prefix}_{name}"] for name in names if f"{prefix}_{name}" in lines[0]}


def _stage(details: Mapping[str, Any]) -> str:
    """Return by what the candidates were ordered, and how each order that was tried did."""
    tried = details.get("rerank_weights", {})
    if not tried:
        return ""
    weight = details["rerank_weight"]
    words = "similarity plus the matching head"
    words = "similarity alone" if weight == 0 else "the matching head alone" if weight is None else words
    return f"{words} (mean recall: {', '.join(f'{name} {value:.1f}' for name, value in tried.items())})"


@contextmanager
def _without_printing(trainer: AlbefTrainer) -> Iterator[None]:
    """Keep the library from printing metrics, which stand in the table at the end; services get them all the same."""
    handler = trainer.callback_handler
    callbacks = handler.callbacks
    handler.callbacks = [one for one in callbacks if not isinstance(one, PrinterCallback | ProgressCallback)]
    try:
        yield
    finally:
        handler.callbacks = callbacks
