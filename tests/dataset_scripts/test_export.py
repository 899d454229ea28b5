"""What is exported loads anywhere with `load_dataset` alone, and gives the same rows; or nothing is written."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from huggingface_hub.errors import HTTPError
from PIL import Image

from dataset_scripts import load_dataset_script
from dataset_scripts.__main__ import main
from dataset_scripts.commands.export import export_to_folder

NOISE = np.random.default_rng(0)


def photo(side: int = 24) -> bytes:
    data = io.BytesIO()
    Image.fromarray(NOISE.integers(0, 256, (side, side + 8, 3), dtype=np.uint8)).save(data, "JPEG")
    return data.getvalue()


@pytest.fixture
def coco(tmp_path: Path) -> dict[str, bytes]:
    """Files in ALBEF's layout; returns the images by name."""
    folder, images = tmp_path / "coco", {}
    (folder / "val2014").mkdir(parents=True)
    for split, numbers in (("train", range(5)), ("val", range(5, 7)), ("test", range(7, 9))):
        rows = []
        for number in numbers:
            name = f"val2014/{number}.jpg"
            images[name] = photo()
            (folder / name).write_bytes(images[name])
            captions = [f"photo {number}", f"image {number} \u00fc\u72ac"]
            if split == "train":
                rows += [{"image": name, "caption": caption, "image_id": number} for caption in captions]
            else:
                rows.append({"image": name, "caption": captions})
        (folder / f"coco_{split}.json").write_text(json.dumps(rows))
    return images


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return str(tmp_path / "cache")


def export(tmp_path: Path, kind: str, *further: str) -> Path:
    output = tmp_path / "exported"
    command = ["export", "coco_retrieval", "--data_dir", str(tmp_path / "coco"), "--to", kind]
    assert main([*command, "--output", str(output), *further]) == 0
    return output


def plain(row: dict[str, Any], image: str = "image") -> dict[str, Any]:
    return {**row, image: row[image].tobytes()}


def test_parquet(tmp_path: Path, coco: dict[str, bytes], cache: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = load_dataset_script("coco_retrieval", data_dir=tmp_path / "coco", cache_dir=cache)
    rows = {split: [plain(row) for row in dataset] for split, dataset in before.items()}
    features = {split: dataset.features for split, dataset in before.items()}
    output = export(tmp_path, "parquet")
    assert "5 rows of train, 2 rows of validation, 2 rows of test" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "coco")
    moved = output.rename(tmp_path / "elsewhere")
    after = datasets.load_dataset(str(moved), cache_dir=cache)
    assert {split: [plain(row) for row in dataset] for split, dataset in after.items()} == rows
    assert {split: dataset.features for split, dataset in after.items()} == features
    kept = after["train"].cast_column("image", datasets.Image(decode=False))["image"]
    assert [image["bytes"] for image in kept] == list(coco.values())[:5]
    assert sorted(path.name for path in moved.iterdir()) == ["README.md", "data"]
    assert not list(tmp_path.glob("*incomplete*"))


def test_webdataset(tmp_path: Path, coco: dict[str, bytes], cache: str) -> None:
    before = load_dataset_script("coco_retrieval", data_dir=tmp_path / "coco", cache_dir=cache)
    rows = {split: [plain(row) for row in dataset] for split, dataset in before.items()}
    output = export(tmp_path, "webdataset")
    shutil.rmtree(tmp_path / "coco")
    by_name = datasets.load_dataset(
        "webdataset",
        data_files={split: str(output / "data" / f"{split}-*.tar") for split in rows},
        cache_dir=cache,
    )
    by_folder = datasets.load_dataset(str(output), cache_dir=cache)
    for after in (by_name, by_folder):
        found = {split: [{"image": row["jpg"].tobytes(), **row["json"]} for row in after[split]] for split in rows}
        assert found == rows
    streamed = datasets.load_dataset(str(output), split="test", streaming=True)
    assert [row["json"]["caption"] for row in streamed] == [row["caption"] for row in rows["test"]]
    with tarfile.open(output / "data" / "train-00000.tar") as tar:
        assert tar.getnames()[:3] == ["00000000.jpg", "00000000.json", "00000001.jpg"]
        assert tar.extractfile("00000001.jpg").read() == coco["val2014/1.jpg"]


def test_answers_that_are_missing_in_a_split_keep_their_type(tmp_path: Path, cache: str) -> None:
    """WebDataset would guess it from the first rows of the last split."""
    columns = {"image": [{"bytes": photo(), "path": None}], "answers": [["yes"]], "question_type": ["is"]}
    features = datasets.Features(
        image=datasets.Image(), answers=datasets.List(datasets.Value("string")), question_type=datasets.Value("string")
    )
    full = datasets.Dataset.from_dict(columns, features)
    bare = datasets.Dataset.from_dict(columns | {"answers": [[]], "question_type": [None]}, features)
    export_to_folder(datasets.DatasetDict(train=full, test=bare), "mine", "webdataset", tmp_path / "out")
    after = datasets.load_dataset(str(tmp_path / "out"), cache_dir=cache)
    assert after["train"][0]["json"] == {"answers": ["yes"], "question_type": "is"}
    assert after["test"][0]["json"] == {"answers": [], "question_type": None}


@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_files_are_split_by_size(kind: str, tmp_path: Path, cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataset_scripts.commands.export.ROWS_A_GROUP", 2)
    images = [{"bytes": photo(64), "path": None} for _ in range(9)]
    size = len(images[0]["bytes"])
    rows = datasets.Dataset.from_dict({"image": images, "n": range(9)}).cast_column("image", datasets.Image())
    export_to_folder(datasets.DatasetDict(train=rows), "mine", kind, tmp_path / "out", max_shard_size=3 * size)
    files = sorted((tmp_path / "out" / "data").iterdir())
    assert len(files) == 3 and files[2].stem == "train-00002"
    after = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=cache)
    assert [row["n"] if kind == "parquet" else row["json"]["n"] for row in after] == list(range(9))


def test_a_image_with_many_questions_is_stored_once(tmp_path: Path) -> None:
    data = photo(256)
    rows = datasets.Dataset.from_dict({"image": [{"bytes": data, "path": None}] * 90, "n": range(90)})
    export_to_folder(datasets.DatasetDict(train=rows), "mine", "parquet", tmp_path / "out")
    (file,) = (tmp_path / "out" / "data").iterdir()
    assert len(data) < file.stat().st_size < 2 * len(data)
    assert pq.read_table(file)["image"].to_pylist() == [{"bytes": data, "path": None}] * 90


def test_card(tmp_path: Path, coco: dict[str, bytes], cache: str) -> None:
    text = (export(tmp_path, "parquet") / "README.md").read_text()
    for part in ("task_categories:\n- image-to-text", "license: other", "path: data/validation-*.parquet"):
        assert part in text
    for part in ("| train | 5 |", "| `caption` | list of string |", "CC BY 4.0", "https://cocodataset.org", "@inproc"):
        assert part in text
    assert 'load_dataset("FOLDER")' in text


def test_nothing_is_left_of_an_export_that_fails(tmp_path: Path, coco: dict[str, bytes], cache: str) -> None:
    rows = load_dataset_script("coco_retrieval", data_dir=tmp_path / "coco", cache_dir=cache)
    (tmp_path / "coco" / "val2014" / "8.jpg").unlink()
    for kind in ("parquet", "webdataset"):
        with pytest.raises(FileNotFoundError, match=r"8\.jpg"):
            export_to_folder(rows, "mine", kind, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob("*incomplete*"))


def test_refusals(tmp_path: Path, coco: dict[str, bytes], cache: str, capsys: pytest.CaptureFixture[str]) -> None:
    output = export(tmp_path, "parquet")
    before = sorted(path.read_bytes() for path in output.rglob("*.*"))
    command = ["export", "coco_retrieval", "--data_dir", str(tmp_path / "coco"), "--to"]
    assert main([*command, "parquet", "--output", str(output)]) == 1
    assert "is there and not empty: name another folder" in capsys.readouterr().err
    assert sorted(path.read_bytes() for path in output.rglob("*.*")) == before
    assert main([*command, "hub"]) == 1
    assert "--to hub needs --repo_id" in capsys.readouterr().err
    assert main([*command, "webdataset"]) == 1
    assert "needs --output" in capsys.readouterr().err


def test_a_hub_that_is_not_there_is_one_sentence(
    tmp_path: Path,
    coco: dict[str, bytes],
    cache: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whatever class the network's error has."""
    command = [
        "export",
        "coco_retrieval",
        "--data_dir",
        str(tmp_path / "coco"),
        "--to",
        "hub",
        "--repo_id",
        "user/coco",
    ]
    for error in (HTTPError("Name or service\nnot known"), ConnectionError("no route"), OSError(28, "No space left")):

        def fail(*_: Any, error: Exception = error, **__: Any) -> None:
            raise error

        monkeypatch.setattr(datasets.DatasetDict, "push_to_hub", fail)
        assert main(command) == 1
        said = capsys.readouterr().err
        assert (
            said.startswith("python -m dataset_scripts: The data set cannot be exported to user/coco (")
            and said.count("\n") == 1
        )
    monkeypatch.setattr(datasets.DatasetDict, "push_to_hub", lambda *_, **__: {}["a bug"])
    with pytest.raises(KeyError, match="a bug"):
        main(command)
    assert main([*command, "--max_shard_size", "much"]) == 1
    assert "--max_shard_size is 'much': write it as 500MB" in capsys.readouterr().err
