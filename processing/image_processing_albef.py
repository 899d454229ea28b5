"""Images for ALBEF: from any image source to an RGB image, and from RGB images to pixel values."""

import errno
import io
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps
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
ROWS_AT_ONCE = 256  # of a large image whose values are scaled
_FROM_16_BITS = np.rint(np.arange(1 << 16) * 255 / 65535).astype(np.uint8)


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
    are scaled to 0..255; Pillow alone would clip them to white.

    Args:
        source: Path of a file; mapping with `path` and `bytes`, as `datasets.Image(decode=False)` gives it (`bytes`
            wins where both are there); Pillow image of any mode; or uint8 array of shape (height, width),
            (height, width, 1), (height, width, 3) or (height, width, 4).
        least_size: Maps width and height of a file's image to the least ones that it may be decoded to. A JPEG decoder
            saves time where a half, a fourth or an eighth of the size is enough. None decodes to full size.

    Returns:
        An image of mode "RGB", fully loaded, upright, a copy; no file stays open.

    Raises:
        UnreadableImageError: The file is missing, empty, cut short, a folder, no image, or too large.
        TypeError: `source` is of another type.
    """
    if isinstance(source, Image.Image):
        image = _decode_pillow(source)
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
            image_url_or_urls: One image source, or nested lists of them.

        Returns:
            The same structure, with every source that had to be opened replaced by its Pillow image.

        Raises:
            UnreadableImageError: A source cannot be read.
        """
        source = image_url_or_urls
        is_url = isinstance(source, str) and source.startswith(("http://", "https://", "data:image/"))
        if isinstance(source, (str, os.PathLike, Mapping)) and not is_url:
            return open_image(source)
        if is_list_of_sources(source):
            return [self.fetch_images(one) for one in source]
        if isinstance(source, np.ndarray) and source.ndim == 2:
            return source[..., None]  # (height, width, 1)
        return super().fetch_images(source)

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
            image, input_data_format = np.asarray(_decode_pillow(image)), ChannelDimension.LAST
        elif not isinstance(image, Image.Image) and input_data_format is None:
            input_data_format = infer_channel_dimension_format(image, num_channels=(1, 3, 4))
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
        """Resize a (3, height, width) array as the library does; return one of the right size unchanged."""
        if image.shape[-2:] == (size.height, size.width):
            return image
        return super().resize(image, size, resample, reducing_gap, **kwargs)

    def _preprocess(self, images: list[np.ndarray], **options: Any) -> BatchFeature:  # type: ignore[override]
        """Run the library's steps; take the values of eight-bit images of one size from a table of its results.

        The values are bit-identical to the library's. The table takes one pass, straight into the batch, where the
        library goes through double precision.
        """
        if options["do_rescale"]:
            images = [_to_byte_range(image) for image in images]
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
        message = f"Image {name} is no image that Pillow knows: convert it, fetch it again or leave it out."
        raise UnreadableImageError(message) from error
    except Exception as error:  # Pillow's readers of some formats raise nearly anything on damaged data
        raise _damaged(name, error) from error
    with image:
        return _decode(image, name, least_size)


def open_lazily(file: str | BinaryIO) -> Image.Image:
    """Return `Image.open` of a path or an open file, whose format must be one of `FORMATS`."""
    Image.init()
    return Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])


def is_list_of_sources(value: Any) -> bool:
    """Return whether a value is many images or texts, such as a column of a data set, rather than one."""
    is_one = isinstance(value, (str, bytes, os.PathLike, Mapping, Image.Image)) or hasattr(value, "__array_interface__")
    return not is_one and not hasattr(value, "detach") and isinstance(value, Iterable)


def _decode_pillow(image: Image.Image) -> Image.Image:
    """Return a Pillow image as RGB: the image itself if it is RGB and upright."""
    return _decode(image, repr(getattr(image, "filename", "") or "a Pillow image"))


def _decode(
    image: Image.Image, name: str, least_size: Callable[[int, int], tuple[int, int]] | None = None
) -> Image.Image:
    try:
        if least_size is not None:
            image.draft(None, least_size(*image.size))
        image.load()
        return _to_rgb(_upright(image))
    except Image.DecompressionBombError as error:
        raise _too_large(name) from error
    except Exception as error:
        raise _damaged(name, error) from error


def _upright(image: Image.Image) -> Image.Image:
    # Differs from ALBEF: it ignores the EXIF orientation, so that photographs taken upright on a phone lie on their
    # side. Viewers and other libraries turn them, so annotators saw them upright.
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        return image if orientation == 1 else ImageOps.exif_transpose(image)  # which copies, whatever there is to do
    except Exception:  # noqa: BLE001, Pillow raises nearly anything on damaged EXIF data; the image itself is sound
        return image


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


def _to_byte_range(image: np.ndarray) -> np.ndarray:
    """Return an array whose values are 0..255, as rescaling wants them; floats in 0..1 become eight-bit values."""
    if image.dtype == np.uint8 or not image.size:
        return image
    low, high, kind = image.min(), image.max(), image.dtype.kind
    if kind == "f" and 0 <= low and high <= 1:
        return np.rint(image * 255).astype(np.uint8)
    if 0 <= low and high <= 255 and (kind == "f" or (kind in "iu" and image.dtype != np.uint16)):
        return image
    raise UnreadableImageError(
        f"An image array of type {image.dtype} has values from {low} to {high}: give uint8, floats in 0..1, or "
        "do_rescale=False."
    )


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        image = Image.fromarray(_to_eight_bits(np.asarray(image), is_16_bit=image.mode.startswith("I;16")))
    elif image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        image = image.convert("RGBA")  # same colors, without Pillow's warning
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_eight_bits(values: np.ndarray, is_16_bit: bool) -> np.ndarray:
    """Scale gray values to 0..255.

    Pillow does not say which range 32-bit and float images use. It is taken as the smallest of 0..1, 0..255 and
    0..65535 that holds all values, else as the range from the least to the greatest value.
    """
    if is_16_bit:
        return _FROM_16_BITS[values]
    blocks = [slice(start, start + ROWS_AT_ONCE) for start in range(0, len(values), ROWS_AT_ONCE)]
    bounds = [function(_finite(values[rows])) for rows in blocks for function in (np.min, np.max)]
    low, high = float(min(bounds)), float(max(bounds))
    top = next((top for top in (1.0, 255.0, 65535.0) if low >= 0 and high <= top), None)
    low, top = (low, (high - low) or 1.0) if top is None else (0.0, top)
    result = np.empty(values.shape, np.uint8)
    for rows in blocks:
        result[rows] = np.rint((_finite(values[rows]) - low) * 255 / top)
    return result


def _finite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, 0).astype(np.float64)


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
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
