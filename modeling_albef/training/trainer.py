"""Trainers with momentum distillation."""

from __future__ import annotations

import json
import math
import time
from abc import abstractmethod
from collections.abc import Sequence, Sized
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.data_loader import IterableDatasetShard
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, PredictionOutput, speed_metrics
from transformers.utils import logging

from ..modeling_albef import AlbefForImageTextRetrieval, AlbefImageTextRetrievalOutput
from .arguments import AlbefTrainingArguments, RetrievalTrainingArguments, VQATrainingArguments
from .callbacks import EpochCallback, MomentumTeacherCallback, RankSeedCallback, TemperatureCallback
from .evaluation import RetrievalEvaluator, RetrievalResult
from .hub import HubPushMixin
from .lora import ADAPTER_FOLDER, merged_state_dict, save_adapter
from .momentum import TEACHER_FOLDER, FeatureQueue, MomentumTeacher
from .sampling import ImageGroupSampler
from .schedule import PublishedSchedule
from .vqa_evaluation import VQAEvaluator, VQAResult, check_answers

logger = logging.get_logger(__name__)
STATE_FILE = "trainer_state.json"


def last_checkpoint(output_dir: str | Path) -> str | None:
    """The newest whole checkpoint of a run.

    The Trainer writes the state file last, so a checkpoint whose state file is missing or cut short was interrupted.

    Args:
        output_dir: Folder of the run.

    Returns:
        Its path; None where there is none.
    """
    found = []
    for folder in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        try:
            state = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
            found.append((int(state["global_step"]), str(folder)))
        except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
            logger.warning(f"{folder} was not written to the end and is left aside.")
    return max(found)[1] if found else None


class AlbefTrainer(HubPushMixin, Trainer):
    """What all ALBEF trainers share: teacher, published schedule, loss parts in the log, whole checkpoints, pushes."""

    args: AlbefTrainingArguments
    model: Any
    processing_class: Any
    train_dataset: Any
    loss_is_scaled_for_ga = False  # losses are means over a batch; the Trainer divides by the accumulation steps

    def __init__(
        self,
        model: PreTrainedModel,
        args: AlbefTrainingArguments,
        *,
        teacher: PreTrainedModel | None = None,
        **kwargs: Any,
    ) -> None:
        """Makes a trainer.

        Args:
            model: The student.
            args: Arguments of the task.
            teacher: Momentum model to start from; default: a copy of the student.
            kwargs: Those of `transformers.Trainer`, above all `train_dataset`, `eval_dataset`, `data_collator` and
                `processing_class`, an `AlbefProcessor`.
        """
        self.results = {}
        super().__init__(model=model, args=args, **kwargs)
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError("The momentum teacher needs whole parameters: train with DDP, not FSDP or DeepSpeed.")
        step = args.train_batch_size * args.world_size
        if isinstance(self.train_dataset, Sized) and args.dataloader_drop_last and len(self.train_dataset) < step:
            raise ValueError(
                f"The training data has {len(self.train_dataset)} rows, fewer than the {step} of one step: lower "
                "per_device_train_batch_size, or set dataloader_drop_last to false."
            )
        self.teacher = MomentumTeacher(self.model, args.momentum, teacher)
        self.add_callback(MomentumTeacherCallback(self.teacher))
        self.add_callback(RankSeedCallback())
        if hasattr(self.train_dataset, "set_epoch"):
            self.add_callback(EpochCallback(self.train_dataset))
        self._loss_parts: dict[str, torch.Tensor | float] = {}
        self._loss_parts_count = 0
        self._steps_per_epoch = 0

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

    # ---- schedule

    def set_initial_training_values(self, *args: Any, **kwargs: Any) -> tuple:
        """Remembers the length of an epoch for the schedule."""
        values = super().set_initial_training_values(*args, **kwargs)
        self._num_epochs, self._steps_per_epoch = values[0], values[1]
        if self._is_stream:  # for the Trainer all of it is one epoch
            self._num_epochs = math.ceil(self.args.num_train_epochs)
            self._steps_per_epoch = math.ceil(self.args.max_steps / self._num_epochs)
        return values

    @property
    def _is_stream(self) -> bool:
        """Whether the training data has no length; then `max_steps` are spread over `num_train_epochs`."""
        return self.train_dataset is not None and not isinstance(self.train_dataset, Sized)

    def get_train_dataloader(self) -> DataLoader:
        """The Trainer's; a stream has the process's own share already, so none of it is skipped."""
        loader = super().get_train_dataloader()
        shard = getattr(loader, "dataset", None)
        if isinstance(shard, IterableDatasetShard):
            shard.num_processes, shard.process_index = 1, 0
        return loader

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        """The published schedule, or the library's where `published_schedule` is false."""
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
        self.lr_scheduler = LambdaLR(optimizer or self.optimizer, lambda step: schedule(step) / peak)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    # ---- loss parts in the log

    def record_loss_parts(self, **parts: torch.Tensor | float) -> None:
        """Adds up what the next log line shows beside the loss; nothing leaves the device before."""
        for name, value in parts.items():
            part = value.detach().float() if isinstance(value, torch.Tensor) else value
            self._loss_parts[name] = self._loss_parts.get(name, 0.0) + part
        self._loss_parts_count += 1

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the means of the loss parts since the last line, over all processes."""
        if "loss" in logs and self._loss_parts:
            sums = [torch.as_tensor(part, device=self.args.device) for part in self._loss_parts.values()]
            means = torch.stack(sums) / self._loss_parts_count
            means = self.accelerator.reduce(means, "mean").tolist()
            logs.update(zip(self._loss_parts, means, strict=True))
            self._loss_parts, self._loss_parts_count = {}, 0
        super().log(logs, start_time)

    # ---- evaluation

    @abstractmethod
    def assess(self, dataset: Any) -> Any:
        """Applies the model to a data set; the outcome has `metrics`, the same on every process."""

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluates.

        Args:
            eval_dataset: Rows of the task; default: the trainer's.
            ignore_keys: Not used here.
            metric_key_prefix: Put before the names of the metrics.

        Returns:
            The metrics of the task, per cent, and the time they took.
        """
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        return self.predict(dataset, ignore_keys, metric_key_prefix).metrics

    def predict(
        self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """Evaluates and keeps the predictions.

        Args:
            test_dataset: Rows of the task.
            ignore_keys: Not used here.
            metric_key_prefix: Put before the names of the metrics.

        Returns:
            `predictions` is what `assess` gives; `metrics` as in `evaluate`; no `label_ids`.
        """
        start = time.time()
        outcome = self.assess(test_dataset)
        self.results[metric_key_prefix] = {
            name: outcome.metrics[name] for name in self.args.METRICS if name in outcome.metrics
        }
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in outcome.metrics.items()}
        metrics.update(speed_metrics(metric_key_prefix, start, num_samples=len(test_dataset)))
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return PredictionOutput(predictions=outcome, label_ids=None, metrics=metrics)

    # ---- checkpoints

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the student; in a checkpoint also the teacher. It is `push_to_hub` that pushes, with the results."""
        super().save_model(output_dir, _internal_call=True)
        if not _internal_call and self.args.should_save:
            save_adapter(self.model, Path(output_dir or self.args.output_dir) / ADAPTER_FOLDER)
        if _internal_call and output_dir is not None and self.args.should_save and not self.args.save_only_model:
            self.save_teacher(output_dir)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """Adapters are added into the weights, but in a checkpoint, from which training goes on."""
        is_checkpoint = Path(output_dir or "").name.startswith(PREFIX_CHECKPOINT_DIR)
        super()._save(output_dir, state_dict if is_checkpoint else state_dict or merged_state_dict(self.model))

    def save_teacher(self, checkpoint: str) -> None:
        """Writes what the teacher needs to go on."""
        self.teacher.save(checkpoint)

    def load_teacher(self, checkpoint: str) -> None:
        """Reads back what `save_teacher` wrote."""
        self.teacher.load(checkpoint)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()  # the state file, written next, says that all files are there

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if (Path(resume_from_checkpoint) / TEACHER_FOLDER).is_dir():
            self.load_teacher(resume_from_checkpoint)
        else:
            logger.warning(f"{resume_from_checkpoint} has no teacher: it starts again as a copy of the student.")
            self.teacher.model.load_state_dict(self.model.state_dict())

    def _evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        try:
            return super()._evaluate(*args, **kwargs)
        except Exception:
            if self.args.world_size == 1 and self.args.save_strategy != "no":
                self._save_checkpoint(self.model, None)
                logger.error(f"The evaluation failed; the training up to step {self.state.global_step} is saved.")
            raise


class RetrievalTrainer(AlbefTrainer):
    """Fine-tunes an `AlbefForImageTextRetrieval` and evaluates it by recall.

    Training rows become `pixel_values input_ids attention_mask image_ids` in the collator. Evaluation rows have an
    `image` and a list of `caption`s.
    """

    args: RetrievalTrainingArguments

    def __init__(self, model: PreTrainedModel, args: RetrievalTrainingArguments, **kwargs: Any) -> None:
        super().__init__(model, args, **kwargs)
        self.queue = FeatureQueue(args.queue_size, model.config.projection_dim, seed=args.seed).to(args.device)
        # Differs from ALBEF, which clamps the temperature in pre-training only.
        self.add_callback(TemperatureCallback(self.model.albef.temperature, args.min_temperature, args.max_temperature))

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, AlbefImageTextRetrievalOutput]:
        """One step's loss: the teacher's features, the student's forward, then the queue."""
        alpha = self.alpha
        if self.queue.size or (self.args.distill and self.args.alpha):
            features = self._teacher_features(inputs)
            outputs = model(**inputs, **self.queue.candidates(**features), alpha=alpha)
            self.queue.enqueue(**self.accelerator.gather(features))
        else:  # nothing asks the teacher: the batch is contrasted with itself
            outputs = model(**inputs)
        temperature = self.accelerator.unwrap_model(model).albef.temperature
        self.record_loss_parts(
            itc_loss=outputs.itc_loss, itm_loss=outputs.itm_loss, alpha=alpha, temperature=temperature
        )
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def _teacher_features(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        with torch.no_grad(), self.accelerator.autocast():
            network = cast(AlbefForImageTextRetrieval, self.teacher.model)
            text = network.get_text_features(inputs["input_ids"], inputs.get("attention_mask"))
            return {
                "image_embeds": network.get_image_features(inputs["pixel_values"]).pooler_output.float(),
                "text_embeds": text.pooler_output.float(),
                "image_ids": inputs["image_ids"],
            }

    def assess(self, dataset: Any) -> RetrievalResult:
        """Ranks a data set's images and captions; see `RetrievalEvaluator`."""
        evaluator = RetrievalEvaluator(
            self.model,
            self.processing_class,
            k_test=self.args.k_test,
            batch_size=self.args.per_device_eval_batch_size,
            image_memory=self.args.image_memory,
            num_workers=self.args.dataloader_num_workers,
            accelerator=self.accelerator,
        )
        return evaluator(dataset)

    def save_teacher(self, checkpoint: str) -> None:
        """Writes the teacher and the queue."""
        super().save_teacher(checkpoint)
        self.queue.save(checkpoint)

    def load_teacher(self, checkpoint: str) -> None:
        """Reads back what `save_teacher` wrote."""
        super().load_teacher(checkpoint)
        self.queue.load(checkpoint)


class VQATrainer(AlbefTrainer):
    """Fine-tunes an `AlbefForQuestionAnswering` and evaluates it by ranking a list of answers.

    Training rows become `pixel_values input_ids attention_mask answer_input_ids answer_attention_mask answer_weights
    answers_per_question` and perhaps `image_index` in the collator. With `group_by_image` the training data also gives
    its column `image_id`, and the collator is to share images. Evaluation rows have `image`, `image_id`, `question`,
    `question_id`, `answers`.
    """

    args: VQATrainingArguments

    def __init__(
        self, model: PreTrainedModel, args: VQATrainingArguments, *, answer_list: Sequence[str], **kwargs: Any
    ) -> None:
        """Makes a trainer.

        Args:
            model: The student.
            args: Arguments of the task.
            answer_list: Candidate answers of the evaluation.
            kwargs: Those of `AlbefTrainer`.
        """
        super().__init__(model, args, **kwargs)
        check_answers(answer_list, self.processing_class.tokenizer)
        self.answer_list = list(answer_list)
        self.model.config.decoder_config.answer_list = self.answer_list  # for the pipeline

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if self.args.group_by_image:
            return ImageGroupSampler(dataset["image_id"], self.args.seed)
        return super()._get_train_sampler(dataset)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """One step's loss: the teacher's predictions, then the student's."""
        alpha, teacher_logits = self.alpha, None
        if alpha > 0:
            with torch.no_grad(), self.accelerator.autocast():
                teacher_logits = self.teacher.model(**inputs).logits
        outputs = model(**inputs, teacher_logits=teacher_logits, alpha=alpha)
        self.record_loss_parts(answer_loss=outputs.loss, alpha=alpha)
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def assess(self, dataset: Any) -> VQAResult:
        """Answers the questions of a data set; see `VQAEvaluator`."""
        evaluator = VQAEvaluator(
            self.model,
            self.processing_class,
            self.answer_list,
            k_test=self.args.k_test,
            count_first_token_twice=self.args.count_first_token_twice,
            best_answer_only=self.args.best_answer_only,
            batch_size=self.args.per_device_eval_batch_size,
            num_workers=self.args.dataloader_num_workers,
            accelerator=self.accelerator,
        )
        return evaluator(dataset)
