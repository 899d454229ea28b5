"""Training augmentation of ALBEF with Pillow, torch and numpy; every draw comes from an explicit generator."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch.nn import functional as F  # noqa: N812, the field's own name

from .image_processing_albef import ProcessingError

FILL = (128, 128, 128)
RATIO = (3 / 4, 4 / 3)  # least and greatest width over height of a crop
REDUCING_GAP = 2.0  # of scaled decoding; at 2 an image changes about as much as by saving it as JPEG once more
MAX_MAGNITUDE = 10
FLIP_PROBABILITY = 0.5
OPERATION_PROBABILITY = 0.5


def random_resized_crop(
    image: Image.Image,
    size: int,
    rng: np.random.Generator,
    scale: tuple[float, float] = (0.5, 1.0),
    ratio: tuple[float, float] = RATIO,
) -> Image.Image:
    """Cut a random rectangle out and resize it to a square, as torchvision documents `RandomResizedCrop`.

    Args:
        image: Of any size.
        size: Side of the result, pixels.
        rng: Source of the draws.
        scale: Least and greatest share of the area, 0..1, uniform.
        ratio: Least and greatest width over height, uniform in the logarithm.

    Returns:
        (size, size) image, bicubic with antialiasing. torch takes a third of Pillow's time for it; about 0.3 % of the
        values differ from Pillow's, by at most 2 of 255. Where ten draws do not fit into the image: its central part,
        cut to the nearer of the two ratios.
    """
    box = _draw_box(image.width, image.height, rng, scale, ratio)
    return _resize(image.crop(box), size)  # cut first: the filter reads no pixels outside the box


def _resize(image: Image.Image, size: int) -> Image.Image:
    """Resize an RGB image to a square."""
    if image.size == (size, size):
        return image
    # (1, 3, height, width), its bytes in Pillow's order, for which torch has a path of its own
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    resized = F.interpolate(pixels, (size, size), mode="bicubic", antialias=True)
    return Image.fromarray(resized[0].permute(1, 2, 0).contiguous().numpy())


class RandomAugment:
    """ALBEF's random augmentation (salesforce/ALBEF `dataset/randaugment.py`).

    Draws `num_ops` of ten operations with replacement; each is applied with probability 1/2. Those with a direction go
    either way with probability 1/2. Unlike RandAugment (Cubuk et al., 2020, arXiv 1909.13719) none changes colors.

    Attributes:
        num_ops: Operations that are drawn, at least 0.
        magnitude: Strength of all operations, 0..10; at 7, as published: brightness and sharpness factor 1.36, shear
            0.21, translation 7 pixels, rotation 21 degrees.
        operations: Names of those that are drawn from; default: all.
    """

    def __init__(self, num_ops: int = 2, magnitude: float = 7, operations: Sequence[str] | None = None) -> None:
        if num_ops < 0 or not 0 <= magnitude <= MAX_MAGNITUDE:
            raise ProcessingError(
                f"num_ops is {num_ops} and magnitude {magnitude}, "
                f"but they must be at least 0 and between 0 and {MAX_MAGNITUDE}."
            )
        self.num_ops, self.magnitude = num_ops, magnitude
        self.operations = list(OPERATIONS if operations is None else operations)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Apply the drawn operations to an RGB image; the result has the same size."""
        level = self.magnitude / MAX_MAGNITUDE
        for name in rng.choice(self.operations, size=self.num_ops):
            if rng.random() < OPERATION_PROBABILITY:
                sign = 1 if name not in DIRECTED or rng.random() < 0.5 else -1
                image = OPERATIONS[name](image, sign * level)
        return image


class TrainingAugmentation:
    """Crop, flip and `RandomAugment`, in this order (salesforce/ALBEF `dataset/__init__.py`, fine-tuning).

    An image is flipped even if its caption says left or right, as published.

    Attributes:
        image_size: Side of the result, pixels.
        scale: Least and greatest share of the image that is kept, 0..1; published: 0.5 fine-tuning, 0.2 pre-training.
        random_augment: The `RandomAugment` with `num_ops` and `magnitude`; published: 2 and 7.
        scaled_decoding: Whether `AugmentedDataset` decodes large JPEG files to a half, a fourth or an eighth, where
            any crop then still has twice the side of the result. At the published sizes no image is so large.
    """

    def __init__(
        self,
        image_size: int,
        scale: tuple[float, float] = (0.5, 1.0),
        scaled_decoding: bool = True,
        num_ops: int = 2,
        magnitude: float = 7,
    ) -> None:
        if image_size < 1 or not 0 < scale[0] <= scale[1] <= 1:
            raise ProcessingError(
                f"image_size is {image_size} and scale {scale}: "
                "give at least 1, and two rising shares of the area above 0 and up to 1."
            )
        self.image_size, self.scale, self.scaled_decoding = image_size, scale, scaled_decoding
        self.random_augment = RandomAugment(num_ops, magnitude)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Augment an RGB image of any size to (image_size, image_size)."""
        image = random_resized_crop(image, self.image_size, rng, self.scale)
        if rng.random() < FLIP_PROBABILITY:
            image = ImageOps.mirror(image)
        return self.random_augment(image, rng)

    def least_size(self, width: int, height: int) -> tuple[int, int]:
        """Return the least size to which an image of this size may be decoded, for `open_image`."""
        narrowest = min(width, height, math.sqrt(width * height * self.scale[0] * RATIO[0]))  # side of any crop
        share = min(1.0, REDUCING_GAP * self.image_size / narrowest) if self.scaled_decoding else 1.0
        return math.ceil(width * share), math.ceil(height * share)


class WholeImageAugmentation(TrainingAugmentation):
    """Resize, flip and `RandomAugment`, in this order, without a crop (salesforce/ALBEF `dataset/__init__.py`).

    An image is flipped even if its text says left or right, as published. Boxes move along: `AugmentedDataset` calls
    `augment_row`, where rows with a box are not sheared, moved or turned.

    Attributes:
        image_size: Side of the result, pixels.
        random_augment: The `RandomAugment` with `num_ops` and `magnitude`; published: 2 and 7.
    """

    def __init__(self, image_size: int, num_ops: int = 2, magnitude: float = 7) -> None:
        super().__init__(image_size, scaled_decoding=False, num_ops=num_ops, magnitude=magnitude)
        upright = tuple(name for name in OPERATIONS if name not in DIRECTED)
        self._random_augment_upright = RandomAugment(num_ops, magnitude, operations=upright)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Augment an RGB image of any size to (image_size, image_size)."""
        return self.augment_row({"image": image}, rng)["image"]

    def augment_row(self, row: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Augment the `image` of a row, and move its `box`, where it has one."""
        image, box, side = row["image"], row.get("box"), self.image_size
        across, down = side / image.width, side / image.height
        image = image.resize((side, side), Image.Resampling.BICUBIC)
        is_flipped = rng.random() < FLIP_PROBABILITY
        image = ImageOps.mirror(image) if is_flipped else image
        if box is None:
            return {**row, "image": self.random_augment(image, rng)}
        x, y, width, height = box
        x = image.width / across - x - width if is_flipped else x
        moved = [x * across, y * down, width * across, height * down]
        return {**row, "image": self._random_augment_upright(image, rng), "box": moved}


def _draw_box(
    width: int, height: int, rng: np.random.Generator, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of a crop."""
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        crop_width, crop_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(rng.integers(height - crop_height + 1))
            left = int(rng.integers(width - crop_width + 1))
            return left, top, left + crop_width, top + crop_height
    crop_width = min(width, max(1, round(height * ratio[1])))
    crop_height = min(height, max(1, round(width / ratio[0])))
    left, top = (width - crop_width) // 2, (height - crop_height) // 2
    return left, top, left + crop_width, top + crop_height


def _warp(image: Image.Image, matrix: list[list[float]]) -> Image.Image:
    """Move pixels by a map of coordinates, bilinear; pixels without a source are gray.

    Args:
        image: RGB image.
        matrix: (2, 3), maps (x, y, 1) of the image to (x, y) of the result; pixel centers have whole coordinates, as
            in OpenCV's `warpAffine`.

    Returns:
        An image of the same size.
    """
    (a, b, c), (d, e, f) = matrix
    if (a, b, d, e) == (1, 0, 0, 1) and c == int(c) and f == int(f):  # whole pixels: nothing to interpolate
        moved = Image.new(image.mode, image.size, FILL)
        moved.paste(image, (int(c), int(f)))
        return moved
    border = 1  # a frame of the fill color, so that edges blend into it as in OpenCV; Pillow would repeat the edge
    framed = ImageOps.expand(image, border, FILL)
    (a, b, c), (d, e, f) = np.linalg.inv(np.array([*matrix, [0, 0, 1]]))[:2].tolist()
    # Pillow samples at the map of (x + 0.5, y + 0.5), minus 0.5.
    c, f = c - (a + b - 1) / 2 + border, f - (d + e - 1) / 2 + border
    method, filter_ = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    return framed.transform(image.size, method, (a, b, c, d, e, f), filter_, fillcolor=FILL)


def _rotate(image: Image.Image, level: float) -> Image.Image:
    angle, x, y = math.radians(30 * level), image.width / 2, image.height / 2
    cos, sin = math.cos(angle), math.sin(angle)
    return _warp(image, [[cos, sin, (1 - cos) * x - sin * y], [-sin, cos, sin * x + (1 - cos) * y]])


OPERATIONS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "identity": lambda image, level: image,
    # Differs from ALBEF: there the offset is computed in uint8 and wraps, so any channel whose least value is above 0
    # turns white. This is the stretch to 0..255 that was meant.
    "auto_contrast": lambda image, level: ImageOps.autocontrast(image),
    "equalize": lambda image, level: ImageOps.equalize(image),
    "brightness": lambda image, level: ImageEnhance.Brightness(image).enhance(1.8 * level + 0.1),
    # Differs from ALBEF: there values beyond 0..255 wrap round (bright edges turn black). Here they are clipped.
    "sharpness": lambda image, level: ImageEnhance.Sharpness(image).enhance(1.8 * level + 0.1),
    "shear_x": lambda image, level: _warp(image, [[1, 0.3 * level, 0], [0, 1, 0]]),
    "shear_y": lambda image, level: _warp(image, [[1, 0, 0], [0.3 * level, 1, 0]]),
    "translate_x": lambda image, level: _warp(image, [[1, 0, -10 * level], [0, 1, 0]]),
    "translate_y": lambda image, level: _warp(image, [[1, 0, 0], [0, 1, -10 * level]]),
    "rotate": _rotate,
}
DIRECTED = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
