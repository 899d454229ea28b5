"""What tells images apart: ids of any kind, paths, contents; and numbers of them that all processes share."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_models import WORDS

from processing import AlbefImageProcessor, AlbefProcessor, ProcessingError, RetrievalCollator, build_tokenizer
from processing.image_keys import image_key, image_number, image_path

IDS: tuple[Any, ...] = ("a", 0, 7, -3, 2.5, b"x", ("a", 1), frozenset("abc"), uuid.UUID(int=5), 2**70, True)


def picture(shade: int) -> Image.Image:
    return Image.new("RGB", (40, 30), (shade, 90, 255 - shade))


def as_bytes(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def collator() -> RetrievalCollator:
    return RetrievalCollator(AlbefProcessor(AlbefImageProcessor(size=32), build_tokenizer(WORDS)))


def test_whole_numbers_stay_and_equal_ids_have_equal_numbers() -> None:
    assert [image_number(key) for key in (0, 7, -3, 2**63 - 1)] == [0, 7, -3, 2**63 - 1]
    assert image_number(1) == image_number(1.0) == image_number(True) == image_number(np.int64(1))
    assert image_number((1, "a")) == image_number((1.0, "a")) != image_number((2, "a"))
    numbers = [image_number(key) for key in IDS]
    assert len(set(numbers)) == len(IDS) and all(-(2**63) <= number < 2**63 for number in numbers)
    assert image_number(-100) != -100  # which is that of unknown images in the queue


@pytest.mark.slow
def test_numbers_are_the_same_in_every_process() -> None:
    """Python's own `hash` of a text, and the order of a set, differ from one process to the next."""
    code = (
        "from tests.processing.test_image_keys import IDS; from processing.image_keys import image_number; "
        "print([image_number(key) for key in IDS])"
    )
    root = Path(__file__).parents[2]
    paths = {"PYTHONPATH": os.pathsep.join([str(root), str(root / "tests")])}
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=root,
            env={**os.environ, **paths, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert printed == {f"{[image_number(key) for key in IDS]}\n"}


def test_without_an_id_the_path_counts_and_then_the_content(tmp_path: Path) -> None:
    for name, shade in (("a.png", 10), ("b.png", 10), ("c.png", 200)):
        picture(shade).save(tmp_path / name)
    by_path = [image_key({"image": str(tmp_path / name)}) for name in ("a.png", "a.png", "b.png")]
    assert by_path[0] == by_path[1] != by_path[2]  # the same pixels in another file are another image
    assert (
        by_path[0] == image_key({"image": tmp_path / "a.png"}) == image_key({"image": Image.open(tmp_path / "a.png")})
    )
    assert by_path[0] == image_key({"image": {"path": str(tmp_path / "a.png"), "bytes": None}})
    assert by_path[0] == image_key({"image": str(tmp_path / "a.png"), "image_id": None})
    assert by_path[0] == image_key({"image": str(tmp_path / "a.png"), "image_id": float("nan")})

    in_memory = [picture(10), picture(10), picture(11)]
    for make in (
        lambda one: one,
        np.asarray,
        lambda one: torch.tensor(np.asarray(one)),
        lambda one: {"bytes": as_bytes(one)},
    ):
        one, same, other = (image_key({"image": make(image)}) for image in in_memory)
        assert one == same != other
    # embedded files often keep a name without a folder, which does not tell them apart
    named = [image_key({"image": {"path": "1.png", "bytes": as_bytes(image)}}) for image in in_memory]
    assert named[0] == named[1] != named[2]


def test_an_augmented_image_goes_by_the_name_that_it_had() -> None:
    one, same, other = (
        image_key({"image": picture(shade), "image_name": name}) for shade, name in ((1, "'a'"), (2, "'a'"), (1, "'b'"))
    )
    assert one == same != other


def test_paths() -> None:
    assert image_path({"path": "a.png", "bytes": b""}) == image_path(Path("a.png")) == image_path("a.png") == "a.png"
    assert [image_path(one) for one in (picture(1), {"path": None}, {"bytes": b""}, 3, None)] == [None] * 5


def test_batches_have_the_same_id_where_the_image_is_the_same(collator: RetrievalCollator, tmp_path: Path) -> None:
    picture(5).save(tmp_path / "a.png")
    ids = [*IDS, *IDS]
    batch = collator([{"image": picture(1), "caption": "a blue circle", "image_id": key} for key in ids])["image_ids"]
    assert batch.dtype == torch.int64 and torch.equal(batch[: len(IDS)], batch[len(IDS) :])
    assert len(batch.unique()) == len(IDS)
    paths = [str(tmp_path / "a.png")] * 2
    without = collator(
        [{"image": image, "caption": "a circle"} for image in (*paths, picture(3), picture(3), picture(4))]
    )
    one, same, third, fourth, fifth = without["image_ids"].tolist()
    assert one == same and third == fourth and len({one, third, fifth}) == 3


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image_id": ["a"]}, r"image_id is \['a'\], which is not hashable: give a number, a text"),
        ({"image_id": {"a": 1}}, "image_id is {'a': 1}, which is not hashable"),
        ({"caption": ["one", "two"]}, r"A row has the caption \['one', 'two'\], but training takes one a row"),
        ({"caption": None}, "A row has the caption None, but"),
    ],
)
def test_what_cannot_be_used_gets_a_sentence(collator: RetrievalCollator, row: dict[str, Any], message: str) -> None:
    with pytest.raises(ProcessingError, match=message):
        collator([{"image": picture(1), "caption": "a circle", "image_id": 1, **row}])
