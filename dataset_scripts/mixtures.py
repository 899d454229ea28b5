"""Several data sets as one: rows that know their source, drawn by weight as `datasets.interleave_datasets` draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from .reading.problems import DataError, short

SOURCE = "mixture_source"  # column with the name of a row's source
IDS = ("image_id", "question_id")
OPTIONAL = ("question_type", "answer_type")
STOPPING_STRATEGIES = ("first_exhausted", "all_exhausted")
BLOCK = 1_000  # draws that `datasets.interleave_datasets` makes at once
MOST_ROWS = 2**31  # of an epoch
_TEXT = datasets.Value("string")


def concatenate_sources(sources: Mapping[str, datasets.Dataset]) -> datasets.Dataset:
    """Return the rows of several data sets, one source after the other.

    A column `mixture_source` has the name of a row's source. It also stands before `image_id` and `question_id`, which
    become texts such as "coco/42", so ids of different sources are never the same.

    Args:
        sources: Data sets by name, with the same columns; `question_type` and `answer_type` may be missing.

    Raises:
        DataError: The columns differ.
    """
    tagged = []
    _check_features(sources)
    for name, rows in sources.items():
        columns = [column for column in IDS if column in rows.column_names]
        ids = rows.select_columns(columns).with_format("arrow")[:]
        own = {one: pc.binary_join_element_wise(name, ids[one].cast(pa.string()), "/") for one in columns}
        own[SOURCE] = pa.repeat(name, len(rows))
        tagged.append(
            datasets.concatenate_datasets([rows.remove_columns(columns), datasets.Dataset(pa.table(own))], axis=1)
        )
    return datasets.concatenate_datasets(tagged)


def source_lengths(rows: datasets.Dataset) -> dict[str, int]:
    """Return how many captions, or else rows, each source of `concatenate_sources` has."""
    table = rows.select_columns([name for name in (SOURCE, "caption") if name in rows.column_names])
    table = table.with_format("arrow")[:]
    counts = pa.repeat(1, len(table))
    if "caption" in table.column_names:
        counts = pc.fill_null(pc.list_value_length(table["caption"]), 0)
    sums = pa.table({"source": table[SOURCE], "count": counts}).group_by("source").aggregate([("count", "sum")])
    return dict(zip(sums["source"].to_pylist(), sums["count_sum"].to_pylist(), strict=True))


def interleave_streams(
    sources: Mapping[str, datasets.IterableDataset], weights: Sequence[float], seed: int, stopping_strategy: str
) -> datasets.IterableDataset:
    """Return the training rows of several streams, a caption or a question each, drawn by weight.

    Args:
        sources: Streams by name, as in `concatenate_sources`; captions are spread over rows.
        weights: One a source, above 0.
        seed: Of the draw; a pass over the shuffled stream has a draw of its own.
        stopping_strategy: See `datasets.interleave_datasets`; it ends a pass.

    Raises:
        DataError: The columns differ.
    """
    _check_features(sources)
    common = set.intersection(*(set(stream.features) for stream in sources.values()))
    tagged = []
    for name, stream in sources.items():
        features = {column: feature for column, feature in stream.features.items() if column in common}
        if isinstance(features.get("caption"), (datasets.List, datasets.LargeList)):
            features["caption"] = features["caption"].feature
        features |= {column: _TEXT for column in (*IDS, SOURCE) if column in features or column == SOURCE}
        options = {"remove_columns": list(stream.features), "features": datasets.Features(features)}
        tagged.append(stream.map(_tag, batched=True, fn_kwargs={"name": name, "columns": list(features)}, **options))
    strategy: Any = stopping_strategy
    return datasets.interleave_datasets(tagged, shares_of(weights), seed=seed, stopping_strategy=strategy)


def _tag(rows: dict[str, list[Any]], name: str, columns: list[str]) -> dict[str, list[Any]]:
    """Give rows of a stream their source, and a row to each caption."""
    is_spread = "caption" in rows
    counts = [len(captions) for captions in rows["caption"]] if is_spread else [1] * len(rows["image"])
    tagged: dict[str, list[Any]] = {SOURCE: [name] * sum(counts)}
    for column in columns:
        if column == "caption":
            tagged[column] = [text for captions in rows[column] for text in captions]
        elif column != SOURCE:
            values = rows[column]
            if column in IDS:
                values = [None if one is None else f"{name}/{one}" for one in values]
            tagged[column] = [value for value, count in zip(values, counts, strict=True) for _ in range(count)]
    return tagged


def _check_features(sources: Mapping[str, Any]) -> None:
    """Refuse sources whose columns differ in more than ids, which become texts, and types of questions."""
    first, *others = sources
    own = {name: str(feature) for name, feature in sources[first].features.items() if name not in (*IDS, *OPTIONAL)}
    for other in others:
        features = {name: str(f) for name, f in sources[other].features.items() if name not in (*IDS, *OPTIONAL)}
        for column in sorted(own.keys() | features.keys()):
            one, two = own.get(column, "no such column"), features.get(column, "no such column")
            if one != two:
                raise DataError(
                    f"The column {column!r} differs between the sources of the mixture: {first!r} has {short(one)}, "
                    f"{other!r} has {short(two)}. Give both the same columns, or train on one of them."
                )


def shares_of(weights: Sequence[float]) -> list[float]:
    """Return the probabilities that weights stand for."""
    scaled = np.asarray(weights, dtype=np.float64) / max(weights)
    return (scaled / scaled.sum()).tolist()


class MixedRows:
    """Training rows drawn from sources by weight, anew in every epoch.

    An epoch shuffles each source and draws from them as `datasets.interleave_datasets` does, with the seed of the first
    epoch and one more for each later one. All epochs are as long as the first: a longer draw is cut off, a shorter one
    goes on with its first rows. What an epoch reads depends on the seed and its number alone, so it is the same on
    every process and worker, and after a resume.
    """

    def __init__(
        self,
        rows: Any,
        lengths: Sequence[int],
        weights: Sequence[float],
        seed: int = 0,
        stopping_strategy: str = "first_exhausted",
    ) -> None:
        """Draw the first epoch.

        Args:
            rows: All sources, one after the other; read by index.
            lengths: Rows of each source, at least 1.
            weights: One a source, above 0; their sum is of no account.
            seed: Of the draws, at least 0.
            stopping_strategy: See `datasets.interleave_datasets`: what ends the first epoch.

        Raises:
            DataError: A source has no rows, a weight is not above 0, or the strategy is not known.
        """
        if not all(lengths):
            raise DataError(f"Source {list(lengths).index(0) + 1} of the mixture has no training rows: leave it out.")
        if not all(0 < weight < np.inf for weight in weights):
            raise DataError(f"The weights of the mixture are {list(weights)}, but all must be above 0.")
        if stopping_strategy not in STOPPING_STRATEGIES:
            known = ", ".join(STOPPING_STRATEGIES)
            raise DataError(f"stopping_strategy is {stopping_strategy!r}, but must be one of {known}.")
        for number, (length, share) in enumerate(zip(lengths, shares_of(weights), strict=True), start=1):
            if stopping_strategy == "all_exhausted" and length > share * MOST_ROWS:
                raise DataError(
                    f"Source {number} of the mixture has {length:,} rows and a share of {share:.2g}, so an epoch that "
                    "draws all of them would not end: give it a greater weight, or take first_exhausted."
                )
        self.rows, self.lengths, self.weights = rows, list(lengths), list(weights)
        self.seed, self.stopping_strategy = seed, stopping_strategy
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # persistent workers see it, too
        self._drawn = (0, self._draw(0))
        self._length = len(self._drawn[1])

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, at least 0, whose draw is read; it is made here, so workers that start later have it."""
        self._epoch.fill_(epoch)
        _ = self.order
        if hasattr(self.rows, "set_epoch"):
            self.rows.set_epoch(epoch)

    @property
    def order(self) -> np.ndarray:
        """Return the row that each index of this epoch stands for, an index of all sources in sequence."""
        epoch = int(self._epoch)
        if self._drawn[0] != epoch:
            self._drawn = (epoch, np.resize(self._draw(epoch), self._length))
        return self._drawn[1]

    def _draw(self, epoch: int) -> np.ndarray:
        """Return the rows of an epoch, as many as its own draw has."""
        is_first, lengths = self.stopping_strategy == "first_exhausted", np.asarray(self.lengths)
        generator, shares = np.random.default_rng(self.seed + epoch), shares_of(self.weights)
        blocks, counts = list[np.ndarray](), np.zeros_like(lengths)
        while not (np.any if is_first else np.all)(counts >= lengths):
            blocks.append(generator.choice(len(lengths), size=BLOCK, p=shares))
            counts += np.bincount(blocks[-1], minlength=len(lengths))
        draws = np.concatenate(blocks)
        positions = [np.flatnonzero(draws == source) for source in range(len(lengths))]
        last = [own[length - 1] for own, length in zip(positions, lengths, strict=True) if len(own) >= length]
        order = np.empty((min if is_first else max)(last) + 1, dtype=np.int64)
        for source, (own, end) in enumerate(zip(positions, np.cumsum(lengths), strict=True)):
            rows = np.random.default_rng((self.seed, epoch, source)).permutation(lengths[source])
            own = own[own < len(order)]
            order[own] = np.resize(rows + end - lengths[source], len(own))  # from the first one again
        return order

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int | str) -> Any:
        """Return a row of this epoch or, for a name, a column of it."""
        if isinstance(index, str):
            values = self.rows[index][:]
            return [values[row] for row in self.order.tolist()]
        return self.rows[int(self.order[index])]

    @property
    def column_names(self) -> list[str]:
        """Return the names of the columns; rows that know none have no such attribute."""
        return self.rows.column_names

    @property
    def features(self) -> Any:
        """Return the features of the columns, None where the rows know none."""
        return getattr(self.rows, "features", None)

    def cast_column(self, column: str, feature: Any) -> MixedRows:
        """Return the same with another feature of a column, such as images that are not decoded."""
        rows = self.rows.cast_column(column, feature)
        return MixedRows(rows, self.lengths, self.weights, self.seed, self.stopping_strategy)
