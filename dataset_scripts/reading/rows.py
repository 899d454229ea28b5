"""From the rows of annotation files to those of a data set, in three stages: read, check, build.

What reads gives a `SourceRow` for each row of the files. `accepted` has a `RowBuilder` check it, which keeps what it
needs, and builds rows of the data set when it can.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import datasets
from tqdm.auto import tqdm

from .image_files import ImageRoot, Images
from .problems import Problems

SUBJECT = "Cannot load the annotations"
ROWS_A_LOOK = 1_000  # between two updates of the progress bar


class SourceRow(NamedTuple):
    """A row as it is read."""

    file: str
    number: int | str  # from 1: the line on which it begins, or the row, as `unit` says
    share: float  # of all files that is read, 0..1, never falling: what several processes divide the rows by
    row: Any  # in ALBEF's layout; anything at all if the file is wrong
    is_numbered: bool = (
        False  # the question has no `question_id`; its index stands for it, which is not unique over splits
    )
    unit: str = "row"

    @property
    def where(self) -> str:
        """What it is called in a message."""
        return f"{self.file}, {self.unit} {self.number}"


class BadRow(NamedTuple):
    """Takes the place of a row that its reader knows to be wrong."""

    problem: str


class Repeated(NamedTuple):
    """Takes the place of the name of a column that an earlier column has."""

    column: str


class Part(NamedTuple):
    """The shards of a split that are made; each is a range of what it is divided by."""

    shards: frozenset[int] = frozenset({0})
    num_shards: int = 1
    check_all: bool = True  # rows of other shards, too, since they may be dropped

    def holds(self, share: float) -> bool:
        """Return whether what lies at a share of the whole, 0..1, belongs to the part."""
        return int(share * self.num_shards) in self.shards

    @property
    def end(self) -> float:
        """Share at which the last of its shards ends."""
        return (max(self.shards) + 1) / self.num_shards


WHOLE = Part()


class RowBuilder:
    """Builds rows of a data set from annotation rows; this base takes none."""

    roots: tuple[ImageRoot, ...] = ()  # of the images; the first row that needs another one adds it

    def __init__(self, part: Part = WHOLE) -> None:
        """Begin with no images; rows of one part of the split are built."""
        self.part, self.images = part, Images()
        self.last_image = -1  # index of the image of the row that was accepted last
        self.ready: list[dict[str, Any]] = []

    def add(self, source: SourceRow) -> str | None:
        """Take a row; return None, or why it cannot be used, or "" if that was reported for an earlier row."""
        raise NotImplementedError

    def pop_ready(self) -> list[dict[str, Any]]:
        """Return the rows that the last row that was added completed."""
        ready, self.ready = self.ready, []
        return ready

    def flush(self) -> Iterable[dict[str, Any]]:
        """Return the rows that could only be built when all rows were added."""
        return ()


def accepted(
    sources: Iterable[SourceRow], builder: RowBuilder, problems: Problems, progress: str | None = None
) -> Iterator[SourceRow]:
    """Add annotation rows to a builder, note what is wrong with rows and folders, and yield rows that can be used.

    Ends at a row whose folder of images is missing. `progress` is what a bar on a terminal says; None shows none.
    """
    quiet = datasets.are_progress_bars_disabled() or progress is None or None  # None: where there is no terminal
    form = "{desc}: {percentage:3.0f}%|{bar}| {postfix} [{elapsed}<{remaining}]"
    with tqdm(total=1.0, desc=progress, bar_format=form, leave=False, disable=quiet) as bar:
        for count, source in enumerate(sources, start=1):
            if count % ROWS_A_LOOK == 0 and not bar.disable:
                rate = count / max(bar.format_dict["elapsed"], 1e-3)
                bar.set_postfix_str(f"{count:,} rows, {rate:,.0f} rows/s", refresh=False)
                bar.update(source.share - bar.n)
            known = len(builder.roots)
            problem = source.row.problem if isinstance(source.row, BadRow) else builder.add(source)
            if len(builder.roots) > known and missing_roots(builder, problems):
                return
            if problem is None:
                yield source
            else:
                problems.add_row(source.where, problem)


def missing_roots(builder: RowBuilder, problems: Problems) -> bool:
    """Note image folders that are missing, and return whether there is one."""
    wrong = {root.setting: problem for root in builder.roots if (problem := root.problem())}
    for setting, problem in wrong.items():
        problems.add(setting, problem)
    return bool(wrong)
