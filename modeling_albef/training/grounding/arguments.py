"""Arguments of grounding; their defaults are the published recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from ..arguments import ContrastiveTrainingArguments
from ..errors import SettingError
from .metrics import GROUNDING_METRICS, MODES


@dataclass
class GroundingTrainingArguments(ContrastiveTrainingArguments):
    """Arguments of `GroundingTrainer`; the defaults are those of salesforce/ALBEF `configs/Grounding.yaml`."""

    METRICS: ClassVar[tuple[str, ...]] = GROUNDING_METRICS

    gradcam_mode: str = field(default="itm", metadata={"help": "Maps of the match (itm), or of the similarity (itc)."})
    gradcam_layer: int | None = field(
        default=None,
        metadata={"help": "Text layer of itm maps, vision layer of itc maps; default: 8 of 12, or its equal."},
    )
    box_loss_weight: float = field(
        default=0.0, metadata={"help": "Weight of the loss that asks maps to lie in the given boxes; 0 = no boxes."}
    )
    per_device_eval_batch_size: int = field(default=32, metadata={"help": "Texts per process and step."})
    metric_for_best_model: str | None = field(default="box_accuracy", metadata={"help": "Decides which is best."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gradcam_mode not in MODES:
            raise SettingError(f"gradcam_mode is {self.gradcam_mode!r}, but must be {' or '.join(MODES)}.")
        if self.box_loss_weight < 0:
            raise SettingError(f"box_loss_weight is {self.box_loss_weight}, but must be 0 or more.")
        if self.box_loss_weight and self.gradcam_mode != "itm":
            raise SettingError("box_loss_weight supervises maps of the match: leave gradcam_mode at itm.")
        if self.box_loss_weight and self.gradient_checkpointing:
            raise SettingError("box_loss_weight needs gradients of gradients: leave gradient_checkpointing out.")
