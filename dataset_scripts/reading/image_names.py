"""Other names that an image file may have: without an ending, and those of COCO's releases of 2014, 2015 and 2017."""

from __future__ import annotations

import os
import re
from functools import cache

ENDINGS = (
    *("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic", "heif", "jfif", "jp2", "ppm", "tga"),
    *("pgm", "ico", "dds", "psd"),
)
SUBSETS = ("train2014", "val2014", "test2014", "test2015", "train2017", "val2017", "test2017")  # also folders
_COCO = re.compile(r"(?:COCO_[a-z]+\d{4}_)?(\d{12})\.jpg$", re.IGNORECASE)


class FolderListing:
    """The folders below a root, each of which is read once."""

    def __init__(self, root: str) -> None:
        """Begin; nothing is read yet."""
        self.root = root
        self.names = cache(self._names)

    def _names(self, folder: str) -> dict[str, list[str]]:
        """Return the names of the images in a folder by what they are without their ending."""
        found: dict[str, list[str]] = {}
        try:
            entries = sorted(os.listdir(os.path.join(self.root, folder)))
        except OSError:
            return found
        for name in entries:
            stem, ending = os.path.splitext(name)
            if ending[1:].lower() in ENDINGS:
                found.setdefault(stem, []).append(name)
        return found

    def other_names(self, relative: str) -> list[str]:
        """Return the paths, relative to the root, of the images that a path which is no file may mean."""
        folder, name = os.path.split(relative)
        if coco := _COCO.match(name):
            return self._of_coco(coco[1], folder)
        if os.path.splitext(name)[1][1:].lower() in ENDINGS:
            return []
        return [os.path.join(folder, found) for found in self.names(folder).get(name, [])]

    def _of_coco(self, number: str, folder: str) -> list[str]:
        """Return the images with a number of COCO, one of those of the same size: releases share numbers and files."""
        above = os.path.dirname(folder)
        parents = dict.fromkeys([above, "", "images", os.path.join(above, "images")])
        folders = [folder, *(os.path.join(up, one) for up in parents for one in ("", *SUBSETS))]
        stems = [number, *(f"COCO_{subset}_{number}" for subset in SUBSETS)]
        found = [
            os.path.normpath(os.path.join(one, name))
            for one in dict.fromkeys(map(os.path.normpath, folders))
            if (names := self.names(one))
            for stem in stems
            for name in names.get(stem, [])
        ]
        paths = {name: os.path.join(self.root, name) for name in found}
        if len({os.path.basename(name) for name in found if "COCO" in name}) > 1:  # of several images
            return found
        return list(
            {os.path.getsize(path): name for name, path in reversed(paths.items()) if os.path.isfile(path)}.values()
        )
