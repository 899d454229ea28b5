"""Draw images of a data set with their captions, or questions and answers, as one HTML page.

The page needs no other file, and reads well on a phone and on a dark screen.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from typing import Any

import datasets
import numpy as np

from processing import UnreadableImageError, open_image

from .. import load_dataset_script
from ..reading.problems import DataError
from .arguments import add_data_arguments, data_fields
from .templates import render, write_page
from .thumbnails import image_source

THUMBNAIL = 480  # pixels of the longer side
TEXTS = 10  # that are shown of an image
NO_BREAK = "\N{NO-BREAK SPACE}"
TIMES = f"{NO_BREAK}\N{MULTIPLICATION SIGN}{NO_BREAK}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_data_arguments(parser)
    parser.add_argument("--split", default="train", help="split, or a slice such as 'train[:1000]'; default: train")
    parser.add_argument("--n", type=int, default=24, help="images, evenly over the split; default: 24")
    parser.add_argument("--out", default="contact_sheet.html", help="HTML file; default: contact_sheet.html")


def run(options: argparse.Namespace) -> int:
    """Draw a contact sheet."""
    if options.n < 1:
        raise DataError(f"--n is {options.n}, but must be at least 1.")
    dataset = load_dataset_script(**data_fields(options), split=options.split)
    page = contact_sheet(dataset, f"{options.name}, {options.split}", options.n)
    print(f"Wrote {write_page(options.out, page)}: open it in a browser.")
    return 0


def contact_sheet(dataset: datasets.Dataset, title: str, count: int = 24) -> str:
    """Return an HTML page with `count` images inside, evenly from all, the longer side at most 480 pixels.

    Rows have `image`, and `caption` (one or a list) or `question` and `answers`; those of the same `image_id` share a
    figure. An image that cannot be read is replaced by what is wrong with it.
    """
    dataset = dataset.cast_column("image", datasets.Image(decode=False))
    groups = _rows_of_images(dataset)
    chosen = np.linspace(0, max(0, len(groups) - 1), min(count, len(groups))).round().astype(int)
    facts = f"{len(chosen)} of {len(groups):,} images, {len(dataset):,} rows · {', '.join(dataset.column_names)}"
    figures = (_figure(dataset, groups[index]) for index in chosen)
    return render("contact_sheet.html.j2", title=title, facts=facts, figures=figures)


def _rows_of_images(dataset: datasets.Dataset) -> list[np.ndarray]:
    """Return the numbers of the rows of each image, in order of first appearance."""
    if "image_id" not in dataset.column_names:
        return list(np.arange(len(dataset))[:, None])
    ids = np.asarray(dataset.with_format("arrow")["image_id"])
    _, inverse, counts = np.unique(ids, return_inverse=True, return_counts=True)
    groups = np.split(np.argsort(inverse, kind="stable"), np.cumsum(counts)[:-1]) if len(ids) else []
    return sorted(groups, key=lambda rows: rows[0])


def _figure(dataset: datasets.Dataset, numbers: np.ndarray) -> dict[str, Any]:
    """Return what the template shows of an image and its rows."""
    rows = [dataset[int(number)] for number in numbers[:TEXTS]]
    texts = [text for row in rows for text in _texts(row)]
    source = rows[0]["image"]
    facts = [_named_rows(numbers)]
    if "image_id" in rows[0]:
        facts.append(f"image {rows[0]['image_id']}")
    if source["path"]:
        facts.append(os.path.basename(source["path"]))
    figure: dict[str, Any] = {"texts": texts[:TEXTS], "problem": "", "source": ""}
    figure["hidden"] = max(0, len(texts) - TEXTS) + max(0, len(numbers) - TEXTS)
    try:
        image = open_image(source)
        figure["source"] = image_source(image, THUMBNAIL)
        facts.append(f"{image.width}{TIMES}{image.height}")
    except UnreadableImageError as error:
        figure["problem"] = str(error)
    return figure | {"facts": f"{NO_BREAK}· ".join(facts)}


def _named_rows(numbers: np.ndarray) -> str:
    """Return numbers of rows as text."""
    if len(numbers) == 1:
        return f"row {numbers[0]}"
    if numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"rows {numbers[0]} to {numbers[-1]}"
    return f"rows {', '.join(map(str, numbers[:TEXTS]))}{' ..' * (len(numbers) > TEXTS)}"


def _texts(row: dict[str, Any]) -> list[dict[str, str]]:
    """Return captions of a row, or its question with the answers, the most frequent first, and their counts."""
    if "question" not in row:
        captions = row.get("caption") or []
        return [{"question": "", "body": text} for text in ([captions] if isinstance(captions, str) else captions)]
    answers = row.get("answers") or []
    counts = Counter(answers).most_common()
    shown = (answer if len(answers) == 1 else f"{answer}{TIMES}{count}" for answer, count in counts)
    return [{"question": row["question"], "body": ", ".join(shown) or "no answer"}]
