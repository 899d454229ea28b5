"""The image processor with torchvision's backend gives Pillow's values."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from processing import AlbefImageProcessor, AlbefProcessor, UnreadableImageError, build_tokenizer
from processing.image_processing_albef_torchvision import (
    AlbefImageProcessorTorchvision,
    in_torchvision,
    resize_as_pillow,
)

PHOTO = Path(__file__).parents[1] / "golden/image.png"
RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (61, 47, 3), dtype=np.uint8)


def test_the_resize_is_pillows_to_the_bit() -> None:
    """It needs torch alone; noise has the greatest rounding errors, stripes the greatest overshoot."""
    sizes = [(1, 1), (3, 2), (7, 5), (31, 33), (32, 32), (64, 32), (100, 75), (501, 333), (1, 200)]
    if int(PIL.__version__.partition(".")[0]) >= 12:  # 11.0 resizes images this tall in the usual order
        sizes.append((900, 2))
    for size in sizes:
        noise = RNG.integers(0, 256, (*size, 3), dtype=np.uint8)
        stripes = np.ascontiguousarray(np.broadcast_to((np.arange(size[1]) // 2 % 2 * 255)[None, :, None], noise.shape))
        for array in (noise, stripes.astype(np.uint8)):
            wanted = np.asarray(Image.fromarray(array).resize((32, 32), Image.Resampling.BICUBIC))
            channels = torch.from_numpy(array).permute(2, 0, 1)
            found = resize_as_pillow(channels, 32, 32)
            np.testing.assert_array_equal(found.permute(1, 2, 0).numpy(), wanted)


@pytest.mark.slow
def test_without_torchvision_it_says_so_and_pillow_is_taken(tmp_path: Path) -> None:
    AlbefProcessor(AlbefImageProcessor(), build_tokenizer(["a"])).save_pretrained(tmp_path)
    code = f"""
import importlib.machinery
class Hidden(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, *args):
        return None if name.startswith("torchvision") else super().find_spec(name, *args)
import sys
sys.meta_path[:] = [Hidden if one is importlib.machinery.PathFinder else one for one in sys.meta_path]
import processing
print(type(processing.AlbefProcessor.from_pretrained({str(tmp_path)!r}, backend="torchvision").image_processor))
try:
    processing.AlbefImageProcessorTorchvision()
except processing.ProcessingError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.splitlines() == [
        "<class 'processing.image_processing_albef.AlbefImageProcessor'>",
        "torchvision is not installed: install it, or use AlbefImageProcessor.",
    ], run.stderr


@pytest.fixture
def _torchvision() -> None:
    pytest.importorskip("torchvision")


def both(images: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixel values of Pillow and of torchvision."""
    options = {"size": 32, **options}
    classes = (AlbefImageProcessor, AlbefImageProcessorTorchvision)
    pillow, found = (one(**options)(images=images, return_tensors="pt")["pixel_values"] for one in classes)
    assert found.dtype == pillow.dtype and found.shape == pillow.shape
    return pillow, found


@pytest.mark.usefixtures("_torchvision")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"size": 47},
        {"size": 384},
        {"do_normalize": False},
        {"do_rescale": False},
        {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.7, 1.1, 3.0]},
        {"do_center_crop": True, "crop_size": {"height": 14, "width": 13}},
        {"do_pad": True, "pad_size": {"height": 39, "width": 41}},
    ],
)
def test_values_are_pillows(options: dict[str, Any]) -> None:
    photo = Image.open(PHOTO)
    images = [photo, str(PHOTO), {"path": str(PHOTO), "bytes": None}, NOISE, photo.convert("L"), photo.convert("RGBA")]
    pillow, found = both(images, **options)
    torch.testing.assert_close(found, pillow, atol=2e-5 * (255 if options.get("do_rescale") is False else 1), rtol=0)


FLOATS = (NOISE / 255).astype(np.float32)


@pytest.mark.usefixtures("_torchvision")
@pytest.mark.parametrize("do_rescale", [True, False])
@pytest.mark.parametrize(
    "image",
    [
        FLOATS,
        FLOATS.transpose(2, 0, 1),
        FLOATS[::-1],
        torch.from_numpy(FLOATS).permute(2, 0, 1),
        torch.from_numpy(FLOATS).permute(2, 0, 1).double(),
        torch.from_numpy(FLOATS).permute(2, 0, 1).bfloat16(),
        torch.from_numpy(FLOATS).permute(2, 0, 1).clone().requires_grad_(),
        FLOATS * 1.0001,
        NOISE,
        NOISE[..., 0],
        NOISE[..., :1],
        torch.from_numpy(NOISE),
        NOISE.astype(np.float32),
        NOISE.astype(np.int64),
        torch.from_numpy(np.stack([NOISE, NOISE[::-1]])),
    ],
)
def test_arrays_and_tensors_are_taken_alike(image: Any, do_rescale: bool) -> None:
    pillow, found = both(image, do_rescale=do_rescale)
    torch.testing.assert_close(found, pillow, atol=2e-5 if do_rescale else 5e-3, rtol=0)
    eight_bits = both(Image.fromarray(NOISE))[0]
    if do_rescale and tuple(np.shape(image)) == NOISE.shape and image is not FLOATS[::-1]:
        same = eight_bits if not np.array_equal(np.asarray(image)[0], FLOATS[-1]) else eight_bits.flip(2)
        torch.testing.assert_close(found[0], same[0], atol=0.02, rtol=0)


@pytest.mark.usefixtures("_torchvision")
@pytest.mark.parametrize("processor", [AlbefImageProcessor, AlbefImageProcessorTorchvision])
@pytest.mark.parametrize(
    ("image", "text"),
    [
        (np.full((9, 9, 3), 300, np.uint16), "type uint16 has values from 300.* to 300.*: give uint8"),
        (np.full((9, 9, 3), 3, np.uint16), "type uint16"),
        (np.full((9, 9, 3), -0.5, np.float32), "values from -0.5 to -0.5: give uint8, floats in 0..1"),
        (torch.full((3, 9, 9), 256.0), "values from 256.0 to 256.0"),
        (torch.full((3, 9, 9), -1), "values from -1 to -1"),
        (torch.full((3, 9, 9), torch.nan), "values from nan to nan"),
        (np.ones((9, 9, 3), bool), "type bool has values from True to True"),
        (np.full((9, 9, 3), 1.02), "type float64 has values from 1.02 to 1.02"),
        (np.full((9, 9, 3), 1j), "type complex128"),
    ],
)
def test_values_of_no_known_range_are_refused(processor: Any, image: Any, text: str) -> None:
    with pytest.raises(UnreadableImageError, match=text + ".*do_rescale=False") as caught:
        processor()(images=image)
    assert "\n" not in str(caught.value)
    with pytest.raises(UnreadableImageError, match="do_resize=False"):
        processor()(images=image, do_rescale=False)


@pytest.mark.usefixtures("_torchvision")
@pytest.mark.parametrize("processor", [AlbefImageProcessor, AlbefImageProcessorTorchvision])
def test_other_shapes_and_nothing_are_refused(processor: Any) -> None:
    for channels in (2, 5):
        with pytest.raises(UnreadableImageError, match=rf"shape \(8, 8, {channels}\): give 1, 3 or 4 channels"):
            processor()(images=np.zeros((8, 8, channels), np.uint8))
    with pytest.raises(UnreadableImageError, match="An image is None: leave its row out"):
        processor()(images=[NOISE, None])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("processor")
    processor = AlbefProcessor(AlbefImageProcessor(size=24, image_mean=[0.1, 0.2, 0.3]), build_tokenizer(["a"]))
    processor.save_pretrained(path, save_code=True)
    return path


@pytest.mark.usefixtures("_torchvision")
def test_it_is_taken_where_it_is_asked_for_alone(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for load in (AutoProcessor.from_pretrained, AlbefProcessor.from_pretrained):
        for options in ({}, {"backend": "pil"}, {"use_fast": False}):
            assert type(load(folder, **options).image_processor) is AlbefImageProcessor
        for options in ({"backend": "torchvision"}, {"use_fast": True}):
            assert type(load(folder, **options).image_processor) is AlbefImageProcessorTorchvision
    assert type(AutoImageProcessor.from_pretrained(folder)) is AlbefImageProcessor
    found = AutoImageProcessor.from_pretrained(folder, backend="torchvision")
    assert type(found) is AlbefImageProcessorTorchvision and found.backend == "torchvision"
    assert dict(found.size) == {"height": 24, "width": 24} and tuple(found.image_mean) == (0.1, 0.2, 0.3)
    assert "not available" not in caplog.text


@pytest.mark.usefixtures("_torchvision")
def test_the_files_are_the_same(folder: Path, tmp_path: Path) -> None:
    for name in ("pil", "torchvision"):
        AlbefProcessor.from_pretrained(folder, backend=name).save_pretrained(tmp_path / name, save_code=True)
        AutoImageProcessor.from_pretrained(folder, backend=name).save_pretrained(tmp_path / name / "alone")
    for path in (tmp_path / "pil").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "torchvision" / path.relative_to(tmp_path / "pil")).read_bytes(), path
    assert type(AlbefProcessor.from_pretrained(tmp_path / "torchvision").image_processor) is AlbefImageProcessor
    alone = AutoImageProcessor.from_pretrained(tmp_path / "torchvision/alone", backend="torchvision")
    assert type(alone) is AlbefImageProcessorTorchvision and dict(alone.size)["height"] == 24


@pytest.mark.usefixtures("_torchvision")
def test_it_comes_with_the_code(folder: Path, tmp_path: Path) -> None:
    code = """
import sys
from transformers import AutoImageProcessor, AutoProcessor
for options in ({}, {"backend": "torchvision"}, {"use_fast": True}):
    processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True, **options)
    found = processor(images=sys.argv[2], return_tensors="pt")["pixel_values"]
    print(type(processor.image_processor).__name__, round(found.sum().item()))
    processor.save_pretrained("again")
print(type(AutoImageProcessor.from_pretrained("again", trust_remote_code=True)).__name__, "processing" in sys.modules)
"""
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-c", code, str(folder), str(PHOTO)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    total = round(AutoProcessor.from_pretrained(folder)(images=PHOTO, return_tensors="pt")["pixel_values"].sum().item())
    pillow, other = f"AlbefImageProcessor {total}", f"AlbefImageProcessorTorchvision {total}"
    assert run.stdout.splitlines() == [pillow, other, other, "AlbefImageProcessor False"], run.stderr[-3000:]


@pytest.mark.usefixtures("_torchvision")
def test_another_image_processor_stays() -> None:
    other = CLIPImageProcessorPil()
    assert in_torchvision(other) is other


@pytest.mark.usefixtures("_torchvision")
def test_images_and_values_may_be_on_another_device() -> None:
    image = torch.from_numpy(NOISE).permute(2, 0, 1)
    found = AlbefImageProcessorTorchvision(size=32)(images=image.to("meta"), do_rescale=False, return_tensors="pt")
    assert found["pixel_values"].device.type == "meta" and found["pixel_values"].shape == (1, 3, 32, 32)
