"""Queries of an evaluation that are worth a look, as plain records: hardest, best and random ones."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

RANDOM_INTRO = "Drawn at random, to see what is usual."


@dataclass(frozen=True)
class Candidate:
    """What a model gave for a query."""

    text: str | None = None  # a caption or an answer; None where it is an image
    row: int | None = None  # the image's row in the data set; None where it is a text
    credit: float | None = None  # how right it is: 1 wholly, 0 not at all; None where nobody knows
    rank: int | None = None  # among all candidates, 1 = the best; None where it was not among them
    score: float | None = None  # matching logit
    probability: float | None = None  # of an answer, 0..1


@dataclass(frozen=True)
class Example:
    """A query and what came of it."""

    text: str | None  # a caption or a question; None where the query is an image
    row: int | None  # the query's image in the data set; None where it has none
    candidates: tuple[Candidate, ...]  # the best ones, and what would have been right
    note: str  # what makes it hard
    truths: tuple[str, ...] = ()  # what is right, where it is text
    truths_title: str = ""  # what the truths are called; default: answers of a question, captions of an image


@dataclass(frozen=True)
class Gallery:
    """Some queries of a kind."""

    name: str  # short, for tag names
    title: str
    examples: tuple[Example, ...]
    intro: str  # how they are ordered


@dataclass(frozen=True)
class Queries:
    """All queries of a kind."""

    name: str
    title: str
    hardest_intro: str  # how the hardest are ordered
    best_intro: str
    note: str  # what the cards show
    hardest_first: Sequence[int]  # all queries in this order
    image_of: Sequence[Hashable]  # image of each query
    make: Callable[[int], Example]


def hardest_galleries(kinds: Iterable[Queries], count: int) -> list[Gallery]:
    """Return the `count` hardest queries of each kind."""
    return [_gallery(each, pick(each.hardest_first, each.image_of, count)) for each in kinds]


def example_galleries(kinds: Iterable[Queries], count: int) -> list[Gallery]:
    """Return the `count` hardest queries of each kind, and a third as many of the best and of random ones.

    In all galleries of a kind together an image has one card at most; those that come first choose first.
    """
    galleries, fewer = [], math.ceil(count / 3)
    for each in kinds:
        shuffled = random.Random(0).sample(each.hardest_first, len(each.hardest_first))
        orders: list[tuple[str, str, Sequence[int], int]] = [
            ("the hardest", each.hardest_intro, each.hardest_first, count),
            ("the best", each.best_intro, each.hardest_first[::-1], fewer),
            ("at random", RANDOM_INTRO, shuffled, fewer),
        ]
        used: set[Hashable] = set()
        for words, intro, order, number in orders:
            if chosen := pick(order, each.image_of, number, used):
                galleries.append(_gallery(each, chosen, f": {words}", f"{intro} {each.note}".strip()))
    return galleries


def pick(
    order: Iterable[int], image_of: Sequence[Hashable], count: int, used: set[Hashable] | None = None
) -> list[int]:
    """Return the first `count` queries of an order whose images are all different.

    Args:
        order: Queries.
        image_of: Image of each query.
        count: How many are returned, or fewer.
        used: Images that are left out; those of the returned queries are added.
    """
    used, chosen = set() if used is None else used, list[int]()
    for query in order:
        if len(chosen) == count:
            break
        if image_of[query] not in used:
            used.add(image_of[query])
            chosen.append(query)
    return chosen


def _gallery(queries: Queries, chosen: Sequence[int], words: str = "", intro: str = "") -> Gallery:
    return Gallery(queries.name, queries.title + words, tuple(map(queries.make, chosen)), intro)
