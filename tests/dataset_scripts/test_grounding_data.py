"""Texts with boxes: drawn shapes, own tables, the files of RefCOCO+, and pickles that are more than data."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dataset_scripts import AnnotationError, load_dataset_script
from dataset_scripts.reading.problems import UnusableFileError
from dataset_scripts.referring.plain_pickle import read_plain_pickle


def load(name: str, folder: Path, split: str = "validation", **fields: Any) -> Any:
    return load_dataset_script(
        name, "grounding", data_dir=folder, split=split, cache_dir=folder.parent / "cache", **fields
    )


def test_shapes_know_their_boxes(tmp_path: Path) -> None:
    """All that differs from the ground lies in one of the boxes, and each box is as small as it can be."""
    sizes = {"num_train": 1, "num_validation": 6, "num_test": 1, "image_size": 80}
    rows = load_dataset_script("shapes", "grounding", split="validation", cache_dir=tmp_path, **sizes)
    assert len({row["ref_id"] for row in rows}) == len(rows) >= 12
    for row in rows:
        pixels = np.asarray(row["image"], dtype=int)
        drawn = np.abs(pixels - pixels[0, 0]).max(axis=2) > 8
        assert row["box"] in row["boxes"]
        x, y, width, height = row["box"]
        inside = np.zeros_like(drawn)
        for left, top, across, down in row["boxes"]:
            inside[int(top) : int(np.ceil(top + down)), int(left) : int(np.ceil(left + across))] = True
        assert not (drawn & ~inside).any()
        own = drawn[int(y) : int(np.ceil(y + height)), int(x) : int(np.ceil(x + width))]
        for line in (own[:2], own[-2:], own[:, :2], own[:, -2:]):
            assert line.any()
    first = load_dataset_script("shapes", "retrieval", split="validation", cache_dir=tmp_path, **sizes)[0]
    words = rows[0]["text"].removeprefix("a ").split()
    assert all(word in first["caption"][0] for word in words)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for number, size in enumerate([(64, 48), (32, 40)]):
        Image.new("RGB", size, (90 * number, 120, 30)).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("validation.csv", 'image,text,box\n0.png,the car,"[1, 2, 30.5, 20]"\n1.png,the dog,0 0 32 40\n'),
        ("validation.csv", "file_name,text,x,y,width,height\n0.png,the car,1,2,30.5,20\n1.png,the dog,0,0,32,40\n"),
        (
            "validation.jsonl",
            '{"image": "0.png", "text": "the car", "box": [1, 2, 30.5, 20]}\n'
            '{"image": "1.png", "text": "the dog", "box": [0, 0, 32, 40]}\n',
        ),
        (
            "validation.json",
            '[{"image": "0.png", "text": "the car", "box": [1, 2, 30.5, 20]},'
            ' {"image": "1.png", "text": "the dog", "box": [0, 0, 32, 40]}]',
        ),
    ],
)
def test_own_tables(images: Path, name: str, content: str) -> None:
    (images / name).write_text(content)
    rows = load("own_data", images)
    assert rows["text"][:] == ["the car", "the dog"] and rows["image_id"][:] == [0, 1]
    assert rows["box"][:] == [[1, 2, 30.5, 20], [0, 0, 32, 40]] and rows["boxes"][:] == [None, None]


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([40, 0, 25, 10], "leaves the image, which is 64 x 48 pixels"),
        ([0, 40, 10, 9], "leaves the image"),
        ([-2, 0, 10, 9], "leaves the image"),
        ([0, 0, 0, 9], "width and height must be above 0"),
        ([30, 20, -10, 9], "width and height must be above 0, and stand after x and y"),
        ([30, 20, 50, 40], "leaves the image, .*; of the right and lower ends subtract x and y"),
        ([0.1, 0.2, 0.5, 1.0], "no larger than a pixel: multiply shares of the image by its width and height"),
        ([0, 0, 10**400, 9], "finite numbers of pixels are expected"),
        ([0, 0, float("nan"), 9], "finite numbers of pixels are expected"),
        ([0, 0, 9, float("inf")], "finite numbers of pixels are expected"),
        ({"x": 1}, "four numbers are expected"),
        ("12 30 forty 50", "four numbers are expected"),
        ([0, 0, 5], "four numbers are expected"),
        ("left", "four numbers are expected"),
        ([0, 0, True, 5], "four numbers are expected"),
        (None, "has no 'box', which an evaluation needs"),
    ],
)
def test_boxes_that_cannot_be_used(images: Path, box: Any, message: str) -> None:
    good = {"image": "0.png", "text": "the car", "box": [0.2, 0, 64, 48.4]}  # rounded
    bad = {"image": "0.png", "text": "the tree", "box": box}
    (images / "validation.jsonl").write_text(f"{json.dumps(good)}\n{json.dumps(bad)}\n")
    with pytest.raises(AnnotationError, match=r"validation\.jsonl, line 2: .*" + message):
        load("own_data", images)
    kept = load("own_data", images, drop_bad_rows=True)
    assert kept["text"][:] == ["the car"]


@pytest.mark.parametrize(
    "box", ["1,2,30.5,20", "(1, 2, 30.5, 20)", "[1 2 30.5 20]", "1;2;30.5;20", " [1.0, 2, 30.5,20] "]
)
def test_boxes_as_people_write_them_into_cells(images: Path, box: str) -> None:
    rows = [{"img": "0.png", "Expression": "the car", "bbox": box, "width": 64, "height": 48}, {"img": "1.png"}]
    rows[1] |= {"Expression": "the dog", "bbox": "", "width": 32, "height": 40}
    table = images / "train.tsv"
    table.write_text("\n".join("\t".join(map(str, line)) for line in (rows[0], *(row.values() for row in rows))))
    assert load("own_data", images, split="train")["box"][:] == [[1, 2, 30.5, 20], None]
    table.rename(images / "validation.tsv")
    with pytest.raises(AnnotationError, match=r"validation\.tsv, line 3: has no 'box', which an evaluation needs"):
        load("own_data", images)


def test_columns_can_be_named(images: Path) -> None:
    (images / "validation.csv").write_text("a,b,where,box\n0.png,the car,1 2 30 20,left\n")
    named = {"image_column": "a", "text_column": "b", "box_column": "where"}
    assert load("own_data", images, **named)["box"][:] == [[1, 2, 30, 20]]
    with pytest.raises(AnnotationError, match=r"line 2: 'box' has \['left'\]: four numbers are expected"):
        load("own_data", images, image_column="a", text_column="b")
    (images / "validation.csv").write_text("image,text,x,y,width\n0.png,the car,1,2,30\n")
    with pytest.raises(AnnotationError, match=r"line 2: 'box' has \[1, 2, 30, None\]: four numbers are expected"):
        load("own_data", images)


def test_choices_and_numbers_of_own_tables(images: Path) -> None:
    row = {"image": "0.png", "text": "the car", "box": [1, 2, 3, 4], "ref_id": 9, "subset": "far"}
    (images / "validation.jsonl").write_text(json.dumps({**row, "boxes": [[1, 2, 3, 4], [5, 6, 7, 8]]}))
    (found,) = load("own_data", images).to_list()
    assert found["boxes"] == [[1, 2, 3, 4], [5, 6, 7, 8]] and (found["ref_id"], found["subset"]) == (9, "far")
    cells = 'image,text,box,boxes,ref_id\n0.png,the car,1 2 3 4,"[[1, 2, 3, 4], [5, 6, 7, 8]]",9.0\n'
    (images / "validation.jsonl").unlink()
    (images / "validation.csv").write_text(cells)
    (found,) = load("own_data", images).to_list()
    assert found["boxes"] == [[1, 2, 3, 4], [5, 6, 7, 8]] and found["ref_id"] == 9
    for changes, message in (
        ({"ref_id": 2**70}, "'ref_id' is .*: an integer of at most 63 bits"),
        ({"ref_id": "seven"}, "'ref_id' is 'seven': an integer"),
        ({"boxes": "all"}, "'boxes' is 'all': a list of boxes is expected"),
        ({"boxes": [[1, 2, 3]]}, r"'boxes' has \[1, 2, 3\]: four numbers"),
    ):
        (images / "validation.csv").unlink(missing_ok=True)
        (images / "validation.jsonl").write_text(json.dumps({**row, **changes}))
        with pytest.raises(AnnotationError, match=r"validation\.jsonl, line 1: " + message):
            load("own_data", images)


def test_a_turned_photograph_is_measured_upright(images: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 48)).save(images / "turned.jpg", exif=exif)
    row = {"image": "turned.jpg", "text": "the tower", "box": [0, 50, 48, 14]}
    (images / "validation.jsonl").write_text(json.dumps(row))
    assert load("own_data", images)["box"][:] == [[0, 50, 48, 14]]


def test_training_needs_no_boxes(images: Path) -> None:
    (images / "train.csv").write_text("image,text\n0.png,the car\n1.png,the dog\n")
    assert load("own_data", images, split="train")["box"][:] == [None, None]
    (images / "train.csv").write_text("image,words\n0.png,the car\n")
    with pytest.raises(AnnotationError, match=r"has no text in text or sentence or .*: set text_column"):
        load("own_data", images, split="train")


def write_refcoco(folder: Path, as_json: bool = False) -> None:
    """The published files, small: two images, three references; an image has detections with a score."""
    (folder / "train2014").mkdir(parents=True)
    (folder / "refcoco+").mkdir()
    images, annotations = [], []
    for number, size in enumerate([(64, 48), (32, 40)]):
        name = f"COCO_train2014_{number:012d}.jpg"
        Image.new("RGB", size, (90 * number, 120, 30)).save(folder / "train2014" / name)
        images.append({"id": 100 + number, "file_name": name, "width": size[0], "height": size[1]})
    for number, (image, box) in enumerate([(100, [1.5, 2.5, 30, 20]), (101, [0, 0, 32, 40.3]), (101, [4, 4, 8, 8])]):
        annotations.append({"id": 7000 + number, "image_id": image, "bbox": box, "segmentation": [[1.0, 2.0]]})
    references = [
        {
            "ref_id": 50 + number,
            "ann_id": 7000 + number,
            "image_id": annotations[number]["image_id"],
            "split": split,
            "sentences": [{"raw": "the caf\u00e9", "sent_id": number, "tokens": ("the", "caf\u00e9")}],
            "category_id": None,
        }
        for number, split in enumerate(["val", "testA", "testB"])
    ]
    if as_json:
        (folder / "refcoco+/refs(unc).json").write_text(json.dumps(references))
    else:
        (folder / "refcoco+/refs(unc).p").write_bytes(pickle.dumps(references, protocol=2))
    (folder / "refcoco+/instances.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    detections = {"100": [[1, 2, 30, 20, 0.9], [0, 0, 10, 10, 0.5]], "101": [[0, 0, 32, 40, 0.7]]}
    (folder / "refcoco+/dets.json").write_text(json.dumps(detections))

    def texts(*numbers: int) -> list[dict[str, Any]]:
        return [
            {"image": images[annotations[n]["image_id"] - 100]["file_name"], "text": f"text {n}", "ref_id": 50 + n}
            for n in numbers
        ]

    train = [{"image": images[0]["file_name"], "text": "the man"}, {"image": images[1]["file_name"], "text": "a cup"}]
    for name, rows in (("train", train), ("val", texts(0)), ("test", texts(1, 2, 1))):
        (folder / f"refcoco+_{name}.json").write_text(json.dumps(rows))


@pytest.mark.parametrize("as_json", [False, True])
def test_refcoco_as_published(tmp_path: Path, as_json: bool) -> None:
    folder = tmp_path / "data"
    write_refcoco(folder, as_json)
    (row,) = load("refcoco_plus", folder).to_list()
    assert row["box"] == [1.5, 2.5, 30, 20] and row["boxes"] == [[1, 2, 30, 20], [0, 0, 10, 10]]
    assert (row["text"], row["ref_id"], row["subset"]) == ("text 0", 50, None)
    assert row["image"]["path"].endswith("train2014/COCO_train2014_000000000000.jpg")
    test = load("refcoco_plus", folder, split="test")
    assert test["subset"][:] == ["testA", "testB", "testA"] and test["ref_id"][:] == [51, 52, 51]
    assert test["box"][:] == [[0, 0, 32, 40.3], [4, 4, 8, 8], [0, 0, 32, 40.3]] and test["image_id"][:] == [0, 0, 0]
    train = load("refcoco_plus", folder, split="train")
    assert train["text"][:] == ["the man", "a cup"] and train["box"][:] == [None, None]


def test_refcoco_that_does_not_fit_together(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write_refcoco(folder)
    rows = json.loads((folder / "refcoco+_test.json").read_text())
    rows[2]["ref_id"] = 99
    (folder / "refcoco+_test.json").write_text(json.dumps(rows))
    with pytest.raises(AnnotationError, match=r"refcoco\+_test.json, row 3: 'ref_id' 99 is in no file of references"):
        load("refcoco_plus", folder, split="test")
    instances = json.loads((folder / "refcoco+/instances.json").read_text())
    instances["annotations"][0]["bbox"][2] = 64
    (folder / "refcoco+/instances.json").write_text(json.dumps(instances))
    with pytest.raises(AnnotationError, match=r"val.json, row 1: box .* leaves the image"):
        load("refcoco_plus", folder)
    os.remove(folder / "refcoco+/instances.json")
    with pytest.raises(AnnotationError, match=r"instances.json: does not exist"):
        load("refcoco_plus", folder)


class Bomb:
    """What an unpickler would run."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_pickles(tmp_path: Path, protocol: int) -> None:
    shared = [1, 2]
    value = [
        {"a": -1, "b": 2**70, "c": 1.5, "d": None, "e": [True, False], "f": (), "g": (1,), "h": (1, 2, 3, 4)},
        {
            "text": "caf\u00e9 \U0001f600 'quoted' \n",
            "long": "x" * 70_000,
            "empty": [{}, []],
            "shared": (shared, shared),
        },
        *range(2000),
    ]
    (tmp_path / "a.p").write_bytes(pickle.dumps(value, protocol=protocol))
    assert read_plain_pickle(str(tmp_path / "a.p")) == value


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_runs_code_is_refused(tmp_path: Path, protocol: int) -> None:
    target = tmp_path / "made"
    (tmp_path / "a.p").write_bytes(pickle.dumps([{"ref_id": 1}, Bomb(str(target))], protocol=protocol))
    with pytest.raises(UnusableFileError, match="more than plain data"):
        read_plain_pickle(str(tmp_path / "a.p"))
    assert not target.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no pickle",
        b"\x80\x02]",
        b"\x80\x02a.",
        b"(.",
        b"\x80\x02}(K\x01u.",
        b"].].",
        b"\x80\x02r\xff\xff\xff\xff.",
        b"e.",
        b"](a.",
        b"]].",
    ],
)
def test_damaged_pickles(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.p").write_bytes(content)
    if content == b"].].":  # what comes after the end is no part of it
        assert read_plain_pickle(str(tmp_path / "a.p")) == []
        return
    with pytest.raises(UnusableFileError):
        read_plain_pickle(str(tmp_path / "a.p"))


CYCLE = b"\x80\x02]q\x00h\x00a."
DOUBLED = b"K\x01q\x00" + b"".join(
    b"h%ch%c\x86q%c" % (n, n, n + 1) for n in range(60)
)  # a tuple of 2 to the 60 numbers


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"(S'touch x'\nios\nsystem\n.", r"INST .* at byte \d+\), which could run code: take the file"),
        (b"cposix\nsystem\n(S'touch x'\ntR.", r"GLOBAL 'posix system' at byte 0\), which could run code"),
        (b"\x80\x02\x82\x01.", "EXT1 1 at byte 2\\), which could run code"),
        (b"Pname\n.", "PERSID 'name' at byte 0\\), which could run code"),
        (pickle.dumps([b"x"], protocol=4), r"SHORT_BINBYTES b'x' at byte \d+\): take the file"),
        (pickle.dumps([{1}], protocol=4), r"EMPTY_SET at byte \d+\): take the file"),
        (pickle.dumps([{"ref_id": np.int64(3)}], protocol=4), r"STACK_GLOBAL at byte \d+\), which could run code"),
        (pickle.dumps([{"ref_id": np.int64(3)}], protocol=2), r"GLOBAL 'numpy.* scalar' at byte"),
        (pickle.dumps([{"a": 1}] * 99)[:-9], "is no whole pickle"),
        (b"\x80\x02X\xff\xff\xff\xffabc.", "expected 4294967295 bytes"),
        (b"\x80\x04\x8d" + b"\xff" * 7 + b"\x3fabc.", "expected .* bytes"),
        (b"\x80\x02\x8b\xff\xff\xff\x7fab.", "is no whole pickle"),
        (b"I" + b"9" * 5000 + b"\n.", "is no whole pickle"),
        (b"\x80\x02" + DOUBLED + b"}h<K\x01s.", "a tuple as a key"),
        (b"\x80\x02" + DOUBLED + b"(h<K\x01d.", "a tuple as a key"),
        (b"\x80\x02" + DOUBLED + b"}(h<K\x01u.", "a tuple as a key"),
        (b"\x80\x02}]K\x01s.", "unhashable type: 'list'"),
    ],
)
def test_attacks_by_pickles(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.p").write_bytes(content)
    with pytest.raises(UnusableFileError, match=message):
        read_plain_pickle(str(tmp_path / "a.p"))


@pytest.mark.parametrize("content", [b"\x80\x02" + b"]" * 3000, b"\x80\x04]" + b"\x94" * 3000, b"(" * 3000])
def test_small_files_make_no_large_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """The largest numbers of bytes in memory that a byte of the file takes: lists, places in the memory, marks."""
    monkeypatch.setattr("dataset_scripts.referring.plain_pickle.MAX_VALUES", 2000)
    (tmp_path / "a.p").write_bytes(content)
    with pytest.raises(UnusableFileError, match=r"makes more than 2,000 values: take the file"):
        read_plain_pickle(str(tmp_path / "a.p"))
    monkeypatch.setattr("dataset_scripts.referring.plain_pickle.MAX_BYTES", 2 << 10)
    with pytest.raises(UnusableFileError, match=r"has more than 0 MB: take the file"):
        read_plain_pickle(str(tmp_path / "a.p"))


@pytest.mark.parametrize("name", ["ref_id", "image_id", "ann_id", "split"])
@pytest.mark.parametrize("value", ["doubled", "huge", "cycle", None])
def test_references_are_numbers_and_words(tmp_path: Path, name: str, value: Any) -> None:
    """What would take for ever to hash or to print is refused: a doubled tuple, a number of a million digits."""
    doubled: Any = (1,)
    for _ in range(60):
        doubled = (doubled, doubled)
    cycle: list[Any] = []
    cycle.append(cycle)
    value = {"doubled": doubled, "huge": 1 << 4_000_000, "cycle": cycle}.get(value)
    folder = tmp_path / "data"
    write_refcoco(folder)
    reference = {"ref_id": 50, "image_id": 100, "ann_id": 7000, "split": "val"}
    (folder / "refcoco+/refs(unc).p").write_bytes(pickle.dumps([{**reference, name: value}], protocol=2))
    with pytest.raises(
        AnnotationError, match=r"refs\(unc\)\.p: is not RefCOCO's \((Type|Value)Error: .*: fetch it again"
    ):
        load("refcoco_plus", folder)


@pytest.mark.parametrize("content", [CYCLE, b"K\x01.", b"}.", b"(X\x01\x00\x00\x00al."])
def test_pickles_of_other_data(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "data"
    write_refcoco(folder)
    (folder / "refcoco+/refs(unc).p").write_bytes(content)
    with pytest.raises(AnnotationError, match=r"refs\(unc\)\.p: is not RefCOCO's|'ref_id' 50 is in no file"):
        load("refcoco_plus", folder)


def test_a_memory_bomb_takes_no_memory(tmp_path: Path) -> None:
    """A place in the memory beyond all that there is: a list of that length would be allocated by an unpickler."""
    (tmp_path / "a.p").write_bytes(b"\x80\x02]r\xff\xff\xff\xff.")
    assert read_plain_pickle(str(tmp_path / "a.p")) == []
