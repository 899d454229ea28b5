"""NLVR2's own files, ALBEF's and own tables give the same rows; what is wrong is named by file, row and value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from data_cases import write_image, write_json

from dataset_scripts import AnnotationError, load_dataset_script

ROWS = [  # split, directory, set, pair, sentence, text, label
    ("train", 15, 10171, 0, 0, "There are two dogs.", "True"),
    ("train", 15, 10171, 0, 1, "The left image shows a cat.", "False"),
    ("train", 7, 4, 2, 0, "Both images show a bus.", "True"),
    ("dev", None, 850, 0, 0, "One image shows three wolves.", "False"),
    ("test1", None, 0, 1, 0, "There is an empty cup.", "True"),
]
SPLITS = {"train": "train", "dev": "validation", "test1": "test"}


def image_name(row: tuple[Any, ...], number: int) -> str:
    split, directory, of_set, pair = row[:4]
    folder = split if directory is None else f"{split}/{directory}"
    return f"{folder}/{split}-{of_set}-{pair}-img{number}.png"


def write_images(root: Path) -> None:
    for row in ROWS:
        for number in range(2):
            write_image(root / image_name(row, number))


def write_official(folder: Path) -> None:
    """A line a sentence, as github.com/lil-lab/nlvr has them."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        lines = []
        for row in ROWS:
            name, directory, of_set, pair, sentence, text, label = row
            if name == split:
                item = {"validation": {"0": label}, "sentence": text, "left_url": "http://a/b.jpg", "writer": "7"}
                item |= {"right_url": "http://a/c.jpg", "label": label, "synset": "dog", "query": "dogs3"}
                item |= {"identifier": f"{name}-{of_set}-{pair}-{sentence}"}
                lines.append(json.dumps(item | ({} if directory is None else {"directory": directory})))
        (folder / f"{split}.json").write_text("\n".join(lines) + "\n")


def write_albef(folder: Path) -> None:
    for split, name in {"train": "train", "dev": "dev", "test1": "test"}.items():
        rows = [
            {
                "images": [f"images/{image_name(row, number)}" for number in range(2)],
                "sentence": row[5],
                "label": row[6],
            }
            for row in ROWS
            if row[0] == split
        ]
        write_json(folder / f"nlvr_{name}.json", rows)


def paths_of(dataset: datasets.Dataset) -> list[dict[str, Any]]:
    for name in ("image", "image_2"):
        dataset = dataset.cast_column(name, datasets.Image(decode=False))
    return [row | {name: row[name]["path"] for name in ("image", "image_2")} for row in dataset]


def expected(root: Path, split: str) -> list[dict[str, Any]]:
    return [
        {"image": str(root / image_name(row, 0)), "image_2": str(root / image_name(row, 1))}
        | {"text": row[5], "label": row[6]}
        for row in ROWS
        if row[0] == split
    ]


@pytest.mark.parametrize("below", ["", "data"])
@pytest.mark.parametrize("write", [write_official, write_albef])
def test_published_files(write: Any, below: str, tmp_path: Path) -> None:
    root = tmp_path / "nlvr2"
    write_images(root / "images")
    write(root / below)
    splits = load_dataset_script("nlvr2", data_dir=root, cache_dir=tmp_path / "cache")
    assert list(splits) == ["train", "validation", "test"]
    for theirs, ours in SPLITS.items():
        assert paths_of(splits[ours]) == expected(root / "images", theirs)
    assert splits["train"][0]["image_2"].size == (24, 20)


def test_images_beside_the_files(tmp_path: Path) -> None:
    write_images(tmp_path / "nlvr2")
    write_official(tmp_path / "nlvr2")
    rows = load_dataset_script("nlvr2", data_dir=tmp_path / "nlvr2", split="train", cache_dir=tmp_path / "cache")
    assert paths_of(rows) == expected(tmp_path / "nlvr2", "train")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "json", "parquet"])
def test_own_tables(kind: str, tmp_path: Path) -> None:
    write_images(tmp_path)
    rows = [
        {"image": image_name(row, 0), "image_2": image_name(row, 1), "text": row[5], "label": row[6]}
        for row in ROWS
        if row[0] == "train"
    ]
    table, path = datasets.Dataset.from_list(rows), tmp_path / f"pairs.{kind}"
    if kind == "json":
        write_json(path, rows)
    else:
        {"csv": table.to_csv, "jsonl": table.to_json, "parquet": table.to_parquet}[kind](path)
    fields = {"data_dir": tmp_path, "train_files": str(path), "cache_dir": tmp_path / "cache", "split": "train"}
    loaded = load_dataset_script("nlvr2", **fields)
    assert paths_of(loaded) == expected(tmp_path, "train")
    streamed = load_dataset_script("nlvr2", **fields, streaming=True)
    assert [row["text"] for row in streamed] == [row["text"] for row in rows]
    parts = load_dataset_script("nlvr2", **{**fields, "cache_dir": tmp_path / "parts"}, num_proc=2)
    assert sorted(parts["text"]) == sorted(row["text"] for row in rows)


GOOD = {"image": "a.png", "image_2": "b.png", "text": "two dogs", "label": "True"}
BAD: dict[str, tuple[Any, str]] = {
    "one image": ({"images": ["a.png"], "sentence": "x", "label": "True"}, "has no 'image' and no 'image_2'"),
    "no second image": ({key: GOOD[key] for key in ("image", "text", "label")}, "has no 'image_2'; its keys"),
    "a number for an image": (GOOD | {"image_2": 3}, "image_2 is 3: a path relative to image_root is expected"),
    "a missing image": (GOOD | {"image_2": "c.png"}, "c.png' cannot be found"),
    "no text": (GOOD | {"text": " "}, "'text' is ' ': a text with a letter or digit is expected"),
    "no label": (GOOD | {"label": None}, "has no 'label': add it"),
    "a list for a label": (GOOD | {"label": [1]}, r"'label' is \[1\]: a text, a whole number or true or false"),
    "a list": ([1], "is a JSON list, not an object"),
    "an identifier that names nothing": ({"identifier": "x", "sentence": "a", "label": "True"}, "has no 'image'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_named(case: str, tmp_path: Path) -> None:
    row, message = BAD[case]
    for name in ("a.png", "b.png"):
        write_image(tmp_path / name)
    file = write_json(tmp_path / "rows.json", [GOOD, row])
    fields = {"data_dir": tmp_path, "train_files": file, "cache_dir": tmp_path / "cache", "split": "train"}
    with pytest.raises(AnnotationError, match=rf"(?s)rows\.json, row 2: .*{message}"):
        load_dataset_script("nlvr2", **fields)
    assert len(load_dataset_script("nlvr2", **fields, drop_bad_rows=True)) == 1


def test_labels_of_json_and_of_a_test(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        write_image(tmp_path / name)
    rows = [GOOD | {"label": True}, {key: GOOD[key] for key in ("image", "image_2", "text")}]
    file = write_json(tmp_path / "rows.json", rows)
    loaded = load_dataset_script("nlvr2", data_dir=tmp_path, test_files=file, split="test", cache_dir=tmp_path / "c")
    assert loaded["label"] == ["True", None]
    (tmp_path / "cut.json").write_text('{"identifier": "dev-1-0-0", "sen')
    with pytest.raises(AnnotationError, match=r"cut\.json: is not JSON \(line 1"):
        load_dataset_script("nlvr2", data_dir=tmp_path, test_files=str(tmp_path / "cut.json"), split="test")
