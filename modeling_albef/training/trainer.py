"""What the trainers of both tasks share: momentum distillation, the published schedule, whole checkpoints."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Sized
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.data_loader import IterableDatasetShard
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainerState
from transformers.trainer_utils import PredictionOutput, speed_metrics
from transformers.utils import logging

from ..configuration_albef import is_from_library
from . import callbacks
from .arguments import AlbefTrainingArguments
from .checkpoints.manifest import STATE_FILE
from .checkpoints.processes import check_engine
from .checkpoints.push import HubPushMixin
from .checkpoints.whole_checkpoints import WholeCheckpointMixin
from .errors import SettingError
from .evaluation.results import EvaluationRecord
from .lora import ADAPTER_FOLDER, merged_state_dict, save_adapter
from .momentum import TEACHER_FOLDER, MomentumTeacher
from .schedule import PublishedSchedule

logger = logging.get_logger(__name__)


class AlbefTrainer(WholeCheckpointMixin, HubPushMixin, Trainer):
    """What all ALBEF trainers share: teacher, published schedule, loss parts in the log, whole checkpoints, pushes."""

    args: AlbefTrainingArguments
    model: Any
    processing_class: Any
    train_dataset: Any
    last_evaluation: EvaluationRecord | None = None  # for callbacks, while `on_evaluate` is called
    loss_is_scaled_for_ga = False  # losses are means over a batch; the Trainer divides by the accumulation steps

    def __init__(
        self,
        model: PreTrainedModel,
        args: AlbefTrainingArguments,
        *,
        teacher: PreTrainedModel | None = None,
        **kwargs: Any,
    ) -> None:
        """Make a trainer.

        Args:
            model: The student.
            args: Arguments of the task.
            teacher: Momentum model to start from; default: a copy of the student.
            kwargs: Those of `transformers.Trainer`, above all `train_dataset`, `eval_dataset`, `data_collator` and
                `processing_class`, an `AlbefProcessor`. `compute_metrics` gets what `evaluate_dataset` returns, and
                returns further metrics.

        Raises:
            SettingError: The arguments contradict each other or the data, or need a package that is not installed.
        """
        self.results = {}
        check_engine(args)
        try:
            super().__init__(model=model, args=args, **kwargs)
        except (OSError, ValueError, ImportError, RuntimeError) as error:
            if not is_from_library(error) or (isinstance(error, RuntimeError) and "pip install" not in str(error)):
                raise
            raise SettingError(str(error)) from error
        step = args.train_batch_size * args.world_size
        if isinstance(self.train_dataset, Sized) and args.dataloader_drop_last and len(self.train_dataset) < step:
            raise SettingError(
                f"The training data has {len(self.train_dataset)} rows, fewer than the {step} of one step: lower "
                "per_device_train_batch_size, or set dataloader_drop_last to false."
            )
        self.teacher = MomentumTeacher(self.model, args.momentum, teacher)
        self.teacher_parts: list[Any] = [self.teacher]  # a checkpoint has them; each can save and load
        self.add_callback(callbacks.MomentumTeacherCallback(self.teacher, self._restore_teacher))
        self.add_callback(callbacks.RankSeedCallback())
        self._finite_loss = callbacks.FiniteLossCallback(skip=args.non_finite_loss == "skip")
        self.add_callback(callbacks.InterruptionCallback())
        self.add_callback(self._finite_loss)
        if hasattr(self.train_dataset, "set_epoch"):
            self.add_callback(callbacks.EpochCallback(self.train_dataset))
        self._loss_parts: dict[str, Any] = {}  # sums since the last log line
        self._loss_parts_count: Any = 0
        self._num_replaced_images = self._steps_per_epoch = 0

    @property
    def alpha(self) -> float:
        """Weight of the teacher in the targets at this step, 0..`args.alpha`."""
        if not self.args.distill:
            return 0.0
        epoch = self.state.epoch or 0.0
        if self._is_stream and self._steps_per_epoch:
            epoch = self.state.global_step / self._steps_per_epoch
        ramp = min(1.0, epoch) if self.args.alpha_warmup else 1.0
        return self.args.alpha * ramp

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train; `resume_from_checkpoint` is a folder, or True for the last whole checkpoint of the output folder."""
        with self.prepared_output(resume_from_checkpoint) as checkpoint:
            self._checkpoint, self._scalars = checkpoint, []
            if self.is_deepspeed_enabled:  # DeepSpeed 0.19 fails to broadcast scalars at its start, but not such
                self._scalars = [parameter for parameter in self.model.parameters() if parameter.dim() == 0]
            for parameter in self._scalars:
                parameter.ds_optim_param = True
            outcome = super().train(checkpoint, *args, **kwargs)
        self.keep_final_results()
        return outcome

    def _restore_teacher(self) -> None:
        """Read the teacher from the checkpoint that training resumes from, after all else has been read."""
        for parameter in self._scalars:
            del parameter.ds_optim_param
        if self._checkpoint is None:
            return
        self.load_log_sums(self._checkpoint)
        if (Path(self._checkpoint) / TEACHER_FOLDER).is_dir():
            self.load_teacher(self._checkpoint)
        else:
            logger.warning(f"{self._checkpoint} has no teacher: it starts again as a copy of the student.")
            self.teacher.model.load_state_dict(self.model.state_dict())

    # ---- schedule

    def set_initial_training_values(self, *args: Any, **kwargs: Any) -> tuple:
        """Remember the length of an epoch for the schedule."""
        values = super().set_initial_training_values(*args, **kwargs)
        self._num_epochs, self._steps_per_epoch = values[0], values[1]
        if self._is_stream:  # for the Trainer all of it is one epoch
            self._num_epochs = math.ceil(self.args.num_train_epochs)
            self._steps_per_epoch = math.ceil(self.args.max_steps / self._num_epochs)
        state_file = None if self._checkpoint is None else Path(self._checkpoint) / STATE_FILE
        if state_file is not None and TrainerState.load_from_json(str(state_file)).global_step >= values[-1]:
            return 0, *values[1:]  # no epoch is left; the library would make one more step
        return values

    @property
    def _is_stream(self) -> bool:
        """Whether the training data has no length; `max_steps` are then spread over `num_train_epochs`."""
        return self.train_dataset is not None and not isinstance(self.train_dataset, Sized)

    def get_train_dataloader(self) -> DataLoader:
        """Return the Trainer's loader, which skips nothing of a stream: a stream is this process's share already."""
        loader = super().get_train_dataloader()
        shard = getattr(loader, "dataset", None)
        if isinstance(shard, IterableDatasetShard):
            shard.num_processes, shard.process_index = 1, 0
        return loader

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        """Return the published schedule, or the library's where `published_schedule` is false."""
        if not self.args.published_schedule or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        schedule = PublishedSchedule(
            learning_rate=self.args.learning_rate,
            min_learning_rate=self.args.min_learning_rate,
            warmup_learning_rate=self.args.warmup_learning_rate,
            warmup_steps=self.args.get_warmup_steps(num_training_steps),
            steps_per_epoch=self._steps_per_epoch or num_training_steps,
            num_epochs=self._num_epochs if self._steps_per_epoch else 1,
        )
        peak = self.args.learning_rate
        self.lr_scheduler = LambdaLR(cast(Any, optimizer or self.optimizer), lambda step: schedule(step) / peak)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    # ---- the step, and what it leaves in the log

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Run the library's step and return its loss; return 0 where the loss is not finite and the step is left out.

        `image_names` and `replaced_images`, which a collator may add to the inputs, are for messages.
        """
        names = inputs.pop("image_names", inputs.get("image_ids"))
        for name in inputs.pop("replaced_images", ()):
            self._num_replaced_images += 1
            logger.warning(f"{name} could not be read: another row is used instead.")
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._finite_loss.watch(loss, names)
        return torch.where(loss.isfinite(), loss, 0.0) if self._finite_loss.skip else loss

    def record_loss_parts(self, **parts: torch.Tensor | float) -> None:
        """Add to the sums whose means the next log line shows beside the loss; until then they stay on the device.

        The parts are means over a batch. Where `non_finite_loss` is skip and one is not finite, none of them counts.
        """
        values = [part.detach().float() if isinstance(part, torch.Tensor) else part for part in parts.values()]
        tensors = [value for value in values if isinstance(value, torch.Tensor)]
        counts = torch.stack(tensors).isfinite().all() | (self.args.non_finite_loss != "skip")
        for name, value in zip(parts, values, strict=True):
            self._loss_parts[name] = self._loss_parts.get(name, 0.0) + torch.where(counts, value, 0.0)
        self._loss_parts_count = self._loss_parts_count + counts.float()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means of the loss parts since the last line, over all processes, and the counts of faults so far."""
        if "loss" in logs and self._loss_parts:
            replaced = torch.tensor(float(self._num_replaced_images), device=self.args.device)
            sums = torch.stack([*self._loss_parts.values(), self._loss_parts_count, replaced])
            *sums, count, replaced = self.accelerator.reduce(sums, "sum").tolist()
            logs.update({name: part / max(count, 1) for name, part in zip(self._loss_parts, sums, strict=True)})
            if replaced:
                logs["replaced_images"] = replaced
            if self._finite_loss.num_skipped:
                logs["skipped_steps"] = self._finite_loss.num_skipped
            self._loss_parts, self._loss_parts_count = {}, 0
        super().log(logs, start_time)

    # ---- evaluation

    @abstractmethod
    def evaluate_dataset(self, dataset: Any) -> Any:
        """Apply the model to a data set; the outcome has `metrics`, the same on every process.

        For the run scripts it also has a method `write(dataset, folder)`, which returns files by what they hold.
        """

    def evaluator_options(self, *names: str) -> dict[str, Any]:
        """Return the options that every `Evaluator` takes, and the arguments with these names."""
        return {
            "batch_size": self.args.per_device_eval_batch_size,
            "num_workers": self.args.dataloader_num_workers,
            "accelerator": self.accelerator,
            **{name: getattr(self.args, name) for name in names},
        }

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Return the metrics of the task, per cent, and the time they took.

        Where the evaluation fails during training, what was trained is saved first.
        """
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        try:
            return cast(dict[str, float], self.predict(dataset, ignore_keys, metric_key_prefix).metrics)
        except Exception:
            if self.is_in_train and self.args.world_size == 1 and self.args.save_strategy != "no":
                self._save_checkpoint(self.model, None)
                logger.error(f"The evaluation failed; the training up to step {self.state.global_step} is saved.")
            raise

    def predict(self, test_dataset: Any, ignore_keys: Any = None, metric_key_prefix: str = "test") -> PredictionOutput:
        """Return the result of `evaluate_dataset` as `predictions`, and the `metrics` of `evaluate`; no `label_ids`."""
        start = time.time()
        outcome = self.evaluate_dataset(test_dataset)
        self.results[metric_key_prefix] = {
            name: outcome.metrics[name] for name in self.args.METRICS if name in outcome.metrics
        }
        further = {} if self.compute_metrics is None else self.compute_metrics(outcome)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in {**outcome.metrics, **further}.items()}
        metrics.update(speed_metrics(metric_key_prefix, start, num_samples=len(test_dataset)))
        self.log(metrics)
        self.last_evaluation = EvaluationRecord(metric_key_prefix, test_dataset, outcome)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.last_evaluation = None
        return PredictionOutput(predictions=outcome, label_ids=None, metrics=metrics)

    # ---- checkpoints

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the student, and in a checkpoint also the teacher; this does not push, see `push_to_hub`.

        Adapters are merged into the weights, except in a checkpoint, from which training resumes.
        """
        super().save_model(output_dir, _internal_call=True)
        folder = self.args.output_folder if output_dir is None else Path(output_dir)
        if not self.args.should_save:
            return
        if not _internal_call and (state_dict := merged_state_dict(self.model)) is not None:
            self.model.save_pretrained(folder, state_dict=state_dict)
            save_adapter(self.model, folder / ADAPTER_FOLDER)
        if _internal_call and output_dir is not None and not self.args.save_only_model:
            self.save_teacher(output_dir)

    def save_teacher(self, checkpoint: str) -> None:
        """Write the teacher and what belongs to it, such as the queue."""
        for part in self.teacher_parts:
            part.save(checkpoint)

    def load_teacher(self, checkpoint: str) -> None:
        """Read back what `save_teacher` wrote."""
        for part in self.teacher_parts:
            part.load(checkpoint)
