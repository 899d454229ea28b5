"""Image files with the same bytes are one image, if that is asked for: captions and questions of all belong to it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from data_cases import read_rows, rows_of, write_json
from PIL import Image

from dataset_scripts import DataError, FileBuilder, load_dataset_script, make_builder
from dataset_scripts.__main__ import main
from modeling_albef.training.application import DataArguments


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """a.png and b.png are different; c.png is a.png again; d.png has as many bytes as a.png, and others."""
    for number, name in enumerate("ab"):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8 + number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    shutil.copy(tmp_path / "a.png", tmp_path / "c.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[50] ^= 1
    (tmp_path / "d.png").write_bytes(data)
    return tmp_path


def builder(folder: Path, task: str, **fields: object) -> FileBuilder:
    made = make_builder("own_data", task, data_dir=folder, cache_dir=folder / "cache", **fields)
    assert isinstance(made, FileBuilder)
    return made


def test_captions_of_identical_files_belong_to_one_image(folder: Path) -> None:
    names = ("a", "b", "c", "d", "a")
    rows = [{"image": f"{name}.png", "caption": f"{name} {n}", "image_id": n % 4} for n, name in enumerate(names)]
    write_json(folder / "train.json", rows)
    apart = rows_of(read_rows(builder(folder, "retrieval"), "train"))
    assert [(Path(row["image"]).stem, row["caption"], row["image_id"]) for row in apart] == [
        ("a", ["a 0", "a 4"], 0),
        ("b", ["b 1"], 1),
        ("c", ["c 2"], 2),
        ("d", ["d 3"], 3),
    ]
    merged = rows_of(read_rows(builder(folder, "retrieval", merge_duplicates=True), "train"))
    assert [(Path(row["image"]).stem, row["caption"], row["image_id"]) for row in merged] == [
        ("a", ["a 0", "c 2", "a 4"], 0),
        ("b", ["b 1"], 1),
        ("d", ["d 3"], 2),
    ]


def test_an_id_that_names_two_files_is_refused_unless_they_are_the_same(folder: Path) -> None:
    rows = [{"image": f"{name}.png", "caption": name, "image_id": 7} for name in "ac"]
    write_json(folder / "train.json", rows)
    with pytest.raises(DataError, match=r"'image_id' 7 names 'c.png', before it named 'a.png'"):
        read_rows(builder(folder, "retrieval"), "train")
    assert len(read_rows(builder(folder, "retrieval", merge_duplicates=True), "train")) == 1
    rows[1]["image"] = "d.png"
    write_json(folder / "train.json", rows)
    with pytest.raises(DataError, match=r"'image_id' 7 names 'd.png'"):
        read_rows(builder(folder, "retrieval", merge_duplicates=True), "train")


@pytest.mark.parametrize("num_proc", [None, 2])
def test_questions_of_identical_files_share_an_image_id(folder: Path, num_proc: int | None) -> None:
    rows = [
        {"image": f"{name}.png", "question": f"what is {n}?", "question_id": n, "answer": "x", "dataset": "vqa"}
        for n, name in enumerate("cbad")
    ]
    write_json(folder / "train.json", rows)
    options = {"data_dir": folder, "cache_dir": folder / "cache", "split": "train", "num_proc": num_proc}
    apart = load_dataset_script("own_data", "vqa", **options)
    assert apart["image_id"][:] == [0, 1, 2, 3]
    merged = load_dataset_script("own_data", "vqa", merge_duplicates=True, **options)
    assert merged["image_id"][:] == [0, 1, 0, 2] and merged["question_id"][:] == [0, 1, 2, 3]


def test_the_commands_and_the_run_scripts_know_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(folder / "train.json", [{"image": f"{name}.png", "caption": name} for name in "abcd"])
    assert main(["check", "own_data", "--data_dir", str(folder)]) == 0
    assert "4 images, 4 captions" in capsys.readouterr().out
    assert main(["check", "own_data", "--data_dir", str(folder), "--merge_duplicates"]) == 0
    assert "3 images, 4 captions" in capsys.readouterr().out
    assert "merge_duplicates" not in DataArguments(dataset="own_data").builder_fields()
    assert DataArguments(dataset="own_data", merge_duplicates=True).builder_fields()["merge_duplicates"] is True


def test_images_that_rows_hold_themselves_are_refused(folder: Path) -> None:
    write_json(folder / "train.json", [{"image": "a.png", "caption": "a"}])
    rows = load_dataset_script("own_data", data_dir=folder, cache_dir=folder / "cache", split="train")
    rows.save_to_disk(str(folder / "saved"))
    with pytest.raises(DataError, match="merge_duplicates compares image files, but the rows hold their images"):
        load_dataset_script(
            "own_data", hub_dataset=str(folder / "saved"), cache_dir=folder / "cache", merge_duplicates=True
        )
