"""The order of training rows."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import datasets
import pytest
from torch.utils.data import Dataset, DistributedSampler, IterableDataset

from modeling_albef.training.sampling import ImageGroupSampler, OneCaptionRows, one_caption_a_row


def test_rows_of_an_image_follow_each_other() -> None:
    image_ids = [5, 5, 8, 2, 8, 2, 2]
    sampler, orders = ImageGroupSampler(image_ids, seed=3), set()
    assert len(sampler) == 7
    for epoch in range(12):
        sampler.set_epoch(epoch)
        order = list(sampler)
        assert sorted(order) == list(range(7))
        assert len(list(groupby(image_ids[row] for row in order))) == 3  # one run an image
        assert order == list(sampler)
        orders.add(tuple(order))
    assert len(orders) > 3  # of six


def test_the_order_follows_from_the_seed() -> None:
    image_ids = [row // 4 for row in range(80)]
    one, same, other = (list(ImageGroupSampler(image_ids, seed)) for seed in (1, 1, 2))
    assert one == same != other


def test_the_order_of_images_is_that_of_the_library() -> None:
    """Its sampler draws from seed plus epoch, too; of a sampler without options both are 0."""
    library = DistributedSampler(range(9), num_replicas=1, rank=0, seed=5)
    sampler = ImageGroupSampler(range(9), seed=5)
    for epoch in (0, 1, 7):
        library.set_epoch(epoch)
        sampler.set_epoch(epoch)
        assert list(sampler) == list(library)
    assert list(ImageGroupSampler(range(9))) == list(DistributedSampler(range(9), num_replicas=1, rank=0))


ROWS = [
    {"image": "a.png", "caption": ["a1", "a2"], "image_id": 4},
    {"image": "b.png", "caption": [], "image_id": 5},
    {"image": "c.png", "caption": ["c1", "c2", "c3"], "image_id": 6},
    {"image": "d.png", "caption": ["d1"], "image_id": 7},
]
SPREAD = [{**row, "caption": caption} for row in ROWS for caption in row["caption"]]
PLAIN = [{"image": "a.png", "caption": "a1"}, {"image": "b.png", "caption": "b1"}]


class Bare(Dataset):
    """Rows by number alone, which counts what is read."""

    def __init__(self, rows: list[Any]) -> None:
        self.rows, self.read, self.epoch = rows, 0, 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        self.read += 1
        return self.rows[index]

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


class BareStream(IterableDataset):
    """A stream that is not of the `datasets` library."""

    def __init__(self, rows: list[Any]) -> None:
        self.rows, self.epoch = rows, 0

    def __iter__(self) -> Any:
        return iter(self.rows)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


@pytest.mark.parametrize("kind", [list, tuple, Bare, datasets.Dataset.from_list])
def test_lists_of_captions_become_rows(kind: Any) -> None:
    spread = one_caption_a_row(kind(ROWS))
    assert isinstance(spread, OneCaptionRows) and len(spread) == 6
    assert [spread[index] for index in range(6)] == SPREAD
    plain = kind(PLAIN)
    assert one_caption_a_row(plain) is plain


def test_a_list_of_captions_after_plain_ones_is_found() -> None:
    spread = one_caption_a_row([PLAIN[0], ROWS[0]])
    assert [spread[index]["caption"] for index in range(3)] == ["a1", "a1", "a2"]
    with_gaps = datasets.Dataset.from_list([{"caption": None}, {"caption": ["a", "b"]}])
    assert isinstance(one_caption_a_row(with_gaps), OneCaptionRows)
    gaps = datasets.Dataset.from_list([{"caption": None}, {"caption": "a"}])
    assert one_caption_a_row(gaps) is gaps


def test_data_without_captions_stays() -> None:
    assert one_caption_a_row(None) is None
    for data in ([], [{"image": 1}], [[1, 2]], [{"caption": None}], datasets.Dataset.from_dict({"image": ["a"]})):
        assert one_caption_a_row(data) is data


def test_only_the_first_row_is_read_to_decide() -> None:
    """Of a data set without columns a row may cost the reading of its image."""
    data = Bare(PLAIN)
    assert one_caption_a_row(data) is data and data.read == 1


def test_the_epoch_is_handed_on() -> None:
    data, stream = Bare(ROWS), BareStream(ROWS)
    for spread, inner in ((one_caption_a_row(data), data), (one_caption_a_row(stream), stream)):
        spread.set_epoch(3)
        assert inner.epoch == 3
    one_caption_a_row(ROWS).set_epoch(3)  # a list takes none
    one_caption_a_row(iter(ROWS)).set_epoch(3)


def test_streams_of_any_kind() -> None:
    mixed = [*ROWS, *PLAIN, [1, 2], {"image": "e.png"}]
    spread = one_caption_a_row(BareStream(mixed))
    assert list(spread) == list(spread) == [*SPREAD, *PLAIN, [1, 2], {"image": "e.png"}]


@pytest.mark.parametrize("with_features", [True, False])
def test_streams_of_the_library(with_features: bool) -> None:
    def stream(rows: list[Any]) -> Any:
        if with_features:
            return datasets.Dataset.from_list(rows).to_iterable_dataset()
        return datasets.IterableDataset.from_generator(lambda: iter(rows))

    assert list(one_caption_a_row(stream(ROWS))) == SPREAD
    for rows in (PLAIN, [{"image": "e.png"}]):
        given = stream(rows)
        assert one_caption_a_row(given) is given


def test_an_empty_stream_stays() -> None:
    empty = datasets.IterableDataset.from_generator(lambda: iter(()))
    assert one_caption_a_row(empty) is empty


def test_spreading_a_stream_reads_no_image() -> None:
    """A broken image is left to the one reader of all images, which says which file it is."""
    image = {"path": "a.png", "bytes": b"no image"}
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.List(datasets.Value("string"))})
    table = datasets.Dataset.from_dict({"image": [image], "caption": [["a", "b"]]}, features)
    spread = one_caption_a_row(table.to_iterable_dataset())
    assert [row["caption"] for row in spread] == ["a", "b"]
    assert [row["image"] for row in spread] == [image, image]
    already = table.cast_column("image", datasets.Image(decode=False)).to_iterable_dataset()
    assert [row["image"] for row in one_caption_a_row(already)] == [image, image]
