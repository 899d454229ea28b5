"""The order of training rows."""

from __future__ import annotations

from itertools import groupby

from modeling_albef.training.sampling import ImageGroupSampler


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
