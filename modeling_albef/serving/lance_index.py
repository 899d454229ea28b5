# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""An index of images whose embeddings are too many for memory: a LanceDB table, in a folder or an object store.

Shapes: E projection width, Q queries, k results of each.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from ..configuration_albef import AlbefError, one_line
from ..index_albef import MissingFolderError, check_finite, images_below, name_source
from ..kept_images_albef import Skipped

TABLE = "images"
NAMES = 100_000  # of rows that were found last, which stay in memory


class LanceIndex:
    """Images by their embeddings, for `search.index`: found by LanceDB, opened and encoded again to be ranked.

    Example:
        >>> index = LanceIndex("photos.lance")
        >>> index.update(search, "photos")
        >>> search.index = index
        >>> search("a dog on a beach")

    Attributes:
        table: The table of LanceDB; `table.create_index(metric="dot")` makes its search approximate and fast.
        names: Names of rows that were found.
        skipped: Images that the last `update` left out.
    """

    kind = "image"
    kept = None  # states of images
    fingerprint = None

    def __init__(self, url: str | Path) -> None:
        """Open a database, which `update` makes where there is none.

        Args:
            url: Folder, or address of an object store that LanceDB knows, `s3://bucket/path` for example.

        Raises:
            ImportError: LanceDB is not installed.
        """
        try:
            import lancedb
        except ImportError as error:
            raise ImportError("An index on disk needs `pip install lancedb`.") from error
        self._database = lancedb.connect(str(url))
        self.table: Any = self._database.open_table(TABLE) if TABLE in self._database.list_tables().tables else None
        self.names: OrderedDict[int, str] = OrderedDict()
        self.skipped: list[Skipped] = []

    def __len__(self) -> int:
        return 0 if self.table is None else self.table.count_rows()

    @torch.no_grad()
    def update(self, search: Any, images: str | Path | Iterable[str | Path], batch_size: int = 16) -> None:
        """Encode the files that are new or changed, and remove all that are not among `images`.

        Args:
            search: Pipeline of the task "image-text-retrieval", which encodes.
            images: A folder, or paths.
            batch_size: Images that are encoded together. Each batch is written at once, so an interrupted update goes
                on where it was.

        Raises:
            MissingFolderError: The folder does not exist or has no images.
            AlbefError: No image can be read, or the features of one are not finite.
        """
        paths = images_below(Path(images)) if isinstance(images, str | Path) else images
        names = list(dict.fromkeys(map(str, paths)))
        known = self._known()
        gone = sorted(set(known) - set(names))
        self.skipped, changed = [], []
        for name in names:
            try:
                digest = hashlib.sha256(Path(name).read_bytes()).hexdigest()[:32]
            except OSError as error:
                self.skipped.append(Skipped(name, f"cannot be read ({error.strerror})"))
            else:
                changed += [(name, digest)] if known.get(name) != digest else []
        starts = range(0, len(changed), batch_size)
        for start in logging.tqdm(starts, desc="Indexing", unit="batch", disable=len(starts) < 8):
            self._add(search, changed[start : start + batch_size], known)
        for start in range(0, len(gone), 500):
            self._delete(gone[start : start + 500])
        if not len(self):
            raise AlbefError(f"None of {len(names)} images can be read: {self.skipped[0].reason}.")

    def _known(self) -> dict[str, str]:
        """Return the digest of each indexed file."""
        if self.table is None:
            return {}
        columns = self.table.search().select(["name", "digest"]).limit(len(self)).to_arrow()
        return dict(zip(columns["name"].to_pylist(), columns["digest"].to_pylist(), strict=True))

    def _add(self, search: Any, files: Sequence[tuple[str, str]], known: dict[str, str]) -> None:
        images, rows = [], []
        for name, digest in files:
            try:
                images.append(search.processor.image_processor.fetch_images(name))
                rows.append({"name": name, "digest": digest})
            except (OSError, ValueError) as error:  # of the processor, which says what is wrong with a file
                self.skipped.append(Skipped(name, one_line(error).replace(f"Image {name!r} ", "")))
        if not rows:
            return
        pixels = search.processor(images=images, return_tensors="pt")["pixel_values"]
        embeds = search.model.get_image_features(pixels.to(search.device, search.model.dtype)).pooler_output.float()
        check_finite(embeds, "features", lambda row: name_source("image", rows[row]["name"]))
        self._delete([row["name"] for row in rows if row["name"] in known])
        data = [{**row, "vector": vector} for row, vector in zip(rows, embeds.cpu().tolist(), strict=True)]
        if self.table is None:
            self.table = self._database.create_table(TABLE, data)
        else:
            self.table.add(data)

    def _delete(self, names: Sequence[str]) -> None:
        if names:
            quoted = ", ".join("'" + name.replace("'", "''") + "'" for name in names)
            self.table.delete(f"name IN ({quoted})")

    def describe(self, row: int) -> str:
        """Return what an entry is called in a message."""
        return name_source(self.kind, self.names[row])

    def search(self, queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cosine similarities (Q, k), falling, and row numbers (Q, k) of the entries closest to queries (Q, E).

        Raises:
            MissingFolderError: Nothing was indexed yet.
        """
        if self.table is None:
            raise MissingFolderError("The database holds no images: call `update` first.")
        check_finite(queries, "features", "query {}".format)
        scores, indices = [], []
        for query in queries.float().cpu().numpy():
            closest = self.table.search(query).distance_type("dot").with_row_id(True).select(["name"])
            found = closest.limit(min(k, len(self))).to_arrow().to_pydict()
            self.names.update(zip(found["_rowid"], found["name"], strict=True))
            scores.append([1 - distance for distance in found["_distance"]])
            indices.append(found["_rowid"])
        while len(self.names) > max(NAMES, k * len(queries)):
            self.names.popitem(last=False)
        return torch.tensor(scores), torch.tensor(indices)

    def save(self, folder: str | Path) -> None:
        """Do nothing: the table is on disk."""
