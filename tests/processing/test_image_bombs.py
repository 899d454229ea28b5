"""Small image files that unpack to much, or have much beside the first image: little memory, little time."""

from __future__ import annotations

import io
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from processing import UnreadableImageError, open_image

PACKED = zlib.compress(bytes(200 * 2**20), 9)  # 200 kB


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(before: bytes = b"", after: bytes = b"", pixels: bytes = zlib.compress((b"\0" + b"\x10" * 24) * 8)) -> bytes:
    """An image of 8 x 8, with further chunks before and after its pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + before + chunk(b"IDAT", pixels) + after + chunk(b"IEND", b"")


def gif(screen: int = 8, frame: int = 8) -> bytes:
    """The sizes of the whole and of its only frame, pixels; next to no data."""
    head = b"GIF89a" + struct.pack("<HH", screen, screen) + b"\x80\0\0" + bytes(6)
    return head + b"," + struct.pack("<HHHH", 0, 0, frame, frame) + b"\0\2\2\x4c\1\0;"


def pages(count: int, last: tuple[int, int] = (8, 8)) -> bytes:
    images, file = [Image.new("L", (8, 8)) for _ in range(count)] + [Image.new("L", last)], io.BytesIO()
    images[0].save(file, "TIFF", save_all=True, append_images=images[1:], compression="tiff_deflate")
    return file.getvalue()


def profile(kind: str, size: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, kind, icc_profile=bytes(size))
    return file.getvalue()


def tiff(*tags: tuple[int, int, int, int], rest: int = 0) -> bytes:
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4) + bytes(rest)


TEXT = b"".join(chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2**20), 9)) for _ in range(500))
SHOWN: dict[str, Callable[[], bytes]] = {
    "TIFF of 1,000 pages": lambda: pages(999),
    "TIFF, the second page of 144 megapixels": lambda: pages(1, (12_000, 12_000)),
    "PNG, more pixels than its size says": lambda: png(pixels=PACKED),
    "PNG, EXIF of 5 MB": lambda: png(chunk(b"eXIf", b"MM\0*\0\0\0\x08" + bytes(5_000_000))),
    "JPEG, color profile of 10 MB": lambda: profile("JPEG", 10_000_000),
    "PNG, color profile of 900 kB": lambda: profile("PNG", 900_000),
}
REFUSED: dict[str, Callable[[], bytes]] = {
    "PNG, zTXt": lambda: png(chunk(b"zTXt", b"k\0\0" + PACKED)),
    "PNG, zTXt after the pixels": lambda: png(after=chunk(b"zTXt", b"k\0\0" + PACKED)),
    "PNG, iTXt": lambda: png(chunk(b"iTXt", b"k\0\1\0\0\0" + PACKED)),
    "PNG, 500 zTXt": lambda: png(TEXT),
    "PNG, 500 zTXt after the pixels": lambda: png(after=TEXT),
    "PNG, color profile": lambda: png(chunk(b"iCCP", b"k\0\0" + PACKED)),
    "GIF, a frame larger than the screen": lambda: gif(frame=65_535),
    "GIF, a screen of 4 gigapixels": lambda: gif(screen=65_535),
    "TIFF, directories in a circle": lambda: tiff((256, 3, 1, 8)).replace(bytes(4), struct.pack("<I", 8), 1),
    "TIFF, a tag of 2 GB": lambda: tiff((256, 4, 1, 8), (257, 4, 1, 8), (34675, 7, 2**31 - 1, 100), rest=1000),
}


def peak() -> float:
    """Megabytes that this process had at most."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def opened(data: bytes) -> Image.Image:
    """Opens with at most 100 MB and within 5 seconds."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, started = peak(), time.monotonic()
    try:
        return open_image({"bytes": data, "path": "bomb"})
    finally:
        assert time.monotonic() - started < 5
        assert peak() - before < 100


@pytest.mark.parametrize("name", SHOWN)
def test_the_first_image_is_shown(name: str) -> None:
    data = SHOWN[name]()
    assert len(data) < 11_000_000 and opened(data).size == (8, 8)


def test_a_gif_of_ten_thousand_frames() -> None:
    frames = [Image.new("L", (8, 8), 255 * (number % 2)) for number in range(10_000)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(file.getvalue())).n_frames == 10_000
    assert opened(file.getvalue()).getpixel((0, 0)) == (0, 0, 0)


@pytest.mark.parametrize("name", REFUSED)
def test_others_are_refused(name: str) -> None:
    with pytest.raises(UnreadableImageError, match=r"Image 'bomb' (is damaged|is no image|has more than)"):
        opened(REFUSED[name]())
