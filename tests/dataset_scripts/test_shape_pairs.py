"""Statements about pairs of drawn scenes: their truth by an independent reading, and words that give nothing away."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from dataset_scripts import DataError, load_dataset_script, make_builder
from dataset_scripts.drawn.scenes import CAPTIONS, Scene, draw_scenes, random_stream
from dataset_scripts.shape_pairs import draw_statements


def holds(text: str, left: Scene, right: Scene) -> bool:
    """Read a statement word by word: not by the code that writes it."""
    scenes = {"left": left, "right": right}
    if found := re.fullmatch(r"there are (more|fewer) shapes on the (left|right)", text):
        own, other = (len(scenes[side].items) for side in (found[2], "right" if found[2] == "left" else "left"))
        return own > other if found[1] == "more" else own < other
    found = re.fullmatch(r"there is a (.+?) on the (left|right)( and on the right| only)?", text)
    assert found is not None, text

    def shows(side: str) -> bool:
        wanted = found[1].split()
        if len(wanted) == 2:
            return wanted[0] in [item.color for item in scenes[side].items]
        return wanted[0] in [item.shape for item in scenes[side].items]

    if found[3] == " and on the right":
        return shows("left") and shows("right")
    return shows(found[2]) and (found[3] is None or not shows("right" if found[2] == "left" else "left"))


def drawn(split: str, count: int) -> list[tuple[Scene, Scene, list[tuple[str, bool]]]]:
    scenes, pairs = list(draw_scenes(0, split, 2 * count, 1)), []
    for index in range(count):
        left, right = scenes[2 * index : 2 * index + 2]
        pairs.append((left, right, draw_statements(left, right, 4, random_stream(0, split, index, CAPTIONS))))
    return pairs


def test_every_label_is_the_truth() -> None:
    pairs = drawn("train", 300)
    kinds = Counter(re.sub(r" a (\w+ shape|\w+)", "", text) for _, _, said in pairs for text, _ in said)
    assert len(kinds) == 9 and min(kinds.values()) > 10
    for left, right, said in pairs:
        assert all(holds(text, left, right) == is_true for text, is_true in said)
        assert len({text for text, _ in said}) == len(said)
    assert sum(len(said) == 4 for _, _, said in pairs) > 290


def test_words_alone_say_nothing() -> None:
    """The best guess by the whole text, learned on training pairs, is right in half of the test's rows."""
    votes: dict[str, Counter[bool]] = {}
    for _, _, said in drawn("train", 2000):
        for text, is_true in said:
            votes.setdefault(text, Counter())[is_true] += 1
    rows = [(text, is_true) for _, _, said in drawn("test", 500) for text, is_true in said]
    right = sum(votes[text].most_common(1)[0][0] == is_true for text, is_true in rows if text in votes)
    assert 0.44 < right / len(rows) < 0.56
    assert 0.46 < sum(is_true for _, is_true in rows) / len(rows) < 0.54


def test_rows(tmp_path: Path) -> None:
    sizes = {"num_train": 5, "num_validation": 2, "num_test": 3, "image_size": 32}
    splits = load_dataset_script("shape_pairs", cache_dir=tmp_path, **sizes)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 20, "validation": 8, "test": 12}
    row = splits["test"][0]
    assert set(row) == {"image", "image_2", "text", "label"} and row["label"] in ("True", "False")
    assert row["image"].size == row["image_2"].size == (32, 32)
    again = load_dataset_script("shape_pairs", cache_dir=tmp_path / "again", split="test", **sizes)
    assert again["text"] == splits["test"]["text"] and again[0]["image"].tobytes() == row["image"].tobytes()


def test_some_kinds_alone(tmp_path: Path) -> None:
    rows = load_dataset_script("shape_pairs", cache_dir=tmp_path, split="test", num_test=30, kinds=["side", "both"])
    kinds = Counter(re.sub(r" a (\w+ shape|\w+)", "", text) for text in rows["text"])
    assert set(kinds) == {f"there is on the {end}" for end in ("left", "right", "left and on the right")}
    for wrong in ([], ["sides"], "side"):
        with pytest.raises(DataError, match=r"kinds is .* must be a list of side, both, only, number"):
            make_builder("shape_pairs", kinds=wrong)


def test_false_statements_are_near_and_far() -> None:
    """A thing that is said to be on one image and is not: on the other nearly as often as on none."""
    counts: Counter[bool] = Counter()
    for left, right, said in drawn("train", 500):
        for text, is_true in said:
            if (found := re.fullmatch(r"there is a (\w+)(?: shape)? on the (left|right)", text)) and not is_true:
                other = right if found[2] == "left" else left
                counts[found[1] in {word for item in other.items for word in (item.color, item.shape)}] += 1
    assert 0.35 < counts[True] / counts.total() < 0.5 and counts.total() > 100


@pytest.mark.parametrize("field", [{"num_train": 0}, {"min_objects": 4}, {"statements_per_pair": 9}, {"seed": -1}])
def test_values_out_of_range_are_named(field: dict[str, int]) -> None:
    name, value = next(iter(field.items()))
    with pytest.raises(DataError, match=rf"{name} is {value}, but must be an integer"):
        make_builder("shape_pairs", **field)
