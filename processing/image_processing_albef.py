"""Images for ALBEF: from any image source to an RGB image, and from RGB images to pixel values."""

import errno
import io
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import ExifTags, Image, features
from transformers import BatchFeature
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import (
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
    ChannelDimension,
    SizeDict,
    infer_channel_dimension_format,
)

RETRY_WAITS = (0.1, 1.0, 5.0)  # seconds
TRANSIENT_ERRORS = frozenset(
    getattr(errno, name)
    for name in ("EAGAIN", "EBUSY", "ECONNRESET", "EHOSTDOWN", "EIO", "ENETDOWN", "EREMOTEIO", "ESTALE", "ETIMEDOUT")
    if hasattr(errno, name)  # not on every system
)
# Formats that are opened. Not EPS, for which Pillow starts Ghostscript, and no other that runs or fetches anything.
FORMATS = (
    *("AVIF", "BMP", "DDS", "DIB", "GIF", "HEIF", "ICO", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "PSD", "SGI"),
    *("TGA", "TIFF", "WEBP", "XBM", "XPM"),
)
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # in the first bytes of a file
MAX_PIXELS = 1 << 26  # of an opened image: one of more is reduced, so that a small file cannot take gigabytes
PIXELS_AT_ONCE = 1 << 20  # of a large image whose colors are converted
TOLERANCE = 1e-3  # of floats beyond 0..1, by rounding
_FROM_16_BITS = np.rint(np.arange(1 << 16) * 255 / 65535).astype(np.uint8)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # what makes an image upright, by its EXIF orientation


class ProcessingError(ValueError):
    """A fault in images, texts or their settings that a user can mend; the message names the value and the remedy."""


class UnreadableImageError(ProcessingError):
    """An image source that cannot be read; the message names the source and the remedy."""


def open_image(
    source: str | os.PathLike[str] | Mapping[str, Any] | Image.Image | np.ndarray,
    least_size: Callable[[int, int], tuple[int, int]] | None = None,
) -> Image.Image:
    """Return the RGB image of an image source.

    Colors become RGB as in salesforce/ALBEF `dataset/caption_dataset.py`, by Pillow's `convert("RGB")`: transparency
    is dropped, not blended with a background. Of an animation the first frame counts. Values of more than eight bits
    are scaled to 0..255; Pillow alone would clip them to white. An image of more than 67 million pixels is reduced by a
    whole factor, each pixel the mean of those that it replaces; a JPEG by its decoder as far as that can.

    Args:
        source: Path of a file; mapping with `path` and `bytes`, as `datasets.Image(decode=False)` gives it (`bytes`
            wins where both are there); Pillow image of any mode; or uint8 array of shape (height, width),
            (height, width, 1), (height, width, 3) or (height, width, 4).
        least_size: Maps width and height of a file's image to the least ones that it may be decoded to. A JPEG decoder
            saves time where a half, a fourth or an eighth of the size is enough. None decodes to full size.

    Returns:
        An image of mode "RGB", fully loaded, upright, a copy; no file stays open. Of at most 67 million pixels, it has
        the size of the source (turned, where that was).

    Raises:
        UnreadableImageError: The file is missing, empty, cut short, a folder, no image, or too large.
        TypeError: `source` is of another type.
    """
    if isinstance(source, Image.Image):
        image = decode_pillow(source)
        return image.copy() if image is source else image
    if isinstance(source, np.ndarray):
        return _image_of_array(source)
    if isinstance(source, Mapping):
        data, path = source.get("bytes"), source.get("path")
        if data is not None:
            return _image_of_bytes(data, repr(str(path)) if path else "given as bytes", least_size)
        if not path:
            raise UnreadableImageError("An image has neither bytes nor a path: leave its row out.")
        source = path
    if isinstance(source, (str, os.PathLike)):
        return _image_of_bytes(_read(Path(source)), repr(str(source)), least_size)
    raise TypeError(
        f"An image of type {type(source).__name__} is not understood: "
        "give a path, a mapping with 'path' and 'bytes', a Pillow image or an array."
    )


class AlbefImageProcessor(PilBackend):
    """Resizes to a square, scales to 0..1 and normalises with CLIP's mean and deviation.

    The values are those of salesforce/ALBEF at test time (`dataset/__init__.py`): antialiased bicubic resize by Pillow,
    aspect ratio ignored. Beside what the library takes (Pillow images, arrays, tensors, URLs), images may be paths or
    mappings with `path` and `bytes`, alone or in lists.

    Attributes:
        size: `height` and `width` of the result, pixels; the published models take 384 for retrieval and VQA and 256
            for pre-training.

    Example:
        >>> pixel_values = AlbefImageProcessor()(images="photo.jpg", return_tensors="pt")["pixel_values"]
        >>> pixel_values.shape
        torch.Size([1, 3, 384, 384])
    """

    resample = Image.Resampling.BICUBIC
    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD
    size = {"height": 384, "width": 384}
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """Open paths, mappings and URLs; leave images and arrays as they are.

        Args:
            image_url_or_urls: One image source, or many: lists, columns and other iterables of them, nested or not.

        Returns:
            The same structure, with every source that had to be opened replaced by its Pillow image.

        Raises:
            UnreadableImageError: A source cannot be read.
            ProcessingError: There are no images.
        """
        return open_sources(image_url_or_urls, super().fetch_images)

    def process_image(
        self,
        image: Any,
        do_convert_rgb: bool | None = None,
        input_data_format: str | ChannelDimension | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Make a channels-first array; transparency is dropped, where the library blends it with white.

        Args:
            image: Pillow image; or array or tensor with 1, 3 or 4 channels, first or last.
            do_convert_rgb: Whether the result has three channels, whatever the image has.
            input_data_format: Position of the channels of an array or tensor; None infers it.
            kwargs: Those of `PilBackend.process_image`.

        Returns:
            (channels, height, width), uint8 for a Pillow image, else of the given type.

        Raises:
            UnreadableImageError: A Pillow image that was opened lazily turns out to be damaged.
        """
        if isinstance(image, Image.Image) and do_convert_rgb:
            image = decode_pillow(image)
            size, resample = kwargs.get("size"), kwargs.get("resample")
            side = (size.width, size.height) if size else ()
            if kwargs.get("do_resize") and all(side) and image.size != side and isinstance(resample, int):
                image = image.resize(side, resample)  # here, where the image is there only once
            image, input_data_format = np.asarray(image), ChannelDimension.LAST
        elif not isinstance(image, Image.Image) and input_data_format is None:
            input_data_format = channels_of(image)
        if isinstance(image, torch.Tensor):
            image = image.detach().cpu()
            image = image.float() if image.dtype == torch.bfloat16 else image  # which NumPy does not know
        channels = super().process_image(image, do_convert_rgb=False, input_data_format=input_data_format, **kwargs)
        if not do_convert_rgb:
            return channels
        return np.repeat(channels, 3, axis=0) if len(channels) == 1 else channels[:3]

    def resize(
        self,
        image: np.ndarray,
        size: SizeDict,
        resample: Any = None,
        reducing_gap: int | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Resize a (3, height, width) array as the library does; return one of the right size unchanged.

        Floats in 0..1 are resized as eight-bit values.
        """
        if image.shape[-2:] == (size.height, size.width):
            return image
        levels, factor = _to_levels(image, "do_resize")
        resized = super().resize(levels, size, resample, reducing_gap, **kwargs)
        return resized if factor == 1 else self.rescale(resized, 1 / factor)

    def _preprocess(self, images: list[np.ndarray], **options: Any) -> BatchFeature:  # type: ignore[override]
        """Run the library's steps; take the values of eight-bit images of one size from a table of its results.

        The values are bit-identical to the library's. The table takes one pass, straight into the batch, where the
        library goes through double precision.
        """
        if options["do_rescale"]:
            images = [_to_levels(image, "do_rescale")[0] for image in images]
        pointwise = {"do_rescale": options["do_rescale"], "do_normalize": options["do_normalize"]}
        if not any(pointwise.values()) or options["do_pad"]:
            return super()._preprocess(images, **options)
        shape_only = options | dict.fromkeys(pointwise, False) | {"return_tensors": None}
        images = super()._preprocess(images, **shape_only)["pixel_values"]
        options |= {"do_resize": False, "do_center_crop": False}
        if {(len(image), image.dtype.name) for image in images} != {(3, "uint8")} or len({i.shape for i in images}) > 1:
            return super()._preprocess(images, **options)
        every_value = np.tile(np.arange(256, dtype=np.uint8), (3, 1, 1))  # (3, 1, 256)
        table = super()._preprocess([every_value], **options | {"return_tensors": None})["pixel_values"][0][:, 0]
        batch = np.empty((len(images), *images[0].shape), table.dtype)
        for image, result in zip(images, batch, strict=True):
            for values, channel, out in zip(table, image, result, strict=True):
                values.take(channel, out=out, mode="clip")  # without a mode, `out` would be buffered
        tensor_type = options["return_tensors"]
        return BatchFeature({"pixel_values": batch if tensor_type else list(batch)}, tensor_type=tensor_type)


def _read(path: Path) -> bytes:
    try:
        return _read_patiently(path)
    except FileNotFoundError as error:
        message = f"Image {str(path)!r} does not exist: check the path and the folder that it starts from."
        raise UnreadableImageError(message) from error
    except IsADirectoryError as error:
        raise UnreadableImageError(f"Image {str(path)!r} is a folder: give the path of a file.") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        message = f"Image {str(path)!r} cannot be read ({error}): check the path and its permissions."
        raise UnreadableImageError(message) from error


def _read_patiently(path: Path) -> bytes:
    """Return a file's content; repeat a few times where a network file system fails at first."""
    for wait in RETRY_WAITS:
        try:
            return path.read_bytes()
        except OSError as error:
            if error.errno not in TRANSIENT_ERRORS:
                raise
            time.sleep(wait)
    return path.read_bytes()


def _image_of_bytes(data: bytes, name: str, least_size: Callable[[int, int], tuple[int, int]] | None) -> Image.Image:
    if not data:
        raise UnreadableImageError(f"Image {name} is empty (0 bytes): fetch it again or leave it out.")
    try:
        image = open_lazily(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise _too_large(name) from error
    except Image.UnidentifiedImageError as error:
        fault = missing_reader(data) or "is no image that Pillow knows: convert it, fetch it again or leave it out"
        raise UnreadableImageError(f"Image {name} {fault}.") from error
    except Exception as error:  # Pillow's readers of some formats raise nearly anything on damaged data
        raise _damaged(name, error) from error
    with image:
        return _decode(image, name, least_size)


def open_lazily(file: str | BinaryIO) -> Image.Image:
    """Return `Image.open` of a path or an open file, whose format must be one of `FORMATS`."""
    Image.init()
    _register_heif()
    return Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])


@cache
def _register_heif() -> bool:
    """Have Pillow read HEIC by pillow-heif where that is installed."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def missing_reader(head: bytes) -> str | None:
    """Return why a file that begins so is not read, if all that is missing is a package that reads its format."""
    brand = head[8:12] if head[4:8] == b"ftyp" else b""
    if brand in HEIC_BRANDS and "HEIF" not in Image.OPEN:
        return "is HEIC, which Pillow reads with pillow-heif alone: `pip install pillow-heif`, or convert it"
    if brand in (b"avif", b"avis") and not ("avif" in features.modules and features.check("avif")):
        return "is AVIF, which this Pillow does not read: `pip install --upgrade pillow`, or convert it"
    return None


def open_sources(source: Any, fetch: Callable[[Any], Any], is_nested: bool = False) -> Any:
    """Return one image source, or nested ones, with those opened that are paths or mappings.

    Args:
        source: See `AlbefImageProcessor.fetch_images`.
        fetch: The library's own, for URLs and for what is open.
        is_nested: Whether `source` is one of many, and may be an empty list: a text of a batch without images.
    """
    if source is None:
        raise UnreadableImageError("An image is None: leave its row out.")
    is_url = isinstance(source, str) and source.startswith(("http://", "https://", "data:image/"))
    if isinstance(source, (str, os.PathLike, Mapping)) and not is_url:
        return open_image(source)
    if is_many(source):
        return [open_sources(one, fetch, True) for one in as_list(source, "images", may_be_empty=is_nested)]
    if isinstance(source, np.ndarray) and source.ndim == 2:
        return source[..., None]  # (height, width, 1)
    return fetch(source)


def is_many(value: Any) -> bool:
    """Return whether a value is many images or texts, such as a column of a data set, rather than one.

    A batch of images in one array counts as one: the library takes it apart.
    """
    if value is None or isinstance(value, (str, bytes, os.PathLike, Mapping, Image.Image)) or hasattr(value, "detach"):
        return False
    if hasattr(value, "__array_interface__"):
        return value.ndim > 0 and (value.dtype.kind in "OUT" or not value.shape[0])  # of strings or objects
    return isinstance(value, Iterable) or (hasattr(value, "__len__") and hasattr(value, "__getitem__"))


def as_list(values: Any, what: str, may_be_empty: bool = False) -> list[Any]:
    """Return many values as a list.

    Raises:
        ProcessingError: There is none; `what` says of which.
    """
    found = list(values if isinstance(values, Iterable) else map(values.__getitem__, range(len(values))))
    if not found and not may_be_empty:
        raise ProcessingError(f"There are no {what}: give one at least.")
    return found


def decode_pillow(image: Image.Image) -> Image.Image:
    """Return a Pillow image as RGB: the image itself if it is RGB and upright."""
    return _decode(image, repr(getattr(image, "filename", "") or "a Pillow image"))


def _decode(
    image: Image.Image, name: str, least_size: Callable[[int, int], tuple[int, int]] | None = None
) -> Image.Image:
    try:
        if least_size is not None:
            image.draft(None, least_size(*image.size))
        elif (factor := _reduction(image)) > 1:
            image.draft(None, (image.width // factor, image.height // factor))
        image.load()
        return _upright(_to_rgb(image), _orientation(image))
    except Image.DecompressionBombError as error:
        raise _too_large(name) from error
    except Exception as error:
        raise _damaged(name, error) from error


def _reduction(image: Image.Image) -> int:
    """Return the least whole factor that brings an image to `MAX_PIXELS`."""
    # Differs from ALBEF: it decodes images of any size in full, whatever memory that takes.
    return math.ceil(math.sqrt(image.width * image.height / MAX_PIXELS))


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001, Pillow raises nearly anything on damaged EXIF data; the image itself is sound
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    # Differs from ALBEF: it ignores the EXIF orientation, so that photographs taken upright on a phone lie on their
    # side. Viewers and other libraries turn them, so annotators saw them upright.
    if orientation not in _TURNS:
        return image
    turned = image.transpose(_TURNS[orientation])
    turned.info = {}  # the orientation is in there
    return turned


def _image_of_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    is_image = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not is_image or not array.size:
        raise UnreadableImageError(
            f"An image array has shape {array.shape} and type {array.dtype}: "
            "give uint8 of shape (height, width) or (height, width, 1, 3 or 4)."
        )
    return Image.fromarray(array).convert("RGB")


def channels_of(image: Any) -> ChannelDimension:
    """Return where the channels of an array or a tensor are."""
    shape = tuple(image.shape)
    if len(shape) == 3 and not {1, 3, 4} & {shape[0], shape[-1]}:
        raise UnreadableImageError(f"An image array has shape {shape}: give 1, 3 or 4 channels, first or last.")
    return infer_channel_dimension_format(image, num_channels=(1, 3, 4))


def _to_levels(image: np.ndarray, option: str) -> tuple[np.ndarray, int]:
    """Return an array as uint8, and by what its values were multiplied."""
    if image.dtype == np.uint8 or not image.size:
        return image, 1
    factor = byte_factor(image.dtype.name, image.min(), image.max(), option)
    return np.rint(image * factor).astype(np.uint8), factor


def byte_factor(type_name: str, low: Any, high: Any, option: str) -> int:
    """Return by what an array's values are multiplied to be 0..255: 255 for floats in 0..1, else 1.

    Args:
        type_name: Of the array's values, as NumPy and torch name it.
        low: Its least value.
        high: Its greatest.
        option: What needs this range and can be turned off.

    Raises:
        UnreadableImageError: The values are of no range that is known, or 16-bit, or truth values; or floats that end
            between 1 and 2, of which nobody can tell.
    """
    is_float = type_name.startswith(("float", "bfloat"))
    is_whole = type_name.startswith(("int", "uint")) and type_name != "uint16"
    if is_float and low >= -TOLERANCE and high <= 1 + TOLERANCE:
        return 255
    if (is_whole or (is_float and high >= 2)) and low >= 0 and high <= 255:  # 0..1.02 is a resized 0..1, not black
        return 1
    raise UnreadableImageError(
        f"An image array of type {type_name} has values from {low} to {high}: give uint8, floats in 0..1, or "
        f"{option}=False."
    )


def _to_rgb(image: Image.Image) -> Image.Image:
    """Return a loaded image as RGB, reduced to `MAX_PIXELS`: itself, where it is so already.

    A large image is converted in bands of rows: beside it and the result, little memory is needed.
    """
    factor = _reduction(image)
    if image.mode == "RGB" and factor == 1:
        return image
    to_bytes = _byte_scale(image) if image.mode.startswith(("I", "F")) else None
    result = Image.new("RGB", (-(-image.width // factor), -(-image.height // factor)))
    rows = factor * max(1, PIXELS_AT_ONCE // (image.width * factor))
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        band.info.pop("transparency", None)  # which Pillow would keep, or warn of
        band = band if to_bytes is None else Image.fromarray(to_bytes(np.asarray(band)))
        band = band.convert("RGB")
        result.paste(band if factor == 1 else band.reduce(factor), (0, top // factor))
    return result


def _byte_scale(image: Image.Image) -> Callable[[np.ndarray], np.ndarray]:
    """Return what scales an image's gray values to 0..255.

    Pillow does not say which range 32-bit and float images use. It is taken as the smallest of 0..1, 0..255 and
    0..65535 that holds all values, else as the range from the least to the greatest value.
    """
    if image.mode.startswith("I;16"):
        return lambda values: _FROM_16_BITS[values]
    rows = max(1, PIXELS_AT_ONCE // image.width)
    bands = [(0, top, image.width, min(top + rows, image.height)) for top in range(0, image.height, rows)]
    bounds = [(values.min(), values.max()) for values in (_finite(np.asarray(image.crop(band))) for band in bands)]
    low, high = float(min(low for low, _ in bounds)), float(max(high for _, high in bounds))
    top = next((top for top in (1.0, 255.0, 65535.0) if low >= 0 and high <= top), None)
    low, top = (low, (high - low) or 1.0) if top is None else (0.0, top)
    return lambda values: np.rint((_finite(values).astype(np.float64) - low) * 255 / top).astype(np.uint8)


def _finite(values: np.ndarray) -> np.ndarray:
    return values if values.dtype.kind != "f" else np.where(np.isfinite(values), values, 0)


def _too_large(name: str) -> UnreadableImageError:
    limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
    return UnreadableImageError(
        f"Image {name} has more than {limit:,} pixels, the limit of Pillow against decompression bombs: "
        "make it smaller or leave it out."
    )


def _damaged(name: str, error: Exception) -> ProcessingError:
    if isinstance(error, MemoryError):  # the image may be sound: it must not count as one that cannot be read
        return ProcessingError(f"There is not enough memory to open image {name}: give more, or make it smaller.")
    return UnreadableImageError(
        f"Image {name} is damaged or cut short ({one_line(error)}): fetch it again or leave it out."
    )


def one_line(error: Exception) -> str:
    """Return an error's message on one line without its full stop, or its type where it has no message."""
    text = str(error).encode("utf-8", "backslashreplace").decode()
    return " ".join(text.split()).rstrip(".") or type(error).__name__
