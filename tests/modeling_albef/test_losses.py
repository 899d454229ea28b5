"""The losses against closed forms and plain loops."""

from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing

from modeling_albef.losses_albef import (
    PairPool,
    answer_loss,
    contrastive_positives,
    distill_targets,
    gather_pairs,
    itc_loss,
    itm_loss,
    mlm_loss,
    next_token_loss,
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


def test_the_loss_of_the_next_token_is_that_of_shifted_labels() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 4, 5), torch.tensor([[1, 3, -100, 0], [2, -100, -100, 4]])
    at = [(0, 0, 3), (0, 2, 0), (1, 2, 4)]  # row, position before, token
    expected = -sum(logits[row, position].log_softmax(0)[token] for row, position, token in at) / 3
    torch.testing.assert_close(next_token_loss(logits, labels), expected)


def test_one_masked_token_counts_whole() -> None:
    logits, labels = torch.zeros(1, 3, 8), torch.tensor([[-100, 5, -100]])
    assert mlm_loss(logits, labels).item() == pytest.approx(math.log(8))


def test_what_is_predicted_keeps_the_values_of_its_mask() -> None:
    mask = torch.tensor([[1, 1, 0], [0, 1, 1]])
    assert predicted_tokens(mask)[:, 0].tolist() == [1, 0]
    assert predicted_tokens(mask).dtype == torch.int64


def test_a_teacher_of_half_precision_is_read_in_float32() -> None:
    """Float16 overflows at 65,504, and a softmax of it keeps three digits."""
    torch.manual_seed(1)
    teacher, student = 30 * torch.randn(3, 50).half(), 30 * torch.randn(3, 50).half()
    hard = torch.eye(3, 50)
    torch.testing.assert_close(
        distill_targets(hard, teacher, 0.4), 0.4 * teacher.double().softmax(1).float() + 0.6 * hard
    )
    found = soft_cross_entropy(student, hard)
    expected = -student.double().log_softmax(1)[torch.arange(3), torch.arange(3)].mean()
    torch.testing.assert_close(found, expected.float())


def test_negatives_of_a_pool() -> None:
    """Rows of one image in the pool are left out, of rows that are not finite any will do."""
    logits = torch.tensor([[5.0, 1.0, 3.0, 2.0], [1.0, float("nan"), 0.0, 0.0]])
    drawn = sample_hard_negatives(logits, torch.tensor([7, 8]), torch.tensor([7, 8, 9, 7]), hardest=True)
    assert drawn[0] == 2 and 0 <= drawn[1] < 4
    seen = {int(sample_hard_negatives(logits, torch.tensor([7, 8]), torch.tensor([7, 8, 9, 9]))[0]) for _ in range(99)}
    assert seen == {1, 2, 3}


def test_new_tensors_of_losses_are_where_their_inputs_are() -> None:
    """Another default device would put them elsewhere, and mixing devices is an error."""
    logits, ids = torch.randn(6, 2), torch.tensor([0, 1])
    expected = itm_loss(logits, ids)
    with torch.device("meta"):
        assert torch.equal(itm_loss(logits, ids), expected)


def _pool(rank: int, with_mask: bool) -> PairPool:
    """Two pairs whose texts are 3 + 2 * rank tokens long, all numbers different."""
    length = 3 + 2 * rank
    image = torch.arange(16.0).view(2, 4, 2) + 100 * rank
    text = torch.arange(2.0 * length * 2).view(2, length, 2) + 1000 + 100 * rank
    mask = (torch.arange(length) < torch.tensor([[length], [2]])).long() if with_mask else None
    embeds = torch.eye(2) * (rank + 2)
    return PairPool(image, text, mask, embeds, -embeds, torch.tensor([5, 6]) + 10 * rank, torch.arange(2))


def _gather(rank: int, folder: Path) -> None:
    limit = timedelta(seconds=60)
    distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2, timeout=limit)
    for with_mask in (True, False):
        both = [_pool(one, with_mask) for one in range(2)]
        own = both[rank]._replace(
            image_hidden_states=both[rank].image_hidden_states.requires_grad_(),
            text_hidden_states=both[rank].text_hidden_states.requires_grad_(),
        )
        with torch.device("meta"):  # new tensors go where the inputs are
            found = gather_pairs(own)
        padded = torch.cat([both[0].text_hidden_states, torch.zeros(2, 2, 2)], dim=1)
        assert torch.equal(found.text_hidden_states, torch.cat([padded, both[1].text_hidden_states]))
        assert torch.equal(found.image_hidden_states, torch.cat([one.image_hidden_states for one in both]))
        assert torch.equal(found.image_embeds, torch.cat([one.image_embeds for one in both]))
        assert torch.equal(found.text_embeds, torch.cat([one.text_embeds for one in both]))
        assert found.image_ids.tolist() == [5, 6, 15, 16] and found.own.tolist() == [2 * rank, 2 * rank + 1]
        second = [1, 1, 0, 0, 0] if with_mask else [1, 1, 1, 0, 0]
        last = [[1] * 5, [1, 1, 0, 0, 0] if with_mask else [1] * 5]
        assert found.attention_mask is not None and found.attention_mask.dtype == torch.int64
        assert found.attention_mask.tolist() == [[1, 1, 1, 0, 0], second, *last]
        assert not found.image_embeds.requires_grad and not found.text_embeds.requires_grad
        ((rank + 1) * (found.image_hidden_states.sum() + found.text_hidden_states.sum())).backward()
        for states in (own.image_hidden_states, own.text_hidden_states):  # of both processes: 1 + 2
            assert states.grad is not None and torch.equal(states.grad, torch.full_like(states, 3.0))
    distributed.destroy_process_group()


def test_pairs_of_all_ranks_in_their_order(tmp_path: Path) -> None:
    pool = _pool(0, True)
    assert gather_pairs(pool) is pool  # outside of a run
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=_gather, args=(rank, tmp_path)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
        process.kill()
    assert [process.exitcode for process in ranks] == [0, 0]


def test_a_single_process_keeps_its_pairs(tmp_path: Path) -> None:
    distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        pool = _pool(0, True)
        assert gather_pairs(pool) is pool
    finally:
        distributed.destroy_process_group()


def test_a_batch_of_one_pair_has_no_negatives() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)], [5.0, 0.0], [5.0, 0.0]])
    assert itm_loss(logits, torch.tensor([4])).item() == pytest.approx(math.log(4 / 3))


def test_the_loss_of_answers_token_by_token() -> None:
    """Two answers of one question and one of another, the second shorter; the teacher has 0.4 of the say."""
    torch.manual_seed(2)
    logits, teacher = torch.randn(3, 4, 6), torch.randn(3, 4, 6)
    ids = torch.tensor([[1, 4, 5, 2], [1, 3, 2, 0], [1, 5, 5, 2]])
    mask, weights = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]]), [0.7, 0.3, 0.5]
    for alpha in (0.0, 0.4):
        expected = 0.0
        for answer in range(3):
            for position in range(int(mask[answer].sum()) - 1):  # the token after it
                own = logits[answer, position].log_softmax(0)
                hard = -own[ids[answer, position + 1]]
                soft = -(teacher[answer, position].softmax(0) * own).sum()
                expected += weights[answer] * ((1 - alpha) * hard + alpha * soft).item() / 2
        found = answer_loss(logits, ids, mask, torch.tensor(weights), 2, teacher, alpha)
        assert found.item() == pytest.approx(expected, rel=1e-5)
