"""What stands beside the recalls: each number against a closed form or the same thing computed the slow way."""

from __future__ import annotations

import itertools
import math
import time
from typing import Any

import numpy as np
import pytest
import torch

from modeling_albef.training import RankedCandidates, RetrievalResult, retrieval_metrics
from modeling_albef.training.evaluation.bootstrap import bootstrap_means, interval
from modeling_albef.training.evaluation.eccv import (
    coco_caption_ids,
    coco_image_ids,
    eccv_metrics,
    known_positives,
    precision_at_r,
)
from modeling_albef.training.evaluation.first_stage import order_by_similarity
from modeling_albef.training.evaluation.retrieval_details import add_details, recall_intervals
from modeling_albef.training.evaluation.retrieval_metrics import (
    chance_recall,
    fold_recalls,
    largest_hub,
    median_rank,
    rank_of_first_match,
    whole_ranks,
)

FAR = torch.iinfo(torch.int64).max


def test_median_rank_counts_from_one() -> None:
    assert median_rank(torch.tensor([0])) == 1
    assert median_rank(torch.tensor([9, 0, 2])) == 3
    assert median_rank(torch.tensor([0, 1, 4, 9])) == 3.5


def test_candidates_that_were_not_re_ranked_come_after_those_that_were() -> None:
    ranks = whole_ranks(torch.tensor([2, FAR, FAR]), torch.tensor([0, 40, 3]), num_candidates=10)
    assert ranks.tolist() == [2, 40, 10]


@pytest.mark.parametrize(("right", "gallery"), [(1, 4), (2, 7), (5, 12), (7, 7)])
def test_chance_is_the_mean_over_all_orders(right: int, gallery: int) -> None:
    expected = []
    for depth in (1, 5, 10):
        drawn = list(itertools.combinations(range(gallery), min(depth, gallery)))
        expected.append(100 * sum(any(one < right for one in some) for some in drawn) / len(drawn))
    assert chance_recall(torch.full((3,), right), gallery) == pytest.approx(expected)


def test_chance_of_queries_with_different_numbers_of_right_ones() -> None:
    mixed = chance_recall(torch.tensor([1, 1, 2]), 10, (1,))
    assert mixed == pytest.approx([(10 + 10 + 20) / 3])
    coco = chance_recall(torch.ones(25_000), 5_000), chance_recall(torch.full((5_000,), 5), 25_000)
    drawn = [100 * (1 - math.comb(24_995, depth) / math.comb(25_000, depth)) for depth in (1, 5, 10)]
    assert coco[0] == pytest.approx([0.02, 0.1, 0.2]) and coco[1] == pytest.approx(drawn)


def test_hubs() -> None:
    assert largest_hub(torch.tensor([7, 3, 7, 7, 0])) == (3, 7, 3)
    assert largest_hub(torch.arange(4)) == (4, 0, 1)


@pytest.mark.parametrize("levels", [None, 3, 1])
@pytest.mark.parametrize("block_size", [3, 100])
def test_first_stage_equals_a_stable_sort(levels: int | None, block_size: int) -> None:
    """Also with ties; with one level all similarities are the same, as those of a collapsed model."""
    generator = torch.Generator().manual_seed(3)
    queries, gallery = torch.randn(17, 4, generator=generator), torch.randn(29, 4, generator=generator)
    if levels is not None:
        queries, gallery = (((x > 0).float() * (levels - 1) + 1).floor() for x in (queries, gallery))
    query_owners, owners = torch.arange(17), torch.randint(17, (29,), generator=generator)
    owners[:17] = torch.randperm(17, generator=generator)  # each has one at least; in no order
    found = order_by_similarity(queries, gallery, query_owners, owners, block_size)
    similarity = queries @ gallery.T
    right = owners == query_owners[:, None]
    order = similarity.argsort(dim=1, descending=True, stable=True)
    assert torch.equal(found.ranks, rank_of_first_match(right.gather(1, order)))
    torch.testing.assert_close(found.best, similarity.amax(dim=1))
    torch.testing.assert_close(found.best_wrong, similarity.masked_fill(right, -torch.inf).amax(dim=1))


def test_a_collapsed_model_is_as_good_as_chance() -> None:
    same = torch.ones(50, 8) / 8**0.5
    found = order_by_similarity(same, same, torch.arange(50), torch.arange(50))
    assert found.ranks.tolist() == list(range(50))


def test_folds_of_a_whole_ranking_equal_evaluations_of_the_parts() -> None:
    generator = torch.Generator().manual_seed(5)
    scores = torch.randn(20, 60, generator=generator) + 0.5 * (torch.arange(60) // 3 == torch.arange(20)[:, None])
    owners = torch.arange(60) // 3
    ids = scores.argsort(dim=1, descending=True)
    found = fold_recalls(ids, owners[ids] == torch.arange(20)[:, None], torch.arange(20) // 5, owners // 5)
    parts = []
    for fold in range(4):
        part = scores[5 * fold : 5 * fold + 5, 15 * fold : 15 * fold + 15]
        ranks = rank_of_first_match(
            (torch.arange(15) // 3)[part.argsort(dim=1, descending=True)] == torch.arange(5)[:, None]
        )
        parts.append([100 * (ranks < depth).double().mean().item() for depth in (1, 5, 10)])
    assert found == pytest.approx(np.mean(parts, axis=0).tolist())
    assert 0 < found[0] < 100
    cut = fold_recalls(
        ids[:, :2], (owners[ids] == torch.arange(20)[:, None])[:, :2], torch.arange(20) // 5, owners // 5
    )
    assert cut[0] < found[2]  # what is not among the candidates is missed


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5])
def test_intervals_of_independent_queries_are_the_binomial_ones(share: float) -> None:
    count = 4_000
    hits = (torch.arange(count) < share * count)[:, None]
    low, high = interval(bootstrap_means([(hits, torch.arange(count))], num_samples=4_000)[0][:, 0])
    half = 1.96 * math.sqrt(share * (1 - share) / count)
    assert (low, high) == (pytest.approx(share - half, abs=0.1 * half), pytest.approx(share + half, abs=0.1 * half))


def test_captions_of_an_image_are_drawn_together() -> None:
    """Five captions that are right or wrong together tell no more than one."""
    ranks, images = torch.where(torch.arange(500) % 3 == 0, 0, FAR), torch.arange(500)
    five = recall_intervals(ranks, ranks.repeat_interleave(5), images, images.repeat_interleave(5))
    assert five["img_r1_interval"] == pytest.approx(five["txt_r1_interval"])  # also: the same images are drawn
    low, high = five["img_r1_interval"]
    hits = 100 * (ranks.repeat_interleave(5) == 0)[:, None]
    apart_low, apart_high = interval(bootstrap_means([(hits, torch.arange(2_500))])[0][:, 0])
    assert apart_high - apart_low == pytest.approx((high - low) / 5**0.5, rel=0.15)


def test_groups_of_different_size_count_by_their_queries() -> None:
    """Against the plain loop over drawn images."""
    values, groups = torch.tensor([[1.0], [0.0], [0.0], [1.0], [1.0], [0.0]]), torch.tensor([4, 4, 4, 9, 7, 7])
    samples = bootstrap_means([(values, groups)], num_samples=20_000, seed=1)[0][:, 0]
    rng, means = np.random.default_rng(0), []
    for _ in range(20_000):
        rows = [row for group in rng.choice([4, 7, 9], 3) for row in (groups == group).nonzero()[:, 0].tolist()]
        means.append(values[rows].mean().item())
    for share in (0.05, 0.3, 0.5, 0.8):
        assert samples.quantile(share).item() == pytest.approx(np.quantile(means, share), abs=0.02)
    assert samples.mean().item() == pytest.approx(np.mean(means), abs=0.01)


def test_intervals_are_seeded_and_do_not_depend_on_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks, images = torch.arange(40) % 13, torch.arange(40)
    one = recall_intervals(ranks, ranks, images, images)
    assert recall_intervals(ranks, ranks, images, images) == one
    assert recall_intervals(ranks, ranks, images, images, seed=1) != one
    monkeypatch.setattr("modeling_albef.training.evaluation.bootstrap._ENTRIES_AT_ONCE", 40)
    parts = recall_intervals(ranks, ranks, images, images)
    assert parts.keys() == one.keys() and all(low <= high for low, high in parts.values())
    metrics = retrieval_metrics(ranks, ranks)
    assert {name.removesuffix("_interval") for name in one} == set(metrics)
    assert all(one[f"{name}_interval"][0] <= value <= one[f"{name}_interval"][1] for name, value in metrics.items())


def test_intervals_of_coco_take_less_than_a_second() -> None:
    images = torch.arange(5_000)
    ranks = torch.randint(20, (25_000,))
    start = time.process_time()
    recall_intervals(ranks[:5_000], ranks, images, images.repeat_interleave(5))
    assert time.process_time() - start < 1


def ranked(scores: torch.Tensor, k: int) -> RankedCandidates:
    top = scores.topk(k, dim=1)
    return RankedCandidates(top.indices, top.values)


def made_result(k: int = 3) -> tuple[RetrievalResult, torch.Tensor, torch.Tensor]:
    """Four images, of which number 1 has no caption, and five texts; one-hot embeddings, scores of their own."""
    owners = torch.tensor([0, 0, 2, 3, 3])
    image_embeds = torch.eye(4)
    text_embeds = torch.eye(4)[[0, 1, 1, 3, 2]]  # text 0 and 3 are right at once; 1 and 2 are nearest to image 1
    scores = torch.tensor(
        [[3.0, 0.0, 1.0, 2.0, -1.0], [9.0, 9.0, 9.0, 9.0, 9.0], [1.0, 2.0, 3.0, 0.0, -1.0], [0.0, 1.0, 4.0, 3.0, 2.0]]
    )
    captions = [f"text {number}" for number in range(5)]
    result = RetrievalResult({}, ranked(scores, k), ranked(scores.T.contiguous(), k), captions, owners)
    return result, image_embeds, text_embeds


def test_an_image_without_captions_is_a_candidate_and_no_query() -> None:
    result, image_embeds, text_embeds = made_result()
    add_details(result, image_embeds, text_embeds)
    details = result.details
    assert result.query_images is not None and result.query_images.tolist() == [0, 2, 3]
    assert (details["txt_queries"], details["txt_gallery"]) == (3, 5)
    assert (details["img_queries"], details["img_gallery"]) == (5, 4)
    assert details["txt_chance_r1"] == pytest.approx(100 * (2 + 1 + 2) / 15) and details["img_chance_r1"] == 25
    assert details["img_distinct_top1"] == 1 and details["img_largest_hub"] == 5  # every text's best is image 1
    assert details["img_largest_hub_index"] == 1
    assert result.text_ranks is not None and result.text_ranks.tolist() == [0, 0, 1]
    assert details["txt_median_rank"] == 1 and details["txt_in_k_test"] == 100
    # similarity: images 0 and 3 have a text of their own pixel; image 2 finds text 4 first, its own text 2 is at 0
    assert details["txt_first_stage_r1"] == pytest.approx(100 * 2 / 3)
    assert details["img_first_stage_r1"] == pytest.approx(100 * 2 / 5)


def test_a_right_candidate_beyond_k_test() -> None:
    result, image_embeds, text_embeds = made_result(k=1)
    add_details(result, image_embeds, text_embeds)
    assert result.details["img_in_k_test"] == 0  # all five take image 1
    assert result.image_ranks is not None and (result.image_ranks >= 1).all()
    assert result.details["img_median_rank"] >= 2


@pytest.mark.parametrize(
    ("ranked", "positives", "expected"),
    [
        ([1, 2, 3], {1, 2, 3}, (1, 1)),
        ([9, 1, 2], {1, 2}, (1 / 4, 1 / 2)),  # precision 1/2 at rank 2, of R = 2
        ([1, 9, 8, 2], {1, 2, 3}, (1 / 3, 1 / 3)),  # what comes after R does not count
        ([9], {1, 2}, (0, 0)),
        ([1], {1, 2}, (1 / 2, 1 / 2)),  # a list that is shorter than R
    ],
)
def test_map_at_r(ranked: list[int], positives: set[int], expected: tuple[float, float]) -> None:
    assert precision_at_r(ranked, positives) == pytest.approx(expected)


def test_coco_images_are_known_by_their_files() -> None:
    names = [f"/data/val2014/COCO_val2014_{number:012d}.jpg" for number in range(5_000)]
    assert coco_image_ids(names) == list(range(5_000))
    assert coco_image_ids([f"{number:012d}.jpg" for number in range(5_000)]) == list(range(5_000))
    assert coco_image_ids([*names[1:], "photo.jpg"]) is None and coco_image_ids([*names[1:], names[1]]) is None
    assert coco_image_ids(names[:10]) is None


def test_captions_get_the_ids_of_their_image_in_rising_order() -> None:
    ids = coco_caption_ids([7, 8], [0, 0, 0, 1, 0], {7: [30, 10, 20], 8: [5]})
    assert ids == [10, 20, 30, 5, None]  # one more than is known


@pytest.fixture(scope="module")
def coco() -> dict[str, Any]:
    """Rankings of COCO's 5,000 test images, 256 candidates each, that find their captions now and then."""
    pytest.importorskip("eccv_caption")
    positives = known_positives()
    assert positives is not None
    from eccv_caption import Metrics

    package = Metrics()
    owner = {caption: images[0] for caption, images in positives["coco"]["t2i"].items()}
    captions = package.coco_ids.tolist()  # in the order of Karpathy's test
    images = list(dict.fromkeys(owner[caption] for caption in captions))
    row = {image: number for number, image in enumerate(images)}
    caption_image = torch.tensor([row[owner[caption]] for caption in captions])
    generator = torch.Generator().manual_seed(0)
    image_embeds = torch.nn.functional.normalize(torch.randn(5_000, 16, generator=generator), dim=1)
    noise = torch.nn.functional.normalize(torch.randn(25_000, 16, generator=generator), dim=1)
    text_embeds = torch.nn.functional.normalize(image_embeds[caption_image] + 0.8 * noise, dim=1)
    by_image = (image_embeds @ text_embeds.T).topk(256, dim=1)
    by_text = (text_embeds @ image_embeds.T).topk(256, dim=1)
    result = RetrievalResult(
        {}, RankedCandidates(by_image.indices, by_image.values), RankedCandidates(by_text.indices, by_text.values),
        ["text"] * 25_000, caption_image,
    )  # fmt: skip
    retrieved = {
        "i2t": {
            image: [captions[i] for i in ids] for image, ids in zip(images, by_image.indices.tolist(), strict=True)
        },
        "t2i": {text: [images[i] for i in ids] for text, ids in zip(captions, by_text.indices.tolist(), strict=True)},
    }
    add_details(result, image_embeds, text_embeds, coco_ids=images)
    return {"result": result, "retrieved": retrieved, "package": package, "positives": positives}


@pytest.mark.slow
def test_metrics_of_eccv_caption_equal_the_package(coco: dict[str, Any]) -> None:
    wanted = ["eccv_map_at_r", "eccv_rprecision", "cxc_recalls"]
    arguments = coco["retrieved"]["i2t"], coco["retrieved"]["t2i"]
    expected = coco["package"].compute_all_metrics(*arguments, target_metrics=wanted)
    expected |= coco["package"].compute_all_metrics(*arguments, target_metrics=["eccv_recalls"])
    found = eccv_metrics(coco["retrieved"], coco["positives"])
    names = {name: name for name in ("eccv_map_at_r", *(f"{one}_r{k}" for one in ("eccv", "cxc") for k in (1, 5, 10)))}
    for name, theirs in (names | {"eccv_r_precision": "eccv_rprecision"}).items():
        for prefix, modality in (("txt", "i2t"), ("img", "t2i")):
            assert found[f"{prefix}_{name}"] == pytest.approx(100 * expected[theirs][modality], abs=1e-9), name
            assert coco["result"].details[f"{prefix}_{name}"] == found[f"{prefix}_{name}"]
            assert 0 < found[f"{prefix}_{name}"] < 100


@pytest.mark.slow
def test_folds_of_coco_equal_the_package(coco: dict[str, Any]) -> None:
    details = coco["result"].details
    for depth in (1, 5, 10):
        expected = coco["package"].coco_1k_recalls(coco["retrieved"], "all", K=depth)
        for prefix, modality in (("txt", "i2t"), ("img", "t2i")):
            assert details[f"{prefix}_1k_r{depth}"] == pytest.approx(100 * expected[modality], abs=1e-9)
    assert details["1k_r_mean"] == pytest.approx((details["txt_1k_r_mean"] + details["img_1k_r_mean"]) / 2)
