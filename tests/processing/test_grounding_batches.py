"""Whole images with their boxes, augmented and in batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_models import WORDS

from processing import (
    AlbefImageProcessor,
    AlbefProcessor,
    AugmentedDataset,
    GroundingCollator,
    ProcessingError,
    WholeImageAugmentation,
    build_tokenizer,
)

BOX = [10.0, 4.0, 20.0, 12.0]


def image_with_box() -> Image.Image:
    """Black, 80 x 40 pixels, white in the box."""
    pixels = np.zeros((40, 80, 3), dtype=np.uint8)
    pixels[4:16, 10:30] = 255
    return Image.fromarray(pixels)


def test_boxes_move_with_their_images(tmp_path: Path) -> None:
    """Whatever is drawn, the box is round what is white; both flips occur, and the row itself stays as it was."""
    image_with_box().save(tmp_path / "a.png")
    rows = [{"image": str(tmp_path / "a.png"), "text": "a star", "box": BOX}]
    lefts = set()
    for seed in range(24):
        row = AugmentedDataset(rows, WholeImageAugmentation(160), seed=seed)[0]
        assert row["image"].size == (160, 160) and row["text"] == "a star"
        white = np.asarray(row["image"].convert("L"), dtype=int) > 127
        ys, xs = white.nonzero()
        x, y, width, height = row["box"]
        found = [xs.min(), ys.min(), xs.max() + 1 - xs.min(), ys.max() + 1 - ys.min()]
        np.testing.assert_allclose([x, y, width, height], found, atol=5)  # edges are blurred; a move is of 7
        lefts.add(round(x))
    assert lefts == {20, 100} and rows[0]["box"] == BOX


def test_rows_without_a_box_are_turned_too() -> None:
    rows = [{"image": image_with_box(), "text": "a star", "box": None}]
    shapes = set()
    for seed in range(30):
        row = AugmentedDataset(rows, WholeImageAugmentation(64, magnitude=10), seed=seed)[0]
        assert row["box"] is None
        white = np.asarray(row["image"].convert("L"), dtype=int) > 200
        ys, xs = white.nonzero()
        shapes.add((ys.max() - ys.min(), xs.max() - xs.min()))
    assert len(shapes) > 4  # sheared or turned, some of them


@pytest.fixture
def processor() -> AlbefProcessor:
    return AlbefProcessor(AlbefImageProcessor(size=32), build_tokenizer(WORDS))


def test_a_batch_has_boxes_as_shares(tmp_path: Path, processor: AlbefProcessor) -> None:
    image_with_box().save(tmp_path / "a.png")
    path = str(tmp_path / "a.png")
    rows: list[dict[str, Any]] = [
        {"image": path, "text": "a blue circle", "box": BOX},
        {"image": Image.new("RGB", (40, 40)), "text": "a green star", "box": [0, 0, 40, 10], "image_id": 7},
        {"image": path, "text": "a red square", "box": None},
    ]
    batch = GroundingCollator(processor, with_boxes=True)(rows)
    expected = torch.tensor([[0.125, 0.1, 0.375, 0.4], [0, 0, 1, 0.25]])
    torch.testing.assert_close(batch["boxes"][:2], expected)
    assert batch["boxes"][2].isnan().all() and batch["pixel_values"].shape == (3, 3, 32, 32)
    ids = batch["image_ids"].tolist()
    assert ids[0] == ids[2] != ids[1] == 7  # rows of the same file are of one image
    plain = GroundingCollator(processor)(rows)
    assert "boxes" not in plain and plain["image_ids"].tolist() == ids
    torch.testing.assert_close(plain["pixel_values"], batch["pixel_values"])
    with pytest.raises(ProcessingError, match="x, y, width, height are expected"):
        GroundingCollator(processor, with_boxes=True)([{**rows[0], "box": [1, 2, 3]}])
    with pytest.raises(KeyError, match="lacks 'text'"):
        GroundingCollator(processor)([{"image": path}])
