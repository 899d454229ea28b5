# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""One heat map a text, as texts are grounded: by the match or by the similarity; and where such a map is largest.

Shapes: B pairs, L text tokens, P image tokens, H width.
"""

from typing import Any

import torch

from ..configuration_albef import AlbefConfig, AlbefError
from .gradcam import (
    attention_heat,
    average_over_tokens,
    checked_block,
    checked_layer,
    eager_attention,
    gradcam,
    similarity_gradcam,
)

MODES = ("itm", "itc")  # whose maps are taken: of the match, or of the similarity
BOX_THRESHOLD = 0.5  # share of a map's largest value that belongs to the box which is drawn round it
BOX_SIDE = 96  # cells of the longer side of the map that a box is drawn round, at most
Point = tuple[float, float]


def check_mode(config: AlbefConfig, mode: str, layer: int | None) -> None:
    """Raise an AlbefError for a mode that there is not, or a layer that a model does not have."""
    if mode not in MODES:
        raise AlbefError(f"gradcam_mode is {mode!r}, but must be {' or '.join(MODES)}.")
    if mode == "itc":
        checked_block(config.vision_config, layer)
    else:
        checked_layer(config.text_config, layer)


def text_maps(model: Any, inputs: dict[str, torch.Tensor], mode: str = "itm", layer: int | None = None) -> torch.Tensor:
    """Return a map (B, rows, columns) for each text, as published.

    Args:
        model: An `AlbefForImageTextRetrieval`.
        inputs: `pixel_values`, `input_ids`, `attention_mask`; see `gradcam`.
        mode: "itm": maps of the match, the mean over the tokens; "itc": maps of the similarity.
        layer: A text layer, or one of the vision tower; None: as published, or its equal.
    """
    if mode == "itc":
        return similarity_gradcam(model, **inputs, block=layer)
    return gradcam(model, **inputs, layer=layer, average_tokens=True)


def match_maps(
    model: Any,
    image_hidden_states: torch.Tensor,
    text_hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None,
    layer: int | None = None,
) -> torch.Tensor:
    """Return the maps (B, rows, columns) of mode "itm" so that they can be differentiated themselves.

    Args:
        model: An `AlbefForImageTextRetrieval`, not wrapped.
        image_hidden_states: (B, P, H) of the images, with their graph.
        text_hidden_states: (B, L, H) of the texts, likewise.
        attention_mask: (B, L), 1 = token; None = no padding.
        layer: See `gradcam`.
    """
    text_model, vision_config = model.albef.text_model, model.config.vision_config
    attention = text_model.encoder.layer[checked_layer(text_model.config, layer)].crossattention.self
    states = {"text_hidden_states": text_hidden_states, "image_hidden_states": image_hidden_states}
    with eager_attention(text_model):
        heat = attention_heat(
            attention, lambda: model.match(attention_mask=attention_mask, **states)[:, 1].sum(), create_graph=True
        )
    if attention_mask is None:
        attention_mask = heat.new_ones(heat.shape[:2])
    rows = vision_config.image_size // vision_config.patch_size
    return average_over_tokens((heat * attention_mask[..., None]).unflatten(-1, (rows, -1)), attention_mask)


def resize_map(heat: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resize a map (rows, columns) to (height, width) as published: bicubic, corners not aligned; float32."""
    enlarged = torch.nn.functional.interpolate(
        heat[None, None].float(), size=(height, width), mode="bicubic", align_corners=False
    )
    return enlarged[0, 0]


def peak(heat: torch.Tensor) -> Point | None:
    """Return x and y of the center of a map's largest pixel (height, width), the first of equals; None if empty."""
    if not heat.max() > 0:
        return None
    row, column = divmod(int(heat.argmax()), heat.shape[1])
    return column + 0.5, row + 0.5


def box_round_peak(
    heat: torch.Tensor, height: int, width: int, threshold: float = BOX_THRESHOLD
) -> tuple[float, float, float, float] | None:
    """Return the box round a map's largest value, for images of which no boxes to choose from are known.

    It is the least box round the connected part of the map that holds the largest value and nowhere falls below a share
    of it (as for class activation maps: Zhou et al., 2016, arXiv 1512.04150); None where the map is empty.

    Args:
        heat: (rows, columns).
        height: Of the image, pixels.
        width: Of the image, pixels.
        threshold: The share, 0..1.
    """
    scale = min(1.0, BOX_SIDE / max(height, width))
    grid = resize_map(heat, max(1, round(height * scale)), max(1, round(width * scale)))
    if not grid.max() > 0:
        return None
    above = grid >= threshold * grid.max()
    part = torch.zeros_like(above)
    part.view(-1)[grid.argmax()] = True
    while not torch.equal(part, grown := _grow(part, above)):
        part = grown
    rows, columns = part.any(dim=1).nonzero()[:, 0], part.any(dim=0).nonzero()[:, 0]
    down, across = height / grid.shape[0], width / grid.shape[1]  # pixels of a cell
    top, left = int(rows[0]), int(columns[0])
    return left * across, top * down, (int(columns[-1]) + 1 - left) * across, (int(rows[-1]) + 1 - top) * down


def _grow(part: torch.Tensor, above: torch.Tensor) -> torch.Tensor:
    """Add to a part of a mask, both (rows, columns), all cells that rows and then columns of the mask join to it."""
    for axis in (1, 0):
        runs = (~above).cumsum(axis) + (above.shape[axis] + 1) * torch.arange(above.shape[1 - axis]).unsqueeze(axis)
        part = above & torch.isin(runs, runs[part])
    return part
