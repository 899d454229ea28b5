"""States of images that a frozen vision tower gave: encoded once, kept on disk, read by memory map.

Shapes: I images, P image tokens, H width.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.utils.data import DataLoader, Dataset
from transformers.utils.logging import tqdm

from .augmented_rows import Augmentation
from .image_keys import image_path
from .image_processing_albef import ProcessingError, UnreadableImageError, open_image

logger = logging.getLogger(__name__)

IMAGES_A_FILE = 64
OPEN_FILES = 64  # memory maps that a process keeps
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class ImageStates:
    """States of images in a folder, by keys. Files are whole or not there, so that filling it can be broken off."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Open a folder, which is made where it does not exist; a damaged file in it is removed, with a warning."""
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._maps: OrderedDict[Path, Any] = OrderedDict()
        self.find_files()

    def find_files(self) -> None:
        """Look what is in the folder, which other processes may have filled."""
        self._places: dict[str, tuple[Path, int]] = {}  # by key: file, row
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                with safe_open(path, "pt") as file:
                    keys = json.loads((file.metadata() or {})["keys"])
            except (SafetensorError, ValueError, KeyError, OSError):
                logger.warning("%s is damaged: it is removed, and its images are encoded again.", path)
                path.unlink(missing_ok=True)
                continue
            self._places.update({key: (path, row) for row, key in enumerate(keys)})

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_maps": OrderedDict()}  # maps stay in their process

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def write(self, keys: Sequence[str], states: torch.Tensor) -> None:
        """Add the states (I, P, H) of I images in one file, which appears whole.

        Raises:
            ProcessingError: A state is not finite, in half precision perhaps.
        """
        if not bool(states.isfinite().all()):
            raise ProcessingError(f"Image states are not finite as {states.dtype}: keep them as float32.")
        name = hashlib.sha256("".join(keys).encode()).hexdigest()[:24]
        path, part = self.folder / f"{name}.safetensors", self.folder / f"{name}.part{os.getpid()}"
        save_file({"states": states.contiguous()}, part, metadata={"keys": json.dumps(list(keys))})
        part.replace(path)
        self._places.update({key: (path, row) for row, key in enumerate(keys)})

    def read(self, key: str) -> torch.Tensor:
        """Return the states (P, H) of an image, in float32; a KeyError where there are none."""
        path, row = self._places[key]
        if path not in self._maps:
            self._maps[path] = _map_states(path)
            if len(self._maps) > OPEN_FILES:
                self._maps.popitem(last=False)
        self._maps.move_to_end(path)
        rows, dtype = self._maps[path]
        return torch.from_numpy(rows[row].copy()).view(dtype).float()


class StoredImageRows(Dataset):
    """Training rows whose image is replaced by its states, `image_hidden_states` (P, H).

    Where an image was encoded in several variants, seed, epoch and row decide which is taken.
    """

    def __init__(self, dataset: Any, states: ImageStates, digests: Sequence[str], variants: int, seed: int = 0) -> None:
        self.dataset, self.states, self.digests = dataset, states, digests
        self.variants, self.seed = variants, seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # persistent workers see it, too

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, at least 0, that the choice of variants depends on."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def column_names(self) -> list[str]:
        """Return the names of the columns."""
        return list(self.dataset.column_names)

    def __getitem__(self, index: int | str) -> Any:
        """Return a row, or a column by its name."""
        if isinstance(index, str):
            return self.dataset[index]
        row = dict(self.dataset[index])
        image = row.pop("image")
        variant = 0
        if self.variants > 1:
            variant = int(np.random.default_rng((self.seed, int(self._epoch), int(index))).integers(self.variants))
        states = self.states.read(_key(self.digests[index], variant))
        return {**row, "image_name": image_path(image) or str(index), "image_hidden_states": states}


@dataclass(frozen=True)
class StoreOptions:
    """How images are encoded and kept.

    Attributes:
        augmentation: Changes an image; None leaves it as it is.
        variants: Augmented forms of an image that are encoded, at least 1; one without augmentation.
        seed: Of the augmentations and of the choice among them.
        dtype: "float32", or "float16" or "bfloat16" for half of the disk.
        max_gb: Most gigabytes that the states of the images may take.
        batch_size: Images that are encoded together, and kept in a file.
        num_workers: Processes that open images.
        share: Which of how many processes this is; each encodes its share, and calls `states.find_files()` when all
            have done so.
    """

    augmentation: Augmentation | None = None
    variants: int = 1
    seed: int = 0
    dtype: str = "float32"
    max_gb: float = 50.0
    batch_size: int = IMAGES_A_FILE
    num_workers: int = 0
    share: tuple[int, int] = (0, 1)

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ProcessingError(f"dtype is {self.dtype!r}, but must be one of {', '.join(DTYPES)}.")
        if self.variants < 1 or (self.variants > 1 and self.augmentation is None):
            raise ProcessingError(f"variants is {self.variants}: give 1, or more with an augmentation.")


def store_image_states(
    dataset: Any,
    encode: Callable[[torch.Tensor], torch.Tensor],
    image_processor: Any,
    folder: str | os.PathLike[str],
    options: StoreOptions | None = None,
) -> StoredImageRows:
    """Encode the images of training rows that are not encoded yet, and return the rows with their states.

    Args:
        dataset: Rows with an `image` that `open_image` reads, not decoded.
        encode: Maps pixel values (I, 3, S, S) to states (I, P, H).
        image_processor: Makes pixel values of RGB images.
        folder: Where states are kept, of this tower and this processor alone: see `states_folder`.
        options: How.

    Returns:
        The rows, for a trainer.

    Raises:
        ProcessingError: The states would take more than `max_gb` or than the disk has, or are not finite.
        UnreadableImageError: An image cannot be read.
    """
    options = options or StoreOptions()
    states = ImageStates(folder)
    digests, sources = _digest_images(dataset)
    wanted = [(digest, variant) for digest in sources for variant in range(options.variants)]
    share, shares = options.share
    missing = [pair for pair in wanted[share::shares] if _key(*pair) not in states]
    images = _ImagesToEncode(missing, sources, image_processor, options)
    loader: Any = DataLoader(images, options.batch_size, num_workers=options.num_workers, collate_fn=list)
    for number, batch in enumerate(tqdm(loader, desc="Encoding images once", disable=not missing)):
        with torch.inference_mode():
            encoded = encode(torch.stack([pixels for _, pixels in batch])).to("cpu", DTYPES[options.dtype])
        if number == 0:
            _check_size(encoded[0].nbytes, len(wanted), len(missing), options.max_gb, states.folder)
        states.write([key for key, _ in batch], encoded)
    return StoredImageRows(dataset, states, digests, options.variants, options.seed)


def states_folder(root: str | os.PathLike[str], tower: torch.nn.Module, **settings: Any) -> Path:
    """Return the folder for states below `root`, named by the weights of the tower and by settings of its input."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(tower.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return Path(root) / digest.hexdigest()[:24]


def _map_states(path: Path) -> tuple[np.ndarray, torch.dtype]:
    """Return the states of a file as bytes (I, P, bytes of H numbers), mapped, and the type of the numbers.

    A slice of `safe_open` costs five times as much as the copy of a mapped row.
    """
    with safe_open(path, "pt") as file:
        states = file.get_slice("states")
        shape, dtype = states.get_shape(), states[:0].dtype
    shape = (*shape[:-1], shape[-1] * dtype.itemsize)
    start = path.stat().st_size - math.prod(shape)  # they are all that stands behind the header
    return np.memmap(path, np.uint8, "r", start, shape), dtype


def _key(digest: str, variant: int) -> str:
    return f"{digest}-{variant}"


class _ImagesToEncode(Dataset):
    def __init__(
        self, pairs: Sequence[tuple[str, int]], sources: Mapping[str, Any], image_processor: Any, options: StoreOptions
    ) -> None:
        self.pairs, self.sources, self.image_processor, self.options = pairs, sources, image_processor, options

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[str, torch.Tensor]:
        digest, variant = self.pairs[index]
        image, options = open_image(self.sources[digest]), self.options
        if options.augmentation is not None:
            image = options.augmentation(image, np.random.default_rng((options.seed, variant, int(digest[:16], 16))))
        pixels = self.image_processor(images=image, return_tensors="pt")["pixel_values"][0]
        return _key(digest, variant), pixels


def _digest_images(dataset: Any) -> tuple[list[str], dict[str, Any]]:
    """Return the digest of each row's image, and an image source for each digest; a file is read once."""
    digests: list[str] = []
    sources: dict[str, Any] = {}
    of_path: dict[str, str] = {}
    for image in _images(dataset):
        path = image_path(image)
        data = image.get("bytes") if isinstance(image, Mapping) else None
        if data is None and path is None:
            kind = type(image).__name__
            raise ProcessingError(f"An image of type {kind} has neither a path nor bytes: keep its file.")
        if data is not None:
            digest = _digest(data)
        elif (known := of_path.get(str(path))) is not None:
            digest = known
        else:
            digest = of_path[str(path)] = _digest(_read(str(path)))
        digests.append(digest)
        sources.setdefault(digest, image)
    return digests, sources


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UnreadableImageError(f"The image {path!r} cannot be read ({error.strerror}): put it there.") from error


def _images(dataset: Any) -> Iterable[Any]:
    return (dataset[index]["image"] for index in range(len(dataset)))


def _check_size(bytes_an_image: int, wanted: int, missing: int, max_gb: float, folder: Path) -> None:
    needed, free = bytes_an_image * wanted / 1e9, shutil.disk_usage(folder).free / 1e9
    if needed > max_gb:
        raise ProcessingError(
            f"The states of {wanted} images take {needed:.1f} GB, more than the {max_gb:g} GB allowed: allow more, "
            "keep them in half precision, or train without stored states."
        )
    if bytes_an_image * missing / 1e9 > free:
        raise ProcessingError(
            f"The states to come take more than the {free:.1f} GB that are free in {folder}: make room."
        )
