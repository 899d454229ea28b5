"""Image files of annotations: found below their root, also without an ending and under COCO's other names."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import unicodedata
from dataclasses import dataclass, field
from functools import cache

from .problems import encodes, short

_DRIVE = re.compile(r"[A-Za-z]:")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
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
        self._entries = cache(self._read_entries)
        self._below = cache(self._read_below)

    def _names(self, folder: str) -> dict[str, list[str]]:
        """Return the names of the images in a folder by what they are without their ending."""
        found: dict[str, list[str]] = {}
        for name in self._listed(folder):
            stem, ending = os.path.splitext(name)
            if ending[1:].lower() in ENDINGS:
                found.setdefault(stem, []).append(name)
        return found

    def _listed(self, folder: str) -> list[str]:
        """Return the names in a folder; none where it cannot be read."""
        try:
            return sorted(os.listdir(os.path.join(self.root, folder)))
        except OSError:
            return []

    def other_names(self, relative: str) -> list[str]:
        """Return the paths, relative to the root, of the images that a path which is no file may mean."""
        folder, name = os.path.split(relative)
        if coco := _COCO.match(name):
            return self._of_coco(coco[1], folder)
        if os.path.splitext(name)[1][1:].lower() in ENDINGS:
            return self._spelled_otherwise(relative)
        return [os.path.join(folder, found) for found in self.names(folder).get(name, [])]

    def _spelled_otherwise(self, relative: str) -> list[str]:
        """Return the files whose path differs in case or Unicode form alone; for a bare name, those in any folder."""
        found = [""]
        for part in relative.split("/"):
            found = [os.path.join(one, name) for one in found for name in self._entries(one).get(_spelling(part), [])]
        return found or ([] if "/" in relative else self._below().get(_spelling(relative), []))

    def _read_entries(self, folder: str) -> dict[str, list[str]]:
        """Return the names in a folder by their spelling."""
        found: dict[str, list[str]] = {}
        for name in self._listed(folder):
            found.setdefault(_spelling(name), []).append(name)
        return found

    def _read_below(self) -> dict[str, list[str]]:
        """Return the paths of all files below the root, those in hidden folders left out, by their name's spelling."""
        found: dict[str, list[str]] = {}
        for folder, inner, names in os.walk(self.root):
            inner[:] = sorted(name for name in inner if not name.startswith("."))
            for name in sorted(names):
                path = os.path.relpath(os.path.join(folder, name), self.root)
                found.setdefault(_spelling(name), []).append(path)
        return found

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


@dataclass(frozen=True)
class ImageRoot:
    """Where image paths of annotations start."""

    folder: str  # absolute
    setting: str = "image_root"  # that names the folder, for messages
    patterns: tuple[str, ...] = ()  # where else an image may lie, below the folder: see `sources.yaml`

    def problem(self) -> str | None:
        """Return what is wrong with the folder, or None."""
        if os.path.isdir(self.folder):
            return None
        return f"{self.folder!r} is not a folder: name the folder that holds the images"

    def find(self, relative: str, listing: FolderListing) -> tuple[str, str | None]:
        """Return the absolute path of an image, and what is wrong with the file, or None.

        Where there is no such file, one with another name is looked for; see `FolderListing`.
        """
        path = os.path.join(self.folder, relative)
        problem = _file_problem(path, self.setting)
        if not problem:
            return path, None
        name = os.path.basename(relative)
        others = [os.path.normpath(pattern.format(path=relative, name=name)) for pattern in self.patterns]
        for other in others:
            if _file_problem(os.path.join(self.folder, other), self.setting) is None:
                return os.path.join(self.folder, other), None
        for other in (relative, *others):
            if found := listing.other_names(other):
                if len(found) > 1:
                    names = " or ".join(map(repr, found))
                    return path, f"image {short(relative)} is no file, and may be {names}: write which of them it is"
                path = os.path.join(self.folder, found[0])
                return path, _file_problem(path, self.setting)
        return path, problem


class FirstCopies:
    """Finds the first file of each content. Only files of the same size are read."""

    def __init__(self) -> None:
        """Begin with no file."""
        self._alone: dict[int, str] = {}  # size -> the only file of it, not read yet
        self._first: dict[tuple[int, bytes], str] = {}  # of sizes that several files have

    def add(self, path: str) -> str:
        """Return the first file that was added with the same content, `path` itself if there is none or it is gone."""
        try:
            size = os.stat(path).st_size
            earlier = self._alone.setdefault(size, path)
            if earlier == path:
                return path
            if earlier:
                self._first[size, _digest(earlier)] = earlier
                self._alone[size] = ""
            return self._first.setdefault((size, _digest(path)), path)
        except OSError:  # whoever opens the image says what is wrong with it
            return path


@dataclass
class Images:
    """Images in order of first appearance: one index a file, however its path is written.

    Attributes:
        paths: Absolute.
        copies: Where it is set, files with the same bytes are one image, the first of them.
    """

    paths: list[str] = field(default_factory=list)
    copies: FirstCopies | None = None
    # For each root: image as written, and relative path -> index; None for an image that cannot be used.
    _index_of: dict[ImageRoot, dict[str, int | None]] = field(default_factory=dict)
    _index_of_path: dict[str, int] = field(default_factory=dict)
    _listings: dict[str, FolderListing] = field(default_factory=dict)  # of a root's folder

    def add(self, root: ImageRoot, written: str) -> tuple[int | None, str]:
        """Return an image's index, or None and what is wrong with it: said for its first row, empty for further ones.

        Each image is looked up once.
        """
        known = self._index_of.setdefault(root, {})
        if written in known:
            return known[written], ""
        relative = relative_path(written)
        problem = path_problem(written, relative, root.setting)
        if problem:
            known[written] = None
            return None, problem
        if relative in known:
            known[written] = known[relative]
            return known[written], ""
        if root.folder not in self._listings:
            self._listings[root.folder] = FolderListing(root.folder)
        path, problem = root.find(relative, self._listings[root.folder])
        if not problem and self.copies is not None:
            path = self.copies.add(path)
        if not problem and path not in self._index_of_path:
            self._index_of_path[path] = len(self.paths)
            self.paths.append(path)
        known[written] = known[relative] = None if problem else self._index_of_path[path]
        return known[written], problem or ""


def _spelling(name: str) -> str:
    """Return a name in the form that a Mac, Windows and Linux have in common: whole letters, without case."""
    return unicodedata.normalize("NFC", name).casefold()


def absolute(folder: str | os.PathLike[str]) -> str:
    """Return a path made absolute, with "~" for the home folder."""
    return os.path.abspath(os.path.expanduser(folder))


def relative_path(written: str) -> str:
    """Return an image path with slashes, without "." and inner "..": one spelling a file."""
    return os.path.normpath(written.replace("\\", "/"))


def path_problem(written: str, relative: str, setting: str = "image_root") -> str | None:
    """Return what is wrong with an image path before the file system is asked, or None."""
    if _URL.match(written):
        return f"image {short(written)} is a URL: fetch the images and write paths relative to {setting}"
    if relative.startswith("/") or _DRIVE.match(relative):
        return f"image {short(written)} is an absolute path: write it relative to {setting}"
    if relative == ".." or relative.startswith("../"):
        return f"image {short(written)} leaves {setting}: write a path below it, or set a higher {setting}"
    if "\0" in written or not encodes(written):
        return f"image {short(written)} cannot be a path: remove the stray character"
    return None


def _file_problem(path: str, setting: str) -> str | None:
    """Return what is wrong with an image file as a file, or None."""
    remedy = f"check its name, or set {setting}, the folder where names start"
    try:
        found = os.stat(path)
    except OSError as error:
        return f"image {path!r} cannot be found ({error.strerror}): {remedy}"
    if not stat.S_ISREG(found.st_mode):
        return f"image {path!r} is not a file: {remedy}"
    return None if found.st_size else f"image {path!r} is an empty file: fetch it again"


def _digest(path: str) -> bytes:
    """Return the SHA-256 of a file's content; raises OSError."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while part := stream.read(1 << 20):
            digest.update(part)
    return digest.digest()
