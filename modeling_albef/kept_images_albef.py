# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Embeddings and states of indexed images, kept on disk by the content of the files, and read by memory map.

Shapes: N images, P image tokens, H width of the vision tower, E projection width.
"""

import hashlib
import json
import os
import shutil
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from transformers.utils import logging

from .configuration_albef import AlbefError, one_line

logger = logging.get_logger(__name__)
BLOCK = 64  # images a file
OPEN_FILES = 64  # memory maps that a process keeps
MEMORY = 1 << 29  # bytes of states that are kept in memory, those used last
SAMPLE = 1024  # values of each weight that tell one model from another


class Skipped(NamedTuple):
    """An image that was left out of an index."""

    name: str
    reason: str


class KeptImages:
    """Embeddings and float16 states of images in a folder, by digests of their files.

    Files are whole or not there, so an interrupted indexing goes on where it was.

    Attributes:
        files: Size in bytes, time of change in nanoseconds and digest of each indexed file, by its name.
    """

    def __init__(self, folder: str | Path, fingerprint: str, files: Mapping[str, Sequence[Any]] | None = None) -> None:
        """Open what a folder holds of one model.

        Args:
            folder: Of the index.
            fingerprint: What `fingerprint_of` returned for the model.
            files: See the class.
        """
        self.root, self.fingerprint, self.files = Path(folder) / "blocks", fingerprint, dict(files or {})
        self._blocks = self.root / fingerprint
        self._rows: dict[str, tuple[Path, int]] = {}  # by digest: file, row
        self._maps: OrderedDict[Path, Any] = OrderedDict()
        self._memory: OrderedDict[str, torch.Tensor] = OrderedDict()
        for path in sorted(self._blocks.glob("*.safetensors")):
            try:
                with safe_open(path, "pt") as file:
                    digests = json.loads((file.metadata() or {})["digests"])
            except (SafetensorError, json.JSONDecodeError, KeyError) as error:
                logger.warning(f"{path} is damaged ({one_line(error)}): its images are encoded again.")
                path.unlink()
            else:
                self._rows |= {digest: (path, row) for row, digest in enumerate(digests)}

    def __contains__(self, digest: str) -> bool:
        return digest in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def update(
        self,
        names: Sequence[str],
        read: Callable[[str], Any],
        encode: Callable[[list[Any]], tuple[torch.Tensor, torch.Tensor | None]],
    ) -> tuple[list[str], list[Skipped]]:
        """Encode the files that are new or changed, and forget all that are not named.

        Args:
            names: Paths of images.
            read: Returns the image of a path, or raises `UnreadableError`.
            encode: Returns embeddings (N, E) and states (N, P, H), or None for these, of at most `BLOCK` images.

        Returns:
            The names of the images that are kept now, in the order given, and what was left out.
        """
        files, skipped = self._digest_files(names)
        missing = {entry[2]: name for name, entry in reversed(files.items()) if entry[2] not in self}
        todo = sorted(missing.items(), key=lambda pair: pair[1])
        damaged: dict[str, str] = {}  # reason by digest
        with logging.tqdm(total=len(todo), desc="Indexing", unit="image", disable=len(todo) < BLOCK) as bar:
            for start in range(0, len(todo), BLOCK):
                part = todo[start : start + BLOCK]
                images: dict[str, Any] = {}
                for digest, name in part:
                    try:
                        images[digest] = read(name)
                    except UnreadableError as error:
                        damaged[digest] = str(error)
                if images:
                    embeds, states = encode(list(images.values()))
                    self._check_room(states, len(todo) - start)
                    self._write(list(images), embeds, states)
                bar.update(len(part))
        skipped += [Skipped(name, damaged[entry[2]]) for name, entry in files.items() if entry[2] in damaged]
        self.files = {name: entry for name, entry in files.items() if entry[2] not in damaged}
        self._forget({entry[2] for entry in self.files.values()})
        return list(self.files), skipped

    def embeds_of(self, names: Sequence[str]) -> torch.Tensor:
        """Return the embeddings (N, E) of indexed files."""
        digests = [self.files[name][2] for name in names]
        found: dict[str, torch.Tensor] = {}
        for path in sorted({self._rows[digest][0] for digest in digests}):
            with safe_open(path, "pt") as file:
                embeds = file.get_tensor("embeds")
                found |= dict(zip(json.loads(file.metadata()["digests"]), embeds, strict=True))
        return torch.stack([found[digest] for digest in digests])

    def states_of(self, names: Sequence[str]) -> torch.Tensor | None:
        """Return the states (N, P, H) of indexed files, float16; None where embeddings alone were kept."""
        states = [self._state(self.files[name][2]) for name in names]
        return (
            None if any(state is None for state in states) else torch.stack([one for one in states if one is not None])
        )

    def _state(self, digest: str) -> torch.Tensor | None:
        if digest not in self._memory:
            path, row = self._rows[digest]
            if path not in self._maps:
                file = safe_open(path, "pt")
                self._maps[path] = file.get_slice("states") if "states" in file.keys() else None
                if len(self._maps) > OPEN_FILES:
                    self._maps.popitem(last=False)
            self._maps.move_to_end(path)
            if self._maps[path] is None:
                return None
            self._memory[digest] = self._maps[path][row]
            while len(self._memory) * self._memory[digest].nbytes > MEMORY and len(self._memory) > 1:
                self._memory.popitem(last=False)
        self._memory.move_to_end(digest)
        return self._memory[digest]

    def _digest_files(self, names: Iterable[str]) -> tuple[dict[str, tuple[int, int, str]], list[Skipped]]:
        """Return size, time and digest of each file, which is read only where it is new or changed."""
        files, skipped = {}, []
        for name in names:
            try:
                status = os.stat(name)
                known = self.files.get(name, (None, None, ""))
                digest = str(known[2])
                if (status.st_size, status.st_mtime_ns) != (known[0], known[1]):
                    digest = hashlib.sha256(Path(name).read_bytes()).hexdigest()[:32]
            except OSError as error:
                skipped.append(Skipped(name, f"cannot be read ({error.strerror})"))
            else:
                files[name] = (status.st_size, status.st_mtime_ns, digest)
        return files, skipped

    def _write(self, digests: list[str], embeds: torch.Tensor, states: torch.Tensor | None) -> None:
        tensors = {"embeds": embeds.float().cpu().contiguous()}
        if states is not None:
            tensors["states"] = states.to("cpu", torch.float16).contiguous()
            if not bool(tensors["states"].isfinite().all()):
                raise AlbefError("Image states are beyond the range of float16: index with `keep_states=False`.")
        self._blocks.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256("".join(digests).encode()).hexdigest()[:24]
        path, part = self._blocks / f"{name}.safetensors", self._blocks / f"{name}.part{os.getpid()}"
        save_file(tensors, part, metadata={"digests": json.dumps(digests)})
        part.replace(path)
        self._rows |= {digest: (path, row) for row, digest in enumerate(digests)}

    def _check_room(self, states: torch.Tensor | None, count: int) -> None:
        if states is None:
            return
        self.root.mkdir(parents=True, exist_ok=True)
        needed, free = states[0].numel() * 2 * count / 1e9, shutil.disk_usage(self.root).free / 1e9
        if needed > free:
            raise AlbefError(
                f"The states of {count} images take {needed:.1f} GB, but {self.root} has {free:.1f} GB left: make "
                "room, or index with `keep_states=False`."
            )

    def _forget(self, wanted: set[str]) -> None:
        """Remove files of which nothing is wanted, write those anew of which less than half is, and other models'."""
        by_file: dict[Path, list[str]] = {}
        for digest, (path, _) in self._rows.items():
            by_file.setdefault(path, []).append(digest)
        for path, digests in by_file.items():
            kept = [digest for digest in digests if digest in wanted]
            if 2 * len(kept) >= len(digests):
                continue
            if kept:
                with safe_open(path, "pt") as file:
                    rows = torch.tensor([self._rows[digest][1] for digest in kept])
                    tensors = {name: file.get_tensor(name)[rows] for name in file.keys()}
                self._write(kept, tensors["embeds"], tensors.get("states"))
            self._rows = {digest: place for digest, place in self._rows.items() if place[0] != path}
            self._maps.pop(path, None)
            path.unlink()
        self._memory.clear()
        for other in self.root.glob("*"):
            if other.is_dir() and other != self._blocks:
                shutil.rmtree(other)


class UnreadableError(Exception):
    """An image that cannot be read; the message says why, without its name."""


def fingerprint_of(tower: nn.Module, projection: nn.Module, **settings: Any) -> str:
    """Return a digest of what an image's states depend on: values drawn from each weight, and the settings."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for module in (tower, projection):
        for name, weight in sorted(module.state_dict().items()):
            values = weight.detach().flatten()[:: max(1, weight.numel() // SAMPLE)].double().cpu()
            digest.update(f"{name}{tuple(weight.shape)}".encode() + values.numpy().tobytes())
    return digest.hexdigest()[:24]
