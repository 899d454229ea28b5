"""The parts of a report's page: frame, tables, cards with pictures. Texts of the data are escaped here alone."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from .examples import Candidate, Example

QUERY_SIDE, RESULT_SIDE = 320, 160  # pixels of a thumbnail's longer side
LONGEST = 400  # characters of a text that are shown
Thumbnail = Callable[[Any, int], bytes]
STYLE = """
:root { color-scheme: light dark; --page: #f4f4f1; --card: #fff; --text: #1d1d1b; --faint: #63635e; --line: #deded8;
  --shade: #0003; --curve: #1f5fae; --right: #17692f; --wrong: #b3261e; --partly: #7a5200; }
@media (prefers-color-scheme: dark) {
  :root { --page: #161618; --card: #212124; --text: #ececea; --faint: #a3a39d; --line: #38383c;
    --shade: #000a; --curve: #8ab8f5; --right: #6fd08c; --wrong: #ff9a92; --partly: #e6bb55; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 80rem; padding: 1rem; background: var(--page); color: var(--text);
  font: 1rem/1.45 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { margin: 0; font-size: 1.4rem; }
h2 { margin: 2rem 0 .7rem; font-size: 1.15rem; }
h3 { margin: 0; font-size: 1rem; font-weight: 600; }
p { margin: .2rem 0 0; }
.intro { margin: -.5rem 0 .7rem; }
.faint { color: var(--faint); font-size: .85rem; }
.grid, .cards { display: grid; gap: 1rem; align-items: start; }
.grid { grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); }
.cards { grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); }
.chart, article, .scroll, details { margin: 0; background: var(--card); border: 1px solid var(--line);
  border-radius: .5rem; }
.chart { padding: .6rem .6rem .7rem; }
.chart svg { display: block; width: 100%; height: auto; }
.chart text { fill: var(--faint); font: 11px system-ui, sans-serif; }
.chart .label { fill: var(--text); }
.chart .rule { fill: none; stroke: var(--line); }
.chart polyline { fill: none; stroke: var(--curve); stroke-width: 1.6; stroke-linejoin: round; }
.chart circle { fill: var(--curve); }
.chart figcaption { font-size: .85rem; color: var(--faint); }
.chart b { color: var(--text); }
.scroll { overflow-x: auto; max-width: 100%; width: fit-content;
  background: linear-gradient(to left, var(--card) 1.2rem, transparent) right / 2.4rem 100% no-repeat local,
    linear-gradient(to left, var(--shade), transparent) right / .8rem 100% no-repeat scroll, var(--card); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: .3rem .7rem; text-align: right; border-top: 1px solid var(--line); font-size: .9rem; }
tr:first-child > * { border-top: 0; }
th:first-child { text-align: left; }
th { font-weight: 600; }
td.text { text-align: left; overflow-wrap: anywhere; min-width: 4rem; }
details { padding: .6rem .8rem; }
details .scroll { border: 0; margin-top: .4rem; }
summary { cursor: pointer; }
article { padding: .8rem; min-width: 0; }
.results { display: grid; gap: .6rem; margin-top: .6rem; grid-template-columns: repeat(auto-fill, minmax(5rem, 1fr)); }
.pair { display: flex; flex-wrap: wrap; gap: .8rem; margin-top: .6rem; }
.pair > :first-child { flex: 1 1 9rem; max-width: 16rem; }
.pair > :last-child { flex: 2 1 13rem; min-width: 0; }
figure { margin: 0; min-width: 0; }
img, .gone { display: block; width: 100%; aspect-ratio: 4 / 3; object-fit: contain; background: var(--line); }
.gone { padding: .4rem; overflow: hidden; font-size: .75rem; }
article figcaption { font-size: .8rem; margin-top: .2rem; }
.results img, .results .gone { border: 3px solid var(--line); border-radius: .3rem; }
.results .right > :first-child { border: 3px solid var(--right); }
.results .wrong > :first-child { border: 3px dashed var(--wrong); }
.mark { font-weight: 600; }
.right .mark { color: var(--right); }
.wrong .mark { color: var(--wrong); }
.partly .mark { color: var(--partly); }
ol { margin: 0; padding: 0; list-style: none; }
li + li { margin-top: .35rem; padding-top: .35rem; border-top: 1px solid var(--line); }
.bar { display: block; height: .5rem; margin: .3rem 0 .1rem; background: var(--line); border-radius: .25rem; }
.bar > span { display: block; height: 100%; background: var(--curve); border-radius: .25rem; }
"""


def page(title: str, body: str) -> str:
    """A whole page.

    Args:
        title: Its heading.
        body: HTML below the heading.

    Returns:
        HTML that needs no other file and no script.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<header><h1>{escape(title)}</h1></header>\n{body}\n</body>\n</html>\n"
    )


def section(title: str, body: str, intro: str = "") -> str:
    """A part of the page with a heading; nothing where it has no content."""
    intro = f'<p class="faint intro">{escape(intro)}</p>' if intro else ""
    return f"<section><h2>{escape(title)}</h2>{intro}{body}</section>" if body else ""


def number(value: Any) -> str:
    """A number as HTML: rounded for the eye, as it is for programs."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return escape(str(value))
    small_or_large = isinstance(value, float) and value != 0 and not 1e-3 <= abs(value) < 1e7
    rounded = f"{value:.4g}" if small_or_large else f"{round(value, 4)}"
    return f'<data value="{value!r}">{rounded.removesuffix(".0")}</data>'


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table that scrolls by itself where it is wider than the page.

    Args:
        head: Titles of the columns; none where the rows speak for themselves.
        rows: Numbers or texts; the first cell of each is its title.

    Returns:
        HTML; empty where there is no row.
    """
    if not rows:
        return ""
    titles = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = [f"<tr>{titles}</tr>"] if head else []
    for title, *cells in rows:
        tags = "".join(
            f'<td class="text">{escape(cell)}</td>' if isinstance(cell, str) else f"<td>{number(cell)}</td>"
            for cell in cells
        )
        lines.append(f'<tr><th scope="row">{number(title)}</th>{tags}</tr>')
    return f'<div class="scroll" tabindex="0"><table>{"".join(lines)}</table></div>'


def folded(title: str, body: str) -> str:
    """What is shown only when it is asked for."""
    return f"<details><summary>{escape(title)}</summary>{body}</details>"


def shortened(text: str) -> str:
    """A text of the data as HTML, of bounded length, that does not turn the direction of what follows."""
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
    return f'<bdi dir="auto">{escape(text)}</bdi>'


class Pictures:
    """Small pictures of a data set's rows as HTML, each read once."""

    def __init__(self, dataset: Any, thumbnail: Thumbnail) -> None:
        """Prepares them.

        Args:
            dataset: Rows with an `image`, best not decoded: only then a file's name is known.
            thumbnail: Image of a row, and pixels of the longer side -> a PNG or JPEG file.
        """
        self.dataset, self.thumbnail = dataset, thumbnail
        self._known: dict[tuple[int, int], str] = {}

    def name(self, row: int) -> str:
        """Name of the picture's file without its folder, or the number of its row."""
        try:
            source = self.dataset[row]["image"]
        except (OSError, ValueError):
            return f"row {row}"
        path = source.get("path") if isinstance(source, Mapping) else None
        return os.path.basename(path) if path else f"row {row}"

    def html(self, row: int, side: int, verdict: str = "") -> str:
        """A picture; where it cannot be read any more, its name.

        Args:
            row: In the data set.
            side: Pixels of the longer side.
            verdict: For who cannot see it.

        Returns:
            An `<img>` with its data inside, or a `<div>`.
        """
        label = escape(f"{verdict} {self.name(row)}".strip())
        if (row, side) not in self._known:
            try:
                data = self.thumbnail(self.dataset[row]["image"], side)
                kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
                self._known[row, side] = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
            except (OSError, ValueError):
                self._known[row, side] = ""
        if not self._known[row, side]:
            return f'<div class="gone" role="img" aria-label="{label}">{escape(self.name(row))} cannot be read</div>'
        return f'<img alt="{label}" src="{self._known[row, side]}">'


def verdict(credit: float | None) -> tuple[str, str]:
    """Class and words of how right something is."""
    if credit is None:
        return "unknown", ""
    if credit >= 1:
        return "right", "✓ right"
    return ("wrong", "✗ wrong") if credit <= 0 else ("partly", f"◐ partly right ({100 * credit:.0f} %)")


def card(example: Example, pictures: Pictures) -> str:
    """A query with what came of it.

    Args:
        example: The query.
        pictures: Of its data set.

    Returns:
        An `<article>`.
    """
    title = escape(pictures.name(example.row or 0)) if example.text is None else shortened(example.text)
    head = f"<h3>{title}</h3>" + (f'<p class="faint">{shortened(example.note)}</p>' if example.note else "")
    if example.row is None:
        results = "".join(_picture_result(candidate, pictures) for candidate in example.candidates)
        return f'<article>{head}<div class="results">{results}</div></article>'
    results = f"<ol>{''.join(_text_result(candidate) for candidate in example.candidates)}</ol>"
    if example.truths:
        truths = " · ".join(map(shortened, example.truths))
        results += f'<p class="faint">{"Given answers" if example.text else "Its own captions"}: {truths}</p>'
    picture = f"<figure>{pictures.html(example.row, QUERY_SIDE)}</figure>"
    return f'<article>{head}<div class="pair">{picture}<div>{results}</div></div></article>'


def _picture_result(candidate: Candidate, pictures: Pictures) -> str:
    kind, words = verdict(candidate.credit)
    score = "" if candidate.score is None else f" · {candidate.score:.2f}"
    place = "not ranked" if candidate.place is None else f"#{candidate.place}{score}"
    return (
        f'<figure class="{kind}">{pictures.html(candidate.row or 0, RESULT_SIDE, words)}'
        f'<figcaption><span class="mark">{words}</span><br><span class="faint">{place}</span></figcaption></figure>'
    )


def _text_result(candidate: Candidate) -> str:
    kind, words = verdict(candidate.credit)
    place = "" if candidate.place is None else f"{candidate.place}. "
    line = f'{place}{shortened(candidate.text or "")} <span class="mark">{words}</span> '
    if candidate.probability is not None:
        width = 100 * min(1.0, max(0.0, candidate.probability))
        line += (
            f'<span class="bar"><span style="width:{width:.1f}%"></span></span>'
            f'<span class="faint">probability {number(candidate.probability)}</span>'
        )
    return f'<li class="{kind}">{line}<span class="faint">{_score(candidate)}</span></li>'


def _score(candidate: Candidate) -> str:
    return "" if candidate.score is None else f"score {candidate.score:.2f}"
