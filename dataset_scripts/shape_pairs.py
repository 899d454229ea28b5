"""Pairs of images of colored shapes with statements that are true or false of them: drawn, not downloaded.

The scenes are those of `shapes.py`. A statement says what is on the left image, on the right one, or on both. Each kind
of statement is drawn true as often as false, so that its words alone say nothing: whoever sees no image is right in
half of the cases, and in a little more where a pair has many statements, since the true ones are used up first. Most words
are those of the questions of `shapes.py`, so that a model that has learned to answer these knows them.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import datasets
import numpy as np

from .drawn.scenes import CAPTIONS, COLORS, IMAGE, SHAPES, SPLITS, Scene, draw_image, draw_scenes, random_stream
from .labelled.image_pairs import PAIR_FEATURES
from .reading.problems import DataError

SIDES = ("left", "right")
KINDS = {  # of statements, by their names
    "side": "there is {} on the {}",
    "both": "there is {} on the left and on the right",
    "only": "there is {} on the {} only",
    "number": "there are {} shapes on the {}",
}
LEAST = {"num_train": 1, "num_validation": 1, "num_test": 1, "image_size": 16, "seed": 0}
MOST = {"statements_per_pair": 8, "min_objects": 3}  # of at least 1


@dataclass
class ShapePairsConfig(datasets.BuilderConfig):
    """What to draw.

    Attributes:
        num_train: Pairs of images of the training split, >= 1.
        num_validation: Pairs of the validation split, >= 1.
        num_test: Pairs of the test split, >= 1.
        image_size: Side in pixels, >= 16.
        seed: >= 0; another seed draws other images.
        statements_per_pair: Rows of a pair, 1..8, with different statements; fewer where there are not that many.
        min_objects: Least number of objects of a scene, 1..3.
        kinds: Kinds of statements: "side" ("there is a star on the left"), "both" (".. on the left and on the right"),
            "only" (".. on the left only"), "number" ("there are more shapes on the left"); "both" and "only" ask for
            two images at once, "number" compares them.
    """

    num_train: int = 2000
    num_validation: int = 200
    num_test: int = 200
    image_size: int = 64
    seed: int = 0
    statements_per_pair: int = 4
    min_objects: int = 1
    kinds: Sequence[str] = tuple(KINDS)

    def check(self) -> None:
        """Raise a DataError that names a value which is no integer or out of its range."""
        for name in (*LEAST, *MOST):
            value, least, most = getattr(self, name), LEAST.get(name, 1), MOST.get(name)
            if type(value) is not int or value < least or (most is not None and value > most):
                wanted = f">= {least}" if most is None else f"{least}..{most}"
                raise DataError(f"{name} is {value!r}, but must be an integer {wanted}.")
        if isinstance(self.kinds, str) or not self.kinds or set(self.kinds) - set(KINDS):
            raise DataError(f"kinds is {self.kinds!r}, but must be a list of {', '.join(KINDS)}.")


class ShapePairs(datasets.GeneratorBasedBuilder):
    """Draws the data set; load it with `dataset_scripts.load_dataset_script("shape_pairs")`.

    Rows are `image`, `image_2` (the left and the right one), `text` and `label` ("True" or "False").
    """

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = ShapePairsConfig
    BUILDER_CONFIGS = [ShapePairsConfig("classification", datasets.Version("1.0.0"))]

    def _info(self) -> datasets.DatasetInfo:
        """Return the features of a row; raises DataError if the configuration is out of range."""
        self.config.check()
        return datasets.DatasetInfo(description=str(__doc__).split("\n")[0], features=PAIR_FEATURES)

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        """Return one generator a split; nothing is downloaded."""
        return [datasets.SplitGenerator(split, gen_kwargs={"split": split}) for split in SPLITS]

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield rows of a split with their numbers."""
        config = self.config
        scenes = draw_scenes(config.seed, split, 2 * getattr(config, f"num_{split}"), config.min_objects)
        number = 0
        for index, (left, right) in enumerate(zip(scenes, scenes, strict=True)):  # two by two
            images = {}
            for name, scene, place in (("image", left, 0), ("image_2", right, 1)):
                buffer = io.BytesIO()
                rng = random_stream(config.seed, split, 2 * index + place, IMAGE)
                draw_image(scene, config.image_size, rng).save(buffer, format="PNG")
                images[name] = {"bytes": buffer.getvalue(), "path": None}
            rng = random_stream(config.seed, split, index, CAPTIONS)
            for text, is_true in draw_statements(left, right, config.statements_per_pair, rng, config.kinds):
                yield number, images | {"text": text, "label": str(is_true)}
                number += 1


class Kind(NamedTuple):
    """Statements of one kind: those that are true of a pair of scenes and those that are false.

    Attributes:
        true: What is true.
        near: What is false, although one of the images has what is said.
        far: What is false, and no image has it.
    """

    true: list[str]
    near: list[str]
    far: list[str]


def statements(left: Scene, right: Scene, names: Sequence[str] = tuple(KINDS)) -> list[Kind]:
    """Return, for each kind of statement, the true ones and the false ones of two scenes."""
    kinds: list[tuple[str, Kind]] = []
    for every, seen in (
        ({f"a {color} shape" for color in COLORS}, tuple(map(_colors, (left, right)))),
        ({f"a {shape}" for shape in SHAPES}, tuple(map(_shapes, (left, right)))),
    ):
        absent = every - seen[0] - seen[1]
        kinds.append(_fill("both", "", seen[0] & seen[1], seen[0] ^ seen[1], absent))
        for side, own, other in zip(SIDES, seen, seen[::-1], strict=True):
            kinds.append(_fill("side", side, own, other - own, absent))
            kinds.append(_fill("only", side, own - other, other, absent))
    counts = len(left.items), len(right.items)
    for word, is_left in (("more", counts[0] > counts[1]), ("fewer", counts[0] < counts[1])):
        if counts[0] != counts[1]:
            true, false = (KINDS["number"].format(word, side) for side in (SIDES if is_left else SIDES[::-1]))
            kinds.append(("number", Kind([true], [false], [])))
    return [kind for name, kind in kinds if name in names]


def _colors(scene: Scene) -> set[str]:
    return {f"a {item.color} shape" for item in scene.items}


def _shapes(scene: Scene) -> set[str]:
    return {f"a {item.shape}" for item in scene.items}


def _fill(name: str, side: str, *groups: set[str]) -> tuple[str, Kind]:
    return name, Kind(*([KINDS[name].format(one, side) for one in sorted(group)] for group in groups))


def draw_statements(
    left: Scene, right: Scene, count: int, rng: np.random.Generator, names: Sequence[str] = tuple(KINDS)
) -> list[tuple[str, bool]]:
    """Return up to `count` different statements with their truth, of kinds that could be true or false of the pair.

    False ones name as often what the other image has, so that the images have to be told apart, as what neither has,
    where there are both.
    """
    kinds = [kind for kind in statements(left, right, names) if kind.true and (kind.near or kind.far)]
    drawn: dict[str, bool] = {}
    for _ in range(4 * count):
        if len(drawn) == count or not kinds:
            break
        kind, is_true, is_near = kinds[int(rng.integers(len(kinds)))], bool(rng.integers(2)), bool(rng.integers(2))
        false = (kind.near or kind.far) if is_near else (kind.far or kind.near)
        options = kind.true if is_true else false
        drawn.setdefault(options[int(rng.integers(len(options)))], is_true)
    return list(drawn.items())
