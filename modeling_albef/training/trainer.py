"""What the trainers of all tasks share: momentum distillation, the published schedule, whole checkpoints."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Sized
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from accelerate.data_loader import IterableDatasetShard
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, PreTrainedModel, Trainer, TrainerState
from transformers.trainer_utils import IntervalStrategy
from transformers.utils import logging

from ..configuration_albef import is_from_library
from ..products_albef import fast_products
from . import callbacks
from .arguments import AlbefTrainingArguments
from .checkpoints.manifest import STATE_FILE
from .checkpoints.processes import check_engine
from .checkpoints.push import HubPushMixin
from .checkpoints.whole_checkpoints import WholeCheckpointMixin
from .errors import SettingError
from .evaluation.trainer_evaluation import EvaluationMixin
from .hardware import autocast, padding_left_out
from .library_arguments import check_callables
from .lora import ADAPTER_FOLDER, merged_state_dict, save_adapter
from .momentum import TEACHER_FOLDER, MomentumTeacher, raise_to_float32
from .parameter_groups import freeze, parse_rates, rates_of, split_groups
from .rows import SOURCE, as_rows, image_keys, limit_lengths, with_bytes
from .sampling import ImageGroupSampler
from .schedule import PublishedSchedule
from .trials import TrialMixin

logger = logging.get_logger(__name__)


class AlbefTrainer(TrialMixin, EvaluationMixin, WholeCheckpointMixin, HubPushMixin, Trainer):
    """What all ALBEF trainers share: teacher, published schedule, loss parts in the log, whole checkpoints, pushes."""

    ARGUMENTS: ClassVar[type[AlbefTrainingArguments]] = AlbefTrainingArguments
    LOSS_NAME: ClassVar[str] = "distilled_loss"  # of the task's loss, in the log
    args: AlbefTrainingArguments
    model: Any
    processing_class: Any
    train_dataset: Any
    teacher: MomentumTeacher
    loss_is_scaled_for_ga = False  # losses are means over a batch; the Trainer divides by the accumulation steps

    def __init__(
        self,
        model: PreTrainedModel | None = None,
        args: AlbefTrainingArguments | None = None,
        *,
        teacher: PreTrainedModel | None = None,
        **kwargs: Any,
    ) -> None:
        """Make a trainer.

        Args:
            model: The student; or `model_init` makes one for each training. Weights in half precision become float32,
                in place: `bf16` computes in bfloat16 with them.
            args: Arguments of the task.
            teacher: Momentum model to start from; default: a copy of the student.
            kwargs: Those of `transformers.Trainer`, above all `train_dataset`, `eval_dataset` (one, or a dictionary of
                several), `data_collator` (default: that of the task) and `processing_class`, an `AlbefProcessor`.
                `compute_metrics` gets what `evaluate_dataset` returns, and returns further metrics.

        Raises:
            SettingError: The arguments contradict each other or the data, have no effect, or need a package that is
                not installed.
        """
        if not isinstance(args, self.ARGUMENTS):
            raise SettingError(f"args is a {type(args).__name__}, but must be {self.ARGUMENTS.__name__}.")
        self.results = {}
        check_callables(kwargs)
        check_engine(args)
        args.check()
        self.args = args
        kwargs["train_dataset"] = self.prepare_training_data(kwargs.get("train_dataset"))
        try:
            super().__init__(model=None if model is None else self.prepare_model(model), args=args, **kwargs)
        except (OSError, ValueError, ImportError, RuntimeError) as error:
            if not is_from_library(error) or (isinstance(error, RuntimeError) and "pip install" not in str(error)):
                raise
            raise SettingError(str(error)) from error
        self._check_data(kwargs.get("data_collator"))
        collator = kwargs.get("data_collator") or self.make_collator() or self.data_collator
        self.data_collator = self.limit_collator(collator)
        self._pixel_range = with_bytes(self.data_collator)[1]
        self._first_teacher = teacher  # of every training that starts with `model_init`
        kept = copy.deepcopy(teacher) if self.model_init is not None else teacher
        # Differs from ALBEF, which copies the teacher of NLVR2 before the weights are loaded.
        self.teacher = MomentumTeacher(self.model, args.momentum, kept)
        self.teacher_parts: list[Any] = [self.teacher]  # a checkpoint has them; each can save and load
        self.add_callback(callbacks.MomentumTeacherCallback(self.teacher, self._restore_teacher))
        self.add_callback(callbacks.RankSeedCallback())
        self._finite_loss = callbacks.FiniteLossCallback(skip=args.non_finite_loss == "skip")
        self._interruption = callbacks.InterruptionCallback()
        self.add_callback(self._interruption)
        self.add_callback(self._finite_loss)
        if hasattr(self.train_dataset, "set_epoch"):
            self.add_callback(callbacks.EpochCallback(self.train_dataset))
        if args.early_stopping_patience is not None and args.eval_strategy != IntervalStrategy.NO:
            patience, threshold = args.early_stopping_patience, args.early_stopping_threshold
            self.add_callback(EarlyStoppingCallback(patience, threshold))
        self._shares_tower: bool | None = None  # whether student and teacher have one frozen vision tower
        self._loss_parts: dict[str, Any] = {}  # sums since the last log line
        self._loss_parts_count: Any = 0
        self._num_replaced_images = self._steps_per_epoch = 0

    # ---- what a task adds

    def prepare_model(self, model: Any) -> Any:
        """Return the student as it is trained, in float32; called with `model`, and with what `model_init` makes."""
        if types := raise_to_float32(model):
            names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in types))
            logger.warning(
                f"The weights are {names} and become float32, since the steps of fine-tuning would be lost to rounding "
                "(bf16=True computes in bfloat16 with float32 weights)."
            )
        if self.args.freeze:
            freeze(model, self.args.freeze)
        return model

    def prepare_training_data(self, dataset: Any) -> Any:
        """Return the training data with a row for each example; None where there is none."""
        return dataset

    def make_collator(self) -> Any:
        """Return the task's collator for `processing_class`; None where there is none."""
        return None

    def limit_collator(self, collator: Any) -> Any:
        """Return a collator that makes no text longer than the model's positions, where it has a `max_length`."""
        text_config = getattr(self.model.config, "text_config", None)
        limit = getattr(text_config, "max_position_embeddings", None)
        return collator if limit is None else limit_lengths(collator, max_length=limit)

    def start_new_parts(self) -> None:
        """Start parts of the model that nothing trained yet, before a training that resumes nothing."""

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """Return the loss of a step: the teacher's logits, then the student's forward, which takes them as targets."""
        alpha, teacher_logits = self.alpha, None
        if alpha > 0:
            inputs = self.share_image_states(model, inputs)
            with torch.no_grad(), autocast(self.accelerator):
                teacher_logits = self.teacher.model(**inputs).logits
        outputs = model(**inputs, teacher_logits=teacher_logits, alpha=alpha)
        self.record_loss_parts(**{self.LOSS_NAME: outputs.loss}, alpha=alpha)
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def share_image_states(self, model: torch.nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return a batch with the states of its images, which student and teacher share, where the tower is frozen.

        A tower whose teacher has other weights, or with dropout, is left to both.
        """
        if self._shares_tower is None:
            towers = [one.base_model.vision_model for one in (self.model, self.teacher.model)]
            drops = any(getattr(part, "p", 0) for part in towers[0].modules() if isinstance(part, torch.nn.Dropout))
            drops = drops or bool(getattr(self.model.config.vision_config, "attention_dropout", 0))
            is_trained = any(parameter.requires_grad for parameter in towers[0].parameters())
            takes_states = "image_hidden_states" in inspect.signature(self.model.forward).parameters
            self._shares_tower = (
                takes_states
                and not (is_trained or drops)
                and all(map(torch.equal, towers[0].state_dict().values(), towers[1].state_dict().values()))
            )
        pixels = inputs.get("pixel_values")
        if not self._shares_tower or pixels is None or pixels.dim() != 4:
            return inputs
        with torch.no_grad(), autocast(self.accelerator):
            states = self.accelerator.unwrap_model(model).base_model.encode_images(pixels).last_hidden_state
        rest = {name: value for name, value in inputs.items() if name != "pixel_values"}
        return {**rest, "image_hidden_states": states}

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Return the library's sampler or, with `group_by_image` of a task, one that takes rows image by image."""
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if getattr(self.args, "group_by_image", False):
            seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
            read_ids = partial(image_keys, as_rows(dataset), warn=False)
            draws_anew = SOURCE in (getattr(dataset, "column_names", None) or ())  # a mixture, in every epoch
            return ImageGroupSampler(read_ids if draws_anew else read_ids(), seed)
        return super()._get_train_sampler(dataset)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Move a batch to the device, and there normalize pixels that are still bytes."""
        return self.normalize(super()._prepare_inputs(inputs))

    def normalize(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return a batch of the training's loader, whose images come as bytes, as the model takes it."""
        pixels = batch.get("pixel_values")
        if self._pixel_range is None or pixels is None or pixels.dtype != torch.uint8:
            return batch
        mean, deviation = (torch.tensor(part)[:, None, None] for part in self._pixel_range)
        mean, deviation = (part.to(pixels.device, non_blocking=True) for part in (mean, deviation))
        return {**batch, "pixel_values": (pixels.float() - mean) / deviation}

    # ---- checks

    def _check_data(self, collator: Any) -> None:
        """Refuse data and arguments that contradict each other."""
        args, data, processor = self.args, self.train_dataset, self.processing_class
        if processor is not None and not (hasattr(processor, "tokenizer") and hasattr(processor, "image_processor")):
            raise SettingError(f"processing_class is a {type(processor).__name__}, but must be an AlbefProcessor.")
        step = args.train_batch_size * args.world_size
        if isinstance(data, Sized) and args.dataloader_drop_last and len(data) < step:
            raise SettingError(
                f"The training data has {len(data)} rows, fewer than the {step} of one step: lower "
                "per_device_train_batch_size, or set dataloader_drop_last to false."
            )
        if args.remove_unused_columns and (collator is None or hasattr(collator, "processor")):
            raise SettingError(
                "remove_unused_columns is True, but the collator makes the model's inputs of other columns: leave it "
                "out."
            )
        if args.eval_strategy != IntervalStrategy.NO and args.metric_for_best_model is not None:
            self._choose_deciding_metric()

    @property
    def alpha(self) -> float:
        """Weight of the teacher in the targets at this step, 0..`args.alpha`."""
        if not self.args.distill:
            return 0.0
        epoch = self.state.epoch or 0.0
        if self._is_stream and self._steps_per_epoch:
            epoch = self.state.global_step / self._steps_per_epoch
        length = getattr(self.args, "alpha_warmup_epochs", 1.0)
        ramp = min(1.0, epoch / length) if self.args.alpha_warmup else 1.0
        return self.args.alpha * ramp

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train; `resume_from_checkpoint` is a folder, or True for the last whole checkpoint of the output folder."""
        with self.prepared_output(resume_from_checkpoint) as checkpoint:
            self._checkpoint = checkpoint
            try:
                outcome = super().train(checkpoint, *args, **kwargs)
            except RuntimeError:
                self._interruption.ignore_launcher()
                raise
            finally:
                self._interruption.restore_handler()
        self.keep_final_results()
        return outcome

    def _start_counts(self) -> None:
        """Forget what an earlier training counted and measured."""
        self._kept = ()
        self._shares_tower = None
        self._loss_parts, self._loss_parts_count, self._num_replaced_images = {}, 0, 0
        self._finite_loss.start()
        for callback in self._early_stopping():
            callback.early_stopping_patience_counter = 0

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
        """Start the counts, and remember the length of an epoch for the schedule."""
        self._start_counts()
        self.choose_saving_processes()
        self._scalars = []
        if self.is_deepspeed_enabled:  # DeepSpeed 0.19 fails to broadcast scalars at its start, but leaves such alone
            self._scalars = [parameter for parameter in self.model.parameters() if parameter.dim() == 0]
        for parameter in self._scalars:
            parameter.ds_optim_param = True
        values = super().set_initial_training_values(*args, **kwargs)
        self._num_epochs, self._steps_per_epoch = values[0], values[1]
        if self._is_stream:  # for the Trainer all of it is one epoch
            self._num_epochs = math.ceil(self.args.num_train_epochs)
            self._steps_per_epoch = math.ceil(self.args.max_steps / self._num_epochs)
        if self._checkpoint is None:
            self.start_new_parts()
            return values
        state = TrainerState.load_from_json(str(Path(self._checkpoint) / STATE_FILE))
        if self._restore_early_stopping(state) or state.global_step >= values[-1]:
            return 0, *values[1:]  # no epoch is left; the library would make one more step
        return values

    @property
    def _is_stream(self) -> bool:
        """Whether the training data has no length; `max_steps` are then spread over `num_train_epochs`."""
        return self.train_dataset is not None and not isinstance(self.train_dataset, Sized)

    def get_train_dataloader(self) -> DataLoader:
        """Return the Trainer's loader, which skips nothing of a stream: a stream is this process's share already."""
        collator = self.data_collator
        self.data_collator = with_bytes(collator)[0]  # a quarter of the bytes; `_prepare_inputs` normalizes them
        try:
            loader = super().get_train_dataloader()
        finally:
            self.data_collator = collator
        shard = getattr(loader, "dataset", None)
        if isinstance(shard, IterableDatasetShard):
            shard.num_processes, shard.process_index = 1, 0
        return loader

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Return the library's optimizer, with a rate for each part where the arguments or the model ask for it."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        trained, args = self.model if model is None else model, self.args
        rates = rates_of(trained, args.learning_rate, parse_rates(args.learning_rates or {}), args.layer_decay)
        if is_new and set(rates.values()) != {args.learning_rate}:
            split_groups(optimizer, trained, rates)
        return optimizer

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
            restarts=self.args.schedule_rules == "torchmultimodal",
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
        with padding_left_out(self.model, self.teacher.model), fast_products(self.model):
            loss = super().training_step(model, inputs, num_items_in_batch)
        self._finite_loss.watch(loss, names)
        return torch.where(loss.isfinite(), loss, 0.0) if self._finite_loss.skip else loss

    def _track_num_input_tokens(self, inputs: dict[str, Any]) -> None:
        """Count the tokens of the texts; the library would count the numbers of the model's first input, the pixels."""
        super()._track_num_input_tokens({**inputs, self.model.main_input_name: inputs["input_ids"]})

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
