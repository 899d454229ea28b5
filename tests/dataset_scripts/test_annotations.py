"""Annotation files in both layouts give the same rows, and every fault is found before anything is returned."""

from __future__ import annotations

import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pytest
from data_cases import read_captions
from PIL import Image

from dataset_scripts import (
    AnnotationError,
    CaptionRows,
    good_images,
    image_problems,
    one_caption_a_row,
    stream_captions,
)
from processing.image_processing_albef import open_lazily


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Folder with train/0.png .. train/11.png, each of a color of its own."""
    folder = tmp_path / "images"
    (folder / "train").mkdir(parents=True)
    for number in range(12):
        Image.new("RGB", (24, 20), (20 * number, 0, 0)).save(folder / "train" / f"{number}.png")
    return folder


def write(path: Path, content: Any) -> str:
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


def row(number: int, caption: Any = "a dog", **more: Any) -> dict[str, Any]:
    return {"image": f"train/{number}.png", "caption": caption, **more}


def fails(root: Path, content: Any, message: str) -> str:
    """The message of the one error of a file with this content."""
    with pytest.raises(AnnotationError, match=message) as caught:
        read_captions([write(root.parent / "a.json", content)], str(root))
    assert "Cannot load the annotations: 1 problem" in str(caught.value)
    return str(caught.value)


def test_a_row_a_caption(root: Path) -> None:
    rows = [row(3, "a", image_id="coco_9"), row(1, "b", image_id="coco_2"), row(3, "c", image_id="coco_9")]
    dataset = read_captions([write(root.parent / "train.json", rows)], str(root))
    assert dataset.features == datasets.Features(
        {
            "image": datasets.Image(decode=False),
            "caption": datasets.List(datasets.Value("string")),
            "image_id": datasets.Value("int64"),
        }
    )
    assert dataset[:] == {
        "image": [{"bytes": None, "path": str(root / "train" / f"{number}.png")} for number in (3, 1)],
        "caption": [["a", "c"], ["b"]],
        "image_id": [0, 1],
    }
    assert not dataset.cache_files


def test_a_row_an_image(root: Path) -> None:
    rows = [row(3, ["a", "c"]), row(1, ["b"]), row(3, ["d"])]
    dataset = read_captions([write(root.parent / "test.json", rows)], str(root))
    assert dataset["caption"][:] == [["a", "c", "d"], ["b"]]
    assert dataset["image_id"][:] == [0, 1]


def test_several_files_in_order(root: Path) -> None:
    first = write(root.parent / "1.json", [row(5, "a", image_id=7), row(2, "b", image_id=1)])
    second = write(root.parent / "2.json", [row(4, ["c"]), row(5, ["d"]), row(2, "e", image_id=1)])
    dataset = read_captions([first, second], str(root))
    assert [Path(image["path"]).stem for image in dataset["image"]] == ["5", "2", "4"]
    assert dataset["caption"][:] == [["a", "d"], ["b", "e"], ["c"]]
    assert read_captions(first, str(root))["caption"][:] == [["a"], ["b"]]


def test_spellings_of_a_path_are_one_image(root: Path) -> None:
    spellings = ["train/3.png", "train\\3.png", "./train//3.png", "train/../train/3.png"]
    rows = [{"image": image, "caption": str(index), "image_id": 1} for index, image in enumerate(spellings)]
    dataset = read_captions([write(root.parent / "a.json", rows)], str(root))
    assert dataset["caption"][:] == [["0", "1", "2", "3"]]


def test_paths_are_absolute(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(root.parent / "a.json", [row(3)])
    monkeypatch.chdir(root.parent)
    dataset = read_captions([file], "images")
    assert dataset[0]["image"]["path"] == str(root / "train" / "3.png")
    assert dataset.cast_column("image", datasets.Image())[0]["image"].getpixel((0, 0)) == (60, 0, 0)


def test_text_of_any_script_and_a_byte_order_mark(root: Path) -> None:
    content = b"\xef\xbb\xbf" + json.dumps([row(0, ["ein Hund läuft", "一只狗", "7"])], ensure_ascii=False).encode()
    dataset = read_captions([write(root.parent / "a.json", content)], str(root))
    assert dataset["caption"][:] == [["ein Hund läuft", "一只狗", "7"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"a\.json: is empty: download"),
        (b" \n", r"a\.json: is empty"),
        ([], r"a\.json: is empty"),
        (b"[\xff]", r"a\.json: is not UTF-8 \(byte 1\): save it as UTF-8"),
        (b'[\n {"image" 1}\n]', r"a\.json: is not JSON \(line 2, column 11: Expecting ':' delimiter"),
        (b"[" * 200_000, r"a\.json: is not an annotation file \("),
        (b"[" + b"1" * 10_000 + b"]", r"a\.json: cannot be parsed \(token 1: .*integer overflow, near .*1111"),
        (b'[{"image": "a.png", "caption": NaN}]', r"a\.json: cannot be parsed \(.*invalid char.*, near .*NaN"),
        ({"images": []}, r"a\.json: holds a JSON object, not a list"),
        (None, r"a\.json: holds a JSON null, not a list"),
    ],
)
def test_a_bad_file(root: Path, content: Any, message: str) -> None:
    if content is None:
        content = b"null"
    fails(root, content, message)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("a dog", "is a JSON string, not an object"),
        (None, "is a JSON null, not an object"),
        (3.5, "is a JSON number, not an object"),
        ({"caption": "a dog"}, r"has no 'image'; its keys are \['caption'\]: add it"),
        ({"image": "train/1.png", "text": "a"}, r"has no 'caption'; its keys are \['image', 'text'\]"),
        ({}, "has no 'image' and no 'caption'"),
        ({"image": 5, "caption": "a"}, "image is 5: a path relative to image_root is expected"),
        ({"image": " ", "caption": "a"}, "image is ' ': a path"),
        (row(1, 5), "'caption' is 5: a string or a list of strings"),
        (row(1, None), "'caption' is None: a string or a list of strings"),
        (row(1, []), "'caption' is an empty list: give at least one"),
        (row(1, ["a", None]), "'caption' holds None: strings are expected"),
        (row(1, ""), "caption '' holds no letter or digit"),
        (row(1, ["a", " .,_!"]), r"caption ' \.,_!' holds no letter or digit"),
        (row(1, "a \ud800 dog"), "half of a surrogate pair"),
        (row(1, image_id=[1]), r"'image_id' is \[1\]: a string or an integer"),
        (row(1, image_id=True), "'image_id' is True: a string or an integer"),
        (row(1, image_id=1.5), r"'image_id' is 1\.5: a string or an integer"),
        ({"image": "/etc/passwd", "caption": "a"}, "image '/etc/passwd' is an absolute path: write it relative"),
        ({"image": "C:\\a.png", "caption": "a"}, "is an absolute path"),
        ({"image": "\\\\host\\a.png", "caption": "a"}, "is an absolute path"),
        ({"image": "../a.json", "caption": "a"}, r"image '\.\./a\.json' leaves image_root"),
        ({"image": "train\\..\\..\\a.json", "caption": "a"}, "leaves image_root"),
        ({"image": "train/1.png\0", "caption": "a"}, "cannot be a path: remove the stray character"),
        ({"image": "train/\ud800.png", "caption": "a"}, "cannot be a path"),
        ({"image": "train", "caption": "a"}, "train' is not a file"),
        (row(99), r"99\.png' cannot be found .*: check its name, or set image_root, the folder where names start"),
        (row(2, image_id="x"), "'image_id' 'x' names 'train/2.png', before it named 'train/0.png': give every image"),
    ],
)
def test_a_bad_row(root: Path, wrong: Any, message: str) -> None:
    rows = [row(0, image_id="x"), row(1, ["fine"]), wrong, row(2, "fine")]
    assert "a.json, row 3: " in fails(root, rows, message)


def test_ids_of_coco_that_are_none(root: Path) -> None:
    images = [{"id": [1], "file_name": "train/1.png"}, {"id": 2, "file_name": "train/2.png"}]
    captions = [{"image_id": {"a": 1}, "caption": "a dog"}, {"image_id": 2, "caption": "a cat"}]
    dataset = read_captions([write(root.parent / "a.json", {"images": images, "annotations": captions})], str(root))
    assert dataset["caption"][:] == [["a dog"], ["a cat"]]  # what has no id belongs to what has none


def test_a_value_that_is_nested_deeply(root: Path) -> None:
    content = b'[{"image": "train/1.png", "caption": "a"}, {"image": ' + b"[" * 400 + b"]" * 400 + b', "caption": "a"}]'
    fails(root, content, r"row 2: image is \[\[\[\[\[\[\[\.\.\.\]\]\]\]\]\]\]: a path relative to image_root")


def test_one_id_for_two_images_of_two_files(root: Path) -> None:
    files = [write(root.parent / f"{number}.json", [row(number, image_id=5)]) for number in (1, 2)]
    with pytest.raises(AnnotationError, match=r"2\.json, row 1: 'image_id' 5 names 'train/2.png', before it named"):
        read_captions(files, str(root))


def test_an_empty_image_file(root: Path) -> None:
    (root / "train" / "1.png").write_bytes(b"")
    fails(root, [row(0), row(1)], r"row 2: image '.*1\.png' is an empty file: fetch it again")


def test_a_missing_image_is_reported_once(root: Path) -> None:
    """It is asked for once, however many captions it has."""
    fails(root, [row(0), *[row(77, str(number)) for number in range(5)]], r"row 2: image '.*77\.png' cannot be found")


def test_bad_arguments(root: Path) -> None:
    file = write(root.parent / "a.json", [row(0)])
    with pytest.raises(AnnotationError, match=r"missing\.json: does not exist: check the path"):
        read_captions([str(root / "missing.json")], str(root))
    with pytest.raises(AnnotationError, match="images: cannot be read"):
        read_captions([str(root)], str(root))
    with pytest.raises(AnnotationError, match=r"image_root: '.*nowhere' is not a folder: name the folder"):
        read_captions([file], str(root / "nowhere"))
    with pytest.raises(AnnotationError, match=r"a\.json: is listed twice"):
        read_captions([file, file], str(root))


def test_ten_problems_and_a_count(root: Path) -> None:
    """Faults of several files come in one message, in order."""
    bad = write(root.parent / "bad.json", [row(0), *[row(0, "?") for _ in range(13)]])
    files = [str(root / "missing.json"), bad, write(root.parent / "worse.json", b"{")]
    with pytest.raises(AnnotationError) as caught:
        read_captions(files, str(root))
    lines = str(caught.value).splitlines()
    assert lines[0] == "Cannot load the annotations: 15 problems (rows are counted from 1)."
    assert len(lines) == 12
    assert "missing.json: does not exist" in lines[1]
    assert all(f"bad.json, row {number + 1}: caption '?'" in lines[number + 1] for number in range(1, 10))
    assert lines[11] == "  ... and 5 further problems."


def gallery(root: Path) -> datasets.Dataset:
    rows = [row(number, [f"{number} a", f"{number} b"]) for number in range(12)]
    return read_captions([write(root.parent / "a.json", rows)], str(root))


def twice(dataset: datasets.Dataset) -> datasets.Dataset:
    """Every row two times."""
    return dataset.select([row for row in range(len(dataset)) for _ in range(2)])


@pytest.mark.parametrize("decode", [False, True])
def test_good_images_pass(root: Path, decode: bool) -> None:
    if decode:
        pytest.importorskip("processing.image_processing_albef")
    good_images(gallery(root), decode)
    assert (
        image_problems(twice(gallery(root)).cast_column("image", datasets.Image()), decode, num_threads=1)[1][-1] == 23
    )
    in_memory = {"image": [Image.new("RGB", (4, 4)) for _ in range(3)]}
    good_images(datasets.Dataset.from_dict(in_memory, datasets.Features({"image": datasets.Image()})), decode)


def test_headers_find_what_is_no_image(root: Path) -> None:
    dataset = gallery(root)
    (root / "train" / "4.png").write_text("<html>not found</html>")
    (root / "train" / "7.png").unlink()
    with pytest.raises(AnnotationError, match="2 problems") as caught:
        good_images(dataset, decode=False)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("Cannot read the images: ")
    assert lines[1].startswith(f"  row 4: image {str(root / 'train' / '4.png')!r} cannot be opened (")
    assert lines[2].startswith(f"  row 7: image {str(root / 'train' / '7.png')!r} cannot be opened (")
    with pytest.raises(AnnotationError, match=r"2 problems(.|\n)*row 8: (.|\n)*row 14: "):
        good_images(twice(dataset), decode=False)


def test_decoding_finds_what_is_cut_short(root: Path) -> None:
    pytest.importorskip("processing.image_processing_albef")
    dataset = gallery(root)
    whole = (root / "train" / "5.png").read_bytes()
    (root / "train" / "5.png").write_bytes(whole[: len(whole) // 2])
    good_images(dataset, decode=False)
    with pytest.raises(AnnotationError, match=r"1 problem \((.|\n)*row 5: (.|\n)*5\.png"):
        good_images(dataset, decode=True)


def test_decoding_goes_through_the_image_reader(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file once; what the reader refuses is reported in its words, ten of them."""
    opened = []

    class Reader:
        open_lazily = staticmethod(open_lazily)

        @staticmethod
        def open_image(source: dict[str, Any]) -> None:
            opened.append(source["path"])
            raise ValueError(f"cannot read {source['path']}")

    monkeypatch.setitem(sys.modules, "processing", Reader())
    monkeypatch.setitem(sys.modules, "processing.image_processing_albef", Reader())
    with pytest.raises(AnnotationError, match="12 problems") as caught:
        good_images(twice(gallery(root)), decode=True)
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines[1:11]] == [f"  row {2 * number}" for number in range(10)]
    assert lines[1].endswith(f"cannot read {root / 'train' / '0.png'}")
    assert lines[11] == "  ... and 2 further problems."
    assert sorted(opened) == sorted(str(root / "train" / f"{number}.png") for number in range(12))


def test_a_row_without_an_image() -> None:
    dataset = datasets.Dataset.from_dict({"image": [None]}, datasets.Features({"image": datasets.Image()}))
    with pytest.raises(AnnotationError, match="row 0: holds no image: leave the row out"):
        good_images(dataset, decode=False)
    with pytest.raises(ValueError, match="num_threads is 0, but must be at least 1"):
        image_problems(dataset, decode=False, num_threads=0)


@pytest.mark.parametrize("chosen", [False, True])
def test_a_caption_a_row(root: Path, chosen: bool) -> None:
    """Of a whole data set, and of chosen rows of it with a further column; of a stream likewise."""
    dataset = gallery(root)
    if chosen:  # the order is kept
        dataset = dataset.add_column("extra", list(range(12))).select([7, 2, 7])
    rows = CaptionRows(dataset)
    assert rows.features["caption"] == datasets.Value("string")
    assert rows.features["image"] == datasets.Image(decode=False)
    expected = [
        {"image": row["image"], "caption": text, "image_id": row["image_id"]}
        for row in dataset
        for text in row["caption"]
    ]
    assert len(rows) == len(expected) and [rows[index] for index in range(len(rows))] == expected
    assert rows[-1] == expected[-1]
    assert list(map(one_caption_a_row(dataset).__getitem__, range(len(expected)))) == expected
    assert list(stream_captions(dataset.to_iterable_dataset())) == expected
    number = expected[2]["image_id"]
    assert rows.cast_column("image", datasets.Image())[2]["image"].getpixel((0, 0)) == (20 * number, 0, 0)


def test_captions_have_to_be_lists(root: Path) -> None:
    flat = datasets.Dataset.from_list([{"image": "a.png", "caption": "a", "image_id": 0}])
    with pytest.raises(AnnotationError, match=r"Need the columns .* but found .*caption: Value\('string'\)"):
        CaptionRows(flat)
    with pytest.raises(AnnotationError, match="Need the columns image, caption"):
        CaptionRows(gallery(root).remove_columns("image_id"))


def test_bad_images_are_dropped_on_request(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """All rows of an image; too large counts as bad."""
    dataset = gallery(root)
    assert good_images(dataset, decode=False) is dataset
    both = datasets.concatenate_datasets([dataset, dataset])
    (root / "train" / "4.png").write_text("<html>not found</html>")
    with pytest.raises(AnnotationError, match="row 4: image"):
        good_images(both, decode=False)
    kept = good_images(both, decode=False, drop=True)
    assert kept["image_id"][:] == [number for number in (*range(12), *range(12)) if number != 4]
    (said,) = caplog.messages
    assert said.startswith("2 of the 24 rows of the data that were loaded are dropped: 1 problem ") and "4.png" in said
    with pytest.raises(
        AnnotationError, match=r"12 problems(.|\n)*480 pixels, more than the limit of 479: make it smaller"
    ):
        good_images(dataset, decode=False, max_pixels=479, drop=True)  # none is left
    with pytest.raises(ValueError, match="max_image_pixels is 0, but must lie between 1 and 178956970"):
        good_images(dataset, decode=False, max_pixels=0)


@pytest.mark.parametrize("count", [2, 3, 13])
def test_processes_share_the_check_of_images(root: Path, count: int, caplog: pytest.LogCaptureFixture) -> None:
    """Each image is opened by one of them, and all know what one alone would find, in its words and order."""
    both = datasets.concatenate_datasets([twice(gallery(root)), gallery(root)])
    for number in (3, 4, 9):
        (root / "train" / f"{number}.png").write_text("<html>not found</html>")
    alone = image_problems(both, decode=False)
    parts: list[list[str | None]] = [[] for _ in range(count)]
    meeting = threading.Barrier(count)

    def found(process: int, check: Any, **options: Any) -> Any:
        def gather(own: list[str | None]) -> list[list[str | None]]:
            parts[process] = own
            meeting.wait(timeout=20)
            return parts

        return check(both, decode=False, share=(process, count), gather=gather, **options)

    with ThreadPoolExecutor(count) as pool:
        results = list(pool.map(partial(found, check=image_problems), range(count)))
        assert results == [alone] * count and alone[0].count == 3 and alone[0].refused == 9
        assert [len(part) for part in parts] == [len(range(process, 12, count)) for process in range(count)]
        caplog.clear()
        kept = list(pool.map(partial(found, check=good_images, drop=True), range(count)))
    assert all(rows["image_id"][:] == kept[0]["image_id"][:] and len(rows) == 27 for rows in kept)
    assert len(caplog.messages) == 1 and "9 of the 36 rows" in caplog.messages[0]
