"""Mixtures of data sets: whose rows are drawn, how often, in which epoch; and ids that never collide."""

from __future__ import annotations

import pickle
from collections import Counter
from itertools import islice
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest

from dataset_scripts import (
    CaptionRows,
    DataError,
    MixedRows,
    concatenate_sources,
    interleave_streams,
    load_dataset_script,
    process_share,
)
from dataset_scripts.mixtures import STOPPING_STRATEGIES, source_lengths

WEIGHTS = (0.5, 0.3, 0.2)
NUM_DRAWS = 2_000


def table(length: int, first: int = 0, **columns: Any) -> datasets.Dataset:
    """Questions of images, two of each, with ids that other tables have, too."""
    numbers = range(length)
    images = datasets.Features({"image": datasets.Value("string")})
    rows = datasets.Dataset.from_dict({"image": [f"{first + number // 2}.png" for number in numbers]}, images)
    for name, values in {
        "question": [f"question {first + number}" for number in numbers],
        "question_id": list(numbers),
        "image_id": [number // 2 for number in numbers],
        **columns,
    }.items():
        rows = rows.add_column(name, values)
    return rows


def within_sampling_error(count: int, share: float, draws: int) -> bool:
    """Whether a binomial count is within 4 standard deviations of its mean: one draw in 16,000 is not."""
    return abs(count - share * draws) <= 4 * (draws * share * (1 - share)) ** 0.5


@pytest.mark.parametrize("stopping_strategy", STOPPING_STRATEGIES)
@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("lengths", [(40, 25, 30), (900, 2_500, 700), (5_000, 1, 1)])
def test_the_first_epoch_takes_its_sources_in_the_order_of_the_library(
    lengths: tuple[int, ...], seed: int, stopping_strategy: Any
) -> None:
    mixed = MixedRows(range(sum(lengths)), lengths, (5, 3, 2), seed, stopping_strategy)
    parts = [datasets.Dataset.from_dict({"source": [number] * length}) for number, length in enumerate(lengths)]
    theirs = datasets.interleave_datasets(parts, list(WEIGHTS), seed=seed, stopping_strategy=stopping_strategy)
    assert np.searchsorted(np.cumsum(lengths), mixed.order, side="right").tolist() == theirs["source"][:]


@pytest.mark.parametrize("epoch", [0, 3])
def test_the_shares_of_2000_draws_are_the_weights(epoch: int) -> None:
    lengths = (3_000, 3_000, 3_000)
    mixed = MixedRows(range(9_000), lengths, WEIGHTS, seed=1)
    mixed.set_epoch(epoch)
    counts = Counter(mixed[index] // 3_000 for index in range(NUM_DRAWS))
    for source, share in enumerate(WEIGHTS):
        assert within_sampling_error(counts[source], share, NUM_DRAWS)
    assert not within_sampling_error(NUM_DRAWS // 3, 0.2, NUM_DRAWS)  # the bound tells weights from equal shares


def test_every_epoch_is_another_draw_of_the_same_length_and_can_be_made_again() -> None:
    lengths, epochs = (50, 20, 80), {}
    mixed = MixedRows(range(150), lengths, WEIGHTS, seed=3)
    for epoch in range(6):
        mixed.set_epoch(epoch)
        epochs[epoch] = [mixed[index] for index in range(len(mixed))]
    assert len({tuple(rows) for rows in epochs.values()}) == 6
    assert len({len(rows) for rows in epochs.values()}) == 1
    assert len(set(epochs[0])) == len(epochs[0])  # nothing twice before a source is exhausted
    assert {row for rows in epochs.values() for row in rows if row < 50} == set(range(50))  # not the first rows alone
    anew = MixedRows(range(150), lengths, WEIGHTS, seed=3)
    for epoch in (4, 2):
        for one in (anew, mixed, pickle.loads(pickle.dumps(anew))):  # noqa: S301
            one.set_epoch(epoch)
            assert [one[index] for index in range(len(one))] == epochs[epoch]
    assert MixedRows(range(150), lengths, WEIGHTS, seed=4).order.tolist() != epochs[0]


def test_the_epoch_reaches_rows_that_take_one() -> None:
    inner = MixedRows(range(20), (20,), (1,), seed=1)
    outer = MixedRows(inner, (20,), (1,))
    outer.set_epoch(2)
    alone = MixedRows(range(20), (20,), (1,), seed=1)
    alone.set_epoch(2)
    assert [outer[index] for index in range(20)] == [alone[index] for index in outer.order]


def test_all_exhausted_draws_every_row() -> None:
    mixed = MixedRows(range(60), (10, 20, 30), WEIGHTS, stopping_strategy="all_exhausted")
    assert set(mixed.order.tolist()) == set(range(60)) and len(mixed) > 60


def test_ids_of_different_sources_are_never_the_same() -> None:
    rows = concatenate_sources({"a": table(6), "b": table(4, first=100)})
    assert rows["mixture_source"][:] == ["a"] * 6 + ["b"] * 4
    assert rows["image_id"][:] == ["a/0", "a/0", "a/1", "a/1", "a/2", "a/2", "b/0", "b/0", "b/1", "b/1"]
    assert len(set(rows["question_id"][:])) == 10
    assert rows["image"][:] == [*table(6)["image"], *table(4, first=100)["image"]]  # the rows are as they were
    unknown = table(2).remove_columns("image_id").add_column("image_id", [None, 1])
    assert concatenate_sources({"a": unknown, "b": table(2)})["image_id"][:] == [None, "a/1", "b/0", "b/0"]


def test_columns_of_an_epoch_are_those_of_its_rows() -> None:
    rows = concatenate_sources({"a": table(6), "b": table(8, first=100)})
    assert source_lengths(rows) == {"a": 6, "b": 8}
    mixed = MixedRows(rows, (6, 8), (1, 1))
    for epoch in (0, 1):
        mixed.set_epoch(epoch)
        assert mixed["question"] == [mixed[index]["question"] for index in range(len(mixed))]


def test_captions_are_drawn_and_not_images() -> None:
    def images(captions: int, seed: int) -> datasets.Dataset:
        fields = {"num_train": 30, "image_size": 16, "captions_per_image": captions, "seed": seed}
        return load_dataset_script("shapes", "retrieval", split="train", **fields)

    rows = concatenate_sources({"a": images(1, 0), "b": images(4, 1)})
    assert source_lengths(rows) == {"a": 30, "b": 120}
    mixed = MixedRows(CaptionRows(rows), (30, 120), (1, 1))
    drawn = [mixed[index] for index in range(len(mixed))]
    assert all(isinstance(row["caption"], str) for row in drawn)
    counts = Counter(row["image_id"].partition("/")[0] for row in drawn)
    assert counts["a"] == 30 and within_sampling_error(counts["b"], 0.5, len(drawn))


@pytest.mark.parametrize("task", ["retrieval", pytest.param("vqa", marks=pytest.mark.slow)])
def test_a_stream_has_the_shares_too_and_other_draws_on_every_pass(task: str) -> None:
    def stream(seed: int, **fields: Any) -> datasets.IterableDataset:
        rows = load_dataset_script("shapes", task, split="train", num_train=400, image_size=16, seed=seed, **fields)
        return rows.to_iterable_dataset(num_shards=2).cast_column("image", datasets.Image(decode=False))

    further = {"captions_per_image": 4} if task == "retrieval" else {}
    sources = {"a": stream(0), "b": stream(1, **further), "c": stream(2)}
    mixed = interleave_streams(sources, WEIGHTS, seed=5, stopping_strategy="all_exhausted")
    assert mixed.features["image_id"].dtype == "string"
    args = SimpleNamespace(seed=5, process_index=0, world_size=1)
    passes = []
    for number in (0, 1, 0):
        share = process_share(mixed, args, 50)
        share.set_epoch(number)
        passes.append(list(islice(share, NUM_DRAWS)))
        counts = Counter(row["mixture_source"] for row in passes[-1])
        for name, weight in zip("abc", WEIGHTS, strict=True):
            assert within_sampling_error(counts[name], weight, NUM_DRAWS)
        assert all(row["image_id"].startswith(f"{row['mixture_source']}/") for row in passes[-1])
        assert isinstance(passes[-1][0]["caption" if task == "retrieval" else "question"], str)
    assert passes[0] == passes[2] != passes[1]


def test_two_processes_read_the_two_halves_of_a_mixed_stream() -> None:
    sources = {name: table(40, first=100 * number).to_iterable_dataset(2) for number, name in enumerate("abc")}
    mixed = interleave_streams(sources, (1, 1, 1), 0, "all_exhausted")
    read = []
    for rank in (0, 1):
        args = SimpleNamespace(seed=0, process_index=rank, world_size=2)
        read.append([row["question_id"] for row in process_share(mixed, args, 5)])
    assert not set(read[0]) & set(read[1]) and len({*read[0], *read[1]}) == 120


@pytest.mark.parametrize("is_stream", [False, True])
def test_columns_that_differ_are_named(is_stream: bool) -> None:
    sources: dict[str, Any] = {"a": table(4), "b": table(4, answers=[["yes"]] * 4), "c": table(4)}
    if is_stream:
        sources = {name: rows.to_iterable_dataset() for name, rows in sources.items()}
    with pytest.raises(DataError, match=r"The column 'answers' differs .* 'a' has 'no such column', 'b' has .*List"):
        interleave_streams(sources, WEIGHTS, 0, "first_exhausted") if is_stream else concatenate_sources(sources)


def test_types_of_questions_may_be_missing() -> None:
    sources: dict[str, Any] = {"a": table(4, question_type=["what"] * 4), "b": table(4)}
    assert concatenate_sources(sources)["question_type"][:] == ["what"] * 4 + [None] * 4
    streams = {name: rows.to_iterable_dataset() for name, rows in sources.items()}
    assert "question_type" not in interleave_streams(streams, (1, 1), 0, "first_exhausted").features


@pytest.mark.parametrize(
    "lengths, weights, strategy, words",
    [
        ((4, 0), (1, 1), "first_exhausted", "Source 2 of the mixture has no training rows"),
        ((4, 4), (1, 0), "first_exhausted", "all must be above 0"),
        ((4, 4), (1, -1), "first_exhausted", "all must be above 0"),
        ((4, 4), (1, float("nan")), "first_exhausted", "all must be above 0"),
        ((4, 4), (1, 1e-12), "all_exhausted", "Source 2 of the mixture has 4 rows and a share of 1e-12, so an epoch"),
        ((4, 4), (1, 1), "never", "stopping_strategy is 'never', but must be one of first_exhausted"),
    ],
)
def test_a_mixture_that_cannot_be_drawn_is_refused(lengths: Any, weights: Any, strategy: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        MixedRows(range(8), lengths, weights, stopping_strategy=strategy)
