"""Rankings and recalls as pure functions: boundaries, devices, lengths that have to agree."""

from __future__ import annotations

import pytest
import torch

from modeling_albef.training.evaluation.ranking import (
    RankedCandidates,
    pairs_to_score,
    rank_candidates,
    select_candidates,
)
from modeling_albef.training.evaluation.retrieval_metrics import (
    fold_recalls,
    rank_of_first_match,
    recall_at_k,
    retrieval_metrics,
    whole_ranks,
)


def test_the_best_of_a_query() -> None:
    ranked = RankedCandidates(torch.tensor([[4, 2, 9], [1, 0, 3]]), torch.tensor([[0.5, 0.25, 0.0], [2.0, 1.0, -1.0]]))
    assert ranked.best(1, 2) == [(1, 2.0), (0, 1.0)] and len(ranked.best(0, 9)) == 3
    with pytest.raises(ValueError, match="zip"):
        RankedCandidates(torch.tensor([[4, 2]]), torch.tensor([[0.5]])).best(0, 2)


def test_a_gallery_smaller_than_k_is_taken_whole() -> None:
    queries, gallery = torch.eye(3), torch.eye(3)[:2] * torch.tensor([[1.0], [2.0]])
    assert select_candidates(queries, gallery, 5).tolist() == [[0, 1], [1, 0], [0, 1]]
    assert select_candidates(queries, gallery, 1).tolist() == [[0], [1], [0]]


def test_ranks_among_the_candidates_end_before_their_number() -> None:
    assert whole_ranks(torch.tensor([3, 2]), torch.tensor([7, 0]), num_candidates=3).tolist() == [7, 2]


def test_recalls_of_each_depth() -> None:
    ranks = torch.tensor([0, 1, 4, 5, 9, 10, 11, 99])
    assert recall_at_k(ranks) == [12.5, 37.5, 62.5]
    assert recall_at_k(ranks, (2, 100)) == [25.0, 100.0]
    metrics = retrieval_metrics(ranks, torch.tensor([0, 7]))
    assert metrics == {
        **{"txt_r1": 12.5, "txt_r5": 37.5, "txt_r10": 62.5, "txt_r_mean": 37.5},
        **{"img_r1": 50.0, "img_r5": 50.0, "img_r10": 100.0, "img_r_mean": pytest.approx(200 / 3)},
        "r_mean": pytest.approx((37.5 + 200 / 3) / 2),
    }


def test_recalls_of_folds_are_not_rounded_to_float32() -> None:
    """Three queries, one of them found: a third of 100, to the last bit."""
    ids, folds = torch.tensor([[0, 1, 2]] * 3), torch.zeros(3, dtype=torch.int64)
    assert fold_recalls(ids, ids == torch.tensor([[0], [1], [2]]), folds, folds, (1, 2)) == [100 / 3, 200 / 3]


def test_no_match_is_further_than_any_rank() -> None:
    ranks = rank_of_first_match(torch.tensor([[False, True, True], [False, False, False]]))
    assert ranks.tolist() == [1, 2**63 - 1] and ranks.dtype == torch.int64


@pytest.mark.parametrize("block_size", [1, 64, 200, 2048])
def test_equal_scores_keep_the_order_of_similarity(block_size: int) -> None:
    """In any number: a sort that is not stable keeps it only where there are few."""
    texts_of_image = torch.randperm(200, generator=torch.Generator().manual_seed(0)).expand(2, 200)
    images_of_text = torch.tensor([[1, 0]]).expand(200, 2)
    pairs = pairs_to_score(texts_of_image, images_of_text)
    scores = (pairs[:, 1] % 2).float()  # odd texts are better, and all of them alike
    by_image, by_text = rank_candidates(pairs, scores, texts_of_image, images_of_text, block_size)
    expected = [text for rest in (1, 0) for text in texts_of_image[0].tolist() if text % 2 == rest]
    assert by_image.ids.tolist() == [expected] * 2
    assert by_text.ids.tolist() == [[1, 0]] * 200
