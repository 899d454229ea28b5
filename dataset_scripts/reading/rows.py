"""From the rows of annotation files to those of a data set, in three stages: read, check, build.

What reads gives a `SourceRow` for each row of the files. `accepted` has a `RowBuilder` check it, which keeps what it
needs, and builds rows of the data set when it can.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import datasets
from tqdm.auto import tqdm

from .problems import Problems

if TYPE_CHECKING:
    from .image_files import ImageRoot, Images

SUBJECT = "Cannot load the annotations"
ROWS_A_LOOK = 1_000  # between two looks at the progress bar


class SourceRow(NamedTuple):
    """A row as it is read.

    Attributes:
        file: Annotation file.
        number: Its index in the file, from 0.
        share: Part of all files that is read, 0..1, never falling: what several processes divide the rows by.
        row: What stands there, in ALBEF's layout; anything at all if the file is wrong.
        is_numbered: Whether the question had no `question_id` and was given its index, which other splits have, too.
    """

    file: str
    number: int | str
    share: float
    row: Any
    is_numbered: bool = False


class BadRow(NamedTuple):
    """Stands where a row should, if what reads the file knows what is wrong with it."""

    problem: str


class Part(NamedTuple):
    """The shards of a split that are made; each is a range of what it is divided by.

    Attributes:
        shards: Their indices, from 0.
        num_shards: Number of shards of the split, >= 1.
        check_all: Whether rows of other shards are checked, too, since they may be dropped.
    """

    shards: frozenset[int] = frozenset({0})
    num_shards: int = 1
    check_all: bool = True

    def holds(self, share: float) -> bool:
        """Return whether what lies at a share of the whole, 0..1, belongs to the part."""
        return int(share * self.num_shards) in self.shards

    @property
    def end(self) -> float:
        """Share at which the last of its shards ends."""
        return (max(self.shards) + 1) / self.num_shards


WHOLE = Part()


class RowBuilder(Protocol):
    """Builds rows of a data set from annotation rows.

    Attributes:
        images: Those that occur.
        last_image: Index of the image of the row that was accepted last.
    """

    images: Images
    last_image: int

    @property
    def roots(self) -> tuple[ImageRoot, ...]:
        """Folders of the images; one that not all files need is added by the first row that needs it."""

    def add(self, source: SourceRow) -> str | None:
        """Take a row; returns None, or why it cannot be used, or "" if that was said of an earlier row."""

    def pop_ready(self) -> list[dict[str, Any]]:
        """Return the rows that the last row that was added completed."""

    def flush(self) -> Iterable[dict[str, Any]]:
        """Return the rows that could only be built when all rows were added."""


def accepted(
    sources: Iterable[SourceRow], builder: RowBuilder, problems: Problems, progress: str | None = None
) -> Iterator[SourceRow]:
    """Add annotation rows to a builder and note what is wrong with them.

    Args:
        sources: Rows of annotation files.
        builder: Checks them, and builds rows.
        problems: Takes what is wrong with rows and folders.
        progress: What a bar on a terminal says, which tells how much of the files is read; None shows none.

    Yields:
        The rows that the builder can use. Ends at a row whose folder of images is missing.
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
                problems.add_row(f"{source.file}, row {source.number}", problem)


def missing_roots(builder: RowBuilder, problems: Problems) -> bool:
    """Note image folders that are missing; returns whether there is one."""
    wrong = {root.setting: problem for root in builder.roots if (problem := root.problem())}
    for setting, problem in wrong.items():
        problems.add(setting, problem)
    return bool(wrong)
