"""Training arguments; their defaults are the published recipe."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from accelerate import PartialState
from accelerate.utils import DynamoBackend
from transformers import TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.trainer_utils import SchedulerType
from transformers.training_args import trainer_log_levels
from transformers.utils import is_in_notebook, is_torch_tf32_available, logging

from .errors import SettingError
from .evaluation.retrieval_metrics import RETRIEVAL_METRICS
from .evaluation.vqa_metrics import INFERENCE, RULES
from .hardware import has_bfloat16_instructions
from .library_arguments import check_library_arguments
from .parameter_groups import parse_rates

logger = logging.get_logger(__name__)

RERANK = (None, "always", "never", "auto")
MAX_QUEUE_SIZE = 2**24  # published: 2**16
RECIPE = (  # what a model card and a report say of the arguments; none of them names a path on this machine
    *("num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "world_size"),
    *("learning_rate", "min_learning_rate", "warmup_learning_rate", "warmup_steps", "weight_decay", "max_grad_norm"),
    *("optim", "seed", "bf16", "fp16", "momentum", "alpha", "alpha_warmup", "distill", "queue_size", "k_test"),
    *("schedule_rules", "layer_decay", "freeze", "learning_rates", "inference", "vqa_rules", "rerank", "itm_weight"),
    *("mlm_probability", "whole_word_masking", "alpha_warmup_epochs", "group_captions"),
)
RANGES: dict[str, tuple[float, float, str]] = {  # of arguments, where a task has them: lowest, highest, in words
    **dict.fromkeys(("seed", "data_seed"), (0, 2**32 - 1, "lie between 0 and 2**32 - 1")),
    **dict.fromkeys(("momentum", "alpha"), (0, 1, "lie between 0 and 1")),
    **dict.fromkeys(("report_items", "log_images", "image_memory", "itm_weight"), (0, math.inf, "be 0 or more")),
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size"), (1, math.inf, "be at least 1")),
    **dict.fromkeys(("k_test", "early_stopping_patience"), (1, math.inf, "be at least 1")),
    **dict.fromkeys(("generation_num_beams", "generation_max_length"), (1, math.inf, "be at least 1")),
    "queue_size": (0, MAX_QUEUE_SIZE, f"lie between 0 and {MAX_QUEUE_SIZE}"),
}


@dataclass
class AlbefTrainingArguments(TrainingArguments):
    """Arguments that all ALBEF fine-tunings share, beside those of `transformers.TrainingArguments`.

    The defaults are those of salesforce/ALBEF `configs/Retrieval_coco.yaml` on each of 8 GPUs: AdamW, weight decay 0.02
    except on biases and layer norms, no gradient clipping, batch 32 a process, seed 42.
    """

    METRICS: ClassVar[tuple[str, ...]] = ()  # names of the metrics of the task's evaluation

    # Momentum distillation
    momentum: float = field(default=0.995, metadata={"help": "Decay of the teacher's weights, 0..1."})
    alpha: float = field(default=0.4, metadata={"help": "Weight of the teacher in the targets, 0..1."})
    alpha_warmup: bool = field(default=True, metadata={"help": "Raise alpha linearly from 0 over the first epoch."})
    distill: bool = field(default=True, metadata={"help": "Use the teacher's soft targets (else the hard ones)."})

    # Schedule
    published_schedule: bool | None = field(
        default=None, metadata={"help": "Rates as published; default: true, unless lr_scheduler_type is given."}
    )
    schedule_rules: str = field(
        default="albef",
        metadata={"help": "Published schedule: albef, with a warm-up; torchmultimodal, a cosine with restarts."},
    )
    lr_scheduler_type: str | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "Schedule of the library in place of the published one; default: linear."}
    )
    learning_rate: float = field(default=1e-5, metadata={"help": "Peak learning rate."})
    min_learning_rate: float = field(default=1e-6, metadata={"help": "Last rate of the published cosine."})
    warmup_learning_rate: float = field(default=1e-5, metadata={"help": "Learning rate of the first steps."})
    layer_decay: float = field(
        default=1.0, metadata={"help": "Factor of the rate from a layer to the one below it, 0..1; 1 = one rate."}
    )
    warmup_steps: float = field(default=100, metadata={"help": "Steps of warm-up; published: a multiple of 100."})

    # What is trained
    freeze: list[str] | None = field(
        default=None, metadata={"help": "Parts that are not trained: vision_model, or names with * such as *blocks.0*"}
    )
    learning_rates: dict | str | None = field(
        default=None,
        metadata={
            "help": 'Peak rates of parts, "vision_model=1e-5, *crossattention*=1e-3"; "new": not the encoders\'.'
        },
    )

    # Recipe, by the library's own names
    num_train_epochs: float = field(default=5.0, metadata={"help": "Passes over the training data."})
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Rows per process and step."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Images per process and step."})
    weight_decay: float = field(default=0.02, metadata={"help": "Decay of all but biases and layer norms."})
    max_grad_norm: float = field(default=0.0, metadata={"help": "Gradient clipping; 0 = none."})
    optim: str | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "The optimizer; default: adamw_torch_fused, one pass over the weights a step."}
    )
    seed: int = field(default=42, metadata={"help": "Seed of weights, order, augmentation, dropout."})

    # Early stopping
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after so many evaluations without a better metric_for_best_model."}
    )
    early_stopping_threshold: float = field(default=0.0, metadata={"help": "How much better counts as better."})

    # Report
    write_report: bool = field(default=True, metadata={"help": "Write report.html into the output folder."})
    report_items: int = field(
        default=24, metadata={"help": "Hardest queries of each kind in the report, and some others; 0 = none."}
    )
    log_images: int = field(default=4, metadata={"help": "Hardest queries sent to report_to as images; 0 = none."})

    # How the run behaves
    non_finite_loss: str = field(default="stop", metadata={"help": "If a loss is not finite: stop, or skip the step."})
    push_code: bool = field(default=True, metadata={"help": "Upload the Python files with a model that is pushed."})
    hub_license: str | None = field(default=None, metadata={"help": "License of the model, by its name on the Hub."})
    hub_tags: list[str] | None = field(default=None, metadata={"help": "Tags of the card, beside its own."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: no, steps, epoch."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save: no, steps, epoch, best."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints kept; the best is always kept."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "End with the best checkpoint."})
    greater_is_better: bool | None = field(default=True, metadata={"help": "Whether a larger metric is better."})
    logging_steps: float = field(default=50, metadata={"help": "Steps between two log lines."})
    logging_first_step: bool = field(default=True, metadata={"help": "Log the first step too."})
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Hide losses that are not finite."})
    dataloader_drop_last: bool = field(default=True, metadata={"help": "Leave out the last, smaller batch."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Drop columns; the collator needs them."})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Look for unused ones; there are none."}
    )

    def __post_init__(self) -> None:
        self._check_finite()  # before the library makes integers of them
        if self.eval_strategy == "no":  # nothing says which checkpoint is the best
            self.load_best_model_at_end = False
        if self.disable_tqdm is None:  # bars are for a terminal; a file gets a line per log entry
            self.disable_tqdm = not (sys.stderr.isatty() or is_in_notebook())
        do_eval, has_own_loading = self.do_eval, self.accelerator_config is not None
        self.learning_rates = parse_rates(self.learning_rates) if self.learning_rates else {}
        self._avoid_emulation()
        self._choose_for_device()
        self._connect_cpu_processes()
        self._choose_schedule()
        backend, known = self.torch_compile_backend, [one.lower() for one in DynamoBackend.list()]
        is_known = backend is None or str(backend).lower() in known
        _refuse(not is_known, "torch_compile_backend", repr(backend), f"be one of {', '.join(known)}")
        super().__post_init__()  # sets do_eval wherever eval_strategy is not "no"
        if self.device.type == "cpu":  # torch warns of every loader that pins memory for no accelerator
            self.dataloader_pin_memory = False
        self.do_eval = do_eval
        if self.dataloader_pin_memory and self.device.type == "cuda" and not has_own_loading:
            cast(AcceleratorConfig, self.accelerator_config).non_blocking = True
        if self.published_schedule:  # a copy of the arguments asks for no other
            self.lr_scheduler_type = None
        if self.early_stopping_patience is not None and self.eval_strategy == "no":
            raise SettingError("early_stopping_patience needs evaluations: set eval_strategy to epoch or steps.")
        self.check()

    def check(self) -> None:
        """Refuse values that are out of range, contradict each other, or would have no effect.

        Raises:
            SettingError: The argument, its value and the remedy.
        """
        self._check_ranges()
        self._check_schedule()
        check_library_arguments(self)
        _refuse(self.early_stopping_threshold < 0, "early_stopping_threshold", self.early_stopping_threshold, "be >= 0")
        if self.early_stopping_patience is None and self.early_stopping_threshold:
            raise SettingError(
                f"early_stopping_threshold is {self.early_stopping_threshold}, but early_stopping_patience is not set: "
                "set it, too."
            )
        if self.early_stopping_patience is not None and self.metric_for_best_model is None:
            raise SettingError("early_stopping_patience needs a metric: set metric_for_best_model.")

    def set_lr_scheduler(self, *args: Any, **kwargs: Any) -> Any:
        """Set the library's schedule, in place of the published one."""
        self.published_schedule = False
        return super().set_lr_scheduler(*args, **kwargs)

    def _choose_schedule(self) -> None:
        """Set `published_schedule`; it cannot be true where another schedule is asked for."""
        asked_for = [name for name in ("lr_scheduler_type", "lr_scheduler_kwargs") if getattr(self, name)]
        if self.published_schedule is None:
            self.published_schedule = not asked_for
        self._check_schedule()
        self.lr_scheduler_type = self.lr_scheduler_type or SchedulerType.LINEAR
        known = [one.value for one in SchedulerType]
        name = getattr(self.lr_scheduler_type, "value", self.lr_scheduler_type)
        _refuse(name not in known, "lr_scheduler_type", repr(name), f"be one of {', '.join(known)}")

    def _avoid_emulation(self) -> None:
        """Replace bfloat16 by float32 on a CPU that would have to emulate it, which is many times slower."""
        asked_for = self.bf16 or os.environ.get("ACCELERATE_MIXED_PRECISION") == "bf16"
        if asked_for and self.use_cpu and not has_bfloat16_instructions():
            logger.warning("This processor has no bfloat16 instructions: the arithmetic is float32, which is faster.")
            self.bf16 = False
            os.environ["ACCELERATE_MIXED_PRECISION"] = "no"

    def _choose_for_device(self) -> None:
        """Choose what is not given: the fused optimizer, and on a GPU products of float32 in TF32."""
        on_gpu = torch.cuda.is_available() and not self.use_cpu
        self.optim = self.optim or "adamw_torch_fused"
        if self.tf32 is None and on_gpu and is_torch_tf32_available():
            self.tf32 = True

    def _connect_cpu_processes(self) -> None:
        """Give the processes on CPUs `ddp_timeout`, which the library hands on to those on other devices alone."""
        _refuse(not 1 <= self.ddp_timeout <= 10**8, "ddp_timeout", self.ddp_timeout, "lie between 1 and 10**8 seconds")
        if self.use_cpu and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            PartialState(cpu=True, backend=self.ddp_backend, timeout=self.ddp_timeout_delta)

    def _check_schedule(self) -> None:
        if self.published_schedule is False and self.schedule_rules != "albef":
            raise SettingError(
                f"schedule_rules is {self.schedule_rules!r}, but published_schedule is false: leave one of them out."
            )
        asked_for = [name for name in ("lr_scheduler_type", "lr_scheduler_kwargs") if getattr(self, name)]
        if self.published_schedule and asked_for:
            raise SettingError(
                f"{asked_for[0]} is {getattr(self, asked_for[0])!r}, but published_schedule is true: leave one of "
                "them out."
            )

    @property
    def output_folder(self) -> Path:
        """`output_dir` as a path."""
        return Path(cast(str, self.output_dir))

    def recipe(self) -> dict[str, Any]:
        """Return the arguments that a model card and a report name."""
        return {name: getattr(self, name) for name in RECIPE if hasattr(self, name)}

    def _check_finite(self) -> None:
        for name, value in vars(self).items():
            _refuse(isinstance(value, float) and not math.isfinite(value), name, value, "be a finite number")

    def _check_ranges(self) -> None:
        self._check_finite()
        for name, (lowest, highest, rule) in RANGES.items():
            value = getattr(self, name, None)
            _refuse(value is not None and not lowest <= value <= highest, name, value, rule)
        for name in ("log_level", "log_level_replica"):
            value = getattr(self, name)
            _refuse(value not in trainer_log_levels, name, repr(value), f"be one of {', '.join(trainer_log_levels)}")
        if self.published_schedule and self.learning_rate <= 0:
            raise SettingError(f"learning_rate is {self.learning_rate}, but the published schedule needs a rate > 0.")
        _refuse(not 0 < self.layer_decay <= 1, "layer_decay", self.layer_decay, "be above 0 and at most 1")
        is_unknown = self.schedule_rules not in ("albef", "torchmultimodal")
        _refuse(is_unknown, "schedule_rules", repr(self.schedule_rules), "be albef or torchmultimodal")
        is_unknown = self.non_finite_loss not in ("stop", "skip")
        _refuse(is_unknown, "non_finite_loss", repr(self.non_finite_loss), "be stop or skip")


def _refuse(is_wrong: bool, name: str, value: Any, rule: str) -> None:
    if is_wrong:
        raise SettingError(f"{name} is {value}, but must {rule}.")


@dataclass
class ContrastiveTrainingArguments(AlbefTrainingArguments):
    """Arguments of the trainings that contrast and match images with texts: retrieval and grounding."""

    queue_size: int = field(default=65536, metadata={"help": "Slots of the feature queue; any number >= 0."})
    global_negatives: bool = field(default=False, metadata={"help": "Draw hard negatives from all processes' batches."})
    init_projections: str | None = field(
        default=None,
        metadata={"help": "Start of the projections: ridge, the default for new ones; or as they are: none."},
    )
    min_temperature: float = field(default=0.001, metadata={"help": "The learned temperature is kept above this."})
    max_temperature: float = field(default=0.5, metadata={"help": "The learned temperature is kept below this."})

    def __post_init__(self) -> None:
        super().__post_init__()
        is_unknown = self.init_projections not in (None, "ridge", "none")
        _refuse(is_unknown, "init_projections", repr(self.init_projections), "be ridge or none")
        if not 0 < self.min_temperature <= self.max_temperature:
            raise SettingError(
                f"min_temperature is {self.min_temperature} and max_temperature {self.max_temperature}: they must be "
                "above 0 and in this order."
            )


@dataclass
class RetrievalTrainingArguments(ContrastiveTrainingArguments):
    """Arguments of `RetrievalTrainer`; the defaults are the published recipe for COCO."""

    METRICS: ClassVar[tuple[str, ...]] = RETRIEVAL_METRICS

    k_test: int = field(default=256, metadata={"help": "Candidates that the matching head re-ranks."})
    rerank: str | None = field(
        default=None,
        metadata={
            "help": "Order candidates by the matching head: always, as published; never; or auto, by the weight beside "
            "the similarity that is best on the validation data. Default: always; after encoders auto."
        },
    )
    itm_weight: float = field(
        default=1.0,
        metadata={
            "help": "Weight of the matching loss; 0 = contrastive loss alone, and the matching head is not used."
        },
    )
    image_memory: int = field(default=2000, metadata={"help": "MB of image states a process keeps; others are redone."})
    calibrate: bool = field(
        default=False, metadata={"help": "Fit the score below which a search finds nothing, on the validation data."}
    )
    metric_for_best_model: str | None = field(default="r_mean", metadata={"help": "Metric of the best checkpoint."})

    def __post_init__(self) -> None:
        super().__post_init__()
        _refuse(self.rerank not in RERANK, "rerank", repr(self.rerank), "be always, never or auto")
        if self.itm_weight == 0 and self.rerank == "always":
            raise SettingError(
                "rerank is always, but itm_weight is 0: train the matching head, or set rerank to never."
            )
        if self.calibrate and not self.do_eval:
            raise SettingError("calibrate is true, but do_eval is false: it needs the validation data, set both.")


@dataclass
class VQATrainingArguments(AlbefTrainingArguments):
    """Arguments of `VQATrainer`; the defaults are the published recipe (salesforce/ALBEF `configs/VQA.yaml`)."""

    METRICS: ClassVar[tuple[str, ...]] = tuple(f"vqa_accuracy{name}" for name in ("", "_yes_no", "_number", "_other"))

    learning_rate: float = field(default=2e-5, metadata={"help": "Peak learning rate."})
    warmup_steps: float = field(default=400, metadata={"help": "Steps of warm-up; published: a multiple of 100."})
    num_train_epochs: float = field(default=8.0, metadata={"help": "Passes over the training data."})
    per_device_eval_batch_size: int = field(default=16, metadata={"help": "Questions per process and step."})
    k_test: int = field(default=128, metadata={"help": "Candidate answers a question that are scored whole."})
    group_by_image: bool = field(default=False, metadata={"help": "Train image by image: a batch encodes each once."})
    count_first_token_twice: bool = field(default=True, metadata={"help": "As the published score does."})
    best_answer_only: bool = field(default=False, metadata={"help": "Skip those that cannot win; no probabilities."})
    inference: str = field(
        default="rank", metadata={"help": "How an evaluation answers: rank the candidates, or generate free answers."}
    )
    generation_num_beams: int = field(default=3, metadata={"help": "Beams that write an answer; 1 = greedy."})
    generation_max_length: int = field(default=10, metadata={"help": "Tokens of an answer that is written, at most."})
    vqa_rules: str = field(
        default="vqa",
        metadata={"help": "Rules of the accuracy: vqa, those of VQA v2 today; albef, the original's."},
    )
    fold_answers: bool | None = field(
        default=None,
        metadata={"help": "Compare answers as the tokenizer sees them; default: with all data but the builder vqa_v2."},
    )
    metric_for_best_model: str | None = field(default="vqa_accuracy", metadata={"help": "Decides which is best."})

    def __post_init__(self) -> None:
        super().__post_init__()
        _refuse(self.inference not in INFERENCE, "inference", repr(self.inference), f"be {' or '.join(INFERENCE)}")
        _refuse(self.vqa_rules not in RULES, "vqa_rules", repr(self.vqa_rules), f"be {' or '.join(RULES)}")
