"""Images of every kind become the right RGB images, and the recorded pixel values."""

from __future__ import annotations

import io
import struct
import sys
import types
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image, ImageFile, ImageOps, ImageSequence, JpegImagePlugin
from safetensors.numpy import load_file
from transformers import AutoImageProcessor
from transformers.image_processing_backends import PilBackend
from transformers.models.auto import image_processing_auto

from dataset_scripts.reading.image_checks import problems_of_images
from processing import AlbefImageProcessor, UnreadableImageError, image_processing_albef, open_image

GOLDEN = Path(__file__).parents[1] / "golden"
PHOTO = GOLDEN / "image.png"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
RNG = np.random.default_rng(0)
COLORS = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREYS = RNG.integers(0, 256, (5, 7), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def pixels(source: object) -> np.ndarray:
    image = open_image(source)
    assert image.mode == "RGB"
    return np.asarray(image)


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=2)


# ---- pixel values


@pytest.mark.parametrize("source", [PHOTO, str(PHOTO), {"path": str(PHOTO), "bytes": None}, Image.open(PHOTO)])
def test_recorded_pixel_values(source: object) -> None:
    golden = load_file(GOLDEN / "image_preprocessing.safetensors")
    for size in (32, 48, 384):
        found = AlbefImageProcessor(size=size)(images=source, return_tensors="pt")["pixel_values"]
        assert found.shape == (1, 3, size, size) and found.dtype == torch.float32
        name = f"pixel_values_{size}"
        values = found[0].numpy()
        if size == 384:
            name, values = "pixel_values_384_every_37_41", values[:, ::37, ::41]
        assert np.abs(values - golden[name]).max() < 1e-5


def test_defaults_are_the_published_ones() -> None:
    processor = AlbefImageProcessor()
    assert dict(processor.size) == {"height": 384, "width": 384}
    assert processor.resample == Image.Resampling.BICUBIC
    assert tuple(processor.image_mean) == MEAN and tuple(processor.image_std) == STD


@pytest.mark.parametrize(
    "kind", ["pil", "array", "channels first", "grey array", "four channels", "tensor", "no resize"]
)
def test_values_follow_the_formula(kind: str) -> None:
    """Without a change of size the result is (v / 255 - mean) / std."""
    image = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    given = {
        "pil": Image.fromarray(image),
        "array": image,
        "channels first": image.transpose(2, 0, 1),
        "grey array": image[..., 0],
        "four channels": np.concatenate([image, image[..., :1]], axis=2),
        "tensor": torch.from_numpy(image.transpose(2, 0, 1).copy()),
        "no resize": Image.fromarray(image),
    }[kind]
    size, options = (4, {"do_resize": False}) if kind == "no resize" else (8, {})
    found = AlbefImageProcessor(size=size)(images=given, return_tensors="np", **options)["pixel_values"]
    if kind == "grey array":
        image = grey(image[..., 0])
    expected = ((image / 255 - MEAN) / STD).transpose(2, 0, 1)[None]
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rescale_factor": 1 / 127.5},
        {"do_rescale": False},
        {"do_normalize": False},
        {"do_rescale": False, "do_normalize": False},
        {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.7, 1.1, 3.0]},
        {"do_center_crop": True, "crop_size": {"height": 4, "width": 3}},
        {"do_pad": True, "pad_size": {"height": 9, "width": 11}},
    ],
)
@pytest.mark.parametrize("size", [(5, 7), (8, 6)])
def test_values_are_those_of_the_library_to_the_bit(options: dict[str, object], size: tuple[int, int]) -> None:
    """The library's arithmetic, step by step, against the table."""
    processor = AlbefImageProcessor(size={"height": size[0], "width": size[1]}, **options)
    images = [Image.fromarray(COLORS), Image.fromarray(COLORS[::-1]), Image.fromarray(GREYS)]
    found = processor(images=images, return_tensors="pt")["pixel_values"]
    as_list = processor(images=images)["pixel_values"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AlbefImageProcessor, "_preprocess", PilBackend._preprocess)
        expected = processor(images=images, return_tensors="pt")["pixel_values"]
    assert found.dtype == expected.dtype and torch.equal(found, expected)
    assert isinstance(as_list, list) and all(np.array_equal(a, b) for a, b in zip(as_list, expected, strict=True))


def test_images_of_different_sizes_stay_so() -> None:
    images = [Image.fromarray(COLORS), Image.fromarray(COLORS[:3])]
    found = AlbefImageProcessor(do_resize=False)(images=images)["pixel_values"]
    assert [image.shape for image in found] == [(3, 5, 7), (3, 3, 7)]


def test_transparency_is_dropped_not_blended() -> None:
    clear = Image.fromarray(np.dstack([COLORS, np.zeros_like(GREYS)]))
    processor = AlbefImageProcessor(do_resize=False)
    found = processor(images=clear, return_tensors="np")["pixel_values"]
    assert np.array_equal(found, processor(images=Image.fromarray(COLORS), return_tensors="np")["pixel_values"])


def test_lists_of_mixed_sources(tmp_path: Path) -> None:
    Image.fromarray(COLORS).save(tmp_path / "a.png")
    sources = [tmp_path / "a.png", {"path": None, "bytes": encoded(Image.fromarray(COLORS))}, Image.fromarray(COLORS)]
    found = AlbefImageProcessor(size=8)(images=sources, return_tensors="np")["pixel_values"]
    assert found.shape == (3, 3, 8, 8)
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


def test_data_urls_are_left_to_the_library() -> None:
    import base64

    url = "data:image/png;base64," + base64.b64encode(encoded(Image.fromarray(COLORS))).decode()
    found = AlbefImageProcessor().fetch_images([url])
    assert np.array_equal(np.asarray(found[0]), COLORS)


# ---- saving and Auto classes


def test_save_and_load(tmp_path: Path) -> None:
    AlbefImageProcessor(size=64, image_mean=[0.1, 0.2, 0.3]).save_pretrained(tmp_path)
    for loaded in (AlbefImageProcessor.from_pretrained(tmp_path), AutoImageProcessor.from_pretrained(tmp_path)):
        assert type(loaded) is AlbefImageProcessor
        assert dict(loaded.size) == {"height": 64, "width": 64} and tuple(loaded.image_mean) == (0.1, 0.2, 0.3)


def test_auto_class_where_torchvision_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    AlbefImageProcessor().save_pretrained(tmp_path)
    monkeypatch.setattr(image_processing_auto, "is_torchvision_available", lambda: True)
    assert type(AutoImageProcessor.from_pretrained(tmp_path)) is AlbefImageProcessor


# ---- kinds of images


def test_modes_of_eight_bits() -> None:
    alpha = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
    bits = GREYS > 127
    assert np.array_equal(pixels(Image.fromarray(COLORS)), COLORS)
    assert np.array_equal(pixels(Image.fromarray(GREYS)), grey(GREYS))
    assert np.array_equal(pixels(Image.fromarray(np.dstack([COLORS, alpha]))), COLORS)
    assert np.array_equal(pixels(Image.fromarray(np.dstack([GREYS, alpha]), "LA")), grey(GREYS))
    assert np.array_equal(pixels(Image.fromarray(bits)), grey(np.where(bits, 255, 0)))


@pytest.mark.parametrize("transparency", [None, 1, bytes([0, 255, 7])])
def test_palette(transparency: int | bytes | None) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([2, 0, 1])
    options = {} if transparency is None else {"transparency": transparency}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = pixels({"path": None, "bytes": encoded(image, **options)})
    assert found.tolist() == [[[70, 80, 90], [10, 20, 30], [40, 50, 60]]]


def test_cmyk(tmp_path: Path) -> None:
    ink = Image.new("CMYK", (4, 4), (255, 0, 0, 0))
    ink.save(tmp_path / "a.jpg", quality=100)
    assert np.abs(pixels(tmp_path / "a.jpg").astype(int) - [0, 255, 255]).max() <= 3


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled(kind: str) -> None:
    values = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)
    data = encoded(Image.fromarray(values), kind)
    assert pixels({"bytes": data})[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 100, 255]], dtype=np.int32), [0, 100, 255]),
        (np.array([[0, 257, 65535]], dtype=np.int32), [0, 1, 255]),
        (np.array([[0, 50_000, 100_000]], dtype=np.int32), [0, 128, 255]),
        (np.array([[-100, 0, 100]], dtype=np.int32), [0, 128, 255]),
        (np.array([[7_000_000] * 3], dtype=np.int32), [0, 0, 0]),
        (np.array([[0.0, 0.2, 1.0]], dtype=np.float32), [0, 51, 255]),
        (np.array([[0.0, 51.2, 255.0]], dtype=np.float32), [0, 51, 255]),
        (np.array([[np.nan, np.inf, 1.0]], dtype=np.float32), [0, 0, 255]),
    ],
)
def test_wide_values(values: np.ndarray, expected: list[int]) -> None:
    assert pixels({"bytes": encoded(Image.fromarray(values), "TIFF")})[0, :, 0].tolist() == expected


def test_big_endian_sixteen_bits() -> None:
    image = Image.frombytes("I;16B", (2, 1), np.array([257, 65535], dtype=">u2").tobytes())
    assert pixels(image)[0, :, 0].tolist() == [1, 255]


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert len(list(ImageSequence.Iterator(Image.open(tmp_path / "a.gif")))) == 2
    assert pixels(tmp_path / "a.gif")[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(("orientation", "expected"), [(1, COLORS), (3, COLORS[::-1, ::-1]), (6, np.rot90(COLORS, -1))])
def test_exif_orientation(orientation: int, expected: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(COLORS), exif=exif)
    assert np.array_equal(pixels({"bytes": data}), expected)
    assert np.array_equal(pixels(Image.open(io.BytesIO(data))), expected)


def test_broken_exif_data_do_not_matter() -> None:
    data = encoded(Image.new("RGB", (8, 8), "white"), "JPEG", exif=b"Exif\0\0no such header")
    assert pixels({"bytes": data}).min() == 255


def test_arrays() -> None:
    assert np.array_equal(pixels(GREYS), grey(GREYS))
    assert np.array_equal(pixels(GREYS[..., None]), grey(GREYS))
    assert np.array_equal(pixels(COLORS), COLORS)
    assert np.array_equal(pixels(np.dstack([COLORS, GREYS])), COLORS)
    for bad in (COLORS.astype(np.float32), COLORS.transpose(2, 0, 1), np.zeros((0, 3, 3), np.uint8)):
        with pytest.raises(UnreadableImageError, match=r"shape .* give uint8 of shape"):
            open_image(bad)


# ---- bad sources


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("given_as", ["path", "string", "mapping", "bytes"])
@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("empty.jpg", b"", r"empty\.jpg' is empty \(0 bytes\): fetch it again"),
        ("page.jpg", b"<html>404</html>", r"page\.jpg' is no image that Pillow knows: .*fetch it again"),
        ("cut.png", encoded(Image.open(PHOTO))[:9000], r"cut\.png' is damaged or cut short \(.+\): fetch it again"),
        ("cut.jpg", encoded(Image.open(PHOTO), "JPEG")[:2000], r"cut\.jpg' is damaged or cut short \(.+\)"),
    ],
)
def test_bad_files(tmp_path: Path, given_as: str, name: str, data: bytes, message: str) -> None:
    path = write(tmp_path / name, data)
    source = {
        "path": path,
        "string": str(path),
        "mapping": {"path": str(path), "bytes": None},
        "bytes": {"path": str(path), "bytes": data},
    }[given_as]
    with pytest.raises(UnreadableImageError, match=message) as caught:
        open_image(source)
    assert "\n" not in str(caught.value)
    with pytest.raises(UnreadableImageError, match=message):
        AlbefImageProcessor()(images=[source])


def test_what_a_reader_of_pillow_does_not_know(tmp_path: Path) -> None:
    """Of a DDS file without a pixel format Pillow raises NotImplementedError."""
    data = b"DDS |\0\0\0" + bytes(4) + (1).to_bytes(4, "little") * 2 + bytes(108)
    with pytest.raises(NotImplementedError):
        Image.open(io.BytesIO(data))
    with pytest.raises(UnreadableImageError, match=r"odd\.dds' is damaged or cut short \(Unknown pixel format"):
        open_image(write(tmp_path / "odd.dds", data))
    (problem,) = problems_of_images([{"path": str(tmp_path / "odd.dds"), "bytes": None}], decode=False)
    assert problem.startswith(f"image '{tmp_path / 'odd.dds'}' cannot be opened (Unknown pixel format")


def test_sources_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError, match=r"no\.jpg' does not exist: check the path"):
        open_image(tmp_path / "no.jpg")
    with pytest.raises(UnreadableImageError, match="is a folder: give the path of a file"):
        open_image(tmp_path)
    with pytest.raises(UnreadableImageError, match=r"cannot be read .*null byte"):
        open_image("a\0b")
    with pytest.raises(UnreadableImageError, match="neither bytes nor a path: leave its row out"):
        open_image({"path": None, "bytes": None})
    with pytest.raises(UnreadableImageError, match=r"given as bytes is empty"):
        open_image({"path": None, "bytes": b""})
    with pytest.raises(TypeError, match="type int is not understood: give a path"):
        open_image(3)


def test_a_lazily_opened_image_that_is_cut_short(tmp_path: Path) -> None:
    whole = encoded(Image.open(PHOTO), "JPEG")
    lazy = Image.open(write(tmp_path / "cut.jpg", whole[: len(whole) // 2]))
    with lazy, pytest.raises(UnreadableImageError, match=r"cut\.jpg' is damaged"):
        AlbefImageProcessor()(images=lazy)


def test_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "big.png", encoded(Image.new("L", (60, 40))))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UnreadableImageError, match=r"big\.png' has more than 2,000 pixels, .*make it smaller"):
        open_image(path)


def test_any_cut_gives_an_image_or_the_one_error() -> None:
    """Whatever the decoder says of damaged data, callers see one class of error."""
    small = Image.open(PHOTO).convert("RGB").resize((24, 20))
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA"):
        data = bytearray(encoded(small, kind))
        for _ in range(60):
            broken = data[: RNG.integers(1, len(data))] if RNG.random() < 0.5 else bytearray(data)
            broken[RNG.integers(len(broken))] = RNG.integers(256)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    assert open_image({"bytes": bytes(broken)}).mode == "RGB"
            except UnreadableImageError:
                pass


@pytest.mark.filterwarnings("error::ResourceWarning")
def test_the_image_is_not_the_one_that_was_given() -> None:
    given = Image.fromarray(COLORS)
    open_image(given).paste((0, 0, 0), (0, 0, 7, 5))
    assert np.array_equal(np.asarray(given), COLORS)


def test_a_smaller_size_is_asked_of_jpeg_files_alone() -> None:
    photo, asked = Image.fromarray(COLORS).resize((160, 120)), []

    def least_size(width: int, height: int) -> tuple[int, int]:
        asked.append((width, height))
        return width // 2, height // 2

    exif = Image.Exif()
    exif[274] = 6  # to be turned by 90 degrees
    assert open_image({"bytes": encoded(photo, "JPEG")}, least_size).size == (80, 60)
    assert open_image({"bytes": encoded(photo, "JPEG", exif=exif)}, least_size).size == (60, 80)
    assert open_image({"bytes": encoded(photo.convert("L"), "JPEG")}, least_size).mode == "RGB"
    assert open_image({"bytes": encoded(photo)}, least_size).size == (160, 120)
    assert open_image(photo, least_size).size == (160, 120)
    assert asked == [(160, 120)] * 4


def test_nothing_stays_open_or_changed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", encoded(Image.fromarray(COLORS)))
    before = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS
    for bad in (False, True):
        if bad:
            path.write_bytes(path.read_bytes()[:60])
            with pytest.raises(UnreadableImageError):
                open_image(path)
        else:
            open_image(path)
        opened = [link.readlink() for link in Path("/proc/self/fd").glob("*") if link.is_symlink()]
        assert path not in opened
    assert (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS) == before


def processed(image: Any, **options: Any) -> np.ndarray:
    return AlbefImageProcessor(size={"height": 32, "width": 32})(images=image, return_tensors="np", **options)[
        "pixel_values"
    ]


def test_floats_in_0_to_1_are_the_eight_bit_image() -> None:
    array = np.asarray(Image.open(PHOTO).convert("RGB"))
    wanted = processed(array)
    floats = (array / 255).astype(np.float32)
    for same in (
        floats,
        floats.transpose(2, 0, 1),
        torch.from_numpy(floats).permute(2, 0, 1),
        floats.astype(np.float64),
        floats * 1.0001,
        torch.from_numpy(floats).permute(2, 0, 1).bfloat16(),
    ):
        np.testing.assert_allclose(processed(same), wanted, atol=0.02)
    np.testing.assert_array_equal(processed(array.astype(np.float32)), processed(array.astype(np.int64)))
    np.testing.assert_allclose(processed(floats, do_rescale=False), wanted, atol=0.03)


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.full((9, 9, 3), 300, np.uint16), "type uint16 has values from 300 to 300: give uint8"),
        (np.full((9, 9, 3), 3, np.uint16), "type uint16"),
        (np.full((9, 9, 3), -0.5, np.float32), "values from -0.5 to -0.5: give uint8, floats in 0..1"),
        (np.full((9, 9, 3), 256.0, np.float32), "values from 256.0 to 256.0"),
        (np.full((9, 9, 3), -1, np.int64), "values from -1 to -1"),
        (np.full((9, 9, 3), np.nan, np.float32), "values from nan to nan"),
        (np.full((9, 9, 3), 1.02, np.float64), "values from 1.02 to 1.02"),
        (np.ones((9, 9, 3), bool), "type bool"),
    ],
)
def test_values_of_no_known_range_are_refused(array: np.ndarray, text: str) -> None:
    with pytest.raises(UnreadableImageError, match=text):
        processed(array)


def test_columns_and_tuples_are_many_images(tmp_path: Path) -> None:
    for number in range(3):
        Image.new("RGB", (8, 8), (80 * number, 0, 0)).save(tmp_path / f"{number}.png")
    paths = [str(tmp_path / f"{number}.png") for number in range(3)]
    rows = datasets.Dataset.from_dict({"image": paths}).cast_column("image", datasets.Image())
    wanted = processed(paths)
    for same in (tuple(paths), rows["image"], iter(paths), (Image.open(path) for path in paths)):
        np.testing.assert_array_equal(processed(same), wanted)


def test_what_would_start_ghostscript_is_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *a, **k: started.append(a) or Image.new("RGB", (8, 8)))
    Image.new("RGB", (8, 8)).save(tmp_path / "a.eps")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.eps").read_bytes())
    for name in ("a.eps", "a.png"):
        with pytest.raises(UnreadableImageError, match="no image that Pillow knows"):
            open_image(tmp_path / name)
    assert not started


def gray_png(side: int, depth: int) -> bytes:
    """A black square of some kilobytes, whatever its side."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(bytes(side * (1 + side * depth // 8)))
    header = struct.pack(">IIBBBBB", side, side, depth, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux")
@pytest.mark.parametrize("depth", [1, 8, 16])
@pytest.mark.parametrize("opening", [open_image, AlbefImageProcessor()])
def test_small_files_of_many_pixels_take_little_memory(depth: int, opening: Any) -> None:
    """At most three bytes a pixel, where once it were 26 (of 16 bits) and 5."""
    side = 8400
    source = {"bytes": gray_png(side, depth), "path": None}

    def memory(name: str) -> int:
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
        return int(line.split()[1]) << 10

    opening({"bytes": gray_png(64, depth), "path": None})
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    opening(source)
    assert memory("VmHWM") - before < 3.3 * side**2


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_images_of_too_many_pixels_are_reduced(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = RNG.integers(0, 256, (61, 83, 4), dtype=np.uint8)
    image = Image.fromarray(values)
    if mode == "I;16":
        image = Image.fromarray(np.ascontiguousarray(values[..., :2]).view(np.uint16)[..., 0])
    elif mode in ("I", "F"):
        image = Image.fromarray(values[..., 0].astype(np.int32 if mode == "I" else np.float32) * 257)
    else:
        image = image.convert(mode)
    whole = open_image(image)
    monkeypatch.setattr("processing.image_processing_albef.PIXELS_AT_ONCE", 900)
    assert np.array_equal(pixels(image), np.asarray(whole))  # in bands, as in one
    monkeypatch.setattr("processing.image_processing_albef.MAX_PIXELS", 600)
    assert np.array_equal(pixels(image), np.asarray(whole.reduce(3)))  # 28 x 21 pixels
    assert image.size == (83, 61)


def test_jpeg_files_of_too_many_pixels_are_reduced_by_their_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("processing.image_processing_albef.MAX_PIXELS", 2500)
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = Image.open(PHOTO).convert("RGB").resize((200, 160))
    asked: list[object] = []
    draft = JpegImagePlugin.JpegImageFile.draft
    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "draft", lambda *given: asked.append(given[2]) or draft(*given))
    found = open_image({"bytes": encoded(photo, "JPEG", quality=100, exif=exif)})
    assert asked == [(50, 40)] and found.size == (40, 50)
    wanted = np.asarray(photo.reduce(4).rotate(-90, expand=True)).astype(float)
    assert np.abs(np.asarray(found) - wanted).mean() < 3


def test_an_image_that_was_turned_is_not_turned_again() -> None:
    for kind in ("JPEG", "PNG", "TIFF", "WEBP"):
        exif = Image.Exif()
        exif[0x0112] = 8
        once = open_image({"bytes": encoded(Image.open(PHOTO).convert("RGB"), kind, exif=exif)})
        assert once.size == Image.open(PHOTO).size[::-1]
        assert np.array_equal(pixels(once), np.asarray(once))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_as_pillow_turns_it(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for image in (Image.fromarray(COLORS), Image.fromarray(GREYS)):
        data = encoded(image, exif=exif)
        wanted = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
        assert np.array_equal(pixels({"bytes": data}), np.asarray(wanted))


def test_values_of_large_images_of_16_bits() -> None:
    values = np.arange(1500 * 1500, dtype=np.uint16).reshape(1500, 1500)
    image = open_image({"bytes": encoded(Image.fromarray(values)), "path": None})
    np.testing.assert_array_equal(np.asarray(image)[..., 0], np.rint(values * 255.0 / 65535).astype(np.uint8))


def test_floats_of_the_byte_range_are_eight_bit_values() -> None:
    array = np.asarray(Image.open(PHOTO).convert("RGB"))
    np.testing.assert_array_equal(processed(array.astype(np.float32) + 0.3 * (array < 255)), processed(array))


def test_images_are_resized_once_and_as_the_library_does(monkeypatch: pytest.MonkeyPatch) -> None:
    photo = Image.open(PHOTO).convert("RGB")
    np.testing.assert_array_equal(processed(photo), processed(np.asarray(photo)))
    for options in ({"do_resize": False}, {"size": {"shortest_edge": 20}}, {"resample": Image.Resampling.BILINEAR}):
        np.testing.assert_array_equal(processed(photo, **options), processed(np.asarray(photo), **options))


# ---- formats that need a package

HEIC = b"\0\0\0\x1cftypheic\0\0\0\0mif1heic" + bytes(100)


@pytest.fixture
def heif(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Pillow as it is before pillow-heif is looked for."""
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name != "HEIF"])
    monkeypatch.setattr(Image, "OPEN", {name: read for name, read in Image.OPEN.items() if name != "HEIF"})
    image_processing_albef._register_heif.cache_clear()
    yield monkeypatch
    image_processing_albef._register_heif.cache_clear()


def test_heic_without_its_reader(tmp_path: Path, heif: pytest.MonkeyPatch) -> None:
    heif.setitem(sys.modules, "pillow_heif", None)  # not installed
    path = write(tmp_path / "photo.heic", HEIC)
    message = r"photo\.heic' is HEIC, which Pillow reads with pillow-heif alone: `pip install pillow-heif`, or convert"
    for source in (path, {"path": str(path), "bytes": HEIC}):
        with pytest.raises(UnreadableImageError, match=message):
            open_image(source)
    for decode in (False, True):
        problems = problems_of_images([{"path": str(path), "bytes": None}, {"path": "x.heic", "bytes": HEIC}], decode)
        assert all("is HEIC, which Pillow reads with pillow-heif alone" in problem for problem in problems)


def test_heic_with_its_reader(tmp_path: Path, heif: pytest.MonkeyPatch) -> None:
    """The package registers a reader of the format "HEIF", which is found without being asked for."""

    class Reader(ImageFile.ImageFile):
        format = "HEIF"

        def _open(self) -> None:
            self._size, self._mode = (4, 3), "RGB"
            self.tile = [ImageFile._Tile("raw", (0, 0, 4, 3), 28, "RGB")]

    package = types.ModuleType("pillow_heif")
    accept = lambda head: head[4:12] == b"ftypheic"  # noqa: E731
    package.register_heif_opener = lambda: Image.register_open("HEIF", Reader, accept)  # type: ignore[attr-defined]
    heif.setitem(sys.modules, "pillow_heif", package)
    image = open_image(write(tmp_path / "photo.heic", HEIC[:28] + bytes([200, 10, 20] * 12)))
    assert (image.size, image.getpixel((3, 2))) == ((4, 3), (200, 10, 20))
