"""Measures how much of a word's heat map lies on the object that the word names.

    python -m benchmarks.grounding --model output/demo_retrieval
    python -m benchmarks.grounding --model output/demo_vqa

The captions name the objects of drawn scenes in order ("a red circle left of a blue square"); the words are the color
and the kind of each. A model that answers questions is asked of each object "is there a red circle", and the map is
drawn for the answer "yes", which holds neither word. The mass is that of `gradcam` for the word's token. A map cannot
be finer than a patch, so a box is rounded outwards to whole patches; chance is the share of all patches that it then
has. Exact is the mass within the box itself, each patch's mass spread evenly over the patch, and its chance the box's
share of the image.
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
from dataset_scripts.drawn.scene_texts import all_captions
from dataset_scripts.drawn.scenes import IMAGE, Box, Scene, draw_image, random_stream, scenes_with_boxes
from modeling_albef import AlbefConfig, AlbefForImageTextRetrieval, AlbefForQuestionAnswering
from modeling_albef.explain.gradcam import ModelWithHead, default_layer, gradcam

KINDS = ("color", "shape")
Word = tuple[int, str, np.ndarray]  # number of the object that it names, one of KINDS, map (rows, columns)


@dataclass(frozen=True)
class Grounding:
    """Means over the words of a scene, then over scenes; 0..1.

    Attributes:
        on_box: Share of a map's mass on the patches of the object's box.
        chance: Share of all patches that these are.
        exact: Share of the mass within the box itself.
        exact_chance: The box's share of the image.
        on_others: Share of the mass on the patches of the scene's other objects, where these are not also the object's.
        by_kind: `on_box` of the words for colors, and of those for kinds, means over all words.
    """

    on_box: float
    chance: float
    exact: float
    exact_chance: float
    on_others: float
    by_kind: dict[str, float]


def coverage(box: Box, rows: int, columns: int) -> np.ndarray:
    """Return the share of each patch that a box covers.

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
    """Return the share of a map's mass under weights 0..1; 0 where the map is empty."""
    return float((heat * weights).sum() / heat.sum()) if heat.any() else 0.0


def word_shares(heat: np.ndarray, boxes: Sequence[Box], index: int) -> tuple[float, ...]:
    """Return where the mass of a word's map lies.

    Args:
        heat: (rows, columns), the word's map.
        boxes: Of the scene's objects.
        index: Number of the object that the word names.

    Returns:
        On the box's patches, their share of all, exact, its chance, on other objects' patches.
    """
    covered = np.stack([coverage(box, *heat.shape) for box in boxes])
    own, others = covered[index] > 0, (np.delete(covered, index, axis=0) > 0).any(axis=0)
    exact = covered[index]
    return share_on(heat, own), own.mean(), share_on(heat, exact), exact.mean(), share_on(heat, others & ~own)


def words_of_caption(model: ModelWithHead, processor: Any, image: Any, scene: Scene, layer: int | None) -> list[Word]:
    """Return the words for color and kind of each object in the scene's first caption, which names them in order."""
    inputs = processor(images=image, text=all_captions(scene)[0], return_tensors="pt")
    tokens = processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist())
    heat = gradcam(model, **inputs, layer=layer)[0].numpy()  # (L, rows, columns)
    words, start = [], 0
    for number, item in enumerate(scene.items):
        for kind in KINDS:
            start = tokens.index(getattr(item, kind), start)
            words.append((number, kind, heat[start]))
    return words


def words_of_questions(model: ModelWithHead, processor: Any, image: Any, scene: Scene, layer: int | None) -> list[Word]:
    """Return the words for color and kind of each object in "is there a red star", for the answer "yes".

    Words that hold of two objects of the scene are left out.
    """
    words, answers = [], processor.encode_answers(["yes"])["input_ids"]
    for number, item in enumerate(scene.items):
        inputs = processor(images=image, text=f"is there a {item.name()}", text_type="question", return_tensors="pt")
        tokens = processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist())
        heat = gradcam(model, **inputs, answer_input_ids=answers, layer=layer)[0].numpy()
        for kind in KINDS:
            word = getattr(item, kind)
            if [getattr(other, kind) for other in scene.items].count(word) == 1:
                words.append((number, kind, heat[tokens.index(word)]))
    return words


def measure(
    model: ModelWithHead, processor: Any, split: str, num_scenes: int = 100, layer: int | None = None
) -> Grounding:
    """Measure on the scenes of a split.

    Args:
        model: A model that was trained on drawn shapes.
        processor: Its processor.
        split: "train", "validation" or "test"; the last two are unseen.
        num_scenes: The first so many.
        layer: See `gradcam`.

    Returns:
        See `Grounding`.
    """
    find_words = words_of_caption if isinstance(model, AlbefForImageTextRetrieval) else words_of_questions
    side = model.config.vision_config.image_size
    by_scene: list[np.ndarray] = []
    by_kind: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for number, (scene, boxes) in enumerate(scenes_with_boxes(0, split, num_scenes)):
        image = draw_image(scene, side, random_stream(0, split, number, IMAGE))
        words = find_words(model, processor, image, scene, layer)
        shares = [word_shares(heat, boxes, index) for index, _, heat in words]
        for (_, kind, _), (on_box, *_) in zip(words, shares, strict=True):
            by_kind[kind].append(on_box)
        if shares:
            by_scene.append(np.mean(shares, axis=0))
    kinds = {kind: float(np.mean(values)) for kind, values in by_kind.items()}
    on_box, chance, exact, exact_chance, on_others = np.mean(by_scene, axis=0).tolist()
    return Grounding(on_box, chance, exact, exact_chance, on_others, kinds)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the shares of each fusion layer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="output/demo_retrieval", help="folder of a model trained on shapes")
    parser.add_argument("--split", default="test", choices=("train", "validation", "test"))
    parser.add_argument("--num_scenes", type=int, default=100)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    answers = AlbefConfig.from_pretrained(options.model).decoder_config is not None
    model_class = AlbefForQuestionAnswering if answers else AlbefForImageTextRetrieval
    model, loaded = model_class.from_pretrained(options.model), AutoProcessor.from_pretrained(options.model)
    text_config = model.config.text_config
    for layer in range(text_config.num_text_layers, text_config.num_hidden_layers):
        found = measure(model, loaded, options.split, options.num_scenes, layer)
        mark = " (default)" if layer == default_layer(text_config) else ""
        print(
            f"layer {layer}{mark}, {options.num_scenes} {options.split} scenes: {found.on_box:.1%} of the mass on the "
            f"object's patches, which are {found.chance:.1%} of all; colors {found.by_kind['color']:.1%}, kinds "
            f"{found.by_kind['shape']:.1%}; on other objects {found.on_others:.1%}; exact box {found.exact:.1%}, "
            f"chance {found.exact_chance:.1%}"
        )


if __name__ == "__main__":
    main()
