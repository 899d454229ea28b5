"""Measures how much of a word's heat map lies on the object that the word names.

    python -m benchmarks.grounding --model output/demo_retrieval

The captions name the objects of drawn scenes in order ("a red circle left of a blue square"); the words are the colour
and the kind of each. The mass is that of `gradcam` for the word's token. A map cannot be finer than a patch, so a box
is rounded outwards to whole patches; chance is the share of all patches that it then has. `exact` beside it is the mass
within the box itself, each patch's mass spread evenly over the patch, and its chance the box's share of the picture.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AutoProcessor

import processing  # noqa: F401, makes AutoProcessor know ours
from dataset_scripts.shapes import (
    PICTURE,
    Box,
    Scene,
    all_captions,
    draw_picture,
    random_stream,
    scenes_with_boxes,
)
from modeling_albef import AlbefForImageTextRetrieval
from modeling_albef.gradcam_albef import default_layer, gradcam


@dataclass(frozen=True)
class Grounding:
    """Means over words, then over scenes; 0..1.

    Attributes:
        on_box: Share of a map's mass on the patches of the object's box.
        chance: Share of all patches that these are.
        exact: Share of the mass within the box itself.
        exact_chance: The box's share of the picture.
        on_others: Share of the mass on the patches of the scene's other objects, where these are not also the object's.
        by_kind: `on_box` of the words for colours, and of those for kinds.
    """

    on_box: float
    chance: float
    exact: float
    exact_chance: float
    on_others: float
    by_kind: tuple[float, float]


def coverage(box: Box, rows: int, columns: int) -> np.ndarray:
    """Share of each patch that a box covers.

    Args:
        box: Left, top, right, bottom in shares of the image's side.
        rows: Patches of a column.
        columns: Patches of a row.

    Returns:
        (rows, columns), 0..1.
    """

    def along(low: float, high: float, count: int) -> np.ndarray:
        edges = np.arange(count + 1)
        return np.clip(np.minimum(high * count, edges[1:]) - np.maximum(low * count, edges[:-1]), 0, 1)

    left, top, right, bottom = box
    return np.outer(along(top, bottom, rows), along(left, right, columns))


def share_on(heat: np.ndarray, weights: np.ndarray) -> float:
    """Share of a map's mass under weights 0..1; 0 where the map is empty."""
    return float((heat * weights).sum() / heat.sum()) if heat.any() else 0.0


def scene_shares(heat: np.ndarray, boxes: Sequence[Box]) -> np.ndarray:
    """What a scene's words put where.

    Args:
        heat: (objects, 2, rows, columns), maps of the words for colour and kind.
        boxes: Of the objects.

    Returns:
        (objects, 2, 5): on the box's patches, their share of all, exact, its chance, on other objects' patches.
    """
    covered = np.stack([coverage(box, *heat.shape[2:]) for box in boxes])
    touched = covered > 0
    shares = np.empty((*heat.shape[:2], 5))
    for place, (own, exact) in enumerate(zip(touched, covered, strict=True)):
        others = np.delete(touched, place, axis=0).any(axis=0) & ~own
        for word in range(heat.shape[1]):
            one = heat[place, word]
            shares[place, word] = (share_on(one, own), own.mean(), share_on(one, exact), exact.mean(), 0)
            shares[place, word, 4] = share_on(one, others)
    return shares


def word_places(tokens: list[str], scene: Scene) -> list[list[int]]:
    """Places of the words for colour and kind of each object in the tokens of the scene's first caption."""
    places, start = [], 0
    for item in scene.items:
        color = tokens.index(item.color, start)
        start = tokens.index(item.shape, color)
        places.append([color, start])
    return places


def measure(
    model: AlbefForImageTextRetrieval,
    processor: Any,
    split: str,
    num_scenes: int = 100,
    layer: int | None = None,
    min_objects: int = 2,
) -> Grounding:
    """Measures on the scenes of a split.

    Args:
        model: A model that was trained on drawn shapes.
        processor: Its processor.
        split: "train", "validation" or "test"; the last two are unseen.
        num_scenes: The first so many.
        layer: See `gradcam`.
        min_objects: As in the data that it was trained with.

    Returns:
        See `Grounding`.
    """
    side = model.config.vision_config.image_size
    shares = []
    for number, (scene, boxes) in enumerate(scenes_with_boxes(0, split, num_scenes, min_objects)):
        picture = draw_picture(scene, side, random_stream(0, split, number, PICTURE))
        inputs = processor(images=picture, text=all_captions(scene)[0], return_tensors="pt")
        tokens = processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist())
        heat = gradcam(model, **inputs, layer=layer)[0].numpy()  # (L, rows, columns)
        shares.append(scene_shares(heat[np.array(word_places(tokens, scene))], boxes).mean(axis=0))
    means = np.mean(shares, axis=0)  # (2, 5)
    return Grounding(*means.mean(axis=0).tolist(), by_kind=tuple(means[:, 0].tolist()))


def main() -> None:
    """Prints the shares of each fusion layer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="output/demo_retrieval", help="folder of a model trained on shapes")
    parser.add_argument("--split", default="test", choices=("train", "validation", "test"))
    parser.add_argument("--num_scenes", type=int, default=100)
    parser.add_argument("--min_objects", type=int, default=2, help="as in the data that the model was trained with")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = AlbefForImageTextRetrieval.from_pretrained(options.model)
    loaded = AutoProcessor.from_pretrained(options.model)
    text_config = model.config.text_config
    for layer in range(text_config.num_text_layers, text_config.num_hidden_layers):
        found = measure(model, loaded, options.split, options.num_scenes, layer, options.min_objects)
        mark = " (default)" if layer == default_layer(text_config) else ""
        print(
            f"layer {layer}{mark}, {options.num_scenes} {options.split} scenes: {found.on_box:.1%} of the mass on the "
            f"object's patches, which are {found.chance:.1%} of all; colours {found.by_kind[0]:.1%}, kinds "
            f"{found.by_kind[1]:.1%}; on other objects {found.on_others:.1%}; exact box {found.exact:.1%}, chance "
            f"{found.exact_chance:.1%}"
        )


if __name__ == "__main__":
    main()
