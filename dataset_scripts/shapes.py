"""Pictures of coloured shapes with captions and questions: a data set that is drawn, not downloaded.

A scene is two or three objects in a row or in a column, or, where the configuration allows it, a single object.
Everything follows from the seed, the split and the number of the image, so every run and every machine draws the same
data, and both configurations show the same pictures.

* `retrieval`: an image and its captions ("a red circle left of a blue square").
* `vqa`: an image, a question ("what color is the star") and ten equal answers.
"""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import datasets
import numpy as np
from PIL import Image, ImageDraw

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
ENDS = {"row": ("on the left", "on the right"), "column": ("at the top", "at the bottom")}
WAYS = {"row": ("from left to right", "from right to left"), "column": ("from top to bottom", "from bottom to top")}
CENTERS = {1: (0.50,), 2: (0.28, 0.72), 3: (0.18, 0.50, 0.82)}  # along the row or column, as shares of the image's side
ALONG_JITTER = {1: 0.25, 2: 0.06, 3: 0.01}
ACROSS_JITTER = 0.25
SUPERSAMPLING = 4
ANNOTATORS = 10  # equal answers a question, as VQA v2 has ten annotators
ANSWERS = ("yes", "no", "0", "1", "2", "3", *COLORS, *SHAPES)
QUESTION_TYPES = ("color", "shape", "yes/no", "number")
SPLITS = {"train": datasets.Split.TRAIN, "validation": datasets.Split.VALIDATION, "test": datasets.Split.TEST}
SCENE, PICTURE, CAPTIONS, QUESTIONS = range(4)  # independent random streams of an image
MAX_ATTEMPTS = 5_000
Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Item:
    """One object; its three words."""

    size: str
    color: str
    shape: str

    def name(self, sized: bool = False) -> str:
        """Words that name it, such as "red circle" or, sized, "small red circle"."""
        return f"{self.size} {self.color} {self.shape}" if sized else f"{self.color} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """Up to three objects with pairwise different names.

    Attributes:
        layout: "row" or "column".
        items: The objects from left to right, or from top to bottom.
    """

    layout: str
    items: tuple[Item, ...]

    def statements(self) -> set[tuple[str, ...]]:
        """What holds of the scene: the layout with the names, in order, of any two or more of its objects."""
        names = [item.name() for item in self.items]
        return {(self.layout, *part) for n in range(2, len(names) + 1) for part in combinations(names, n)}

    def full_statement(self) -> tuple[str, ...]:
        """What each of its captions says at least: the layout and all names in order."""
        return (self.layout, *(item.name() for item in self.items))

    def split(self) -> str:
        """The split it belongs to, a function of the set of its names: no two splits share such a set."""
        bucket = zlib.crc32(" ".join(sorted(item.name() for item in self.items)).encode()) % 10
        return {0: "validation", 1: "test"}.get(bucket, "train")


def random_scene(rng: np.random.Generator, min_objects: int = 2) -> Scene:
    """A scene of `min_objects` to three objects, with all attributes drawn evenly."""
    codes = rng.choice(len(COLORS) * len(SHAPES), size=int(rng.integers(min_objects, 4)), replace=False)
    sizes = rng.choice(list(SIZES), size=len(codes))
    colors = list(COLORS)
    named = [(colors[code // len(SHAPES)], SHAPES[code % len(SHAPES)]) for code in codes.tolist()]
    items = tuple(Item(str(size), *name) for size, name in zip(sizes, named, strict=True))
    return Scene(list(RELATIONS)[int(rng.integers(2))], items)


def draw_scenes(seed: int, split: str, num_images: int, min_objects: int = 2) -> Iterator[Scene]:
    """The scenes of a split.

    Args:
        seed: Seed of the data set.
        split: "train", "validation" or "test".
        num_images: How many.
        min_objects: Least number of objects of a scene, 1..3.

    Yields:
        Scenes. Outside "train" a scene's full statement holds of no other scene, so a caption tells its image; not so
        with single objects, of which there are too few.

    Raises:
        ValueError: More scenes are wanted than can be told apart.
    """
    told: set[tuple[str, ...]] = set()
    held: set[tuple[str, ...]] = set()
    for index in range(num_images):
        rng = random_stream(seed, split, index, SCENE)
        for _ in range(MAX_ATTEMPTS):
            scene = random_scene(rng, min_objects)
            distinct = scene.full_statement() not in held and not (scene.statements() & told)
            if scene.split() == split and (distinct or split == "train" or min_objects == 1):
                break
        else:
            raise ValueError(f"Found no scene for image {index} of {split!r} unlike the others: ask for fewer images.")
        told.add(scene.full_statement())
        held |= scene.statements()
        yield scene


def random_stream(seed: int, split: str, index: int, purpose: int) -> np.random.Generator:
    """Random numbers of one purpose for one image, independent of all others."""
    return np.random.default_rng([seed, list(SPLITS).index(split), index, purpose])


def outline(shape: str) -> list[tuple[float, float]]:
    """Corners of a shape of radius about one around the origin, y downwards."""
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


@dataclass(frozen=True)
class PlacedItem:
    """An object where it is drawn.

    Attributes:
        corners: (x, y) as shares of the image's side, y downwards.
        color: Red, green, blue, 0..255.
    """

    corners: list[tuple[float, float]]
    color: tuple[int, int, int]

    def box(self) -> Box:
        """The smallest box around it."""
        xs, ys = zip(*self.corners, strict=True)
        return min(xs), min(ys), max(xs), max(ys)


def place_items(scene: Scene, rng: np.random.Generator) -> tuple[int, list[PlacedItem]]:
    """Place a scene's objects; places, sizes, colours and the ground vary a little.

    Args:
        scene: What to place.
        rng: Source of the variation.

    Returns:
        The grey of the ground, 0..255, and the objects in their order.
    """
    ground, count, placed = int(rng.integers(105, 136)), len(scene.items), []
    for item, center in zip(scene.items, CENTERS[count], strict=True):
        along = center + rng.uniform(-ALONG_JITTER[count], ALONG_JITTER[count])
        across = 0.5 + rng.uniform(-ACROSS_JITTER, ACROSS_JITTER)
        x, y = (along, across) if scene.layout == "row" else (across, along)
        radius = SIZES[item.size] * rng.uniform(0.94, 1.0)
        corners = [(x + radius * dx, y + radius * dy) for dx, dy in outline(item.shape)]
        color = np.clip(np.array(COLORS[item.color]) + rng.integers(-8, 9, size=3), 0, 255)
        placed.append(PlacedItem(corners, tuple(color.tolist())))
    return ground, placed


def draw_picture(scene: Scene, image_size: int, rng: np.random.Generator) -> Image.Image:
    """Draw a scene on a grey ground.

    Args:
        scene: What to draw.
        image_size: Side in pixels.
        rng: Source of the variation; see `place_items`.

    Returns:
        RGB picture, antialiased.
    """
    side = image_size * SUPERSAMPLING
    ground, placed = place_items(scene, rng)
    canvas = Image.new("RGB", (side, side), (ground,) * 3)
    pen = ImageDraw.Draw(canvas)
    for item in placed:
        pen.polygon([(x * side, y * side) for x, y in item.corners], fill=item.color)
    return canvas.reduce(SUPERSAMPLING)


def scenes_with_boxes(
    seed: int, split: str, num_images: int, min_objects: int = 2
) -> Iterator[tuple[Scene, list[Box]]]:
    """The scenes of a split, and where their objects are in the pictures that the builder draws of them.

    Args:
        seed: Seed of the data set.
        split: "train", "validation" or "test".
        num_images: How many.
        min_objects: Least number of objects of a scene, 1..3.

    Yields:
        A scene, and for each of its objects a box (left, top, right, bottom) in shares of the image's side.
    """
    for index, scene in enumerate(draw_scenes(seed, split, num_images, min_objects)):
        _, placed = place_items(scene, random_stream(seed, split, index, PICTURE))
        yield scene, [item.box() for item in placed]


def all_captions(scene: Scene) -> list[str]:
    """The captions of a scene: four patterns, read either way, with and without sizes; of a single object only four."""
    captions = []
    for sized in (False, True):
        if len(scene.items) == 1:
            name = f"a {scene.items[0].name(sized)}"
            captions += [name, f"there is {name}"]
            continue
        for way, items in enumerate((scene.items, scene.items[::-1])):
            names = [item.name(sized) for item in items]
            relation = RELATIONS[scene.layout][way]
            chain = f" {relation} ".join(f"a {name}" for name in names)
            clause = f"the {names[0]} is " + " which is ".join(f"{relation} the {name}" for name in names[1:])
            listed = " ".join(f"a {name}" for name in names[:-1]) + f" and a {names[-1]}"
            captions += [chain, f"there is {chain}", clause, f"{WAYS[scene.layout][way]} {listed}"]
    return captions


@dataclass(frozen=True)
class Question:
    """A question, its only answer and its type, one of `QUESTION_TYPES`."""

    text: str
    answer: str
    question_type: str


def _only(values: list[str]) -> set[str]:
    """Values that occur once, and so tell which object is meant."""
    return {value for value in values if values.count(value) == 1}


def _ends(scene: Scene) -> list[tuple[str, Item]]:
    """The objects at both ends, each with the words for its place; none where there is a single object."""
    if len(scene.items) == 1:
        return []
    return list(zip(ENDS[scene.layout], (scene.items[0], scene.items[-1]), strict=True))


def _pick(rng: np.random.Generator, options: list[Any]) -> Any:
    """One of the options, evenly."""
    return options[int(rng.integers(len(options)))]


def ask_color(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """Question and answer about the colour of an object known by its shape or place."""
    only = _only([item.shape for item in scene.items])
    options = [(f"what color is the {item.shape}", item.color) for item in scene.items if item.shape in only]
    return _pick(rng, options + [(f"what color is the shape {end}", item.color) for end, item in _ends(scene)])


def ask_shape(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """Question and answer about the shape of an object known by its colour, its neighbour or its place."""
    items, relations = scene.items, RELATIONS[scene.layout]
    only_colors, only_shapes = _only([item.color for item in items]), _only([item.shape for item in items])
    options = [(f"what shape is {item.color}", item.shape) for item in items if item.color in only_colors]
    if len(items) > 1:  # one object lies on that side
        pairs = ((relations[0], items[1], items[0]), (relations[1], items[-2], items[-1]))
        options += [(f"what shape is {r} the {b.shape}", a.shape) for r, b, a in pairs if b.shape in only_shapes]
    return _pick(rng, options + [(f"what shape is {end}", item.shape) for end, item in _ends(scene)])


def ask_yes_no(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """Question and answer about presence or place; each question has "yes" as often as "no"."""
    truth, names = bool(rng.integers(2)), {(item.color, item.shape) for item in scene.items}
    answer = "yes" if truth else "no"
    pairs = []
    for words in ([item.shape for item in scene.items], [f"{item.color} shape" for item in scene.items]):
        only = _only(words)
        pairs += [pair for pair in combinations(words, 2) if set(pair) <= only]
    if pairs and rng.integers(2):
        way, (first, second) = int(rng.integers(2)), _pick(rng, pairs)
        subject, other = (first, second) if truth == (way == 0) else (second, first)
        return f"is the {subject} {RELATIONS[scene.layout][way]} the {other}", answer
    near = bool(rng.integers(2))  # half of the absent objects share the colour or the shape of one that is there
    all_names = [(color, shape) for color in COLORS for shape in SHAPES]
    absent = [name for name in all_names if name not in names]
    alike = [name for name in absent if any(name[0] == color or name[1] == shape for color, shape in names)]
    color, shape = _pick(rng, sorted(names) if truth else alike if near else absent)
    return f"is there a {color} {shape}", answer


def ask_number(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """Question and answer about how many objects there are, of any or of one colour."""
    if rng.integers(2):
        return "how many shapes are there", str(len(scene.items))
    colors = [item.color for item in scene.items]
    count = _pick(rng, sorted({colors.count(color) for color in COLORS}))
    color = _pick(rng, [color for color in COLORS if colors.count(color) == count])
    return f"how many {color} shapes are there", str(count)


ASK: dict[str, Callable[[Scene, np.random.Generator], tuple[str, str]]] = dict(
    zip(QUESTION_TYPES, (ask_color, ask_shape, ask_yes_no, ask_number), strict=True)
)


def draw_questions(scene: Scene, count: int, rng: np.random.Generator) -> list[Question]:
    """Different questions about a scene.

    Args:
        scene: What is asked about.
        count: How many, at least three: a colour, a shape and a yes-no question come first.
        rng: Source of the choices.

    Returns:
        `count` questions without repeats.
    """
    questions: dict[str, Question] = {}
    while len(questions) < count:
        kind = QUESTION_TYPES[len(questions)] if len(questions) < 3 else _pick(rng, list(QUESTION_TYPES))
        text, answer = ASK[kind](scene, rng)
        questions.setdefault(text, Question(text, answer, kind))
    return list(questions.values())


@dataclass
class ShapesConfig(datasets.BuilderConfig):
    """What to draw.

    Attributes:
        num_train: Images of the training split, >= 1.
        num_validation: Images of the validation split, >= 1.
        num_test: Images of the test split, >= 1.
        image_size: Side in pixels, >= 16.
        seed: >= 0; another seed draws other images.
        captions_per_image: 1..16, used by `retrieval`; a single object has four at most.
        questions_per_image: 3..20, used by `vqa`.
        min_objects: Least number of objects of a scene, 1..3; in `retrieval` single objects are for training alone,
            since outside of it a caption tells its image.
    """

    num_train: int = 2000
    num_validation: int = 200
    num_test: int = 200
    image_size: int = 64
    seed: int = 0
    captions_per_image: int = 2
    questions_per_image: int = 4
    min_objects: int = 2

    def check(self) -> None:
        """Check the ranges; the builder sets fields after construction, so this is called later.

        Raises:
            ValueError: A value is no integer or out of its range; the text names it.
        """
        ranges: dict[str, tuple[int, int | None]] = {
            "num_train": (1, None),
            "num_validation": (1, None),
            "num_test": (1, None),
            "image_size": (16, None),
        }
        ranges |= {"seed": (0, None), "captions_per_image": (1, 16), "questions_per_image": (3, 20)}
        ranges["min_objects"] = (1, 3)
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if type(value) is not int or value < low or (high is not None and value > high):
                wanted = f">= {low}" if high is None else f"{low}..{high}"
                raise ValueError(f"{name} is {value!r}, but must be an integer {wanted}.")


class Shapes(datasets.GeneratorBasedBuilder):
    """Draws the data set; load it with `dataset_scripts.load_dataset_script("shapes", "retrieval" or "vqa")`.

    Rows of `retrieval` are images: `image`, `caption` (list) and `image_id`, which counts from 0 in each split. Rows of
    `vqa` are questions: `image`, `question`, `answers` (ten equal ones), `question_id` (unique over the splits),
    `image_id` (as in `retrieval`), `answer_weight` (1) and `question_type`. Outside the training split no caption
    describes two images, and no two splits share a set of objects.
    """

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = ShapesConfig
    BUILDER_CONFIGS = [
        ShapesConfig(name="retrieval", version=VERSION, description="Images with captions."),
        ShapesConfig(name="vqa", version=VERSION, description="Images with questions and answers."),
    ]
    DEFAULT_CONFIG_NAME = "retrieval"

    def _info(self) -> datasets.DatasetInfo:
        """Features of a row.

        Raises:
            ValueError: The configuration is out of range.
        """
        self.config.check()
        texts, number = datasets.List(datasets.Value("string")), datasets.Value("int64")
        if self.config.name == "retrieval":
            features: dict[str, Any] = {"image": datasets.Image(), "caption": texts, "image_id": number}
        else:
            text = datasets.Value("string")
            features = {"image": datasets.Image(), "question": text, "answers": texts, "question_id": number}
            features |= {"image_id": number, "answer_weight": datasets.Value("float32"), "question_type": text}
        description = "Coloured shapes in a row or a column, drawn from a seed."
        return datasets.DatasetInfo(description=description, features=datasets.Features(features))

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        """One generator a split; nothing is downloaded."""
        return [datasets.SplitGenerator(name, gen_kwargs={"split": split}) for split, name in SPLITS.items()]

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """Rows of a split with their numbers."""
        config = self.config
        sizes = {"train": config.num_train, "validation": config.num_validation, "test": config.num_test}
        first_image = sum(size for name, size in sizes.items() if list(sizes).index(name) < list(sizes).index(split))
        told_apart = config.name == "retrieval" and split != "train"
        min_objects = max(2, config.min_objects) if told_apart else config.min_objects
        for index, scene in enumerate(draw_scenes(config.seed, split, sizes[split], min_objects)):
            buffer = io.BytesIO()
            picture = draw_picture(scene, config.image_size, random_stream(config.seed, split, index, PICTURE))
            picture.save(buffer, format="PNG")
            row = {"image": {"bytes": buffer.getvalue(), "path": None}, "image_id": index}
            if config.name == "retrieval":
                yield index, row | {"caption": self._captions(scene, split, index)}
                continue
            rng = random_stream(config.seed, split, index, QUESTIONS)
            for place, question in enumerate(draw_questions(scene, config.questions_per_image, rng)):
                number = (first_image + index) * config.questions_per_image + place
                yield number, row | self._question_columns(question, number)

    def _captions(self, scene: Scene, split: str, index: int) -> list[str]:
        """Different captions of an image."""
        options = all_captions(scene)
        rng = random_stream(self.config.seed, split, index, CAPTIONS)
        count = min(len(options), self.config.captions_per_image)
        return [options[i] for i in rng.choice(len(options), size=count, replace=False)]

    @staticmethod
    def _question_columns(question: Question, question_id: int) -> dict[str, Any]:
        """A question as columns of its row."""
        answers = [question.answer] * ANNOTATORS
        columns = {"question": question.text, "answers": answers, "question_type": question.question_type}
        return columns | {"question_id": question_id, "answer_weight": 1.0}
