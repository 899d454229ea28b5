"""Draws pictures of a data set with their captions, or questions and answers, as one HTML page.

The page needs no other file, and reads well on a phone and on a dark screen.
"""

from __future__ import annotations

import argparse
import base64
import os
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from processing import UnreadableImageError, open_image

from . import load_dataset_script
from .commands import add_data_arguments, data_fields
from .thumbnails import thumbnail

THUMBNAIL = 480  # pixels of the longer side
TEXTS = 10  # that are shown of a picture
NO_BREAK = "\N{NO-BREAK SPACE}"
TIMES = f"{NO_BREAK}\N{MULTIPLICATION SIGN}{NO_BREAK}"
STYLE = """
:root { color-scheme: light dark; --page: #f4f4f1; --card: #fff; --text: #1d1d1b; --faint: #63635e; --line: #deded8; }
@media (prefers-color-scheme: dark) {
  :root { --page: #161618; --card: #212124; --text: #ececea; --faint: #a3a39d; --line: #38383c; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 90rem; padding: 1rem; background: var(--page); color: var(--text);
  font: 1rem/1.45 system-ui, sans-serif; }
h1 { margin: 0; font-size: 1.4rem; overflow-wrap: anywhere; }
header { margin-bottom: 1rem; }
header p { margin: .2rem 0 0; }
header p, .faint { color: var(--faint); font-size: .85rem; overflow-wrap: anywhere; }
main { display: grid; gap: 1rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)); }
figure { margin: 0; overflow: hidden; background: var(--card); border: 1px solid var(--line); border-radius: .5rem; }
img, .broken { display: block; width: 100%; aspect-ratio: 4 / 3; object-fit: contain; background: var(--line); }
.broken { padding: 1rem; overflow: auto; overflow-wrap: anywhere; }
figcaption { padding: .7rem .8rem .8rem; }
ul { margin: 0 0 .5rem; padding: 0; list-style: none; }
li { overflow-wrap: anywhere; }
li + li { margin-top: .45rem; padding-top: .45rem; border-top: 1px solid var(--line); }
b { font-weight: 600; }
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_data_arguments(parser)
    parser.add_argument("--split", default="train", help="split, or a slice such as 'train[:1000]'; default: train")
    parser.add_argument("--n", type=int, default=24, help="pictures, evenly over the split; default: 24")
    parser.add_argument("--out", default="contact_sheet.html", help="HTML file; default: contact_sheet.html")


def run(options: argparse.Namespace) -> int:
    """Draw a contact sheet."""
    if options.n < 1:
        raise ValueError(f"--n is {options.n}, but must be at least 1.")
    dataset = load_dataset_script(**data_fields(options), split=options.split)
    page = contact_sheet(dataset, f"{options.name}, {options.split}", options.n)
    out = Path(options.out).expanduser()
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f"{out.name}.{os.getpid()}.incomplete")
    unfinished.write_text(page, encoding="utf-8")
    unfinished.replace(out)
    print(f"Wrote {out}: open it in a browser.")
    return 0


def contact_sheet(dataset: datasets.Dataset, title: str, count: int = 24) -> str:
    """Draw pictures with what belongs to them.

    Args:
        dataset: Rows with `image`, and `caption` (one or a list) or `question` and `answers`; those of the same
            `image_id` share a picture.
        title: Heading of the page.
        count: Pictures, taken evenly from all.

    Returns:
        An HTML page with the pictures inside, the longer side at most 480 pixels. A picture that cannot be read is
        replaced by what is wrong with it.
    """
    dataset = dataset.cast_column("image", datasets.Image(decode=False))
    groups = _rows_of_pictures(dataset)
    chosen = np.linspace(0, max(0, len(groups) - 1), min(count, len(groups))).round().astype(int)
    figures = "\n".join(_figure(dataset, groups[place]) for place in chosen)
    facts = f"{len(chosen)} of {len(groups):,} pictures, {len(dataset):,} rows · {', '.join(dataset.column_names)}"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<header><h1>{escape(title)}</h1><p>{escape(facts)}</p></header>\n<main>\n{figures}\n</main>\n</body>\n</html>\n"
    )


def _rows_of_pictures(dataset: datasets.Dataset) -> list[np.ndarray]:
    """Numbers of the rows of each picture, in order of first appearance."""
    if "image_id" not in dataset.column_names:
        return list(np.arange(len(dataset))[:, None])
    ids = np.asarray(dataset.with_format("arrow")["image_id"])
    _, inverse, counts = np.unique(ids, return_inverse=True, return_counts=True)
    groups = np.split(np.argsort(inverse, kind="stable"), np.cumsum(counts)[:-1]) if len(ids) else []
    return sorted(groups, key=lambda rows: rows[0])


def _figure(dataset: datasets.Dataset, numbers: np.ndarray) -> str:
    """A picture and the texts of its rows."""
    rows = [dataset[int(number)] for number in numbers[:TEXTS]]
    texts = [text for row in rows for text in _texts(row)]
    hidden = max(0, len(texts) - TEXTS) + max(0, len(numbers) - TEXTS)
    items = [f'<li dir="auto">{text}</li>' for text in texts[:TEXTS]]
    if hidden:
        items.append(f'<li class="faint">and {hidden} more</li>')
    source = rows[0]["image"]
    facts = [_named_rows(numbers)]
    if "image_id" in rows[0]:
        facts.append(f"image {rows[0]['image_id']}")
    if source["path"]:
        facts.append(os.path.basename(source["path"]))
    try:
        size, picture = _picture(source)
        facts.append(size)
    except UnreadableImageError as error:
        picture = f'<div class="broken" role="img">{escape(str(error))}</div>'
    return (
        f"<figure>{picture}<figcaption><ul>{''.join(items)}</ul>"
        f'<div class="faint">{escape(f"{NO_BREAK}· ".join(facts))}</div></figcaption></figure>'
    )


def _named_rows(numbers: np.ndarray) -> str:
    """Numbers of rows as text."""
    if len(numbers) == 1:
        return f"row {numbers[0]}"
    if numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"rows {numbers[0]} to {numbers[-1]}"
    return f"rows {', '.join(map(str, numbers[:TEXTS]))}{' ..' * (len(numbers) > TEXTS)}"


def _texts(row: dict[str, Any]) -> list[str]:
    """Captions of a row, or its question with the answers and how many people gave each; as HTML."""
    if "question" in row:
        return [f"<b>{escape(row['question'])}</b><br>{escape(_counted(row.get('answers') or []))}"]
    captions = row.get("caption") or []
    return [escape(caption) for caption in ([captions] if isinstance(captions, str) else captions)]


def _counted(answers: Sequence[str]) -> str:
    """Different answers, the most frequent first."""
    counts = Counter(answers).most_common()
    return (
        ", ".join(answer if len(answers) == 1 else f"{answer}{TIMES}{count}" for answer, count in counts) or "no answer"
    )


def _picture(source: Any) -> tuple[str, str]:
    """Size in pixels, and a thumbnail as HTML."""
    image = open_image(source)
    size = f"{image.width}{TIMES}{image.height}"
    data = thumbnail(image, THUMBNAIL)
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    return size, f'<img alt="" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'
