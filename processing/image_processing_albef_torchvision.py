"""The image processor that computes with tensors on any device, by torchvision.

Shapes: N images of one size, C channels, H height, W width.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import ChannelDimension, SizeDict
from transformers.utils import is_torchvision_available

from .image_processing_albef import (
    AlbefImageProcessor,
    ProcessingError,
    byte_factor,
    channels_of,
    decode_pillow,
    open_sources,
)

_FRACTION_BITS = 22  # of Pillow's weights


class AlbefImageProcessorTorchvision(TorchvisionBackend):
    """Gives the pixel values of `AlbefImageProcessor` as tensors, on the device that a call names.

    torchvision's own resize differs from Pillow's by one or two of 255 levels (pixel values by 0.015 to 0.03). This
    one rounds as Pillow does, so the values differ by rounding errors of float32 alone. It takes the same images and
    has the same settings; both classes write the same files, which do not say which of the two wrote them.

    Raises:
        ProcessingError: torchvision is not installed.

    Example:
        >>> processor = AutoImageProcessor.from_pretrained("user/albef-retrieval", backend="torchvision")
        >>> processor(images=images, return_tensors="pt", device="cuda")["pixel_values"].device
        device(type='cuda', index=0)
    """

    resample = AlbefImageProcessor.resample
    image_mean = AlbefImageProcessor.image_mean
    image_std = AlbefImageProcessor.image_std
    size = AlbefImageProcessor.size
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    code_reference = "image_processing_albef.AlbefImageProcessor"  # the class that a folder with code names

    def __init__(self, **kwargs: Any) -> None:
        if not is_torchvision_available():
            raise ProcessingError("torchvision is not installed: install it, or use AlbefImageProcessor.")
        super().__init__(**kwargs)

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """Open paths, mappings and URLs with Pillow, as `AlbefImageProcessor` does."""
        return open_sources(image_url_or_urls, lambda source: BaseImageProcessor.fetch_images(self, source))

    def process_image(
        self,
        image: Any,
        do_convert_rgb: bool | None = None,
        input_data_format: str | ChannelDimension | None = None,
        device: torch.device | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Make a channels-first tensor (C, H, W); the arguments are those of `AlbefImageProcessor.process_image`."""
        if isinstance(image, Image.Image) and do_convert_rgb:
            image, input_data_format = np.array(decode_pillow(image)), ChannelDimension.LAST
        elif not isinstance(image, Image.Image) and input_data_format is None:
            input_data_format = channels_of(image)
        if isinstance(image, np.ndarray):
            image = np.ascontiguousarray(image)  # a view with negative strides makes no tensor
        kwargs |= {"do_convert_rgb": False, "input_data_format": input_data_format, "device": device}
        channels = super().process_image(image, **kwargs)
        if not do_convert_rgb:
            return channels
        return channels.expand(3, -1, -1) if len(channels) == 1 else channels[:3]

    def resize(
        self, image: torch.Tensor, size: SizeDict, resample: Any = None, antialias: bool = True, **kwargs: Any
    ) -> torch.Tensor:
        """Resize (N, C, H, W) by the bicubic filter as Pillow does, by others as torchvision does.

        Floats in 0..1 are resized as eight-bit values.
        """
        if image.shape[-2:] == (size.height, size.width):
            return image
        levels, factor = _to_levels(image, "do_resize")
        is_bicubic = getattr(resample, "value", resample) in (Image.Resampling.BICUBIC.value, "bicubic")
        if is_bicubic and antialias and size.height and size.width:
            resized = resize_as_pillow(levels, size.height, size.width)
        else:
            resized = super().resize(levels, size, resample, antialias, **kwargs)
        return resized if factor == 1 else resized.to(torch.float32) / factor

    def _preprocess(self, images: list[torch.Tensor], **options: Any) -> BatchFeature:  # type: ignore[override]
        if options["do_rescale"]:
            images = [_to_levels(image, "do_rescale")[0] for image in images]
        return super()._preprocess(images, **options)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings, under the name that loads as either class."""
        return super().to_dict() | {"image_processor_type": AlbefImageProcessor.__name__}


def in_torchvision(image_processor: Any) -> Any:
    """Return an `AlbefImageProcessor` as the class with torchvision's backend; another processor as it is."""
    if type(image_processor).__name__ != AlbefImageProcessor.__name__ or not is_torchvision_available():
        return image_processor
    return AlbefImageProcessorTorchvision(**image_processor.to_dict())


def _to_levels(image: torch.Tensor, option: str) -> tuple[torch.Tensor, int]:
    """Return a tensor as uint8, and by what its values were multiplied."""
    if image.dtype == torch.uint8 or not image.numel():
        return image, 1
    name = str(image.dtype).removeprefix("torch.")
    if name.startswith(("uint", "complex")):  # of which torch knows no least value
        image = image.real.double()
    factor = byte_factor(name, image.min().item(), image.max().item(), option)
    return (image * factor).round().to(torch.uint8), factor


def resize_as_pillow(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resize uint8 values (.., H, W) to (.., height, width) by the bicubic filter, bit-identical to Pillow."""
    if image.shape[-2] > 100 * image.shape[-1] and image.shape[-2] > height:  # the one exception of Pillow 12
        image = _resize_height(image, height)
    image = _resize_height(image.transpose(-1, -2), width).transpose(-1, -2)
    return _resize_height(image, height)


def _resize_height(image: torch.Tensor, height: int) -> torch.Tensor:
    """Resize the last but one dimension of uint8 values in Pillow's fixed-point arithmetic."""
    if image.shape[-2] == height:
        return image
    image, (rows, weights) = image.contiguous(), _bicubic_weights(image.shape[-2], height)
    half = 1 << (_FRACTION_BITS - 1)
    total = image.new_full((*image.shape[:-2], height, image.shape[-1]), half, dtype=torch.int32)
    for row, weight in zip(rows.to(image.device), weights.to(image.device), strict=True):
        total += image.index_select(-2, row).to(torch.int32) * weight[:, None]
    return (total >> _FRACTION_BITS).clamp_(0, 255).to(torch.uint8)


@lru_cache(maxsize=64)
def _bicubic_weights(size: int, new_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return, of each output pixel, the input pixels and their weights, both (taps, new_size).

    Source: `precompute_coeffs` and `normalize_coeffs_8bpc` of Pillow's `src/libImaging/Resample.c`.
    """
    scale = size / new_size
    width = max(scale, 1.0)
    center = (torch.arange(new_size, dtype=torch.float64) + 0.5) * scale
    first = (center - 2 * width + 0.5).long().clamp(min=0)
    after = (center + 2 * width + 0.5).long().clamp(max=size)
    pixels = first + torch.arange(int((after - first).max()))[:, None]
    x = ((pixels - center + 0.5) * (1 / width)).abs()
    near, far = ((1.5 * x - 2.5) * x) * x + 1, (((x - 5) * x + 8) * x - 4) * -0.5
    weights = torch.where(x < 1, near, torch.where(x < 2, far, 0.0)) * (pixels < after)
    weights = weights / sum(weights)  # one after the other, as Pillow adds them
    fixed = weights * (1 << _FRACTION_BITS) + torch.where(weights < 0, -0.5, 0.5)
    return pixels.clamp(max=size - 1), fixed.to(torch.int32)
