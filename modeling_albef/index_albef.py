# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""An index of embeddings: what is close to a query. Shapes: N entries, E projection width, Q queries."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .configuration_albef import AlbefError

_EMBEDDINGS, _NAMES = "index.safetensors", "index.json"


class MissingFolderError(AlbefError, FileNotFoundError):
    """A folder that does not exist, or does not hold what is looked for."""


class EmbeddingIndex:
    """Names of images or texts (`kind`) and their embeddings (N, E) of unit length, searched exactly or by FAISS."""

    def __init__(self, kind: str, names: list[Any], embeds: torch.Tensor, faiss: str | None = None) -> None:
        """Make an index of N paths, images or texts; `faiss` is a factory string, "IVF256,Flat" for example.

        Raises:
            ImportError: `faiss` is given, but `datasets` or FAISS is not installed.
            AlbefError: FAISS does not know the string, or has too few entries for it.
        """
        self.kind, self.names, self.embeds, self.faiss = kind, names, embeds.float().cpu(), faiss
        if faiss is not None:
            try:
                from datasets import Dataset  # here, because loading it takes longer than all the rest

                self._dataset = Dataset.from_dict({"embeds": self.embeds.numpy()}).with_format("numpy")
                self._dataset.add_faiss_index("embeds", string_factory=faiss, metric_type=0, train_size=len(names))
            except ImportError as error:
                raise ImportError("A FAISS index needs `pip install datasets faiss-cpu`.") from error
            except RuntimeError as error:
                raise AlbefError(
                    f"FAISS makes no index {faiss!r} of {len(names)} entries ({str(error).splitlines()[-1]:.200}): "
                    "'IVF256,Flat' needs 256 at least, 'Flat' takes any number, and None searches without FAISS."
                ) from error

    def search(self, queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cosine similarities (Q, k), falling, and indices (Q, k) of the entries closest to queries (Q, E)."""
        k, queries = min(k, len(self.names)), queries.float().cpu()
        if self.faiss is None:
            found = (queries @ self.embeds.T).topk(k, dim=1)
            return found.values, found.indices
        scores, indices = self._dataset.search_batch("embeds", queries.numpy(), k=k)
        return torch.as_tensor(scores), torch.as_tensor(indices)

    def save(self, folder: str | Path) -> None:
        """Write the index into a folder; names must be paths or texts, not images."""
        if not all(isinstance(name, str) for name in self.names):
            raise TypeError("Images in memory have no path to be found by again: index files to save the index.")
        Path(folder).mkdir(parents=True, exist_ok=True)
        save_file({"embeds": self.embeds}, Path(folder) / _EMBEDDINGS)
        text = json.dumps({"kind": self.kind, "names": self.names}, ensure_ascii=False, indent=1)
        (Path(folder) / _NAMES).write_text(text, encoding="utf-8")

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
        return cls(stored["kind"], stored["names"], embeds, faiss)
