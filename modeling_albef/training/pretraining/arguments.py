"""Arguments of pre-training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from ..arguments import RetrievalTrainingArguments
from ..errors import SettingError


@dataclass
class PreTrainingTrainingArguments(RetrievalTrainingArguments):
    """Arguments of `PreTrainingTrainer`; the defaults are the published recipe on each of 8 GPUs.

    The source is salesforce/ALBEF `configs/Pretrain.yaml`. As published, the run ends with the last weights.
    """

    METRICS: ClassVar[tuple[str, ...]] = (*RetrievalTrainingArguments.METRICS, "mlm_accuracy")

    mlm_probability: float = field(default=0.15, metadata={"help": "Share of the tokens that are masked, 0..1."})
    whole_word_masking: bool = field(default=False, metadata={"help": "Mask all tokens of a word together."})
    # Differs from ALBEF, whose released script raises alpha over the first epoch.
    alpha_warmup_epochs: float = field(default=2.0, metadata={"help": "Epochs of alpha_warmup, above 0."})
    group_captions: bool = field(
        default=False,
        metadata={"help": "Captions of an image match it all, by image_id; published: each pair stands for itself."},
    )
    learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate."})
    min_learning_rate: float = field(default=1e-5, metadata={"help": "Last rate of the published cosine."})
    warmup_steps: float = field(default=2000, metadata={"help": "Steps of warm-up; published: a multiple of 100."})
    num_train_epochs: float = field(default=30.0, metadata={"help": "Passes over the training data."})
    per_device_train_batch_size: int = field(default=64, metadata={"help": "Pairs per process and step."})
    load_best_model_at_end: bool = field(default=False, metadata={"help": "End with the best checkpoint."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.mlm_probability <= 1:
            raise SettingError(f"mlm_probability is {self.mlm_probability}, but must lie between 0 and 1.")
        if self.alpha_warmup_epochs <= 0:
            raise SettingError(
                f"alpha_warmup_epochs is {self.alpha_warmup_epochs}, but must be above 0; without a warm-up set "
                "alpha_warmup to false."
            )
