"""What splits hold and share: counts, fingerprints that follow the content, and overlaps however they are hidden."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, Features, Image, IterableDataset, List, Value
from PIL import Image as Pillow

from dataset_scripts import load_dataset_script
from modeling_albef.training.application.split_contents import (
    SAMPLE,
    WHOLE,
    copies,
    image_key,
    overlaps,
    read_contents,
)


def noise(path: Path, seed: int, side: int = 8) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.fromarray(pixels).save(path)
    return path


def captions(folder: Path, rows: list[tuple[Any, list[str]]]) -> Dataset:
    """A split of images, paths below a folder or bytes, with their captions."""
    images = [{"path": str(folder / one), "bytes": None} if isinstance(one, str) else one for one, _ in rows]
    features = Features({"image": Image(decode=False), "caption": List(Value("string")), "image_id": Value("int64")})
    columns = {"image": images, "caption": [texts for _, texts in rows], "image_id": list(range(len(rows)))}
    return Dataset.from_dict(columns, features=features)


def shared(**splits: Dataset) -> list[str]:
    read = {split: contents for split, rows in splits.items() if (contents := read_contents(rows)) is not None}
    return overlaps(read, splits)


def test_images_are_the_same_by_path_link_and_bytes(tmp_path: Path) -> None:
    for number in range(6):
        noise(tmp_path / f"{number}.png", number)
    (tmp_path / "link.png").symlink_to(tmp_path / "0.png")
    shutil.copy(tmp_path / "1.png", tmp_path / "other name.png")
    embedded = {"path": None, "bytes": (tmp_path / "2.png").read_bytes()}
    train = captions(tmp_path, [(f"{number}.png", [f"caption {number}"]) for number in range(4)])
    test = captions(
        tmp_path, [(one, ["new"]) for one in ("link.png", "other name.png", embedded, "3.png", "4.png", "5.png")]
    )
    assert shared(train=train, test=test) == [
        "4 of 6 (66.7 %) test images are in the training data, too: link.png, other name.png, row 2 and 1 more."
    ]
    assert shared(train=train, test=captions(tmp_path, [("5.png", ["x"])])) == []
    for split in ("train", "test"):  # the same name in another folder is another image
        noise(tmp_path / split / "0.png", seed=len(split))
    assert (
        shared(
            train=captions(tmp_path / "train", [("0.png", ["x"])]), test=captions(tmp_path / "test", [("0.png", [])])
        )
        == []
    )


def test_pairs_share_an_image_on_either_side(tmp_path: Path) -> None:
    """Also one that is the first of a row here and, embedded, the second of a row there; a text belongs to its pair."""
    for number in range(5):
        noise(tmp_path / f"{number}.png", number)
    names = ("image", "image_2", "text")
    features = Features(dict(zip(names, (Image(decode=False), Image(decode=False), Value("string")), strict=True)))

    def pairs(*rows: tuple[Any, Any, str]) -> Dataset:
        return Dataset.from_dict(dict(zip(names, zip(*rows, strict=True), strict=True)), features=features)

    files = [{"path": str(tmp_path / f"{number}.png"), "bytes": None} for number in range(5)]
    embedded = {"path": None, "bytes": (tmp_path / "1.png").read_bytes()}
    train = pairs((files[0], files[1], "both are grey"), (files[0], files[2], "both are grey"))
    test = pairs((files[3], files[4], "both are grey"), (files[3], embedded, "neither is"))
    contents = read_contents(train)
    assert contents is not None and (contents.rows, contents.images, contents.texts) == (2, 3, 2)
    assert shared(train=train, test=test) == ["1 of 3 (33.3 %) test images are in the training data, too: row 1."]
    again = pairs((files[0], files[1], "Both are  grey"), (files[1], files[0], "both are grey"))
    assert shared(train=train, test=again)[1] == (
        "1 of 2 (50.0 %) test texts, of the same images, are in the training data, too, word for word."
    )
    swapped = read_contents(pairs((files[1], files[0], "both are grey"), (files[0], files[2], "both are grey")))
    assert swapped is not None and swapped.fingerprint != contents.fingerprint and copies({"train": contents}, {}) == []


def test_an_image_of_coco_is_known_by_its_number(tmp_path: Path) -> None:
    """Also where it was saved again; another number with the same digits is not one of COCO's."""
    names = ("COCO_train2014_000000000042.jpg", "COCO_train2014_000000000043.jpg", "202405310042.jpg")
    other = ("val/000000000042.jpg", "val/000000000044.jpg", "val/202405310042.jpg")
    for seed, name in enumerate((*names, *other)):
        noise(tmp_path / name, seed)
    train, test = (captions(tmp_path, [(name, [name]) for name in some]) for some in (names, other))
    assert shared(train=train, test=test) == [
        "1 of 3 (33.3 %) test images are in the training data, too: 000000000042.jpg."
    ]


def test_captions_are_the_same_word_for_word(tmp_path: Path) -> None:
    for number in range(3):
        noise(tmp_path / f"{number}.png", number)
    train = captions(tmp_path, [("0.png", ["A dog  runs.", "a cat"])])
    validation = captions(tmp_path, [("1.png", ["a dog runs", "a dog ran", "a dog runs"])])
    test = captions(tmp_path, [("2.png", ["a horse", "a dog ran", "A CAT"])])
    assert shared(train=train, validation=validation, test=test) == [
        "2 of 3 (66.7 %) validation captions are in the training data, too, word for word.",
        "1 of 3 (33.3 %) test captions are in the training data, too, word for word.",
        "1 of 3 (33.3 %) test captions are in the validation data, too, word for word.",
    ]


def test_large_files_that_differ_in_between_are_not_the_same(tmp_path: Path) -> None:
    """Of a long file three parts are read first; what looks the same then is compared whole."""
    data = bytearray(4 * WHOLE)
    (tmp_path / "a.bmp").write_bytes(data)
    data[SAMPLE + 5] = 1
    (tmp_path / "b.bmp").write_bytes(data)
    keys = [image_key({"path": str(tmp_path / name), "bytes": None}) for name in ("a.bmp", "b.bmp")]
    assert keys[0] == keys[1] == image_key({"path": None, "bytes": bytes(data)})
    train, test = (captions(tmp_path, [(name, [name])]) for name in ("a.bmp", "b.bmp"))
    assert shared(train=train, test=test) == []
    (tmp_path / "b.bmp").write_bytes((tmp_path / "a.bmp").read_bytes())
    assert len(shared(train=train, test=test)) == 1


def questions(folder: Path, rows: list[tuple[str, str, list[str]]]) -> Dataset:
    (folder / "rows.json").write_text(
        json.dumps([
            {"image": image, "question": question, "question_id": number, "answer": answers, "dataset": "vqa"}
            for number, (image, question, answers) in enumerate(rows)
        ])
    )  # fmt: skip
    options = {"data_dir": folder, "train_files": [str(folder / "rows.json")], "cache_dir": folder / "cache"}
    return load_dataset_script("own_data", "vqa", split="train", **options).cast_column("image", Image(decode=False))


def test_questions_are_the_same_together_with_their_image(tmp_path: Path) -> None:
    """That two splits ask what color something is says nothing."""
    for number in range(3):
        noise(tmp_path / f"{number}.png", number)
    train = questions(
        tmp_path, [("0.png", "what color?", ["red"]), ("0.png", "how many?", ["2"]), ("1.png", "a?", ["b"])]
    )
    test = questions(tmp_path, [("2.png", "what color?", ["red"]), ("0.png", "What  color?", ["blue"])])
    contents = read_contents(train)
    assert contents is not None and contents.facts() | {"fingerprint": ""} == {
        "images": 2,
        "questions": 3,
        "fingerprint": "",
    }
    assert shared(train=train, test=test) == [
        "1 of 2 (50.0 %) test images are in the training data, too: 0.png.",
        "1 of 2 (50.0 %) test questions, of the same images, are in the training data, too, word for word.",
    ]


def test_the_fingerprint_follows_the_content(tmp_path: Path) -> None:
    for number in range(3):
        noise(tmp_path / f"{number}.png", number)
    rows: list[tuple[Any, list[str]]] = [("0.png", ["a", "b"]), ("1.png", ["c"])]

    def fingerprint(folder: Path, rows: list[tuple[Any, list[str]]], **options: bool) -> str:
        contents = read_contents(captions(folder, rows), **options)
        assert contents is not None
        return contents.fingerprint

    first = fingerprint(tmp_path, rows)
    shutil.copytree(tmp_path, tmp_path / "moved")
    assert fingerprint(tmp_path / "moved", rows) == first == fingerprint(tmp_path, rows)
    others = [rows[::-1], [("0.png", ["a", "B"]), rows[1]], [("0.png", ["a"]), ("1.png", ["b", "c"])], rows[:1]]
    others += [[("2.png", ["a", "b"]), rows[1]]]
    found = {fingerprint(tmp_path, changed) for changed in others}
    assert len(found) == len(others) and first not in found
    noise(tmp_path / "moved/1.png", seed=9)
    assert fingerprint(tmp_path / "moved", rows) != first
    unopened = fingerprint(tmp_path, rows, open_images=False)
    assert unopened == fingerprint(tmp_path / "moved", rows, open_images=False) != first
    (tmp_path / "1.png").unlink()  # training says so; this does not stop on it
    assert fingerprint(tmp_path, rows) not in (first, unopened)


@pytest.mark.parametrize("rows", [[], [{"text": "a"}], [{"image": "a", "caption": "b"}]])
def test_other_columns_and_streams_are_left_alone(rows: list[dict[str, str]]) -> None:
    assert read_contents(Dataset.from_list(rows)) is None
    assert read_contents(IterableDataset.from_generator(lambda: iter(rows))) is None
    assert read_contents([1, 2]) is None


def test_an_image_without_captions_counts_as_an_image(tmp_path: Path) -> None:
    rows: Any = [(str(noise(tmp_path / f"{number}.png", number)), texts) for number, texts in enumerate((["a"], None))]
    contents = read_contents(captions(tmp_path, rows))
    assert contents is not None and (contents.images, contents.texts) == (2, 1)


def test_identical_files_with_two_ids_are_named(tmp_path: Path) -> None:
    """Their captions count as wrong for each other; files that only look the same in three parts do not."""
    data = bytearray(4 * WHOLE)
    (tmp_path / "long.bmp").write_bytes(data)
    data[SAMPLE + 5] = 1
    (tmp_path / "other.bmp").write_bytes(data)
    noise(tmp_path / "a.png", 0)
    noise(tmp_path / "b.png", 1)
    embedded = {"path": None, "bytes": (tmp_path / "b.png").read_bytes()}
    for name in ("c.png", "d.png"):
        shutil.copy(tmp_path / "a.png", tmp_path / name)
    names: list[Any] = ["a.png", "b.png", "c.png", embedded, "d.png", "long.bmp", "other.bmp", None]
    rows = captions(tmp_path, [(one, ["x"]) for one in names])
    train, test = read_contents(rows), read_contents(captions(tmp_path, [("a.png", ["x"])]))
    assert train is not None and test is not None
    assert copies({"train": train, "test": test}, {"train": rows, "test": rows}) == [
        "3 of 8 (37.5 %) training images have the bytes of another one with another image_id: c.png is a.png, row 3 is "
        "b.png, d.png is a.png."
    ]
    same = rows.remove_columns("image_id").add_column("image_id", [7] * len(rows))
    contents = read_contents(same)
    assert contents is not None and copies({"train": contents}, {"train": same}) == []
