"""How far down right results are, and which results come first for many queries, of a retrieval.

Shapes: Q queries, I images, T texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from ..evaluation.results import RetrievalResult
from ..evaluation.retrieval_metrics import chance_recall, rank_of_first_match

NUM_HUBS = 5


@dataclass(frozen=True)
class Bar:
    """Ranks from `first` to `last`, 1 = the best, and the queries whose first right result has one of them."""

    first: int
    last: int | None  # None: further down than was ranked
    count: int
    share: float  # of all queries, 0..1
    chance: float  # the share that a random order would have


@dataclass(frozen=True)
class Hub:
    """A candidate that comes first for several queries."""

    candidate: int  # row of the image, or index of the text
    count: int


@dataclass(frozen=True)
class Direction:
    """One of the two directions of a retrieval, as the report shows it."""

    title: str
    asks: str  # what the queries are, in the plural
    found: str  # what the candidates are, in the plural
    bars: tuple[Bar, ...]
    hubs: tuple[Hub, ...]
    distinct: int  # candidates that come first for some query
    num_queries: int


def directions(result: RetrievalResult) -> list[Direction]:
    """Return both directions: images that ask for texts, and texts that ask for images."""
    owners, num_images, num_texts = result.caption_image, len(result.image_to_text.ids), len(result.captions)
    own_texts = torch.bincount(owners, minlength=num_images)
    asking = own_texts.nonzero()[:, 0]  # the images that have captions
    texts, images = result.image_to_text.ids[asking], result.text_to_image.ids
    text_ranks, image_ranks = (getattr(result, name, None) for name in ("text_ranks", "image_ranks"))
    is_whole = text_ranks is not None and image_ranks is not None  # ranks in the whole gallery
    if text_ranks is None or image_ranks is None:
        text_ranks = rank_of_first_match(owners[texts] == asking[:, None])
        image_ranks = rank_of_first_match(images == owners[:, None])
    depths = (num_texts, num_images) if is_whole else (texts.shape[1], images.shape[1])
    text_bars = histogram(text_ranks, own_texts[asking], num_texts, depths[0])
    image_bars = histogram(image_ranks, torch.ones_like(owners), num_images, depths[1])
    return [
        Direction("Text retrieval", "images", "texts", tuple(text_bars), *_hubs(texts[:, 0], int), len(asking)),
        Direction(
            "Image retrieval", "texts", "images", tuple(image_bars), *_hubs(images[:, 0], result.row_of), num_texts
        ),
    ]


def _hubs(first: torch.Tensor, name: Callable[[int], int]) -> tuple[tuple[Hub, ...], int]:
    """Return the candidates that come first (Q,) most often, of those that do so twice, and how many different do.

    `name` returns what `Hub.candidate` is of an index in the gallery.
    """
    candidates, counts = first.unique(return_counts=True)
    order = counts.argsort(descending=True, stable=True)[:NUM_HUBS]
    hubs = (Hub(name(int(candidates[index])), int(counts[index])) for index in order)
    return tuple(hub for hub in hubs if hub.count > 1), len(candidates)


def histogram(ranks: torch.Tensor, right: torch.Tensor, gallery: int, ranked: int | None = None) -> Iterator[Bar]:
    """Yield bars of ranks: 1, 2..5, 6..10, 11..50 and so on; at last those that were not ranked, if there are any.

    Args:
        ranks: (Q,) of the first right result, 0 = best; at least `gallery` where it was not ranked.
        right: (Q,) how many candidates are right.
        gallery: How many candidates there are.
        ranked: How many of them were ranked; None: all.
    """
    below, expected_below, ranked = 0, 0.0, min(gallery, ranked or gallery)
    unknown = int((ranks >= ranked).sum())
    for edge in _edges(ranked):
        count, expected = int(((ranks >= below) & (ranks < edge)).sum()), chance_recall(right, gallery, (edge,))[0]
        yield Bar(below + 1, edge, count, count / len(ranks), (expected - expected_below) / 100)
        below, expected_below = edge, expected
    if unknown:
        yield Bar(below + 1, None, unknown, unknown / len(ranks), 1 - expected_below / 100)


def _edges(end: int) -> Iterator[int]:
    edge, factor = 1, 5
    while edge < end:
        yield edge
        edge, factor = edge * factor, 7 - factor  # 1, 5, 10, 50, 100 ..
    yield end
