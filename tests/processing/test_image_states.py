"""Image states that are encoded once and read from disk."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from processing import AlbefImageProcessor, AlbefProcessor, RetrievalCollator, VQACollator, build_tokenizer
from processing.image_processing_albef import ProcessingError, UnreadableImageError
from processing.image_states import ImageStates, StoredImageRows, StoreOptions, states_folder, store_image_states

PROCESSOR = AlbefImageProcessor(size=8)


class Encoder:
    """Gives each image two states, of the means of its halves; counts the images."""

    def __init__(self) -> None:
        self.images = 0

    def __call__(self, pixel_values: torch.Tensor) -> torch.Tensor:
        self.images += len(pixel_values)
        return torch.stack([pixel_values[..., :4].mean((2, 3)), pixel_values[..., 4:].mean((2, 3))], dim=1)


def save_images(folder: Path, count: int) -> list[dict[str, Any]]:
    """Rows of images in two colors each."""
    generator = np.random.default_rng(0)
    rows = []
    for index in range(count):
        left, right = generator.integers(0, 256, (2, 3))
        pixels = np.empty((8, 8, 3), dtype=np.uint8)
        pixels[:, :4], pixels[:, 4:] = left, right
        Image.fromarray(pixels).save(folder / f"{index}.png")
        rows.append({"image": str(folder / f"{index}.png"), "caption": f"image {index}", "image_id": index})
    return rows


def expected(row: dict[str, Any], flip: bool = False) -> torch.Tensor:
    pixels = PROCESSOR(images=row["image"], return_tensors="pt")["pixel_values"]
    return Encoder()(pixels.flip(-1) if flip else pixels)[0]


def flip_even_draws(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if generator.integers(2) else image


def test_states_are_those_of_the_images_and_are_encoded_once(tmp_path: Path) -> None:
    rows = save_images(tmp_path, 5)
    rows.append({**rows[2], "caption": "once more"})
    (tmp_path / "copy.png").write_bytes((tmp_path / "3.png").read_bytes())
    rows.append({"image": str(tmp_path / "copy.png"), "caption": "the same content", "image_id": 9})
    encoder = Encoder()
    stored = store_image_states(rows, encoder, PROCESSOR, tmp_path / "states", StoreOptions(batch_size=2))
    assert encoder.images == 5 and len(stored) == 7
    for row, given in zip(rows, (stored[index] for index in range(7)), strict=True):
        torch.testing.assert_close(given["image_hidden_states"], expected(row), atol=1e-6, rtol=0)
        assert "image" not in given and given["caption"] == row["caption"] and given["image_name"] == row["image"]
    again = store_image_states(rows, encoder, PROCESSOR, tmp_path / "states", StoreOptions(batch_size=2))
    assert encoder.images == 5
    torch.testing.assert_close(again[6]["image_hidden_states"], stored[3]["image_hidden_states"], atol=0, rtol=0)
    changed = Image.new("RGB", (8, 8), (9, 9, 9))
    changed.save(tmp_path / "0.png")
    new = store_image_states(rows, encoder, PROCESSOR, tmp_path / "states")
    assert encoder.images == 6
    torch.testing.assert_close(new[0]["image_hidden_states"], expected(rows[0]), atol=1e-6, rtol=0)


def test_broken_off_work_goes_on(tmp_path: Path) -> None:
    rows = save_images(tmp_path, 6)
    encoder = Encoder()

    def breaks(pixel_values: torch.Tensor) -> torch.Tensor:
        if encoder.images == 4:
            raise KeyboardInterrupt
        return encoder(pixel_values)

    with pytest.raises(KeyboardInterrupt):
        store_image_states(rows, breaks, PROCESSOR, tmp_path / "states", StoreOptions(batch_size=2))
    assert len(ImageStates(tmp_path / "states")) == 4
    stored = store_image_states(rows, encoder, PROCESSOR, tmp_path / "states", StoreOptions(batch_size=2))
    assert encoder.images == 6
    torch.testing.assert_close(stored[5]["image_hidden_states"], expected(rows[5]), atol=1e-6, rtol=0)


def test_damaged_files_are_encoded_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows, encoder = save_images(tmp_path, 4), Encoder()
    store_image_states(rows, encoder, PROCESSOR, tmp_path / "states", StoreOptions(batch_size=2))
    damaged = sorted((tmp_path / "states").glob("*.safetensors"))[0]
    damaged.write_bytes(damaged.read_bytes()[:50])
    stored = store_image_states(rows, encoder, PROCESSOR, tmp_path / "states", StoreOptions(batch_size=2))
    assert encoder.images == 6 and damaged.name in caplog.text
    for index, row in enumerate(rows):
        torch.testing.assert_close(stored[index]["image_hidden_states"], expected(row), atol=1e-6, rtol=0)


def test_processes_share_the_work(tmp_path: Path) -> None:
    rows = save_images(tmp_path, 5)
    encoders = [Encoder(), Encoder()]
    shares = [
        store_image_states(rows, encoder, PROCESSOR, tmp_path / "states", StoreOptions(batch_size=2, share=(rank, 2)))
        for rank, encoder in enumerate(encoders)
    ]
    assert sum(encoder.images for encoder in encoders) == 5
    for stored in shares:
        stored.states.find_files()
        torch.testing.assert_close(stored[4]["image_hidden_states"], expected(rows[4]), atol=1e-6, rtol=0)


def test_variants_are_drawn_by_seed_epoch_and_row(tmp_path: Path) -> None:
    rows = save_images(tmp_path, 12)
    options = StoreOptions(augmentation=flip_even_draws, variants=4, seed=3)
    encoder = Encoder()
    stored = store_image_states(rows, encoder, PROCESSOR, tmp_path / "states", options)
    assert encoder.images == 48
    flipped: list[list[bool]] = []
    for epoch in range(3):
        stored.set_epoch(epoch)
        flipped.append([])
        for index, row in enumerate(rows):
            states = stored[index]["image_hidden_states"]
            matches = [bool(torch.allclose(states, expected(row, flip), atol=1e-6)) for flip in (False, True)]
            assert matches in ([True, False], [False, True])
            flipped[-1].append(matches[1])
    assert flipped[0] != flipped[1] != flipped[2]
    assert 6 < sum(map(sum, flipped)) < 30
    again = copy.deepcopy(stored)  # as pickle does for a worker of a loader
    torch.testing.assert_close(again[0]["image_hidden_states"], stored[0]["image_hidden_states"], atol=0, rtol=0)


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 0.0), ("float16", 2**-11), ("bfloat16", 2**-8)])
def test_halves_are_rounded_once(dtype: str, bound: float, tmp_path: Path) -> None:
    rows = save_images(tmp_path, 3)
    stored = store_image_states(rows, Encoder(), PROCESSOR, tmp_path / "states", StoreOptions(dtype=dtype))
    for index, row in enumerate(rows):
        states = stored[index]["image_hidden_states"]
        assert states.dtype == torch.float32
        torch.testing.assert_close(states, expected(row), atol=1e-6, rtol=bound)


def test_states_that_half_precision_cannot_hold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ProcessingError, match="float32"):
        ImageStates(tmp_path).write(["a"], torch.full((1, 2, 3), 1e6).half())


def test_folder_depends_on_weights_and_settings(tmp_path: Path) -> None:
    tower = nn.Linear(2, 2)
    folder = states_folder(tmp_path, tower, size=8)
    assert folder == states_folder(tmp_path, tower, size=8) and folder.parent == tmp_path
    assert folder != states_folder(tmp_path, tower, size=16)
    with torch.no_grad():
        tower.weight[0, 0] += 1e-6
    assert folder != states_folder(tmp_path, tower, size=8)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dtype": "int8"}, ["int8", "float16"]),
        ({"variants": 0}, ["variants is 0"]),
        ({"variants": 2}, ["variants is 2", "augmentation"]),
        ({"max_gb": 1e-9}, ["3 images", "GB allowed"]),
    ],
)
def test_refusals(changes: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    rows = save_images(tmp_path, 3)
    with pytest.raises(ProcessingError) as caught:
        store_image_states(rows, Encoder(), PROCESSOR, tmp_path / "states", StoreOptions(**changes))
    assert all(word in str(caught.value) for word in words)
    assert not list((tmp_path / "states").glob("*"))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError, match=r"none\.png"):
        store_image_states([{"image": str(tmp_path / "none.png")}], Encoder(), PROCESSOR, tmp_path / "states")


def test_collators_take_states_in_place_of_images(tmp_path: Path) -> None:
    rows = save_images(tmp_path, 3)
    stored = store_image_states(rows, Encoder(), PROCESSOR, tmp_path / "states")
    processor = AlbefProcessor(PROCESSOR, build_tokenizer(["image 0 1 2", "what color"]))
    batch = RetrievalCollator(processor, with_names=True)([stored[index] for index in range(3)])
    assert "pixel_values" not in batch and batch["image_ids"].tolist() == [0, 1, 2]
    torch.testing.assert_close(batch["image_hidden_states"][1], expected(rows[1]), atol=1e-6, rtol=0)
    questions = [{**stored[index], "question": "what color?", "answers": ["red"]} for index in (0, 0, 1)]
    shared = VQACollator(processor, share_images=True)(questions)
    assert shared["image_hidden_states"].shape == (2, 2, 3) and shared["image_index"].tolist() == [0, 0, 1]


def test_memory_maps_are_few(tmp_path: Path) -> None:
    rows = save_images(tmp_path, 70)
    stored: StoredImageRows = store_image_states(
        rows, Encoder(), PROCESSOR, tmp_path / "states", StoreOptions(batch_size=1)
    )
    for index in range(70):
        stored[index]
    assert len(stored.states._maps) == 64
