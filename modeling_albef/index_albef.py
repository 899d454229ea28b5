# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""What the pipelines read, one input or many, and an index of embeddings: what is close to a query.

Shapes: N entries, E projection width, Q queries.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from itertools import repeat, zip_longest
from pathlib import Path
from typing import Any

import torch
from PIL.Image import OPEN, Image, registered_extensions
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.utils.data import Dataset, IterableDataset
from transformers.utils import logging

from .configuration_albef import AlbefError, check_finite, one_line
from .kept_images_albef import Skipped

# Formats that `processing.open_image` opens, by Pillow's names; the registry says which endings are theirs.
FORMATS = frozenset(
    ("AVIF BMP DDS DIB GIF HEIF ICO JPEG JPEG2000 MPO PCX PNG PPM PSD SGI TGA TIFF WEBP XBM XPM").split()
)
_HEIC = {".heic", ".heif", ".hif"}
IMAGE_SUFFIXES = {suffix for suffix, name in registered_extensions().items() if name in FORMATS & OPEN.keys()} | (
    _HEIC if find_spec("pillow_heif") else set()
)
# Of other images, which are counted where they are left out.
OTHER_SUFFIXES = {
    *(".arw", ".avif", ".cr2", ".cr3", ".dng", ".jxl", ".nef", ".orf", ".raf", ".raw", ".rw2", ".svg"),
    *_HEIC,
} - IMAGE_SUFFIXES
logger = logging.get_logger(__name__)
_EMBEDDINGS, _NAMES = "index.safetensors", "index.json"


class MissingFolderError(AlbefError, FileNotFoundError):
    """A folder that does not exist, or does not hold what is looked for."""


class EmbeddingIndex:
    """Names of images or texts (`kind`) and their embeddings (N, E) of unit length, searched exactly or by FAISS.

    Attributes:
        kept: States of the images on disk; None where images are encoded again to be ranked.
        skipped: Images that were left out, each a name and a reason.
        fingerprint: Which model made an index that was loaded; None where it was not written down.
    """

    kept: Any = None  # `KeptImages`, which stands above
    fingerprint: str | None = None

    def __init__(self, kind: str, names: Sequence[Any], embeds: torch.Tensor, faiss: str | None = None) -> None:
        """Make an index of N paths, images or texts; `faiss` is a factory string, "IVF256,Flat" for example.

        Raises:
            ImportError: `faiss` is given, but `datasets` or FAISS is not installed.
            AlbefError: An embedding is not finite; FAISS does not know the string, or has too few entries for it.
        """
        check_finite(embeds, "features", lambda row: name_source(kind, names[row]))
        self.kind, self.names, self.embeds, self.faiss = kind, names, embeds.float().cpu(), faiss
        self.skipped: list[Skipped] = []
        if faiss is not None:
            try:
                from datasets import Dataset as Table  # here, because loading it takes longer than all the rest

                self._dataset = Table.from_dict({"embeds": self.embeds.numpy()}).with_format("numpy")
                self._dataset.add_faiss_index("embeds", string_factory=faiss, metric_type=0, train_size=len(names))
            except ImportError as error:
                raise ImportError("A FAISS index needs `pip install datasets faiss-cpu`.") from error
            except RuntimeError as error:
                raise AlbefError(
                    f"FAISS makes no index {faiss!r} of {len(names)} entries ({str(error).splitlines()[-1]:.200}): "
                    "'IVF256,Flat' needs 256 at least, 'Flat' takes any number, and None searches without FAISS."
                ) from error

    def describe(self, row: int) -> str:
        """Return what an entry is called in a message."""
        return name_source(self.kind, self.names[row])

    def search(self, queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cosine similarities (Q, k), falling, and indices (Q, k) of the entries closest to queries (Q, E)."""
        k, queries = min(k, len(self.names)), queries.float().cpu()
        check_finite(queries, "features", "query {}".format)
        if self.faiss is None:
            found = (queries @ self.embeds.T).topk(k, dim=1)
            return found.values, found.indices
        scores, indices = self._dataset.search_batch("embeds", queries.numpy(), k=k)
        return torch.as_tensor(scores), torch.as_tensor(indices)

    def save(self, folder: str | Path) -> None:
        """Write the index into a folder; names must be paths or texts, not images."""
        names = [self.names[row] for row in range(len(self.names))]
        if not all(isinstance(name, str) for name in names):
            raise TypeError("Images in memory have no path to be found by again: index files to save the index.")
        stored: dict[str, Any] = {"kind": self.kind, "names": names}
        if self.kept is not None and self.kept.root.parent == Path(folder):
            stored |= {"fingerprint": self.kept.fingerprint, "files": self.kept.files, "skipped": self.skipped}
        Path(folder).mkdir(parents=True, exist_ok=True)
        part = Path(folder) / f"{_NAMES}.part{os.getpid()}"
        save_file({"embeds": self.embeds.contiguous()}, part)
        part.replace(Path(folder) / _EMBEDDINGS)
        part.write_text(json.dumps(stored, ensure_ascii=False, indent=1), encoding="utf-8")
        part.replace(Path(folder) / _NAMES)

    @classmethod
    def load(cls, folder: str | Path, width: int, faiss: str | None = None) -> "EmbeddingIndex":
        """Read back what `save` wrote, for a model whose projection width E is `width`."""
        if not (Path(folder) / _NAMES).is_file():
            raise MissingFolderError(f"The folder {str(folder)!r} holds no index: make one and save it there.")
        try:
            stored = json.loads((Path(folder) / _NAMES).read_text(encoding="utf-8"))
            embeds = load_file(Path(folder) / _EMBEDDINGS)["embeds"]
        except (json.JSONDecodeError, SafetensorError) as error:
            raise AlbefError(f"The index in {str(folder)!r} is damaged ({error}): make it again.") from error
        if tuple(embeds.shape) != (len(stored["names"]), width):
            raise AlbefError(
                f"The index in {str(folder)!r} has embeddings of shape {tuple(embeds.shape)} for "
                f"{len(stored['names'])} names, but the model compares in {width} dimensions: index again with it."
            )
        index = cls(stored["kind"], stored["names"], embeds, faiss)
        index.fingerprint = stored.get("fingerprint")
        index.skipped = [Skipped(*entry) for entry in stored.get("skipped", ())]
        return index


def stored_files(folder: str | Path, fingerprint: str) -> dict[str, list[Any]]:
    """Return `KeptImages.files` of the index in a folder; nothing where it is none of this model, or damaged."""
    try:
        stored = json.loads((Path(folder) / _NAMES).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):  # not finished yet; damaged: files are read again
        return {}
    return dict(stored.get("files", {})) if stored.get("fingerprint") == fingerprint else {}


class Rows(Dataset):
    """A sequence whose items are made when they are asked for, as a `torch` data set."""

    def __init__(self, items: Any, make: Callable[[Any], Any] = lambda item: item) -> None:
        """Take a sequence, and what makes an item of one of its own."""
        self.items, self.make = items, make

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, row: int) -> Any:
        return self.make(self.items[row])


def is_many(value: Any) -> bool:
    """Return whether a value is many images, texts or rows, such as a column of a data set, rather than one."""
    if value is None or isinstance(value, (str, bytes, os.PathLike, Mapping, Image)):
        return False
    if hasattr(value, "__array_interface__") or isinstance(value, torch.Tensor):
        is_text = getattr(value.dtype, "kind", "f") in "OUT"  # or objects
        return value.ndim > 3 or (value.ndim > 0 and (is_text or not len(value)))
    return isinstance(value, Iterable) or (hasattr(value, "__len__") and hasattr(value, "__getitem__"))


def is_stream(value: Any) -> bool:
    """Return whether many values are read one by one: those of a generator, or of a `torch` data set."""
    return is_many(value) and (not has_rows(value) or isinstance(value, Dataset))


def has_rows(value: Any) -> bool:
    """Return whether many values can be counted, and asked for by their row once they are a sequence."""
    return hasattr(value, "__len__") and not isinstance(value, IterableDataset)  # which may have a length, but no rows


def as_sequence(values: Any, what: str) -> Any:
    """Return many values as a sequence, or as the data set that they are, of which nothing is read yet.

    Raises:
        AlbefError: There is none; `what` says of which.
    """
    is_table = isinstance(values, (Sequence, Dataset)) or hasattr(values, "column_names")  # the last of `datasets`
    values = values if is_table and has_rows(values) else list(iterate(values, what))
    if not len(values):
        raise AlbefError(f"There are no {what}: give one at least.")
    return values


def iterate(values: Any, what: str) -> Iterator[Any]:
    """Yield many values; raises AlbefError where there is none."""
    is_empty = True
    for value in values if isinstance(values, Iterable) else map(values.__getitem__, range(len(values))):
        is_empty = False
        yield value
    if is_empty:
        raise AlbefError(f"There are no {what}: give one at least.")


def pair_streams(images: Any, questions: Any) -> Iterator[dict[str, Any]]:
    """Yield rows of images and questions, of which one at least has no length."""
    given = ((images, "images"), (questions, "questions"))
    end = object()
    columns = [iterate(one, what) if is_many(one) else repeat(one) for one, what in given]
    both = all(is_many(one) for one, _ in given)
    for image, question in zip_longest(*columns, fillvalue=end) if both else zip(*columns, strict=False):
        if image is end or question is end:
            raise AlbefError("The images and the questions differ in number: give as many, or one of them.")
        yield {"image": image, "question": question}


def images_below(folder: Path) -> list[Path]:
    """Return the images of a folder and of those below it; a MissingFolderError says that there are none."""
    if not folder.is_dir():
        raise MissingFolderError(f"There is no folder {str(folder)!r}: give one, or a list of images.")
    paths = sorted(folder.rglob("*"))
    found, skipped = [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES], describe_skipped(paths)
    if not found:
        text = f"The folder {str(folder)!r} has no images ({', '.join(sorted(IMAGE_SUFFIXES))})."
        raise MissingFolderError(text if skipped is None else f"{text} {skipped}")
    if skipped is not None:
        logger.warning(f"{folder}: {skipped}")
    return found


def left_out(folder: Path) -> list[Path]:
    """Return the images below a folder whose format is not read."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in OTHER_SUFFIXES)


def describe_skipped(paths: Iterable[Path]) -> str | None:
    """Return a sentence that counts the images which are left out, by their endings; None if there are none."""
    counts = Counter(path.suffix.lower() for path in paths if path.suffix.lower() in OTHER_SUFFIXES)
    if not counts:
        return None
    listed = ", ".join(f"{count} {suffix}" for suffix, count in sorted(counts.items()))
    heic = any(suffix.startswith(".h") for suffix in counts)
    remedy = "`pip install pillow-heif` reads HEIC, or convert them" if heic else "convert them to be found"
    return f"Left out are {counts.total()} files whose format is not read ({listed}): {remedy}."


def read_answers(path: str | Path) -> list[Any]:
    """Return the list of a JSON file."""
    message = f"answer_list is {str(path)[:200]!r}, but must be a list, or a JSON file of one"
    try:
        answers = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # no file; no text; no JSON
        raise AlbefError(f"{message} ({one_line(error)}).") from error
    if not isinstance(answers, list):
        raise AlbefError(f"{message}; the file has {answers!r:.60}.")
    return answers


def name_source(kind: str, source: Any) -> str:
    """Return what an image or a text (`kind`) is called in a message."""
    if isinstance(source, Mapping):
        source = source.get("path")
    if isinstance(source, Image):
        source = getattr(source, "filename", "")
    if not isinstance(source, (str, os.PathLike)) or not source:
        return "an image" if kind == "image" else "a text"
    return f"the {kind} {str(source)[:200]!r}"


def rerank_scores(
    similarity: torch.Tensor, logits: torch.Tensor, temperature: float, weight: float | None
) -> torch.Tensor:
    """Return the scores (n,) by which pairs are ordered.

    Args:
        similarity: (n,) cosine similarity.
        logits: (n,) matching logits, index 1 of `itm_logits`.
        temperature: Of the contrastive loss, > 0.
        weight: `AlbefConfig.rerank_weight`.
    """
    if weight is None:
        return logits
    return similarity / temperature + weight * logits if weight else similarity
