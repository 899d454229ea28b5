"""Any bytes give an RGB image of the right size, or an error that says what is wrong with the image."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from functools import cache
from typing import Any, NamedTuple

import hypothesis.strategies as st
import numpy as np
import pytest
from fuzz_cases import COUNTS, damaged, fuzz
from PIL import Image

from dataset_scripts.reading.image_checks import problems_of_images
from processing import AlbefImageProcessor, TrainingAugmentation, UnreadableImageError, open_image

SIDE = 16
SIZES = [(1, 1), (8, 6), (32, 20), (1, 700), (700, 1), (17, 33)]
KINDS = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I"),
    "JPEG": ("L", "RGB", "CMYK"),
    "GIF": ("L", "P", "RGB"),
    "WEBP": ("RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB", "YCbCr", "I;16", "I;16B", "I", "F"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "PPM": ("1", "L", "RGB", "I"),
    "TGA": ("L", "P", "RGB", "RGBA"),
    "ICO": ("RGBA",),
    "JPEG2000": ("L", "RGB", "RGBA"),
    "PCX": ("L", "P", "RGB"),
    "SGI": ("L", "RGB"),
    "DDS": ("RGB", "RGBA"),
}
TIFF_COMPRESSIONS = (None, "tiff_lzw", "tiff_deflate", "packbits", "jpeg")


@cache
def drawn_image(mode: str, size: tuple[int, int]) -> Image.Image:
    """An image of a mode with values all over its range."""
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    if mode.startswith("I;16"):
        return Image.frombytes(mode, size, values[..., :2].tobytes())
    if mode in ("I", "F"):
        return Image.fromarray(values[..., 0].astype(np.int32 if mode == "I" else np.float32) * 257)
    if mode in ("LAB", "YCbCr"):
        return Image.frombytes(mode, size, values[..., :3].tobytes())
    return Image.fromarray(values).convert(mode)


@cache
def encoded(kind: str, mode: str, size: tuple[int, int], variant: int) -> bytes:
    """A sound file; variants have transparency, compression, progressive scans, several frames."""
    options: dict[str, Any] = {}
    if kind in ("PNG", "GIF") and mode in ("P", "L", "RGB") and variant % 2:
        options["transparency"] = {"P": 3, "L": 3, "RGB": (1, 2, 3)}[mode]
    if kind == "PNG" and mode == "P" and variant == 2:
        options["transparency"] = bytes(range(256))
    if kind == "TIFF":
        options["compression"] = TIFF_COMPRESSIONS[variant]
        if variant == 4 and mode not in ("L", "RGB", "CMYK"):  # libtiff's encoder ends the process
            options["compression"] = "tiff_adobe_deflate"
    if kind == "JPEG":
        options["progressive"] = bool(variant % 2)
    if kind in ("GIF", "WEBP", "TIFF", "PNG") and variant == 3:
        options |= {"save_all": True, "append_images": [drawn_image(mode, size).transpose(Image.Transpose.ROTATE_180)]}
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            drawn_image(mode, size).save(stream, kind, **options)
        except (OSError, ValueError, RuntimeError, KeyError, TypeError):  # a variant that this format has not
            stream = io.BytesIO()
            drawn_image("RGB", size).save(stream, "PNG")
    return stream.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    """A part of a PNG file with the right checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


@st.composite
def claims(draw: st.DrawFn) -> bytes:
    """A small PNG, GIF or BMP file that claims to be of any size, with a checksum that fits."""
    sides = st.sampled_from([0, 1, 300, 20_000, 65_535, 100_000, 2**31 - 1, 2**32 - 1])
    width, height = draw(sides), draw(sides)
    kind = draw(st.sampled_from(["PNG", "GIF", "BMP"]))
    if kind == "PNG":
        depth, color = draw(st.sampled_from([1, 2, 4, 8, 16, 3])), draw(st.sampled_from([0, 2, 3, 4, 6, 1]))
        header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, draw(st.integers(0, 1)))
        body = zlib.compress(bytes(draw(st.sampled_from([0, 100, 100_000]))))
        parts = [chunk(b"IHDR", header), *draw(st.lists(st.just(chunk(b"PLTE", bytes(9))), max_size=1))]
        extra = chunk(
            draw(st.sampled_from([b"tRNS", b"eXIf", b"iCCP", b"tEXt", b"zTXt"])), draw(st.binary(max_size=20))
        )
        return b"\x89PNG\r\n\x1a\n" + b"".join([*parts, extra, chunk(b"IDAT", body), chunk(b"IEND", b"")])
    if kind == "GIF":
        data = bytearray(encoded("GIF", "P", (8, 6), 0))
        data[6:10] = struct.pack("<HH", width % 65536, height % 65536)
        return bytes(data)
    data = bytearray(encoded("BMP", "RGB", (8, 6), 0))
    data[18:26] = struct.pack("<II", width, height)
    return bytes(data)


@st.composite
def with_exif(draw: st.DrawFn) -> bytes:
    """An image with an EXIF block that may be anything."""
    exif = Image.Exif()
    exif[0x0112] = draw(st.one_of(st.integers(0, 9), st.sampled_from([65_535, "6", b"\0"])))
    try:
        block = exif.tobytes()
    except (struct.error, ValueError, TypeError):
        block = b"Exif\0\0"
    stream = io.BytesIO()
    block = draw(st.one_of(damaged(block), st.binary(max_size=30).map(lambda data: b"Exif\0\0" + data)))
    drawn_image("RGB", (8, 6)).save(stream, draw(st.sampled_from(["JPEG", "PNG", "WEBP"])), exif=block)
    return stream.getvalue()


@st.composite
def files(draw: st.DrawFn) -> bytes:
    source = draw(st.sampled_from(["file"] * 8 + ["claims", "exif", "anything"]))
    if source == "claims":
        return draw(claims())
    if source == "exif":
        return draw(with_exif())
    if source == "anything":
        return draw(st.sampled_from([b"", b"GIF89a", b"\xff\xd8\xff", b"II*\0", b"RIFF\0\0\0\0WEBP"])) + draw(
            st.binary(max_size=60)
        )
    kind = draw(st.sampled_from(sorted(KINDS)))
    mode, size = draw(st.sampled_from(KINDS[kind])), draw(st.sampled_from(SIZES))
    return draw(damaged(encoded(kind, mode, size, draw(st.integers(0, 4)))))


class Case(NamedTuple):
    """A file, and the seed of its augmentation."""

    data: bytes
    seed: int


def check_case(case: Case) -> None:
    source, augmentation = {"bytes": case.data, "path": None}, TrainingAugmentation(SIDE)
    processor = AlbefImageProcessor(size={"height": SIDE, "width": SIDE})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of tags and sizes
        (problem,) = problems_of_images([source], decode=True, num_threads=1)
        try:
            image = open_image(source)
        except UnreadableImageError as error:
            message = str(error)
            assert message.startswith(("Image given as bytes is ", "Image given as bytes has more than "))
            assert message.endswith(".") and "\n" not in message and problem is not None
            with pytest.raises(UnreadableImageError):
                processor(images=source)
            return
        assert problem is None and image.mode == "RGB" and min(image.size) > 0
        assert np.asarray(image).shape == (image.height, image.width, 3)
        values = processor(images=source, return_tensors="pt")["pixel_values"]
        assert values.shape == (1, 3, SIDE, SIDE) and values.isfinite().all()
        smaller = open_image(source, augmentation.least_size)
        least = augmentation.least_size(*image.size)
        assert smaller.mode == "RGB" and min(smaller.size) >= min(*least, *image.size)
        augmented = augmentation(smaller, np.random.default_rng(case.seed))
    assert augmented.mode == "RGB" and augmented.size == (SIDE, SIDE)


@pytest.mark.parametrize("count", COUNTS)
def test_image_files(count: int) -> None:
    fuzz(count, st.builds(Case, files(), st.integers(0, 9)), check_case)
