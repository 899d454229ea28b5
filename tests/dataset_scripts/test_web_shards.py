"""Tar and Parquet shards as a stream: what is read, from where, by whom, and what becomes of bad samples."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image
from shard_cases import image_bytes, served, write_parquet, write_shards, write_tar
from small_models import WORDS
from torch.utils.data import DataLoader

from dataset_scripts import DataError, load_dataset_script, process_share, stream_shards
from dataset_scripts.commands.export import export_to_folder
from processing import (
    AlbefImageProcessor,
    AlbefProcessor,
    AugmentedStream,
    ProcessingError,
    RetrievalCollator,
    build_tokenizer,
)


def captions(stream: Any) -> list[str]:
    return [row["caption"] for row in stream]


def expected(count: int) -> list[str]:
    return [f"a blue circle {number}" for number in range(count)]


def test_tar_and_parquet_files_here(tmp_path: Path) -> None:
    write_shards(tmp_path)
    write_parquet(tmp_path / "more.parquet", 24, 5)
    rows = list(stream_shards([str(tmp_path / "{00..03}.tar"), str(tmp_path / "*.parquet")]))
    assert [row["caption"] for row in rows] == expected(29)
    assert [row["image"]["bytes"] for row in rows] == [image_bytes(number) for number in range(29)]
    assert len({row["image_id"] for row in rows}) == 29 and not any(row["bad_sample"] for row in rows)
    assert rows[7]["image"]["path"] == f"{tmp_path}/01.tar, sample 0007"
    assert captions(stream_shards([str(tmp_path / "*.tar")])) == expected(24)


def test_the_same_over_http(tmp_path: Path) -> None:
    write_shards(tmp_path, shards=2)
    write_parquet(tmp_path / "more.parquet", 12, 5)
    with served(tmp_path) as address:
        assert captions(stream_shards([f"{address}/{{00..01}}.tar", f"{address}/more.parquet"])) == expected(17)
        with pytest.raises(DataError, match=r"The shard http://.*/9\.tar cannot be read after its sample 0 \(.*9\.tar"):
            list(stream_shards([f"{address}/9.tar"]))


@pytest.mark.parametrize("kind", ["webdataset", "parquet"])
def test_what_is_exported_here_can_be_streamed(tmp_path: Path, kind: str) -> None:
    config = {"num_train": 5, "image_size": 32}
    rows = load_dataset_script("shapes", config_name="retrieval", split="train", cache_dir=tmp_path, **config)
    export_to_folder(datasets.DatasetDict(train=rows), "shapes", kind, tmp_path / "exported")
    streamed = list(stream_shards([f"{tmp_path}/exported/data/*.{'tar' if kind == 'webdataset' else kind}"]))
    assert [row["caption"] for row in streamed] == [text for row in rows for text in row["caption"]]
    assert not any(row["bad_sample"] for row in streamed)


def test_a_connection_that_breaks_off_is_made_again(tmp_path: Path) -> None:
    """Twice, amid the samples; every sample comes once. Three times without a new sample is enough."""
    members: dict[str, bytes] = {}
    for number in range(6):
        members |= {f"{number}.png": image_bytes(number), f"{number}.bin": bytes(500_000)}
        members[f"{number}.txt"] = f"a blue circle {number}".encode()
    write_tar(tmp_path / "0.tar", members)
    with served(tmp_path, breaks=2, after=1_600_000) as address:
        assert captions(stream_shards([f"{address}/0.tar"])) == expected(6)
    with served(tmp_path, breaks=9, after=1_600_000) as address:
        with pytest.raises(DataError, match=r"0\.tar cannot be read after its sample [1-3] \(.+\): make it anew"):
            list(stream_shards([f"{address}/0.tar"]))
    write_parquet(tmp_path / "more.parquet", 0, 5)
    with served(tmp_path, breaks=1, after=300) as address:
        assert captions(stream_shards([f"{address}/more.parquet"])) == expected(5)


def test_what_samples_may_look_like(tmp_path: Path) -> None:
    """Several captions, folders, endings with dots, upper case, columns that are named."""
    members = {
        "a/0.JPG": image_bytes(0, "JPEG"),
        "a/0.json": json.dumps({"captions": ["one", "two"], "image": "0.jpg"}).encode(),
        "b/0.thumb.png": image_bytes(1),
        "b/0.txt": "drei \u00e4\n".encode(),
        "c/0.cls": b"4",
        "c/0.webp": image_bytes(2, "WEBP"),
        "c/0.txt": b"four",
        "readme": b"",
    }
    assert captions(stream_shards([write_tar(tmp_path / "0.tar", members)])) == ["one", "two", "drei \u00e4\n", "four"]
    members = {"0.png": image_bytes(0), "0.json": json.dumps({"caption": "web", "blip": "a model's"}).encode()}
    stream = stream_shards([write_tar(tmp_path / "1.tar", members)], caption_column="blip")
    assert captions(stream) == ["a model's"]


BAD = {
    "has nothing in": {"0.png": image_bytes(0), "0.json": b'{"caption": null}'},
    "has no caption in": {"0.png": image_bytes(0), "0.cls": b"1"},
    "no letter": {"0.png": image_bytes(0), "0.txt": b" .. "},
    "no letter in a number": {"0.png": image_bytes(0), "0.json": b'{"caption": 5}'},
    "no letter in a mapping": {"0.png": image_bytes(0), "0.json": b'{"caption": {"en": "a circle"}}'},
    "has no image in": {"0.txt": b"a circle"},
    "has no bytes": {"0.txt": b"a circle", "0.png": b""},
    "a .json that cannot be read": {"0.png": image_bytes(0), "0.json": b"{"},
    "a .txt that cannot be read": {"0.png": image_bytes(0), "0.txt": b"\xff\xfe\xff"},
}


@pytest.mark.parametrize("problem", list(BAD))
def test_bad_samples_say_what_is_wrong(tmp_path: Path, problem: str) -> None:
    good = {"1.png": image_bytes(1), "1.txt": b"a circle"}
    first, last = stream_shards([write_tar(tmp_path / "0.tar", BAD[problem] | good)])
    words = "letter or digit" if problem.startswith("no letter") else problem
    assert words in first["bad_sample"] and first["caption"] is None and first["image_id"].endswith("0.tar, sample 0")
    assert last["caption"] == "a circle" and last["bad_sample"] is None


def with_bad_ones(folder: Path, count: int, every: int) -> list[str]:
    """A shard of which one sample in so many cannot be decoded, or has no caption, in turn."""
    members: dict[str, bytes] = {}
    for number in range(count):
        is_bad = number % every == every - 1
        lacks_caption = is_bad and (number // every) % 2 == 1
        members[f"{number:04d}.png"] = b"no image" if is_bad and not lacks_caption else image_bytes(number)
        if not lacks_caption:
            members[f"{number:04d}.txt"] = f"circle {number}".encode()
    return [write_tar(folder / "bad.tar", members)]


def test_bad_samples_are_left_out_and_named(tmp_path: Path) -> None:
    stream = AugmentedStream(stream_shards(with_bad_ones(tmp_path, 40, 10)), bad_images="replace", max_bad_share=0.1)
    rows = iter(stream)
    read = [next(rows) for _ in range(36)]
    assert [row["caption"] for row in read] == [f"circle {n}" for n in range(40) if n % 10 != 9]
    names = [row["replaced_image"] for row in read if "replaced_image" in row]
    assert names == [f"'{tmp_path}/bad.tar, sample {n:04d}'" for n in (9, 19, 29)]


def test_bad_samples_in_a_row_are_all_counted(tmp_path: Path) -> None:
    members = {"0.png": b"", "1.txt": b"one", "2.png": image_bytes(2), "2.txt": b"a blue circle"}
    stream = AugmentedStream(stream_shards([write_tar(tmp_path / "0.tar", members)]), bad_images="replace")
    collator = RetrievalCollator(AlbefProcessor(AlbefImageProcessor(size=32), build_tokenizer(WORDS)), with_names=True)
    assert collator([next(iter(stream))])["replaced_images"] == [f"'{tmp_path}/0.tar, sample {n}'" for n in (0, 1)]


def test_too_many_bad_samples_end_the_run(tmp_path: Path) -> None:
    stream = AugmentedStream(stream_shards(with_bad_ones(tmp_path, 200, 5)), bad_images="replace", max_bad_share=0.15)
    words = r"20 of the first 100 rows of the stream cannot be used, more than 15%; the last: .*sample 0099'"
    with pytest.raises(ProcessingError, match=words):
        for _ in stream:
            pass


def test_a_stream_goes_on_without_decoding_what_was_used(tmp_path: Path) -> None:
    """From the state of its 31st row, in the second pass; a bad sample before it is not opened again, either."""
    args, opened = SimpleNamespace(seed=1, process_index=0, world_size=1), list[int]()

    def note(image: Image.Image, rng: np.random.Generator) -> float:
        opened.append(image.getpixel((0, 0))[0])
        return rng.random()

    def make() -> AugmentedStream:
        shards = [*write_shards(tmp_path), *with_bad_ones(tmp_path, 3, 3)]
        return AugmentedStream(process_share(stream_shards(shards), args, 7), note, 5, bad_images="replace")

    rows = iter(make())
    whole = [next(rows) for _ in range(60)]
    again = make()
    again.starts = {0: tuple(json.loads(json.dumps(whole[30]["stream_state"])))}
    assert again.starts[0][2] == 1  # passes
    opened.clear()
    rows = iter(again)
    resumed = [next(rows) for _ in range(60)]
    assert resumed[:31] == [{"is_skipped": True}] * 31 and resumed[31:] == whole[31:] and len(opened) == 29


@pytest.mark.parametrize("workers", [0, 2])
def test_processes_and_workers_read_shards_of_their_own(tmp_path: Path, workers: int) -> None:
    files, seen, shards = write_shards(tmp_path), list[str](), list[set[str]]()
    for rank in range(2):
        args = SimpleNamespace(seed=0, process_index=rank, world_size=2)
        share = AugmentedStream(process_share(stream_shards(files), args, 5), process_index=rank)
        loader = iter(DataLoader(share, batch_size=None, num_workers=workers))
        rows = [next(loader) for _ in range(12)]
        seen += [row["caption"] for row in rows]
        shards.append({row["image_id"].partition(",")[0] for row in rows})
    assert sorted(seen) == sorted(expected(24)) and seen != expected(24)
    assert not shards[0] & shards[1] and all(len(some) == 2 for some in shards)


def test_a_shard_that_breaks_off_is_named(tmp_path: Path) -> None:
    (file,) = write_shards(tmp_path, shards=1)
    Path(file).write_bytes(Path(file).read_bytes()[: 3 * 2048 + 512 + 20])
    with pytest.raises(
        DataError, match=r"The shard .*00\.tar cannot be read after its sample 3 \(unexpected end of data"
    ):
        list(stream_shards([file]))


def test_names_that_are_no_shards(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no shard .*\{00..03\}.tar|There is no shard .*00\.tar"):
        stream_shards([str(tmp_path / "{00..03}.tar")])
    (tmp_path / "a.zip").touch()
    with pytest.raises(DataError, match="is of no known kind: its name must end in"):
        stream_shards([str(tmp_path / "a.zip")])
