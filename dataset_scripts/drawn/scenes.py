"""Scenes of colored shapes, and how they are drawn; everything follows from the seed, the split and the index."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from PIL import Image, ImageDraw

from ..reading.problems import DataError

COLORS = {
    "red": (215, 25, 30),
    "green": (25, 150, 45),
    "blue": (30, 60, 220),
    "yellow": (245, 225, 30),
    "purple": (140, 30, 170),
    "cyan": (40, 215, 225),
    "white": (247, 247, 247),
    "black": (12, 12, 12),
}
SHAPES = ("circle", "square", "triangle", "star", "cross")
SIZES = {"small": 0.080, "large": 0.125}  # radius as a share of the image's side
RELATIONS = {"row": ("left of", "right of"), "column": ("above", "below")}
CENTERS = {1: (0.50,), 2: (0.28, 0.72), 3: (0.18, 0.50, 0.82)}  # along the row or column, as shares of the image's side
ALONG_JITTER = {1: 0.25, 2: 0.06, 3: 0.01}
ACROSS_JITTER = 0.25
SUPERSAMPLING = 4
SCENE, IMAGE, CAPTIONS, QUESTIONS, CLAIMS = range(5)  # independent random streams of an image
SPLITS = ("train", "validation", "test")
MAX_ATTEMPTS = 5_000
Box = tuple[float, float, float, float]  # left, top, right, bottom
PlacedItem = tuple[list[tuple[float, float]], tuple[int, int, int]]  # corners in shares of the side, y downwards; RGB


@dataclass(frozen=True)
class Item:
    """One object; its three words."""

    size: str
    color: str
    shape: str

    def name(self, sized: bool = False) -> str:
        """Return the words that name it, such as "red circle" or, sized, "small red circle"."""
        return f"{self.size} {self.color} {self.shape}" if sized else f"{self.color} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """Up to three objects with pairwise different names."""

    layout: str  # "row" or "column"
    items: tuple[Item, ...]  # from left to right, or from top to bottom

    def statements(self) -> set[tuple[str, ...]]:
        """Return what holds of the scene: the layout with the names, in order, of any two or more of its objects."""
        names = [item.name() for item in self.items]
        return {(self.layout, *part) for n in range(2, len(names) + 1) for part in combinations(names, n)}

    def full_statement(self) -> tuple[str, ...]:
        """Return what each of its captions says at least: the layout and all names in order."""
        return (self.layout, *(item.name() for item in self.items))

    def split(self) -> str:
        """Return the split it belongs to, a function of the set of its names: no two splits share such a set."""
        bucket = zlib.crc32(" ".join(sorted(item.name() for item in self.items)).encode()) % 10
        return {0: "validation", 1: "test"}.get(bucket, "train")


def random_scene(rng: np.random.Generator, min_objects: int = 2) -> Scene:
    """Return a scene of `min_objects` to three objects, with all attributes drawn evenly."""
    codes = rng.choice(len(COLORS) * len(SHAPES), size=int(rng.integers(min_objects, 4)), replace=False)
    sizes = rng.choice(list(SIZES), size=len(codes))
    colors = list(COLORS)
    named = [(colors[code // len(SHAPES)], SHAPES[code % len(SHAPES)]) for code in codes.tolist()]
    items = tuple(Item(str(size), *name) for size, name in zip(sizes, named, strict=True))
    return Scene(list(RELATIONS)[int(rng.integers(2))], items)


def draw_scenes(seed: int, split: str, num_images: int, min_objects: int = 2) -> Iterator[Scene]:
    """Draw scenes of a split with `min_objects` (1..3) to three objects.

    Outside "train" a scene's full statement holds of no other scene, so a caption tells its image; not so with single
    objects, of which there are too few. Raises DataError if there are not that many distinct scenes.
    """
    described, held = set[tuple[str, ...]](), set[tuple[str, ...]]()
    for index in range(num_images):
        rng = random_stream(seed, split, index, SCENE)
        for _ in range(MAX_ATTEMPTS):
            scene = random_scene(rng, min_objects)
            distinct = scene.full_statement() not in held and not (scene.statements() & described)
            if scene.split() == split and (distinct or split == "train" or min_objects == 1):
                break
        else:
            raise DataError(f"Found no scene for image {index} of {split!r} unlike the others: ask for fewer images.")
        described.add(scene.full_statement())
        held |= scene.statements()
        yield scene


def random_stream(seed: int, split: str, index: int, purpose: int) -> np.random.Generator:
    """Return random numbers of one purpose for one image, independent of all others."""
    return np.random.default_rng([seed, SPLITS.index(split), index, purpose])


def outline(shape: str) -> list[tuple[float, float]]:
    """Return corners of a shape of radius about one around the origin, y downwards."""
    if shape == "square":
        return [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)]
    if shape == "triangle":
        return [(0.0, -1.05), (1.1, 0.9), (-1.1, 0.9)]
    if shape == "star":
        tips = [(1.15 if corner % 2 == 0 else 0.47, math.pi * corner / 5) for corner in range(10)]
        return [(radius * math.sin(angle), -radius * math.cos(angle)) for radius, angle in tips]
    if shape == "cross":
        w, r = 0.33, 1.05  # half the width of an arm, and its reach
        arm = ((-w, -r), (w, -r), (w, -w))  # turned four times by a quarter
        turned = [arm, [(-y, x) for x, y in arm], [(-x, -y) for x, y in arm], [(y, -x) for x, y in arm]]
        return [corner for corners in turned for corner in corners]
    corners = [2 * math.pi * corner / 64 for corner in range(64)]  # circle
    return [(0.97 * math.cos(angle), 0.97 * math.sin(angle)) for angle in corners]


def place_items(scene: Scene, rng: np.random.Generator) -> tuple[int, list[PlacedItem]]:
    """Return the grey of the ground, 0..255, and a scene's objects in order; all of it varies a little."""
    ground, count, placed = int(rng.integers(105, 136)), len(scene.items), []
    for item, center in zip(scene.items, CENTERS[count], strict=True):
        along = center + rng.uniform(-ALONG_JITTER[count], ALONG_JITTER[count])
        across = 0.5 + rng.uniform(-ACROSS_JITTER, ACROSS_JITTER)
        x, y = (along, across) if scene.layout == "row" else (across, along)
        radius = SIZES[item.size] * rng.uniform(0.94, 1.0)
        corners = [(x + radius * dx, y + radius * dy) for dx, dy in outline(item.shape)]
        color = np.clip(np.array(COLORS[item.color]) + rng.integers(-8, 9, size=3), 0, 255)
        placed.append((corners, tuple(color.tolist())))
    return ground, placed


def draw_image(scene: Scene, image_size: int, rng: np.random.Generator) -> Image.Image:
    """Draw a scene on a grey ground, antialiased, `image_size` pixels wide and high; `rng` as in `place_items`."""
    side = image_size * SUPERSAMPLING
    ground, placed = place_items(scene, rng)
    canvas = Image.new("RGB", (side, side), (ground,) * 3)
    pen = ImageDraw.Draw(canvas)
    for corners, color in placed:
        pen.polygon([(x * side, y * side) for x, y in corners], fill=color)
    return canvas.reduce(SUPERSAMPLING)


def scenes_with_boxes(seed: int, split: str, num_images: int) -> Iterator[tuple[Scene, list[Box]]]:
    """Draw scenes, each with the boxes of its objects, in shares of the side of the image that the builder draws."""
    for index, scene in enumerate(draw_scenes(seed, split, num_images)):
        yield scene, item_boxes(scene, random_stream(seed, split, index, IMAGE))


def item_boxes(scene: Scene, rng: np.random.Generator) -> list[Box]:
    """Return the box of each object, in shares of the image's side; `rng` as in `place_items`."""
    _, placed = place_items(scene, rng)
    columns = [tuple(zip(*corners, strict=True)) for corners, _ in placed]
    return [(min(xs), min(ys), max(xs), max(ys)) for xs, ys in columns]
