"""Builders give the same rows from ALBEF's files as from the official ones, and prepare anew when these change."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from data_cases import (
    COCO,
    VQA,
    coco_name,
    rows_of,
    write_coco_albef,
    write_coco_images,
    write_coco_karpathy,
    write_coco_official,
    write_genome_albef,
    write_genome_images,
    write_genome_official,
    write_image,
    write_json,
    write_vqa_albef,
    write_vqa_images,
    write_vqa_official,
)

from dataset_scripts import BUILDERS, AnnotationError, FileBuilder, load_dataset_script, make_builder
from dataset_scripts.reading import captions, questions
from dataset_scripts.reading.problems import Problems
from dataset_scripts.reading.rows import Part

FILE_BUILDERS = sorted(name for name, builder in BUILDERS.items() if issubclass(builder, FileBuilder))


def load(name: str, folder: Path, **fields: Any) -> datasets.DatasetDict:
    return load_dataset_script(name, data_dir=folder, cache_dir=folder.parent / "cache", **fields)


def all_rows(splits: datasets.DatasetDict) -> dict[str, list[dict[str, Any]]]:
    return {split: rows_of(dataset) for split, dataset in splits.items()}


def coco_rows(root: Path, *wanted: str) -> list[dict[str, Any]]:
    chosen = [entry for entry in COCO if entry[2] in wanted]
    return [
        {"image": str(root / coco_name(subset, number)), "caption": captions, "image_id": index}
        for index, (number, subset, _, captions) in enumerate(chosen)
    ]


@pytest.mark.parametrize("write", [write_coco_albef, write_coco_karpathy])
@pytest.mark.parametrize("below", ["", "annotations"])
def test_coco_in_karpathys_splits(tmp_path: Path, write: Callable[[Path], None], below: str) -> None:
    root = tmp_path / "coco"
    write_coco_images(root)
    write(root / below)
    assert all_rows(load("coco_retrieval", root)) == {
        "train": coco_rows(root, "train", "restval"),
        "validation": coco_rows(root, "val"),
        "test": coco_rows(root, "test"),
    }


def test_coco_as_distributed(tmp_path: Path) -> None:
    """Its own splits are by folder; there is no test split with captions."""
    root = tmp_path / "coco"
    write_coco_images(root / "images")
    write_coco_official(root / "annotations")
    found = all_rows(load("coco_retrieval", root))
    for split, subset in (("train", "train2014"), ("validation", "val2014")):
        rows = found.pop(split)
        chosen = [(str(root / "images" / coco_name(s, n)), captions) for n, s, _, captions in COCO if s == subset]
        assert [(row["image"], row["caption"]) for row in rows] == chosen
    assert not found


def test_the_layout_with_most_splits_is_taken(tmp_path: Path) -> None:
    root = tmp_path / "coco"
    write_coco_images(root)
    write_coco_albef(root)
    write_coco_karpathy(root)
    (root / "coco_train.json").unlink()
    assert list(load("coco_retrieval", root)) == ["train", "validation", "test"]


@pytest.mark.parametrize("images", ["flickr30k-images", "flickr30k_images", "images", ""])
def test_flickr(tmp_path: Path, images: str) -> None:
    names = ["1000092795.jpg", "10002456.jpg", "1000268201.jpg"]
    root = tmp_path / "flickr"
    for index, name in enumerate(names):
        write_image(root / images / name, index)
    splits = dict(zip(names, ["train", "val", "test"], strict=True))
    content = [
        {"sentids": [0, 1], "imgid": i, "sentences": [{"raw": f"{i} a"}, {"raw": f"{i} b"}], "split": s, "filename": n}
        for i, (n, s) in enumerate(splits.items())
    ]
    write_json(root / "dataset_flickr30k.json", {"images": content, "dataset": "flickr30k"})
    official = all_rows(load("flickr30k", root))
    for index, (name, split) in enumerate(splits.items()):
        image, captions = f"flickr30k-images/{name}", [f"{index} a", f"{index} b"]
        rows = [{"image": image, "caption": captions}]
        if split == "train":
            rows = [{"image": image, "caption": text, "image_id": f"f_{index}"} for text in captions]
        write_json(root / f"flickr30k_{split}.json", rows)
    assert all_rows(load("flickr30k", root)) == official
    assert official["train"] == [{"image": str(root / images / names[0]), "caption": ["0 a", "0 b"], "image_id": 0}]


def vqa_rows(root: Path, subset: str) -> list[dict[str, Any]]:
    chosen = [entry for entry in VQA if entry[2] == subset]
    images = list(dict.fromkeys(entry[1] for entry in chosen))
    return [
        {
            "image": str(root / coco_name(subset, image)),
            "question": question,
            "question_id": number,
            "image_id": images.index(image),
            "answers": answers or [],
            "answer_weight": 1.0,
        }
        for number, image, _, question, answers, _ in chosen
    ]


@pytest.mark.parametrize("write", [write_vqa_albef, write_vqa_official])
def test_vqa(tmp_path: Path, write: Callable[[Path], None]) -> None:
    root = tmp_path / "vqa"
    write_vqa_images(root)
    write(root)
    found, known = all_rows(load("vqa_v2", root)), {n: types or (None, None) for n, *_, types in VQA}
    subsets = {"train": "train2014", "validation": "val2014", "test": "test2015"}
    assert list(found) == list(subsets)
    for split, rows in found.items():
        types = {row["question_id"]: (row.pop("question_type"), row.pop("answer_type")) for row in rows}
        assert rows == vqa_rows(root, subsets[split])
        assert types == {n: known[n] if write is write_vqa_official else (None, None) for n in types}


def test_vqa_with_missing_annotations_is_refused(tmp_path: Path) -> None:
    """Questions without the file of their answers are named, and so is the file."""
    root = tmp_path / "vqa"
    write_vqa_images(root)
    write_vqa_official(root)
    (root / "v2_mscoco_train2014_annotations.json").unlink()
    with pytest.raises(
        AnnotationError, match=r"3 problems(.|\n)*train2014_annotations.json: does not exist(.|\n)*no 'answer'"
    ):
        load("vqa_v2", root)
    assert len(load("vqa_v2", root, split="validation")) == 1  # reads its own files alone


def test_a_part_of_the_test_images(tmp_path: Path) -> None:
    root = tmp_path / "vqa"
    write_image(root / coco_name("test2015", 11))
    questions = [{"image_id": 11, "question": "Who?", "question_id": 5}]
    file = write_json(root / "v2_OpenEnded_mscoco_test-dev2015_questions.json", {"questions": questions})
    assert load("vqa_v2", root, test_files=file)["test"]["question_id"][:] == [5]


@pytest.mark.parametrize("merged", [None, "VG_100K", "images", ""])
def test_visual_genome(tmp_path: Path, merged: str | None) -> None:
    root = tmp_path / "genome"
    write_genome_images(root, merged)
    write_genome_official(root)
    official = all_rows(load("visual_genome", root))
    write_genome_albef(root)
    found = all_rows(load("visual_genome", root))
    assert found == official and list(found) == ["train"]
    folders = ["VG_100K_2", "VG_100K", "VG_100K"] if merged is None else [merged] * 3
    assert [row["image"] for row in found["train"]] == [
        str(root / folder / f"{number}.jpg") for folder, number in zip(folders, (1, 4, 4), strict=True)
    ]
    assert [row["answers"] for row in found["train"]] == [["A bike"], ["Here"], ["Day"]]
    assert {row["answer_weight"] for row in found["train"]} == {0.5}


def test_vqa_and_genome_together(tmp_path: Path) -> None:
    """The published recipe trains on both; official files and ALBEF's can be mixed."""
    root, genome = tmp_path / "vqa", tmp_path / "genome"
    write_vqa_images(root)
    write_vqa_official(root)
    write_genome_images(genome)
    write_genome_albef(genome)
    files = [f"v2_{kind}.json" for kind in ("OpenEnded_mscoco_train2014_questions", "mscoco_train2014_annotations")]
    rows = load("vqa_v2", root, split="train", train_files=[*files, str(genome / "vg_qa.json")], vg_root=str(genome))
    assert rows["question_id"][:] == [57870000, 57870002, 986768, 5, 6]
    assert rows["image_id"][:] == [0, 0, 1, 2, 2]
    assert rows["answer_weight"][:] == [1, 1, 0.5, 0.5, 0.5]


@pytest.mark.parametrize("name", FILE_BUILDERS)
def test_builders_say_where_data_comes_from(name: str, tmp_path: Path) -> None:
    builder = make_builder(name, cache_dir=tmp_path)
    assert builder.info.description and builder.__doc__ and builder.info.features["image"] == datasets.Image()
    if name != "own_data":
        assert (
            builder.info.homepage.startswith("https://") and "author" in builder.info.citation and builder.info.license
        )
    with pytest.raises(AnnotationError, match="finds no annotation files: give data_dir with the usual names"):
        builder.splits_with_files()
    with pytest.raises(AnnotationError, match=r"finds no test files below '.*', which has .*: give data_dir"):
        load_dataset_script(name, data_dir=tmp_path, cache_dir=tmp_path, split="test")


def test_preparing_anew(tmp_path: Path) -> None:
    """A changed file, root or field is noticed; the same is taken from the cache."""
    root, cache = tmp_path / "coco", tmp_path / "cache"
    write_coco_images(root)
    write_coco_albef(root)

    def files() -> int:
        load("coco_retrieval", root, split="train")
        return len(list(cache.rglob("*.arrow")))

    assert files() == files() == 1
    rows = json.loads((root / "coco_train.json").read_text())
    write_json(root / "coco_train.json", [rows[0] | {"caption": "Another caption"}, *rows[1:]])
    assert load("coco_retrieval", root, split="train")[0]["caption"][0] == "Another caption"
    assert files() == 2
    write_json(root / "coco_test.json", [])  # of another split
    assert files() == 2
    shutil.copytree(root / "train2014", tmp_path / "other" / "train2014")
    shutil.copytree(root / "val2014", tmp_path / "other" / "val2014")
    moved = load("coco_retrieval", root, split="train", image_root=str(tmp_path / "other"))
    assert rows_of(moved)[0]["image"].startswith(str(tmp_path / "other"))
    assert files() == 3


def test_processes_and_streams_give_the_same_rows(tmp_path: Path) -> None:
    """In the same order, with more processes than some splits have rows."""
    coco, vqa = tmp_path / "coco", tmp_path / "vqa"
    write_coco_images(coco)
    write_coco_karpathy(coco)
    write_vqa_images(vqa)
    write_vqa_official(vqa)
    for name, folder in (("coco_retrieval", coco), ("vqa_v2", vqa)):
        expected = rows_of(load(name, folder, split="train"))
        several = load_dataset_script(name, data_dir=folder, cache_dir=tmp_path / "2", split="train", num_proc=3)
        assert rows_of(several) == expected
        stream = load(name, folder, streaming=True, split="train", num_proc=3)
        assert stream.num_shards == 3
        undecoded = stream.cast_column("image", datasets.Image(decode=False))
        assert [row | {"image": row["image"]["path"]} for row in undecoded] == expected
    with pytest.raises(ValueError, match="num_proc is 0, but must be at least 1"):
        load("vqa_v2", vqa, num_proc=0)


def scattered(folder: Path, name: str) -> list[Any]:
    """Rows of six images in two folders, of which the captions and questions are scattered over the file."""
    for number in range(6):
        write_image(folder / "images" / f"{number}.png")
    rows = [{"image": f"images/{number % 6}.png", "caption": f"text {number}"} for number in range(60)]
    if name == "vqa_v2":
        rows = [
            {"image": row["image"], "question": row["caption"], "question_id": number, "answer": "yes"}
            for number, row in enumerate(rows)
        ]
    return rows


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("name", ["coco_retrieval", "vqa_v2"])
def test_shards_are_the_whole(name: str, drop: bool, tmp_path: Path) -> None:
    """One after the other, or several at a time; numbers of images depend on the rows of earlier shards."""
    rows = scattered(tmp_path, name)
    for number in (3, 8, 40) if drop else ():
        rows[number]["image"] = "images/0.png/none"
    file = write_json(tmp_path / "rows.json", rows)
    builder = make_builder(name, data_dir=tmp_path, train_files=[file], drop_bad_rows=drop)
    whole = list(builder.rows("train", Problems()))
    assert len(whole) == (6 if name == "coco_retrieval" else 57 if drop else 60)
    for count in (2, 5, 70):
        every = [Part(frozenset({shard}), count, drop) for shard in range(count)]
        found = [list(builder.rows("train", Problems(), part)) for part in every]
        assert [row for rows in found for row in rows] == whole
        assert max(map(len, found)) < len(whole)
        two = list(builder.rows("train", Problems(), Part(frozenset({0, count - 1}), count, drop)))
        assert two == found[0] + found[-1]


@pytest.mark.parametrize("name", ["coco_retrieval", "vqa_v2"])
def test_a_shard_checks_its_own_rows(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text of a row is checked by the one shard that it belongs to; questions are read up to the shard's end."""
    file = write_json(tmp_path / "rows.json", scattered(tmp_path, name))
    builder = make_builder(name, data_dir=tmp_path, train_files=[file])
    checked: list[str] = []

    class Readable:
        @staticmethod
        def search(text: str) -> bool:
            return not checked.append(text)

    monkeypatch.setattr(captions if name == "coco_retrieval" else questions, "READABLE", Readable)
    read = []
    for shard in range(3):
        builder.sources = lambda *_: map(lambda row: read.append(row) or row, type(builder).sources(builder, *_))
        for _ in builder.rows("train", Problems(), Part(frozenset({shard}), 3, False)):
            pass
    assert sorted(checked) == sorted(f"text {number}" for number in range(60))
    assert len(read) == 180 if name == "coco_retrieval" else 100 < len(read) < 140


def test_a_bad_row_of_any_shard_is_reported_as_always(tmp_path: Path) -> None:
    rows = scattered(tmp_path, "vqa_v2")
    rows[50]["question"], rows[55]["question"] = "?", 5
    file = write_json(tmp_path / "rows.json", rows)
    with pytest.raises(AnnotationError, match=r"2 problems .*\n.*row 51: question '\?' .*\n.*row 56: 'question' is 5"):
        load("vqa_v2", tmp_path, train_files=file, num_proc=3)


def test_bad_rows_are_dropped_on_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "coco"
    write_coco_images(root)
    write_coco_albef(root)
    rows = json.loads((root / "coco_train.json").read_text())
    rows[0]["caption"], rows[2]["image"] = "...", "../escape.jpg"
    write_json(root / "coco_train.json", [*rows, {"image": rows[2]["image"], "caption": "once more"}])
    with pytest.raises(AnnotationError, match="2 problems"):
        load("coco_retrieval", root, split="train", num_proc=2)
    for _ in range(2):  # the second time from the cache
        kept = load("coco_retrieval", root, split="train", drop_bad_rows=True, num_proc=2)
        assert kept["caption"][:] == [["Tables and chairs"], ["A boy at a desk"]]
        (said,) = caplog.messages
        assert "3 rows of train are dropped: 2 problems" in said and "coco_train.json, row 3: image" in said
        caplog.clear()
    write_json(root / "coco_train.json", [{"image": "x.jpg", "caption": "a"}])
    with pytest.raises(AnnotationError, match=r"no row of train is left of .*coco_train.json: 1 problem"):
        load("coco_retrieval", root, split="train", drop_bad_rows=True)
    write_json(root / "coco_train.json", {"rows": []})
    with pytest.raises(AnnotationError, match="holds a JSON object, not a list"):
        load("coco_retrieval", root, split="train", drop_bad_rows=True)
