"""The losses against closed forms and plain loops."""

from __future__ import annotations

import math

import pytest
import torch

from modeling_albef.losses_albef import (
    answer_loss,
    contrastive_positives,
    distill_targets,
    itc_loss,
    itm_loss,
    mlm_loss,
    predicted_tokens,
    sample_hard_negatives,
    soft_cross_entropy,
)


def test_captions_of_one_image_share_the_mass() -> None:
    positives = contrastive_positives(torch.tensor([7, 7, 3]), torch.tensor([7, 7, 3, -100, 7]))
    third = 1 / 3
    expected = [[third, third, 0, 0, third], [third, third, 0, 0, third], [0, 0, 1, 0, 0]]
    torch.testing.assert_close(positives, torch.tensor(expected))


def test_targets_mix_by_alpha() -> None:
    hard = torch.tensor([[1.0, 0.0]])
    logits = torch.tensor([[0.0, math.log(3.0)]])  # the teacher says 1/4, 3/4
    torch.testing.assert_close(distill_targets(hard, logits, 0.4), torch.tensor([[0.7, 0.3]]))
    assert torch.equal(distill_targets(hard, logits, 0.0), hard)


def test_uniform_logits_cost_the_logarithm_of_the_candidates() -> None:
    targets = torch.eye(3, 8)
    assert soft_cross_entropy(torch.zeros(3, 8), targets).item() == pytest.approx(math.log(8))
    loss = itc_loss(torch.zeros(3, 8), torch.zeros(3, 4), targets, torch.eye(3, 4))
    assert loss.item() == pytest.approx((math.log(8) + math.log(4)) / 2)


def test_soft_cross_entropy_equals_the_library_on_hard_targets() -> None:
    logits, labels = torch.randn(5, 9), torch.tensor([0, 8, 3, 3, 1])
    hard = torch.nn.functional.one_hot(labels, 9).float()
    torch.testing.assert_close(soft_cross_entropy(logits, hard), torch.nn.functional.cross_entropy(logits, labels))


def test_negatives_follow_the_published_distribution() -> None:
    torch.manual_seed(0)
    ids = torch.tensor([0, 0, 1, 2])
    row = torch.tensor([3.0, 1.0, 0.5, -0.5])
    weights = (row.softmax(0) * torch.tensor([0.0, 0.0, 1.0, 1.0])).tolist()  # as published: softmax, then zeroed
    draws = torch.stack([sample_hard_negatives(row.expand(4, 4), ids)[0] for _ in range(4000)])
    share = (draws == 2).float().mean().item()
    assert share == pytest.approx(weights[2] / sum(weights), abs=0.03)
    assert set(draws.tolist()) == {2, 3}


def test_negatives_survive_underflow_and_a_single_image() -> None:
    ids = torch.tensor([0, 1])
    extreme = torch.tensor([[1e4, -1e4], [-1e4, 1e4]])  # after a plain softmax nothing is left off the diagonal
    assert sample_hard_negatives(extreme, ids).tolist() == [1, 0]
    drawn = sample_hard_negatives(torch.randn(3, 3), torch.tensor([5, 5, 5]))
    assert drawn.shape == (3,) and (drawn < 3).all()


def test_matching_loss_counts_pairs_and_leaves_out_missing_negatives() -> None:
    logits = torch.randn(6, 2)
    labels = torch.tensor([1, 1, 0, 0, 0, 0])
    expected = torch.nn.functional.cross_entropy(logits, labels)
    torch.testing.assert_close(itm_loss(logits, torch.tensor([0, 1])), expected)
    only_pairs = torch.nn.functional.cross_entropy(logits[:2], labels[:2])
    torch.testing.assert_close(itm_loss(logits, torch.tensor([4, 4])), only_pairs)


def test_masked_language_loss_is_a_mean_over_the_masked_tokens_alone() -> None:
    torch.manual_seed(0)
    logits, teacher = torch.randn(2, 4, 5), torch.randn(2, 4, 5)
    labels = torch.tensor([[-100, 3, -100, 0], [-100, -100, -100, 4]])
    hard = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())  # which ignores -100
    torch.testing.assert_close(mlm_loss(logits, labels), hard)
    soft = []
    for row, token in [(0, 1), (0, 3), (1, 3)]:
        soft.append(torch.nn.functional.cross_entropy(logits[row, token], teacher[row, token].softmax(0)))
    mixed = 0.6 * hard + 0.4 * sum(soft) / 3
    torch.testing.assert_close(mlm_loss(logits, labels, teacher, 0.4), mixed)
    torch.testing.assert_close(mlm_loss(logits, labels, teacher, torch.tensor(0.4)), mixed)
    assert mlm_loss(logits, torch.full((2, 4), -100), teacher, 0.4) == 0


def test_in_evaluation_the_hardest_negative_is_taken() -> None:
    logits = torch.tensor([[9.0, 1.0, 2.0, 3.0], [5.0, 9.0, 6.0, 1.0], [4.0, 3.0, 9.0, 2.0], [1.0, 2.0, 3.0, 9.0]])
    assert sample_hard_negatives(logits, torch.tensor([0, 1, 2, 2]), hardest=True).tolist() == [3, 2, 0, 1]


def test_tokens_after_left_padding_are_not_predicted() -> None:
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]])
    assert predicted_tokens(mask).tolist() == [[0, 0, 0, 1], [1, 1, 1, 0]]


def test_without_alpha_the_teacher_has_no_say() -> None:
    torch.manual_seed(0)
    logits, teacher, labels = (
        torch.randn(2, 4, 5),
        torch.randn(2, 4, 5),
        torch.tensor([[-100, 3, 1, 0], [-100, 2, 4, 4]]),
    )
    torch.testing.assert_close(mlm_loss(logits, labels, teacher), mlm_loss(logits, labels))
    ids, mask, weights = labels.clamp(min=0), torch.ones(2, 4), torch.tensor([0.5, 1.0])
    plain = answer_loss(logits, ids, mask, weights, 2)
    torch.testing.assert_close(answer_loss(logits, ids, mask, weights, 2, teacher), plain)
