"""The drawn data set shows what its captions and answers say, on every run alike."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from dataset_scripts import load_dataset_script
from dataset_scripts.drawn.scene_texts import QUESTION_TYPES, all_captions
from dataset_scripts.drawn.scenes import COLORS, SHAPES, Item, Scene, draw_scenes, scenes_with_boxes

SPLITS = ("train", "validation", "test")
COUNTS = {"num_train": 300, "num_validation": 60, "num_test": 60}
FIRST_WORDS = {"left": 1, "above": 1, "right": -1, "below": -1}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def retrieval(cache: Path) -> datasets.DatasetDict:
    return load_dataset_script("shapes", cache_dir=cache, **COUNTS)


@pytest.fixture(scope="module")
def vqa(cache: Path) -> datasets.DatasetDict:
    return load_dataset_script("shapes", "vqa", cache_dir=cache, **COUNTS)


def read_caption(caption: str) -> tuple[str, tuple[str, ...]]:
    """Layout and names ("red circle") in reading order, from the words alone."""
    words = caption.split()
    names = [f"{color} {shape}" for color, shape in pairwise(words) if shape in SHAPES]
    ends = "".join(word for word in words if word in ("left", "top", "right", "bottom"))
    way = ends if words[0] == "from" else ""
    relation = next((word for word in words if word in FIRST_WORDS), "left")
    backwards = way.startswith(("right", "bottom")) if way else FIRST_WORDS[relation] < 0
    row = way in ("leftright", "rightleft") if way else relation in ("left", "right")
    return ("row" if row else "column"), tuple(names[::-1] if backwards else names)


def find_colors(image: Any) -> dict[str, np.ndarray]:
    """(n, 2) positions (x, y) of the pixels whose color is close to one of the eight."""
    pixels = np.asarray(image.convert("RGB")).astype(int)
    found = {}
    for name, value in COLORS.items():
        ys, xs = np.nonzero(np.abs(pixels - np.array(value)).max(axis=2) <= 9)
        if len(xs):
            found[name] = np.stack([xs, ys], axis=1)
    return found


def test_pixels_show_what_captions_say(retrieval: datasets.DatasetDict) -> None:
    """Colors and their order are read from the pixels of the scenes whose objects differ in color."""
    checked = 0
    for row in retrieval["train"]:
        layouts = {read_caption(caption) for caption in row["caption"]}
        assert len(layouts) == 1
        layout, names = layouts.pop()
        colors = [name.split()[0] for name in names]
        if len(set(colors)) < len(colors):
            continue
        found = find_colors(row["image"])
        assert set(found) == set(colors)
        axis = 0 if layout == "row" else 1
        assert sorted(colors, key=lambda color: found[color][:, axis].mean()) == colors
        ends = [(found[color][:, axis].min(), found[color][:, axis].max()) for color in colors]
        assert all(first[1] < second[0] for first, second in pairwise(ends))
        checked += 1
    assert checked > 200


def test_pixels_show_the_shape(retrieval: datasets.DatasetDict) -> None:
    """The shapes differ in how much of their bounding box they fill, and a triangle is heavier below."""
    fill, weight = defaultdict(list), defaultdict(list)
    for row in retrieval["train"]:
        _, names = read_caption(row["caption"][0])
        colors = [name.split()[0] for name in names]
        found = find_colors(row["image"])
        for name in names:
            color, shape = name.split()
            if colors.count(color) == 1 and any(f"large {name}" in caption for caption in row["caption"]):
                box = np.prod(np.ptp(found[color], axis=0) + 1)
                fill[shape].append(len(found[color]) / box)
                ys = found[color][:, 1]
                weight[shape].append((ys.mean() - (ys.min() + ys.max()) / 2) / np.ptp(ys))
    means = {shape: np.mean(values) for shape, values in fill.items()}
    assert min(len(values) for values in fill.values()) >= 10
    assert means["square"] == pytest.approx(1.0, abs=0.02)
    assert means["circle"] == pytest.approx(0.785, abs=0.08)
    assert means["triangle"] == pytest.approx(0.5, abs=0.08)
    assert means["star"] < 0.42 < means["cross"] < 0.65
    assert np.mean(weight["triangle"]) > 0.1 > abs(np.mean(weight["cross"]))


def test_boxes_hold_the_pixels_of_their_objects(retrieval: datasets.DatasetDict) -> None:
    """Where the objects of a scene differ in color, a color's pixels fill its object's box."""
    checked = 0
    for split in SPLITS:
        found_scenes = list(scenes_with_boxes(0, split, 60))
        assert [scene for scene, _ in found_scenes] == list(draw_scenes(0, split, 60))
        for row, (scene, boxes) in zip(retrieval[split], found_scenes, strict=False):
            if len({item.color for item in scene.items}) < len(scene.items):
                continue
            found = find_colors(row["image"])
            for item, box in zip(scene.items, boxes, strict=True):
                positions = found[item.color]
                shown = np.concatenate([positions.min(axis=0), positions.max(axis=0) + 1])  # left, top, right, bottom
                slack = 3 if item.shape in ("star", "triangle") else 1.5  # pixels: tips blend with the ground
                assert np.abs(np.array(box) * 64 - shown).max() <= slack
                checked += 1
    assert checked > 200


def test_large_is_larger(retrieval: datasets.DatasetDict) -> None:
    sizes = defaultdict(list)
    for row in retrieval["train"]:
        _, names = read_caption(row["caption"][0])
        found = find_colors(row["image"])
        if len({name.split()[0] for name in names}) < len(names):
            continue
        for name in names:
            for size in ("small", "large"):
                if any(f"{size} {name}" in caption for caption in row["caption"]):
                    sizes[name.split()[1], size].append(np.ptp(found[name.split()[0]], axis=0).max())
    assert len(sizes) == 10
    assert all(max(sizes[shape, "small"]) < min(sizes[shape, "large"]) for shape in SHAPES)


def test_captions_of_one_scene() -> None:
    scene = Scene(
        "row", (Item("small", "red", "circle"), Item("large", "blue", "square"), Item("small", "red", "star"))
    )
    captions = all_captions(scene)
    assert len(set(captions)) == len(captions) == 16
    assert captions[0] == "a red circle left of a blue square left of a red star"
    assert "the red star is right of the blue square which is right of the red circle" in captions
    assert "from right to left a small red star a large blue square and a small red circle" in captions
    assert all(read_caption(caption) == ("row", ("red circle", "blue square", "red star")) for caption in captions)
    column = Scene("column", scene.items[:2])
    assert "there is a blue square below a red circle" in all_captions(column)
    assert {read_caption(caption) for caption in all_captions(column)} == {("column", ("red circle", "blue square"))}


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_caption_describes_one_image(split: str) -> None:
    """At the default size; a caption is true of an image when its names occur there in this order."""

    def holds(said: tuple[str, ...], shown: tuple[str, ...]) -> bool:
        rest = iter(shown)
        return all(name in rest for name in said)

    scenes = list(draw_scenes(0, split, 200))
    shown = [(scene.layout, tuple(f"{item.color} {item.shape}" for item in scene.items)) for scene in scenes]
    for index, (layout, names) in enumerate(shown):
        matches = [i for i, (other, others) in enumerate(shown) if other == layout and holds(names, others)]
        assert matches == [index]


def test_captions_are_distinct_and_short(retrieval: datasets.DatasetDict) -> None:
    for split in ("validation", "test"):
        captions = [caption for row in retrieval[split]["caption"] for caption in row]
        assert len(set(captions)) == len(captions) == 2 * 60
    captions = [caption for split in SPLITS for row in retrieval[split]["caption"] for caption in row]
    assert len({word for caption in captions for word in caption.split()}) <= 40
    assert max(len(caption.split()) for caption in captions) <= 30


def test_splits_share_no_set_of_objects(retrieval: datasets.DatasetDict) -> None:
    sets = {split: {frozenset(read_caption(row[0])[1]) for row in retrieval[split]["caption"]} for split in SPLITS}
    assert not sets["test"] & sets["train"]
    assert not sets["validation"] & sets["train"]
    assert not sets["test"] & sets["validation"]


def test_every_word_of_the_test_is_trained(retrieval: datasets.DatasetDict) -> None:
    words = {
        split: {w for row in retrieval[split]["caption"] for text in row for w in text.split()} for split in SPLITS
    }
    assert words["test"] <= words["train"]


def test_rows_number_their_images(retrieval: datasets.DatasetDict, vqa: datasets.DatasetDict) -> None:
    for split, count in zip(SPLITS, COUNTS.values(), strict=True):
        assert retrieval[split]["image_id"][:] == list(range(count))
        assert vqa[split]["image_id"][:] == [number for number in range(count) for _ in range(4)]
    assert retrieval["train"][0]["image"].size == (64, 64)
    assert retrieval["train"].features["caption"] == datasets.List(datasets.Value("string"))


def image_bytes(dataset: datasets.Dataset) -> list[bytes]:
    return [image["bytes"] for image in dataset.cast_column("image", datasets.Image(decode=False))["image"]]


def test_same_bytes_on_every_run(retrieval: datasets.DatasetDict, vqa: datasets.DatasetDict, tmp_path: Path) -> None:
    again = load_dataset_script("shapes", cache_dir=tmp_path, **COUNTS)
    for split in SPLITS:
        assert image_bytes(again[split]) == image_bytes(retrieval[split])
        assert again[split]["caption"][:] == retrieval[split]["caption"][:]
        assert image_bytes(vqa[split])[::4] == image_bytes(retrieval[split])
    assert len(set(image_bytes(retrieval["train"]))) == COUNTS["num_train"]


def test_an_image_does_not_depend_on_the_number_of_images(retrieval: datasets.DatasetDict, tmp_path: Path) -> None:
    fewer = load_dataset_script("shapes", cache_dir=tmp_path, num_train=5, num_validation=5, num_test=5)
    for split in SPLITS:
        assert image_bytes(fewer[split]) == image_bytes(retrieval[split])[:5]


def test_another_seed_draws_other_images(retrieval: datasets.DatasetDict, tmp_path: Path) -> None:
    other = load_dataset_script("shapes", cache_dir=tmp_path, num_train=20, num_validation=5, num_test=5, seed=1)
    assert not set(image_bytes(other["train"])) & set(image_bytes(retrieval["train"]))


def true_answer(question: str, layout: str, names: tuple[str, ...]) -> str:
    """Answer from the names in order, worked out by other means than the builder's."""
    objects, words = [tuple(name.split()) for name in names], question.split()
    ends = {"left": 0, "top": 0, "right": -1, "bottom": -1}
    if question.startswith("how many"):
        return str(len([o for o in objects if words[2] in ("shapes", o[0])]))
    if question.startswith("is there"):
        return "yes" if tuple(words[3:]) in objects else "no"
    if question.startswith("is the"):
        relation = next(word for word in words if word in FIRST_WORDS)
        where = [next(i for i, o in enumerate(objects) if word in o) for word in words if word in (*COLORS, *SHAPES)]
        return "yes" if (where[1] - where[0]) * FIRST_WORDS[relation] > 0 else "no"
    assert ("row" if words[-1] in ("left", "right") else "column") == layout or words[-1] not in ends
    column = ("color", "shape").index(words[1])
    if words[-1] in ends:
        return objects[ends[words[-1]]][column]
    known = [i for i, o in enumerate(objects) if words[-1] in o]
    assert len(known) == 1, "the question must tell one object"
    relation = next((word for word in words if word in FIRST_WORDS), None)
    if relation is None:
        return objects[known[0]][column]
    beside = objects[: known[0]] if FIRST_WORDS[relation] > 0 else objects[known[0] + 1 :]
    assert len(beside) == 1, "one object lies there"
    return beside[0][column]


def test_answers_are_right(retrieval: datasets.DatasetDict, vqa: datasets.DatasetDict) -> None:
    for split in SPLITS:
        captions = retrieval[split]["caption"][:]
        for row in vqa[split].remove_columns("image"):
            layout, names = read_caption(captions[row["image_id"]][0])
            assert row["answers"] == [true_answer(row["question"], layout, names)] * 10, row
            assert row["answers"][0] in ("yes", "no", "0", "1", "2", "3", *COLORS, *SHAPES)


def test_single_objects_where_they_are_allowed(cache: Path) -> None:
    """A third of the training; elsewhere as the few names fall. Answers are right, no question tells positions."""
    splits = load_dataset_script("shapes", "vqa", cache_dir=cache, min_objects=1, image_size=16, **COUNTS)
    scenes = {split: list(draw_scenes(0, split, COUNTS[f"num_{split}"], 1)) for split in SPLITS}
    shares = {split: sum(len(s.items) == 1 for s in scenes[split]) / len(scenes[split]) for split in SPLITS}
    assert 0.27 < shares["train"] < 0.4 and 0 < shares["validation"] and 0 < shares["test"]
    for split in SPLITS:
        for row in splits[split].remove_columns("image"):
            scene = scenes[split][row["image_id"]]
            names = tuple(item.name() for item in scene.items)
            assert row["answers"] == [true_answer(row["question"], scene.layout, names)] * 10, row
            positions = {"left", "right", "top", "bottom", "above", "below"} & set(row["question"].split())
            assert len(names) > 1 or not positions
    names_of = {split: {frozenset(item.name() for item in s.items) for s in scenes[split]} for split in SPLITS}
    assert not names_of["test"] & names_of["train"] and not names_of["validation"] & names_of["train"]


def test_captions_of_single_objects_are_for_training_alone(cache: Path, retrieval: datasets.DatasetDict) -> None:
    """Outside of it a caption tells its image, and the images are those without single objects."""
    splits = load_dataset_script("shapes", cache_dir=cache, min_objects=1, captions_per_image=5, **COUNTS)
    scenes = list(draw_scenes(0, "train", COUNTS["num_train"], 1))
    single = 0
    for row, scene in zip(splits["train"], scenes, strict=True):
        if len(scene.items) > 1:
            assert len(set(row["caption"])) == 5
            continue
        (item,) = scene.items
        names = [f"a {item.color} {item.shape}", f"a {item.size} {item.color} {item.shape}"]
        assert set(row["caption"]) == {*names, *(f"there is {name}" for name in names)}
        assert set(find_colors(row["image"])) == {item.color}
        single += 1
    assert 0.27 < single / len(scenes) < 0.4
    for split in ("validation", "test"):
        assert image_bytes(splits[split]) == image_bytes(retrieval[split])


def test_questions_of_an_image_differ_and_ids_are_unique(vqa: datasets.DatasetDict) -> None:
    ids = [number for split in SPLITS for number in vqa[split]["question_id"]]
    assert len(set(ids)) == len(ids) == 4 * sum(COUNTS.values())
    for split in SPLITS:
        asked = Counter(zip(vqa[split]["image_id"], vqa[split]["question"], strict=True))
        assert max(asked.values()) == 1
        assert set(vqa[split]["question_type"]) == set(QUESTION_TYPES)


def test_the_question_alone_gives_little_away(cache: Path) -> None:
    """Best guesser by question text at the default size: even judged on the very rows it counted."""
    rows = load_dataset_script("shapes", "vqa", split="train", cache_dir=cache, image_size=16, num_test=1)
    answers_of: dict[str, Counter[str]] = defaultdict(Counter)
    for question, answers in zip(rows["question"], rows["answers"], strict=True):
        answers_of[question][answers[0]] += 1
    right = sum(answers.most_common(1)[0][1] for answers in answers_of.values())
    assert len(rows) == 8000
    assert 100 * right / len(rows) < 40
    yes_no = [answers for answers in answers_of.values() if set(answers) <= {"yes", "no"}]
    frequent = [answers for answers in yes_no if answers.total() >= 30]
    assert len(frequent) > 20
    assert all(0.25 < answers["yes"] / answers.total() < 0.75 for answers in frequent)
    assert 0.47 < sum(a["yes"] for a in yes_no) / sum(a.total() for a in yes_no) < 0.53


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_train": 0}, "num_train is 0, but must be an integer >= 1"),
        ({"num_test": -1}, "num_test is -1"),
        ({"num_validation": 2.5}, r"num_validation is 2\.5, but must be an integer"),
        ({"image_size": 8}, "image_size is 8, but must be an integer >= 16"),
        ({"seed": -1}, "seed is -1, but must be an integer >= 0"),
        ({"seed": True}, "seed is True, but must be an integer"),
        ({"captions_per_image": 17}, r"captions_per_image is 17, but must be an integer 1\.\.16"),
        ({"questions_per_image": 2}, r"questions_per_image is 2, but must be an integer 3\.\.20"),
        ({"min_objects": 4}, r"min_objects is 4, but must be an integer 1\.\.3"),
        ({"config_name": "vqa", "min_objects": 0}, r"min_objects is 0, but must be an integer 1\.\.3"),
    ],
)
def test_wrong_configuration(wrong: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load_dataset_script("shapes", cache_dir=tmp_path, **wrong)


def test_more_images_than_can_be_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataset_scripts.drawn.scenes.MAX_ATTEMPTS", 20)
    with pytest.raises(ValueError, match=r"Found no scene for image .* of 'test' unlike the others: ask for fewer"):
        list(draw_scenes(0, "test", 3000))


@pytest.mark.parametrize(("name", "count"), [("captions_per_image", 16), ("questions_per_image", 20)])
def test_most_texts_an_image(name: str, count: int, tmp_path: Path) -> None:
    config, column = ("retrieval", "caption") if name.startswith("captions") else ("vqa", "question")
    few = {"num_train": 3, "num_validation": 1, "num_test": 1}
    rows = load_dataset_script("shapes", config, split="train", cache_dir=tmp_path, **few, **{name: count})
    texts = rows[column][0] if column == "caption" else rows[column][:count]
    assert len(set(texts)) == count
