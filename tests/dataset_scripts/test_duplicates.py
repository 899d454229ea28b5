"""Near-identical images are found without comparing all, and what is found is what comparing all finds."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset_scripts.contents.image_facts import image_facts
from dataset_scripts.contents.near_duplicates import (
    MAX_BITS,
    MAX_DIFFERENCE,
    MIN_CONTRAST,
    difference_hashes,
    near_identical,
)
from dataset_scripts.contents.text_counts import comparable_text
from dataset_scripts.reading.image_files import FirstCopies


def smooth(count: int, seed: int, corners: int = 4) -> np.ndarray:
    """(N, 9, 9, 3) thumbnails of smooth images."""
    colors = np.random.default_rng(seed).integers(0, 256, (count, corners, corners, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(one).resize((9, 9), Image.Resampling.BICUBIC)) for one in colors])


def plain_groups(thumbnails: np.ndarray) -> list[list[int]]:
    """Every pair compared, bit by bit; groups are grown until nothing joins."""

    def luma(one: np.ndarray) -> list[list[int]]:
        return [[(299 * int(r) + 587 * int(g) + 114 * int(b)) // 1000 for r, g, b in row] for row in one]

    def bits(grey: list[list[int]]) -> list[bool]:
        across = [row[x + 1] - row[x] > 2 for row in grey for x in range(8)]
        return across + [grey[y + 1][x] - grey[y][x] > 2 for y in range(8) for x in range(9)]

    greys = [luma(one) for one in thumbnails]
    flat = [max(map(max, grey)) - min(map(min, grey)) < MIN_CONTRAST for grey in greys]
    hashes, pixels = [bits(grey) for grey in greys], thumbnails.astype(int)
    groups = [{index} for index in range(len(thumbnails)) if not flat[index]]
    for one in range(len(thumbnails)):
        for other in range(one):
            if flat[one] or flat[other]:
                continue
            apart = sum(a != b for a, b in zip(hashes[one], hashes[other], strict=True))
            if apart <= MAX_BITS and np.mean(np.abs(pixels[one] - pixels[other])) <= MAX_DIFFERENCE:
                joined = [group for group in groups if one in group or other in group]
                groups = [group for group in groups if group not in joined] + [set().union(*joined)]
    return sorted(sorted(group) for group in groups if len(group) > 1)


@pytest.mark.parametrize("noise", [1, 4, 9, 14])
def test_as_when_all_are_compared(noise: int) -> None:
    """With copies of very different noise, so that pairs lie on both sides of the limits."""
    thumbnails = smooth(60, noise)
    draw = np.random.default_rng(noise)
    changed = thumbnails[:40] + draw.integers(-noise, noise + 1, (40, 9, 9, 3)) + draw.integers(-9, 10, (40, 1, 1, 1))
    grey = np.full((3, 9, 9, 3), 77)
    everything = np.concatenate([thumbnails, np.clip(changed, 0, 255), grey, thumbnails[:5]]).astype(np.uint8)
    everything = everything[draw.permutation(len(everything))]
    expected = plain_groups(everything)
    assert near_identical(everything) == expected
    assert len(expected) >= 5


def test_none_and_one() -> None:
    assert near_identical(np.zeros((0, 9, 9, 3), np.uint8)) == []
    assert near_identical(smooth(1, 0)) == []
    assert difference_hashes(smooth(3, 0)).shape == (3, 9)


def test_many_images_of_one_hash_take_little_memory() -> None:
    """One bucket holds them all: 3,000 images are 4.5 million pairs, of which a part is looked at at a time."""
    thumbnails = np.repeat(smooth(1, 3), 3_000, axis=0)
    thumbnails[:, 0, 0] += np.arange(3_000, dtype=np.uint8)[:, None] % 3
    tracemalloc.start()
    groups = near_identical(thumbnails)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert groups == [list(range(3_000))]
    assert peak < 100e6


def saved(image: Image.Image, kind: str, **options: int) -> dict[str, object]:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return {"bytes": data.getvalue(), "path": None}


def test_an_image_saved_again_looks_the_same_and_a_crop_or_mirror_image_does_not() -> None:
    colors = np.random.default_rng(5).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    image = Image.fromarray(colors).resize((640, 480), Image.Resampling.BICUBIC)
    upright = image.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # viewers turn it clockwise
    turned = io.BytesIO()
    upright.save(turned, "jpeg", exif=exif)
    versions = [
        saved(image, "png"),
        saved(image, "jpeg", quality=95),
        saved(image, "jpeg", quality=25),
        saved(image.resize((160, 120)), "webp"),
        {"bytes": turned.getvalue(), "path": None},
        saved(image.crop((160, 120, 640, 480)), "jpeg"),
        saved(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), "jpeg"),
        saved(Image.new("RGB", (9, 9)), "png"),
    ]
    facts = np.array(list(image_facts([*versions, None, {"bytes": b"<html>", "path": None}])))
    assert near_identical(facts["thumbnail"]) == [[0, 1, 2, 3, 4]]
    assert facts["is_read"].tolist() == [True] * 8 + [False] * 2
    assert facts[["width", "height"]].tolist()[3:5] == [(160, 120), (480, 640)]


def test_first_copies(tmp_path: Path) -> None:
    contents = {"a": b"12", "b": b"34", "c": b"12", "d": b"345", "e": b"34", "f": b""}
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "link").symlink_to(tmp_path / "d")
    copies = FirstCopies()
    names = [*contents, "link", "gone", "a"]
    assert [Path(copies.add(str(tmp_path / name))).name for name in names] == [*"abadbf", "d", "gone", "a"]


def test_comparable_text() -> None:
    assert comparable_text(" A  dog\truns. ") == comparable_text("a dog runs!") != comparable_text("a dog ran")
