"""Images for ALBEF: any image source to an RGB picture, and RGB pictures to the model's pixel values."""

import io
import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import (
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
    ChannelDimension,
    SizeDict,
    infer_channel_dimension_format,
)

# What Pillow's decoders are known to raise on damaged data.
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    OverflowError,
    RuntimeError,
    struct.error,
    zlib.error,
)


class UnreadableImageError(ValueError):
    """An image source that gives no picture; the message names the source and the remedy."""


def open_image(source: str | os.PathLike[str] | Mapping[str, Any] | Image.Image | np.ndarray) -> Image.Image:
    """Make an RGB picture of an image source.

    Colours become RGB as in salesforce/ALBEF `dataset/caption_dataset.py`, by Pillow's `convert("RGB")`: transparency
    is dropped, not blended with a background. Of an animation the first frame counts. Values of more than eight bits
    are scaled to 0..255, where Pillow alone would clip them to white.

    Args:
        source: Path of a file; mapping with `path` and `bytes`, as `datasets.Image(decode=False)` gives it (`bytes`
            wins where both are there); Pillow image of any mode; or uint8 array of shape (height, width),
            (height, width, 1), (height, width, 3) or (height, width, 4).

    Returns:
        A picture of mode "RGB", fully loaded, upright; no file stays open.

    Raises:
        UnreadableImageError: The file is missing, empty, cut short, a folder, no image, or too large.
        TypeError: `source` is of another type.
    """
    if isinstance(source, Image.Image):
        return _decode(source, repr(getattr(source, "filename", "") or "a Pillow image"))
    if isinstance(source, np.ndarray):
        return _image_of_array(source)
    if isinstance(source, Mapping):
        data, path = source.get("bytes"), source.get("path")
        if data is None and not path:
            raise UnreadableImageError("An image has neither bytes nor a path: leave its row out.")
        name = repr(str(path)) if path else "given as bytes"
        return _image_of_bytes(_read(Path(path)) if data is None else data, name)
    if isinstance(source, (str, os.PathLike)):
        return _image_of_bytes(_read(Path(source)), repr(str(source)))
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
        size: `height` and `width` of the result, pixels; the published models take 384 for retrieval and questions and
            256 for pre-training.

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
        """Open paths, mappings and URLs; leave pictures and arrays as they are.

        Args:
            image_url_or_urls: One image source, or nested lists of them.

        Returns:
            The same structure with Pillow images in place of what had to be opened.

        Raises:
            UnreadableImageError: A source gives no picture.
        """
        source = image_url_or_urls
        is_url = isinstance(source, str) and source.startswith(("http://", "https://", "data:image/"))
        if isinstance(source, (str, os.PathLike, Mapping)) and not is_url:
            return open_image(source)
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
        """Make a channels-first array; colours as ALBEF has them, where the library blends transparency with white.

        Args:
            image: Pillow image; or array or tensor with 1, 3 or 4 channels, first or last.
            do_convert_rgb: Whether the result has three channels, whatever the image has.
            input_data_format: Place of the channels of an array or tensor; None finds it out.
            kwargs: Those of `PilBackend.process_image`.

        Returns:
            (channels, height, width), uint8 for a Pillow image, else of the given type.

        Raises:
            UnreadableImageError: A Pillow image that was opened lazily turns out to be damaged.
        """
        if isinstance(image, Image.Image) and do_convert_rgb:
            image, input_data_format = np.array(open_image(image)), ChannelDimension.LAST
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
        """Resize a (3, height, width) array as the library does; one that already has the size is returned as it is."""
        if image.shape[-2:] == (size.height, size.width):
            return image
        return super().resize(image, size, resample, reducing_gap, **kwargs)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        message = f"Image {str(path)!r} does not exist: check the path and the folder that it starts from."
        raise UnreadableImageError(message) from error
    except IsADirectoryError as error:
        raise UnreadableImageError(f"Image {str(path)!r} is a folder: give the path of a file.") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        message = f"Image {str(path)!r} cannot be read ({error}): check the path and its permissions."
        raise UnreadableImageError(message) from error


def _image_of_bytes(data: bytes, name: str) -> Image.Image:
    if not data:
        raise UnreadableImageError(f"Image {name} is empty (0 bytes): fetch it again or leave it out.")
    try:
        image = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise _too_large(name) from error
    except Image.UnidentifiedImageError as error:
        message = f"Image {name} is no image that Pillow knows: convert it, fetch it again or leave it out."
        raise UnreadableImageError(message) from error
    except _DECODER_ERRORS as error:
        raise _damaged(name, error) from error
    with image:
        return _decode(image, name)


def _decode(image: Image.Image, name: str) -> Image.Image:
    try:
        image.load()
        return _to_rgb(_upright(image))
    except Image.DecompressionBombError as error:
        raise _too_large(name) from error
    except _DECODER_ERRORS as error:
        raise _damaged(name, error) from error


def _upright(image: Image.Image) -> Image.Image:
    # Differs from ALBEF: it ignores the EXIF orientation, so that photographs taken upright on a phone lie on their
    # side. Viewers, other libraries and whoever wrote the captions turn them.
    try:
        return ImageOps.exif_transpose(image)
    except _DECODER_ERRORS:  # a sound picture with broken EXIF data
        return image


def _image_of_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    is_picture = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not is_picture or not array.size:
        raise UnreadableImageError(
            f"An image array has shape {array.shape} and type {array.dtype}: "
            "give uint8 of shape (height, width) or (height, width, 1, 3 or 4)."
        )
    return Image.fromarray(array).convert("RGB")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        image = Image.fromarray(_to_eight_bits(np.asarray(image), is_16_bit=image.mode.startswith("I;16")))
    elif image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        image = image.convert("RGBA")  # same colours, without Pillow's warning
    return image.convert("RGB")


def _to_eight_bits(values: np.ndarray, is_16_bit: bool) -> np.ndarray:
    """Scale grey values to 0..255.

    Pillow does not say which range 32-bit and float pictures use, so it is taken as the smallest of the usual ones that
    holds all values: 0..1, 0..255, 0..65535, else from the least to the greatest value.
    """
    values = np.where(np.isfinite(values), values, 0).astype(np.float64)
    low, high = float(values.min()), float(values.max())
    usual = (65535.0,) if is_16_bit else (1.0, 255.0, 65535.0)
    top = next((top for top in usual if low >= 0 and high <= top), None)
    if top is None:
        values, top = values - low, (high - low) or 1.0
    return np.rint(values * 255 / top).astype(np.uint8)


def _too_large(name: str) -> UnreadableImageError:
    limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
    return UnreadableImageError(
        f"Image {name} has more than {limit:,} pixels, the limit of Pillow against decompression bombs: "
        "make it smaller or leave it out."
    )


def _damaged(name: str, error: Exception) -> UnreadableImageError:
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return UnreadableImageError(f"Image {name} is damaged or cut short ({reason}): fetch it again or leave it out.")
