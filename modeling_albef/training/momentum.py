"""Momentum distillation: the teacher that follows the student, and the queue of its features.

Section 3.3 of the paper. Shapes: B batch, E projection width, Q queue slots.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_file
from torch import nn
from transformers import PreTrainedModel

from .errors import SettingError
from .hardware import keep_freed_memory
from .queue_file import read_queue

TEACHER_FOLDER = "teacher"
QUEUE_FILE = "queue.safetensors"


@torch.no_grad()
def update_momentum(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Move the teacher: teacher <- momentum * teacher + (1 - momentum) * student, over all parameters, in place."""
    own: list[torch.Tensor] = list(teacher.parameters())
    # DeepSpeed may keep the student in half precision, in which the teacher's small steps would be lost
    followed = [theirs.to(mine.dtype) for mine, theirs in zip(own, student.parameters(), strict=True)]
    torch._foreach_lerp_(own, followed, 1 - momentum)


def raise_to_float32(model: PreTrainedModel) -> set[torch.dtype]:
    """Turn weights of less than 32 bits into float32, in place, and return the types that they had.

    In half precision the steps of fine-tuning, and even more the teacher's, would be lost to rounding. Quantized models
    stay as they are.
    """
    # not the state dict, which of a quantized model has more than tensors
    tensors = [*model.parameters(), *model.buffers()]
    types = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
    halves = {dtype for dtype in types if dtype.itemsize < 4}
    if getattr(model, "is_quantized", False):
        return set()
    if halves:
        model.float()
    return halves


class MomentumTeacher:
    """The momentum model, a second instance of the student's class that stands outside it and gets no gradients.

    As published it stays in training mode, so its dropout is active. Its averages are float32, whatever the student is.

    Attributes:
        model: The teacher's network.
        momentum: Decay of its weights, 0..1.
    """

    def __init__(self, student: PreTrainedModel, momentum: float, model: PreTrainedModel | None = None) -> None:
        """Make a teacher that starts from `model`, such as a pre-trained teacher; default: a copy of the student."""
        self.momentum = momentum
        if student.device.type == "cpu":
            keep_freed_memory()
        self.start_from(student if model is None else model, copies=model is None, device=student.device)

    def start_from(self, model: PreTrainedModel, device: torch.device, copies: bool = True) -> None:
        """Start as a copy of a model on a device, or without `copies` as the model itself."""
        started: Any = copy.deepcopy(model) if copies else model
        started.to(device)
        raise_to_float32(started)
        self.model = started.requires_grad_(False).train()

    def update(self, student: PreTrainedModel) -> None:
        """Move one step towards the student."""
        update_momentum(self.model, student, self.momentum)

    def save(self, checkpoint: str | Path) -> None:
        """Write the network into `checkpoint/teacher`."""
        self.model.save_pretrained(Path(checkpoint) / TEACHER_FOLDER)

    def load(self, checkpoint: str | Path) -> None:
        """Read back what `save` wrote; a SettingError says that it is missing, damaged, or of another model."""
        path = Path(checkpoint) / TEACHER_FOLDER / "model.safetensors"
        try:
            load_model(self.model, path)  # knows of tied tensors
        except (OSError, RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())
            raise SettingError(
                f"The teacher in {path} cannot be used ({reason:.300}): resume an older checkpoint."
            ) from error


class FeatureQueue(nn.Module):
    """Features of the last images and texts that the teacher saw: negatives for the contrastive loss.

    Any number of rows fits: they go to slots `(pointer + 0..n-1) % size`. A fresh queue holds random unit vectors with
    image id -100, which match nothing (salesforce/ALBEF `models/model_retrieval.py`).
    """

    image_embeds: torch.Tensor
    text_embeds: torch.Tensor
    image_ids: torch.Tensor
    pointer: torch.Tensor

    def __init__(self, size: int, width: int, seed: int = 0) -> None:
        """Make a queue of Q >= 0 slots for features of width E; `seed` must be the same on every process."""
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        for name in ("image_embeds", "text_embeds"):
            start = nn.functional.normalize(torch.randn(size, width, generator=generator))
            self.register_buffer(name, start)  # (Q, E)
        self.register_buffer("image_ids", torch.full((size,), -100))  # (Q,)
        self.register_buffer("pointer", torch.tensor(0))

    @property
    def size(self) -> int:
        """Slots."""
        return len(self.image_ids)

    def candidates(
        self, image_embeds: torch.Tensor, text_embeds: torch.Tensor, image_ids: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Return batch, then queue: `image_candidates` and `text_candidates` (B + Q, E), `candidate_ids` (B + Q,)."""
        return {
            "image_candidates": torch.cat([image_embeds, self.image_embeds]),
            "text_candidates": torch.cat([text_embeds, self.text_embeds]),
            "candidate_ids": torch.cat([image_ids, self.image_ids]),
        }

    @torch.no_grad()
    def enqueue(self, image_embeds: torch.Tensor, text_embeds: torch.Tensor, image_ids: torch.Tensor) -> None:
        """Replace the oldest slots by n rows of all processes, in the order of their ranks."""
        if self.size == 0:
            return
        kept = slice(-self.size, None)  # of more rows than slots the last remain
        slots = ((self.pointer + torch.arange(len(image_ids), device=self.pointer.device)) % self.size)[kept]
        # a row that is not finite would spoil the loss of every step to come: its slot stays as it is
        is_finite = (image_embeds.isfinite().all(1) & text_embeds.isfinite().all(1))[kept]
        for name, rows in (("image_embeds", image_embeds), ("text_embeds", text_embeds)):
            slotted = getattr(self, name)
            slotted[slots] = torch.where(is_finite[:, None], rows[kept].to(slotted.dtype), slotted[slots])
        self.image_ids[slots] = torch.where(is_finite, image_ids[kept], self.image_ids[slots])
        self.pointer.add_(len(image_ids)).remainder_(self.size)

    def start_from(self, state: dict[str, torch.Tensor]) -> None:
        """Start from the features of an earlier training, of which the newest are kept where they do not all fit.

        Their image ids become -100, as when the published code loads a pre-trained model, whose ids are those of other
        data. Differs from ALBEF, which takes the numbers over from a fine-tuned model. `state` is what `read_queue`
        gives of a file that `save` or the converter of released checkpoints wrote.
        """
        device, oldest = self.pointer.device, int(state["pointer"])
        rows = {name: state[name].roll(-oldest, dims=0).to(device) for name in ("image_embeds", "text_embeds")}
        self.enqueue(**rows, image_ids=torch.full_like(state["image_ids"], -100, device=device))

    def save(self, checkpoint: str | Path) -> None:
        """Write `checkpoint/teacher/queue.safetensors`."""
        path = Path(checkpoint) / TEACHER_FOLDER / QUEUE_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(self.state_dict(), path)

    def load(self, checkpoint: str | Path) -> None:
        """Read back what `save` wrote; an AlbefError says that it is missing, damaged, or of another size."""
        path = Path(checkpoint) / TEACHER_FOLDER / QUEUE_FILE
        state = read_queue(path, width=self.image_embeds.shape[1])
        if len(state["image_ids"]) != self.size:
            raise SettingError(
                f"The queue in {path} has {len(state['image_ids'])} slots, this run has {self.size}: set "
                f"queue_size to {len(state['image_ids'])}."
            )
        self.load_state_dict(state)
