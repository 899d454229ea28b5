# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Names of the released ALBEF checkpoints and their place in these models. The one place that knows both.

The scheme is that of the state dicts of salesforce/ALBEF (`models/model_pretrain.py`, `models/model_retrieval.py`).
"""

import re
from dataclasses import dataclass, field

import torch

_PREFIXES = {
    "visual_encoder": "albef.vision_model",
    "text_encoder": "albef.text_model",
    "vision_proj": "albef.vision_proj",
    "text_proj": "albef.text_proj",
    "itm_head": "itm_head",
}
_QUEUE = {"image_queue", "text_queue", "idx_queue", "queue_ptr"}


@dataclass
class ConvertedCheckpoint:
    """A released checkpoint, taken apart.

    Attributes:
        student: Weights of an `AlbefForImageTextRetrieval`.
        teacher: Weights of its momentum twin; empty where the file has none. The head and the temperature, which have
            no twin, are the student's.
        queue: State of a `FeatureQueue`; empty where the file has none.
        leftover: Names in the file that have no place here.
    """

    student: dict[str, torch.Tensor] = field(default_factory=dict)
    teacher: dict[str, torch.Tensor] = field(default_factory=dict)
    queue: dict[str, torch.Tensor] = field(default_factory=dict)
    leftover: list[str] = field(default_factory=list)


def convert_name(name: str) -> tuple[str, bool] | None:
    """Translates the name of a released tensor.

    Args:
        name: As in the file, with or without `bert.`.

    Returns:
        The name here, and whether it belongs to the momentum twin; None where there is no place for it.
    """
    if name == "temp":
        return "albef.temperature", False
    if name.startswith("text_decoder"):
        return _convert_decoder_name(name)
    match = re.fullmatch(r"(\w+?)(_m)?\.(?:bert\.)?(.+)", name)
    if match is None or match[1] not in _PREFIXES or match[3].endswith("position_ids"):
        return None
    if match[1] == "text_encoder" and not match[3].startswith(("embeddings.", "encoder.")):
        return None  # the masked-language head
    return f"{_PREFIXES[match[1]]}.{match[3]}", match[2] is not None


def _convert_decoder_name(name: str) -> tuple[str, bool] | None:
    """As `convert_name`, for the answer decoder; its output bias stands in the file twice."""
    match = re.fullmatch(r"text_decoder(_m)?\.(?:bert\.)?(.+)", name)
    if match is None or match[2].endswith("position_ids") or match[2] == "cls.predictions.bias":
        return None
    place = match[2].removeprefix("encoder.")
    place = re.sub(r"^cls\.predictions\.(transform\.)?", "head.", place)
    return f"text_decoder.{place}", match[1] is not None


def convert_state_dict(state_dict: dict[str, torch.Tensor]) -> ConvertedCheckpoint:
    """Takes a released state dict apart into student, teacher and queue.

    Args:
        state_dict: Tensors by the names of salesforce/ALBEF.

    Returns:
        See `ConvertedCheckpoint`.
    """
    converted = ConvertedCheckpoint()
    for name, tensor in state_dict.items():
        place = convert_name(name)
        if place is not None:
            (converted.teacher if place[1] else converted.student)[place[0]] = tensor
        elif name not in _QUEUE and not name.endswith(("position_ids", "cls.predictions.bias")):
            converted.leftover.append(name)
    if converted.teacher:
        converted.teacher = {**converted.student, **converted.teacher}
    if "image_queue" in state_dict:
        slots = state_dict["image_queue"].shape[1]
        unknown = torch.full((1, slots), -100)
        converted.queue = {
            "image_embeds": state_dict["image_queue"].T.contiguous(),  # (Q, E)
            "text_embeds": state_dict["text_queue"].T.contiguous(),
            "image_ids": state_dict.get("idx_queue", unknown)[0].clone(),
            "pointer": state_dict["queue_ptr"][0].clone(),
        }
    return converted
