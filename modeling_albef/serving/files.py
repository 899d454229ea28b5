# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Files that a request may name: uploads, and the images of one folder; everything else is as if it did not exist."""

import os
import stat
from pathlib import Path
from typing import Any

from ..index_albef import IMAGE_SUFFIXES


class ServedFiles:
    """Which files a request may name, and the room that uploads take.

    Attributes:
        uploads: Folder of what visitors sent and of what was made for them. It belongs to this process alone.
        images: Folder whose images are shown; its other files, hidden ones and links that lead out of it are not.
        max_bytes: Size of a file that is opened, at most.
    """

    def __init__(
        self, uploads: Path, images: Path, max_bytes: int, max_total: int = 2**30, max_count: int = 4000
    ) -> None:
        """Take the two folders, which must exist, and the limits.

        Args:
            uploads: See the class.
            images: Likewise.
            max_bytes: Likewise.
            max_total: Bytes of all uploads, at most; beyond, `make_room` deletes the oldest.
            max_count: Number of files among the uploads, likewise.
        """
        self.uploads, self.images = uploads.resolve(strict=True), images.resolve(strict=True)
        self.max_bytes, self._max_total, self._max_count = max_bytes, max_total, max_count
        self._kept: frozenset[str] = frozenset()

    def find(self, path: Any) -> Path | None:
        """Return the file behind a path of a request, links followed; None for whatever must not be opened.

        A file is opened where it is a regular one of at most `max_bytes`, below `uploads`, or an image below `images`.
        Of paths outside of both folders not even their existence is looked up.
        """
        if not isinstance(path, str) or os.path.normpath(path) != path:
            return None
        if not any(Path(path).is_relative_to(folder) for folder in (self.uploads, self.images)):
            return None
        try:
            found = Path(path).resolve()
            status = found.stat()
        except (OSError, RuntimeError, ValueError):  # missing; a loop of links before Python 3.13; a null byte
            return None
        if not stat.S_ISREG(status.st_mode) or status.st_size > self.max_bytes:
            return None
        if found.is_relative_to(self.uploads):
            return found
        if not found.is_relative_to(self.images) or found.suffix.lower() not in IMAGE_SUFFIXES:
            return None
        is_hidden = any(part.startswith(".") for part in found.relative_to(self.images).parts)
        return None if is_hidden else found

    def can_be_sent(self, path: str) -> bool:
        """Return whether a file is sent to a browser: it can be found, and its ending is that of an image."""
        found = self.find(path)
        return found is not None and found.suffix.lower() in IMAGE_SUFFIXES

    def keep_present(self) -> None:
        """Spare the files that are now among the uploads, such as those of the examples, in `make_room`."""
        self._kept = frozenset(str(path) for path in self.uploads.rglob("*"))

    def make_room(self) -> None:
        """Delete the oldest uploads until the rest keeps the limits on bytes and number."""
        found = []
        for folder, _, names in os.walk(self.uploads):
            for path in (os.path.join(folder, name) for name in names):
                try:
                    status = os.lstat(path)
                except FileNotFoundError:  # another request made room at the same time
                    continue
                if path not in self._kept:
                    found.append((status.st_mtime, status.st_size, path))
        found.sort(reverse=True)
        total = 0
        for count, (_, size, path) in enumerate(found, start=1):
            total += size
            if total > self._max_total or count > self._max_count:
                Path(path).unlink(missing_ok=True)
                if (folder := os.path.dirname(path)) != str(self.uploads):
                    _remove_if_empty(folder)


def _remove_if_empty(folder: str) -> None:
    try:
        os.rmdir(folder)
    except OSError:  # another file lies in it
        pass
