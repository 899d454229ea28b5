"""The recorded cases of two images."""

from __future__ import annotations

from typing import Any

import torch
from golden_cases import INDEX, tiny_config

from modeling_albef import AlbefConfig
from modeling_albef.conversion.checkpoint_names import ConvertedCheckpoint


def pair_config(**text: Any) -> AlbefConfig:
    """Sizes of the recorded models of two images."""
    sizes = INDEX["nlvr_plain"]["config"]
    layers = {"num_hidden_layers": sizes["layers"], "num_fusion_layers": sizes["layers"] - sizes["fusion"]}
    return tiny_config(**{**layers, "images_per_text": 2, **text})


def build_pair(checkpoint: ConvertedCheckpoint, model_class: Any) -> Any:
    """The student with the recorded weights."""
    model = model_class(pair_config())
    model.load_state_dict(checkpoint.student)
    return model


def pair_inputs(case: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Two images and a text each, (B, 2, 3, S, S); the recorded images are all first ones, then all second ones."""
    pixels = case["pixel_values"].unflatten(0, (2, -1)).transpose(0, 1)
    return {"pixel_values": pixels, **{name: case[name] for name in ("input_ids", "attention_mask")}}
