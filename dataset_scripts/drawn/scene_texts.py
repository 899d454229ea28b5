"""Captions of scenes, questions about them with their answers, and claims that are true, false, or neither."""

from __future__ import annotations

from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from .scenes import COLORS, RELATIONS, SHAPES, Item, Scene

ENDS = {"row": ("on the left", "on the right"), "column": ("at the top", "at the bottom")}
DIRECTIONS = {
    "row": ("from left to right", "from right to left"),
    "column": ("from top to bottom", "from bottom to top"),
}
QUESTION_TYPES = ("color", "shape", "yes/no", "number")


def all_captions(scene: Scene) -> list[str]:
    """Return the captions of a scene: four patterns, read either way, with and without sizes; four of a single one."""
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
            captions += [chain, f"there is {chain}", clause, f"{DIRECTIONS[scene.layout][way]} {listed}"]
    return captions


class Question(NamedTuple):
    """A question, its only answer and its type, one of `QUESTION_TYPES`."""

    text: str
    answer: str
    question_type: str


def _only(values: list[str]) -> set[str]:
    """Return values that occur once, and so tell which object is meant."""
    return {value for value in values if values.count(value) == 1}


def _ends(scene: Scene) -> list[tuple[str, Item]]:
    """Return the objects at both ends, each with the words for its position; none where there is a single object."""
    if len(scene.items) == 1:
        return []
    return list(zip(ENDS[scene.layout], (scene.items[0], scene.items[-1]), strict=True))


def _pick(rng: np.random.Generator, options: list[Any]) -> Any:
    """Return one of the options, evenly."""
    return options[int(rng.integers(len(options)))]


def ask_color(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """Return question and answer about the color of an object known by its shape or position."""
    only = _only([item.shape for item in scene.items])
    options = [(f"what color is the {item.shape}", item.color) for item in scene.items if item.shape in only]
    return _pick(rng, options + [(f"what color is the shape {end}", item.color) for end, item in _ends(scene)])


def ask_shape(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """Return question and answer about the shape of an object known by its color, its neighbor or its position."""
    items, relations = scene.items, RELATIONS[scene.layout]
    only_colors, only_shapes = _only([item.color for item in items]), _only([item.shape for item in items])
    options = [(f"what shape is {item.color}", item.shape) for item in items if item.color in only_colors]
    if len(items) > 1:  # one object lies on that side
        pairs = ((relations[0], items[1], items[0]), (relations[1], items[-2], items[-1]))
        options += [(f"what shape is {r} the {b.shape}", a.shape) for r, b, a in pairs if b.shape in only_shapes]
    return _pick(rng, options + [(f"what shape is {end}", item.shape) for end, item in _ends(scene)])


def ask_yes_no(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """Return question and answer about presence or position; each question has "yes" as often as "no"."""
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
    near = bool(rng.integers(2))  # half of the absent objects share the color or the shape of one that is there
    all_names = [(color, shape) for color in COLORS for shape in SHAPES]
    absent = [name for name in all_names if name not in names]
    alike = [name for name in absent if any(name[0] == color or name[1] == shape for color, shape in names)]
    color, shape = _pick(rng, sorted(names) if truth else alike if near else absent)
    return f"is there a {color} {shape}", answer


def ask_number(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """Return question and answer about how many objects there are, of any or of one color."""
    if rng.integers(2):
        return "how many shapes are there", str(len(scene.items))
    colors = [item.color for item in scene.items]
    count = _pick(rng, sorted({colors.count(color) for color in COLORS}))
    color = _pick(rng, [color for color in COLORS if colors.count(color) == count])
    return f"how many {color} shapes are there", str(count)


ASK = dict(zip(QUESTION_TYPES, (ask_color, ask_shape, ask_yes_no, ask_number), strict=True))


def draw_questions(scene: Scene, count: int, rng: np.random.Generator) -> list[Question]:
    """Return `count` different questions about a scene, >= 3: a color, a shape and a yes-no question come first."""
    questions: dict[str, Question] = {}
    while len(questions) < count:
        kind = QUESTION_TYPES[len(questions)] if len(questions) < 3 else _pick(rng, list(QUESTION_TYPES))
        text, answer = ASK[kind](scene, rng)
        questions.setdefault(text, Question(text, answer, kind))
    return list(questions.values())


CLAIM_LABELS = ("true", "false", "cannot be told")


def draw_claims(scene: Scene, count: int, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Return `count` claims about a scene with their labels; each label is as likely as the others.

    A claim gives an object's color by its shape, or its shape by its color. It is true or false of an object that is
    there once, and cannot be told where there is none. So words alone say nothing of the label: every claim is true of
    some scenes, false of others, and cannot be told of the rest.
    """
    return [_claim(scene, _pick(rng, list(CLAIM_LABELS)), rng) for _ in range(count)]


def _claim(scene: Scene, label: str, rng: np.random.Generator) -> tuple[str, str]:
    """Return a claim with this label, and the label."""
    shapes, colors = [item.shape for item in scene.items], [item.color for item in scene.items]
    by_shape = [(item.shape, item.color) for item in scene.items if item.shape in _only(shapes)]
    by_color = [(item.color, item.shape) for item in scene.items if item.color in _only(colors)]
    if label == "cannot be told":
        by_shape = [(shape, _pick(rng, colors)) for shape in SHAPES if shape not in shapes]
        by_color = [(color, _pick(rng, shapes)) for color in COLORS if color not in colors]
    is_by_shape = bool(by_shape) and (not by_color or bool(rng.integers(2)))
    named, said = _pick(rng, by_shape if is_by_shape else by_color)
    if label == "false":
        said = _pick(rng, [other for other in (COLORS if is_by_shape else SHAPES) if other != said])
    return (f"the {named} is {said}" if is_by_shape else f"the {named} shape is a {said}"), label
