"""The page of `check --statistics`: the tables, then duplicates side by side and images that are worth a look."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from processing import UnreadableImageError

from ..contents.statistics import ImageAt, Statistics
from .statistics_tables import share, tables
from .templates import render
from .thumbnails import image_source

SIDE = 240  # pixels of the longer side of an image
GROUPS = 24  # of duplicates, of each kind
IMAGES_A_GROUP = 4
IMAGES_A_KIND = 12
TEXT_LENGTH = 160  # characters of a caption
TIMES = "\N{NO-BREAK SPACE}\N{MULTIPLICATION SIGN}\N{NO-BREAK SPACE}"


def statistics_page(found: Statistics, title: str) -> str:
    """Return an HTML page that needs no other file."""
    galleries = [
        _groups(found, "Images with the same bytes", found.groups.identical()),
        _groups(found, "Images that look the same", found.groups.alike()),
    ]
    repeats = {split: one for split, one in found.splits.items() if one.repeated or one.shared}
    return render(
        "statistics.html.j2",
        title=title,
        facts=", ".join(f"{len(one.facts):,} images of {split}" for split, one in found.splits.items()),
        tables=list(tables(found)),
        repeats=repeats,
        word="questions" if found.has_questions else "captions",
        galleries=[gallery for gallery in galleries if gallery["groups"]],
        kinds=_odd(found),
        text_length=TEXT_LENGTH,
    )


def _groups(found: Statistics, title: str, groups: Sequence[list[ImageAt]]) -> dict[str, Any]:
    """Return some groups of duplicates; those over several splits first."""
    ordered = sorted(groups, key=lambda group: len({split for split, _ in group}) < 2)
    return {
        "title": title,
        "count": len(groups),
        "groups": [
            {
                "figures": [_figure(found, *image) for image in _of_each_split(group)],
                "hidden": max(0, len(group) - IMAGES_A_GROUP),
            }
            for group in ordered[:GROUPS]
        ],
    }


def _of_each_split(group: list[ImageAt]) -> list[ImageAt]:
    """Return the images of a group that are shown: the first of each split, then others."""
    first = {split: (split, index) for split, index in reversed(group)}
    chosen = [image for image in group if image in first.values()]
    chosen += [image for image in group if image not in chosen][: IMAGES_A_GROUP - len(chosen)]
    return sorted(chosen, key=group.index)


def _odd(found: Statistics) -> list[dict[str, Any]]:
    """Return some images of each kind that is worth a look."""
    odd = {split: one.odd_images() for split, one in found.splits.items()}
    kinds = []
    for kind in next(iter(odd.values()), {}):
        images = [(split, int(index)) for split, some in odd.items() for index in some[kind]]
        total = sum(len(one.facts) for one in found.splits.values())
        step = max(1, len(images) // IMAGES_A_KIND)
        chosen = images[::step][:IMAGES_A_KIND]
        if images:
            figures = [_figure(found, *image) for image in chosen]
            title, count = kind[0].upper() + kind[1:], share(len(images), total)
            kinds.append({"title": title, "count": count, "figures": figures})
    return kinds


def _figure(found: Statistics, split: str, index: int) -> dict[str, str]:
    """Return what the page shows of an image."""
    one = found.splits[split]
    row_number = int(one.first_rows[index])
    row, facts = one.dataset[row_number], one.facts[index]
    texts = row["question"] if found.has_questions else (row["caption"] or [""])
    name = os.path.basename((row["image"] or {}).get("path") or "")
    shown = {"name": name or f"row {row_number}", "split": split, "row": f"{row_number:,}", "source": "", "problem": ""}
    shown |= {"id": str(row["image_id"]), "text": texts if isinstance(texts, str) else texts[0], "size": ""}
    try:
        shown["source"] = image_source(row["image"], SIDE)
        shown["size"] = f"{facts['width']:,}{TIMES}{facts['height']:,}"
    except UnreadableImageError as error:
        shown["problem"] = str(error)
    return shown
