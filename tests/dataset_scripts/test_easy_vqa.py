"""The package's own splits come whole, with the columns of the other question data."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import datasets
import pytest

from dataset_scripts import BUILDERS, EasyVQA, load_dataset_script
from dataset_scripts.easy_vqa import question_type

package = pytest.importorskip("easy_vqa")


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> datasets.DatasetDict:
    return load_dataset_script("easy_vqa", "vqa", cache_dir=tmp_path_factory.mktemp("cache"))


def test_sizes_and_ids(splits: datasets.DatasetDict) -> None:
    assert BUILDERS["easy_vqa"] is EasyVQA
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 38_575, "test": 9_673}
    assert [number for rows in splits.values() for number in rows["question_id"]] == list(range(48_248))
    assert {name: len(set(rows["image_id"])) for name, rows in splits.items()} == {"train": 4_000, "test": 1_000}


def test_answers(splits: datasets.DatasetDict) -> None:
    answers = package.get_answers()
    assert len(answers) == len(set(answers)) == 13
    for name, yes_no in (("train", 28_407), ("test", 7_136)):
        given = splits[name]["answers"][:]
        assert {len(one) for one in given} == {1}
        assert {one[0] for one in given} == set(answers)
        assert set(splits[name]["answer_weight"]) == {1.0}
        types = Counter(splits[name]["question_type"])
        assert types["yes/no"] == yes_no and set(types) == {"yes/no", "shape", "color"}
    assert {question_type(answer) for answer in ("circle", "rectangle", "triangle")} == {"shape"}
    assert [answer for answer in answers if question_type(answer) == "color"] == [
        "green", "red", "gray", "teal", "black", "yellow", "brown", "blue"
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["train", "test"])
def test_rows_are_the_packages(splits: datasets.DatasetDict, name: str) -> None:
    """Images are paths into the package, of the right split."""
    questions, answers, image_ids = getattr(package, f"get_{name}_questions")()
    paths = getattr(package, f"get_{name}_image_paths")()
    rows = splits[name]
    assert rows["question"][:] == questions
    assert rows["answers"][:] == [[answer] for answer in answers]
    assert rows["image_id"][:] == image_ids
    assert rows[-1]["image"].size == (64, 64)
    images = rows.select([0, 500, len(rows) - 1]).cast_column("image", datasets.Image(decode=False))
    for image, image_id in zip(images["image"], images["image_id"], strict=True):
        assert image == {"bytes": None, "path": paths[image_id]}


def test_columns_are_those_of_the_shapes(splits: datasets.DatasetDict, tmp_path: Path) -> None:
    few = {"num_train": 1, "num_validation": 1, "num_test": 1}
    shapes = load_dataset_script("shapes", "vqa", split="test", cache_dir=tmp_path, **few)
    assert splits["test"].features == shapes.features
    assert set(shapes["answer_weight"]) == {1.0}


def test_info(splits: datasets.DatasetDict) -> None:
    info = splits["test"].info
    assert "Victor Zhou" in info.citation and info.license == "MIT" and "easy-VQA" in info.homepage


def test_streaming(splits: datasets.DatasetDict, tmp_path: Path) -> None:
    rows = load_dataset_script("easy_vqa", split="test", streaming=True, cache_dir=tmp_path)
    first, kept = next(iter(rows)), splits["test"][0]
    assert first.pop("image").tobytes() == kept.pop("image").tobytes()
    assert first == kept


def test_a_moved_package_prepares_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepared rows hold paths, which would lead nowhere."""
    folder = EasyVQA(cache_dir=str(tmp_path), config_name="vqa").cache_dir
    assert EasyVQA(cache_dir=str(tmp_path), config_name="vqa").cache_dir == folder
    monkeypatch.setattr(package, "__file__", str(tmp_path / "easy_vqa" / "__init__.py"))
    assert EasyVQA(cache_dir=str(tmp_path), config_name="vqa").cache_dir != folder


def test_a_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "easy_vqa", None)
    with pytest.raises(ImportError, match="needs the package easy-vqa, which is not installed: pip install easy-vqa"):
        load_dataset_script("easy_vqa", cache_dir=tmp_path)
