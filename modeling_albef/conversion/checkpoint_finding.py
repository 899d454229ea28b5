# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Where a checkpoint is: a path, an http address, or the name of a released file, whose address is known."""

import hashlib
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml
from huggingface_hub import constants

from .checkpoint_download import download, shown
from .checkpoint_reading import ConversionError

PUBLISHED = Path(__file__).parent / "published.yaml"


def released_files() -> dict[str, dict[str, str]]:
    """Return what is known of the released files that have an address, by their names in small letters."""
    published = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))
    return {Path(name).stem.lower(): facts for name, facts in published.items() if "url" in facts}


def find_checkpoint(given: str, folder: Path | None = None) -> Path:
    """Return the file or folder of that path; an http address or the name of a released file is downloaded.

    `folder` keeps downloads, by default one for each address in the cache of the Hub. A file that is there already
    is not downloaded again. Raises ConversionError.
    """
    if "://" not in given:
        url = None if Path(given).exists() else _find_address(given)
        if url is None:
            return Path(given)
    else:
        url = given
    name = _file_name(url)
    if folder is None:
        folder = Path(constants.HF_HOME) / "albef" / hashlib.sha256(url.encode()).hexdigest()[:16]
    target = folder / name
    if target.is_file():
        print(f"{target} is there already and is not downloaded again; delete it to have it anew")
    else:
        download(url, target)
    return target


def _find_address(name: str) -> str | None:
    """Return the address of a released file; None for what looks like a path."""
    released, path = released_files(), Path(name)
    facts = released.get(name.lower())
    if facts is None:
        if path.name != name:
            return None
        if path.stem.lower() in released:
            raise ConversionError(f"There is no file {name}: give its path, or the name {path.stem} to download it.")
        if path.suffix:
            return None
        raise ConversionError(
            f"There is no checkpoint {name}, and no released file has that name: give a path, an address or one of "
            f"{', '.join(released)}."
        )
    return facts["url"]


def _file_name(url: str) -> str:
    """Return the name of the file at an http address."""
    try:
        parts = urlsplit(url)
    except ValueError as error:  # brackets
        raise ConversionError(f"{url} is no address ({error}): give one of http or https, or a path.") from error
    if parts.scheme.lower() not in ("http", "https"):
        raise ConversionError(f"{shown(url)} is no address of http or https: give one, or the path of a file.")
    name = unquote(parts.path).rpartition("/")[2]
    if not name.strip(". ") or any(ord(letter) < 32 or letter in '\\:*?"<>|' for letter in name):
        raise ConversionError(f"{shown(url)} does not end in the name of a file: give the address of the file itself.")
    return name
