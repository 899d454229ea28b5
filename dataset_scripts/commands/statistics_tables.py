"""The tables of `check --statistics`, for the terminal and the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from ..contents.near_duplicates import MAX_BITS
from ..contents.statistics import ANSWER_LIST, TRAINING, SplitStatistics, Statistics
from ..contents.text_counts import quartiles
from ..reading.problems import short

TOP_ANSWERS = 10
TEXT_EXAMPLES = 3  # on the terminal
FIVE = ["least", "25 %", "median", "75 %", "most"]


class Table(NamedTuple):
    """A table; the first cell of a row is its name."""

    title: str
    note: str  # what the figures mean
    head: list[str]
    rows: list[list[str]]


def tables(found: Statistics) -> Iterator[Table]:
    """Yield the tables of a data set."""
    yield _sizes(found)
    yield _lengths(found)
    yield _vocabulary(found)
    if found.has_questions:
        yield _answers(found)
        yield _top_answers(found)
    yield _repeats(found)
    yield _copies(found)
    yield _odd(found)


def as_lines(table: Table) -> list[str]:
    """Return a table as lines of text."""
    cells = [["", *table.head], *table.rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for first, *others in cells:
        padded = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join(["", first.ljust(widths[0]), *padded]).rstrip())
    return [f"{table.title} ({table.note})", *lines]


def example_lines(found: Statistics) -> list[str]:
    """Return lines that name some of the repeated texts."""
    lines = []
    for split, one in found.splits.items():
        if one.repeated:
            texts = (f"{short(text)} ({count} times)" for text, count in one.repeated[:TEXT_EXAMPLES])
            lines.append(f"  within {split}: {', '.join(texts)}")
        for other, some in one.shared.items():
            lines.append(f"  {split}, also in {other}: {', '.join(map(short, some[:TEXT_EXAMPLES]))}")
    return lines


def share(count: int, total: int) -> str:
    """Return a count and its share of a total."""
    return f"{count:,} ({100 * count / total:.1f} %)" if total else f"{count:,}"


def _number(value: float) -> str:
    return f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"


def _of_splits(found: Statistics, **rows: Callable[[SplitStatistics], str]) -> list[list[str]]:
    """Return a row for each name, a cell a split."""
    splits = found.splits.values()
    return [[name.replace("_", " "), *map(cell, splits)] for name, cell in rows.items()]


def _text_word(found: Statistics) -> str:
    return "question" if found.has_questions else "caption"


def _sizes(found: Statistics) -> Table:
    rows = _of_splits(
        found,
        images=lambda one: f"{len(one.facts):,}",
        **{f"{_text_word(found)}s": lambda one: f"{one.texts.words.total():,}"},
    )
    if found.has_questions:
        rows += _of_splits(found, answers=lambda one: f"{one.answers.given.total():,}" if one.answers else "")
    return Table("Size", "images are counted by image_id", list(found.splits), rows)


def _lengths(found: Statistics) -> Table:
    word, rows = _text_word(found), []
    limit = next(iter(found.splits.values())).texts.max_words
    for split, one in found.splits.items():
        texts = one.texts
        kinds = {f"words a {word}": texts.words, f"tokens a {word}": texts.tokens}
        for name, counts in (kinds | {f"{word}s an image": one.texts_of_image}).items():
            five = [_number(value) for value in quartiles(counts)] or [""] * len(FIVE)
            longer = share(texts.longer, texts.words.total()) if counts is texts.words else ""
            rows.append([f"{split}: {name}", *five, longer])
    note = f"after the processor's clean-up; of a longer {word} {limit} words are read"
    return Table("Length", note, [*FIVE, f"over {limit} words"], rows)


def _vocabulary(found: Statistics) -> Table:
    rows = _of_splits(
        found,
        words=lambda one: f"{one.texts.vocabulary.total():,}",
        distinct_words=lambda one: f"{len(one.texts.vocabulary):,}",
        seen_once=lambda one: share(one.texts.seen_once, len(one.texts.vocabulary)),
    )
    if (train := found.splits.get("train")) is not None and len(found.splits) > 1:
        known = train.texts.vocabulary

        def new(one: SplitStatistics) -> str:
            words = one.texts.vocabulary
            return "" if one is train else share(sum(word not in known for word in words), len(words))

        rows += _of_splits(found, **{"distinct, not in train": new})
    rows += _of_splits(
        found,
        tokens=lambda one: f"{sum(n * count for n, count in one.texts.tokens.items()):,}",
        **{"[UNK]": lambda one: share(one.texts.unknown, sum(n * c for n, c in one.texts.tokens.items()))},
    )
    return Table("Vocabulary", f"tokenizer: {found.tokenizer_name}", list(found.splits), rows)


def _answers(found: Statistics) -> Table:
    splits = {split: one.answers for split, one in found.splits.items() if one.answers is not None}
    rows = [
        ["questions with answers", *(f"{one.questions:,}" for one in splits.values())],
        ["answers given", *(f"{one.given.total():,}" for one in splits.values())],
        ["distinct answers", *(f"{len(one.given):,}" for one in splits.values())],
        ["distinct, given once", *(share(one.given_once, len(one.given)) for one in splits.values())],
    ]
    for name in (TRAINING, ANSWER_LIST):
        known = [one.known.get(name) for one in splits.values()]
        if not any(known):
            continue
        totals = [(one.given.total(), one.questions) for one in splits.values()]
        for index, what in enumerate((f"given, not in {name}", f"questions with none in {name}")):
            missing = [
                share(total[index] - held[index], total[index]) if held and total[index] else ""
                for held, total in zip(known, totals, strict=True)
            ]
            rows.append([what, *missing])
    return Table("Answers", "spellings that the tokenizer cannot tell apart are one answer", list(splits), rows)


def _top_answers(found: Statistics) -> Table:
    splits = {split: one.answers.given for split, one in found.splits.items() if one.answers is not None}
    tops = [counts.most_common(TOP_ANSWERS) for counts in splits.values()]
    rows = []
    for index in range(max(map(len, tops), default=0)):
        cells = [
            f"{short(top[index][0])} {share(top[index][1], counts.total())}" if index < len(top) else ""
            for top, counts in zip(tops, splits.values(), strict=True)
        ]
        rows.append([f"{index + 1}.", *cells])
    return Table("Most frequent answers", "share of all that were given", list(splits), rows)


def _repeats(found: Statistics) -> Table:
    word = _text_word(found)
    rows = [
        [f"within {split}", share(one.texts.repeated, one.texts.words.total())] for split, one in found.splits.items()
    ]
    for split, other in found.pairs():
        texts = found.splits[split].texts
        count = texts.repeated_in(found.splits[other].texts)
        rows.append([f"{split}, also in {other}", share(count, texts.words.total())])
    same = "about the same image, " if found.has_questions else ""
    note = f"the same text, {same}but for case, spaces and the mark at its end"
    return Table(f"Repeated {word}s", note, [f"{word}s"], rows)


def _copies(found: Statistics) -> Table:
    groups, rows = found.groups, []
    for split, one in found.splits.items():
        total = len(one.facts)
        cells = [share(groups.copies(split), total), share(groups.alikes(split), total)]
        rows.append([f"within {split}", *cells])
    for split, other in found.pairs():
        total = len(found.splits[split].facts)
        cells = [share(groups.copies_of(split, other), total), share(groups.alikes_of(split, other), total)]
        rows.append([f"{split}, also in {other}", *cells])
    note = f"look: dHash, at most {MAX_BITS} of 144 bits apart, and of about the same colors"
    return Table("Duplicate images", note, ["same bytes", "same look"], rows)


def _odd(found: Statistics) -> Table:
    splits = [(one.odd_images(), len(one.facts)) for one in found.splits.values()]
    kinds = list(splits[0][0]) if splits else []
    rows = [[kind, *(share(len(odd[kind]), total) for odd, total in splits)] for kind in kinds]
    return Table("Unusual images", "each counts for all that holds of it", list(found.splits), rows)
