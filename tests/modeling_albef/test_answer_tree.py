"""Answers scored as a tree get the log-probabilities that each has alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from golden_cases import tiny_config

from modeling_albef import AlbefForQuestionAnswering, AnswerTree
from modeling_albef.answer_tree_albef import AnswerScorer

CLS, SEP = 1, 2
# one a beginning of another, equal tokens after different ones, one after `[CLS]` at once, a long one
ANSWERS = [[7], [7, 8], [7, 8, 9], [7, 9], [8], [9, 8, 7, 7, 7, 10], [10, 8], [10, 9, 8], [11], [12, 12], []]


def encode(answers: list[list[int]]) -> dict[str, torch.Tensor]:
    rows = [[CLS, *answer, SEP] for answer in answers]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


@pytest.fixture
def model() -> AlbefForQuestionAnswering:
    torch.manual_seed(3)
    return AlbefForQuestionAnswering(tiny_config(initializer_range=0.4)).eval()


@pytest.fixture
def questions() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(4)
    return torch.randn(3, 5, 16), torch.tensor([[1] * 5, [1] * 3 + [0] * 2, [1] * 4 + [0]])


def rounding(scores: torch.Tensor) -> float:
    """What float32 leaves uncertain: the log-softmax of few logits has the error of some of its additions.

    In float64 the scores of equal first tokens are equal; in float32 they differ by up to 3 units in the last place.
    """
    return 8 * torch.finfo(torch.float32).eps * scores.abs().max().item()


def alone(model: Any, question: torch.Tensor, answer: list[int]) -> tuple[float, float]:
    """Whole and first log-probability of an answer, decoded by itself."""
    tokens = torch.tensor([[CLS, *answer, SEP]])
    with torch.no_grad():
        logits = model.text_decoder(tokens, encoder_hidden_states=question).logits
    found = logits[0, :-1].log_softmax(-1).gather(1, tokens[0, 1:, None])[:, 0]
    return found.sum().item(), found[0].item()


def test_tree_in_closed_form() -> None:
    tree = AnswerTree.from_tokens(**encode(ANSWERS))
    beginnings = {tuple(answer[:stop]) for answer in ANSWERS for stop in range(1, len(answer) + 1)}
    assert len(tree.tokens) == len(beginnings) == 18
    assert tree.paths[2].tolist() == [0, 1, 2, 18, 18, 18]  # 7, then 8, then 9
    assert tree.paths[10].tolist() == [18] * 6  # the empty answer has no node
    assert tree.ancestors[2].tolist() == [0, 1, 2, 18, 18, 18]
    assert tree.first_tokens.tolist() == [answer[0] if answer else SEP for answer in ANSWERS]
    with pytest.raises(ValueError, match="Candidate 1 is empty"):
        AnswerTree.from_tokens(torch.tensor([[CLS, SEP], [CLS, 0]]), torch.tensor([[1, 1], [1, 0]]))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("twice", [True, False])
@pytest.mark.parametrize("k", [11, 4])
def test_every_candidate_has_the_score_it_has_alone(
    model: Any, questions: Any, k: int, twice: bool, attention: str
) -> None:
    model.set_attn_implementation(attention)
    states, mask = questions
    scorer = AnswerScorer(model.text_decoder, AnswerTree.from_tokens(**encode(ANSWERS)), states, mask)
    with torch.no_grad():
        ranked = scorer.rank(k, count_first_token_twice=twice)
        best = scorer.rank(k, count_first_token_twice=twice, best_only=True)
    for row in range(3):
        parts = [alone(model, states[row : row + 1, : int(mask[row].sum())], answer) for answer in ANSWERS]
        wholes, firsts = (torch.tensor(column) for column in zip(*parts, strict=True))
        assert firsts[ranked.ids[row]].min() >= firsts.topk(k).values.min() - rounding(
            firsts
        )  # the right ones were chosen
        scores = (wholes + firsts if twice else wholes)[ranked.ids[row]]
        torch.testing.assert_close(ranked.probabilities[row], scores.softmax(0), atol=1e-6, rtol=0)
        assert (scores.diff() <= rounding(scores)).all()
    assert best.probabilities is None
    assert torch.equal(best.ids, ranked.ids[:, :1])


def test_the_best_is_found_without_scoring_the_rest(model: Any, questions: Any) -> None:
    """Where answers end as expected, the first token tells nearly all; what is scored is counted at the head."""
    states, mask = questions
    with torch.no_grad():
        model.text_decoder.head.decoder.bias[SEP] += 30
    answers = [[first, *rest] for first in range(5, 60) for rest in ([], [7])]
    scorer = AnswerScorer(model.text_decoder, AnswerTree.from_tokens(**encode(answers)), states, mask)
    rows: list[int] = []
    model.text_decoder.head.register_forward_hook(lambda _, __, logits: rows.append(len(logits)))
    with torch.no_grad():
        ranked = scorer.rank(100)
        everything, rows[:] = sum(rows), []
        best = scorer.rank(100, best_only=True)
    assert torch.equal(best.ids, ranked.ids[:, :1])
    assert sum(rows) < everything / 5


def test_too_long_a_candidate_is_named(model: Any, questions: Any) -> None:
    tree = AnswerTree.from_tokens(**encode([[7] * 45]))
    with pytest.raises(ValueError, match="46 tokens, but the decoder reads 40"):
        AnswerScorer(model.text_decoder, tree, questions[0])


def test_the_best_is_not_given_up_too_early() -> None:
    """Many candidates whose first tokens are about as likely: a bound that is a nat too low would lose the winner."""
    late = 0
    answers = [[first, *rest] for first in range(5, 25) for rest in ([], [7], [8, 9])]
    tree = AnswerTree.from_tokens(**encode(answers))
    for seed in range(20):
        torch.manual_seed(seed)
        model: Any = AlbefForQuestionAnswering(tiny_config(initializer_range=0.2)).eval()
        with torch.no_grad():
            model.text_decoder.head.decoder.bias[SEP] += 4
            scorer = AnswerScorer(model.text_decoder, tree, torch.randn(4, 5, 16))
            for twice in (True, False):
                ranked, best = scorer.rank(60, twice), scorer.rank(60, twice, best_only=True)
                assert torch.equal(best.ids, ranked.ids[:, :1])
                order = scorer.first_scores.topk(60, dim=1).indices
                late += int(((order == best.ids).int().argmax(dim=1) >= 2).sum())  # not in the first group
    assert late > 20
