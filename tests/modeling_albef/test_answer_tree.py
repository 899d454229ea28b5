"""Answers scored as a tree get the log-probabilities that each has alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from golden_cases import tiny_config
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from modeling_albef import AlbefForQuestionAnswering, AnswerTree
from modeling_albef.answer_tree_albef import (
    NODES_A_BATCH,
    AnswerScorer,
    TreeNodes,
    describe_merged_answers,
    last_node,
    merge_equal_answers,
)

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


def test_paths_in_closed_form_whichever_side_is_padded() -> None:
    """Tokens of a row without its ends, each with all before it; the last token may be any."""
    answers = [[5, 6, 7], [5, 6, 8], [9], []]
    right = encode(answers)
    left = {name: torch.zeros_like(value) for name, value in right.items()}
    for row, answer in enumerate(answers):
        for name, value in right.items():
            left[name][row, 3 - len(answer) :] = value[row, : len(answer) + 2]
    for given in (right, left):
        tree = AnswerTree.from_tokens(**given)
        assert tree.tokens.tolist() == [5, 6, 7, 8, 9] and tree.tokens.dtype == torch.int64
        assert tree.paths.tolist() == [[0, 1, 2], [0, 1, 3], [4, 5, 5], [5, 5, 5]]
        assert tree.ancestors.tolist() == [[0, 5, 5], [0, 1, 5], [0, 1, 2], [0, 1, 3], [4, 5, 5], [5, 5, 5]]
        assert tree.first_tokens.tolist() == [5, 5, 9, SEP] and tree.last_tokens.tolist() == [SEP] * 4
        assert tree.start_token == CLS and tree.mean_depth == 7 / 4
    only_empty = AnswerTree.from_tokens(**encode([[], []]))
    assert only_empty.tokens.shape == (0,) and only_empty.paths.tolist() == [[0], [0]]
    with pytest.raises(ValueError, match="attention_mask"):
        AnswerTree.from_tokens(right["input_ids"], right["attention_mask"][:2])


def test_the_last_node_of_a_path() -> None:
    paths = torch.tensor([[0, 1, 2], [4, 5, 5], [5, 5, 5]])
    assert last_node(paths, 5).tolist() == [2, 4, 5]
    assert last_node(paths[None], 5).tolist() == [[2, 4, 5]]


def test_equal_answers_are_merged_into_the_most_frequent() -> None:
    answers, tokens = ["Red", "blue", "red", "RED", "Blue"], [[1], [2, 3], [1], [1], [2, 3]]
    assert merge_equal_answers(answers, tokens) == {"Red": ["red", "RED"], "blue": ["Blue"]}
    counted = merge_equal_answers(answers, tokens, lambda: {"red": 3, "Blue": 1, "Red": 2})
    assert counted == {"red": ["Red", "RED"], "Blue": ["blue"]}
    asked: list[int] = []
    assert merge_equal_answers(["a", "b"], [[1], [2]], lambda: asked.append(1) or {}) == {"a": [], "b": []}
    assert not asked
    with pytest.raises(ValueError, match="zip"):
        merge_equal_answers(["a", "b"], [[1]])


def test_merged_answers_in_a_sentence() -> None:
    assert describe_merged_answers({"a": [], "b": []}) is None
    start = "The tokenizer cannot tell all answers apart, and one spelling is kept: "
    assert describe_merged_answers({"a": ["A"], "b": [], "c": ["C"]}) == f"{start}'A' is 'a', 'C' is 'c'."
    many = {"a": [str(number) for number in range(6)]}
    listed = ", ".join(f"'{number}' is 'a'" for number in range(5))
    assert describe_merged_answers(many) == f"{start}{listed} and 1 more."
    assert describe_merged_answers({"a": many["a"][:5]}) == f"{start}{listed}."
    assert describe_merged_answers(many, shown=6) == f"{start}{listed}, '5' is 'a'."


def test_new_tensors_of_a_scorer_are_where_its_inputs_are(model: Any, questions: Any) -> None:
    """Another default device would put them elsewhere, and mixing devices is an error."""
    states, mask = questions
    found = []
    for device in ("cpu", "meta"):
        with torch.device(device), torch.no_grad():
            given = {name: value.to("cpu") for name, value in ENCODED.items()}
            scorer = AnswerScorer(model.text_decoder, AnswerTree.from_tokens(**given), states, mask)
            found.append((scorer.rank(5), scorer.rank(5, best_only=True).ids))
    assert torch.equal(found[0][0].ids, found[1][0].ids) and torch.equal(found[0][1], found[1][1])
    assert torch.equal(found[0][0].probabilities, found[1][0].probabilities)


ENCODED = encode(ANSWERS)


@pytest.mark.parametrize("k", [1, 2, 3, 99])
def test_the_best_of_few_and_of_all(model: Any, questions: Any, k: int) -> None:
    scorer = AnswerScorer(model.text_decoder, AnswerTree.from_tokens(**ENCODED), *questions)
    with torch.no_grad():
        ranked, best = scorer.rank(k), scorer.rank(k, best_only=True)
    assert ranked.ids.shape == (3, min(k, len(ANSWERS))) and torch.equal(best.ids, ranked.ids[:, :1])
    torch.testing.assert_close(ranked.probabilities.sum(dim=1), torch.ones(3))


def test_of_equals_the_first_is_the_best(model: Any, questions: Any) -> None:
    """The same answer seven times: later groups of candidates are as good, and none is better."""
    scorer = AnswerScorer(model.text_decoder, AnswerTree.from_tokens(**encode([[7, 8]] * 7)), *questions)
    with torch.no_grad():
        assert torch.equal(scorer.rank(7, best_only=True).ids, scorer.rank(7).ids[:, :1])


def test_many_questions_are_scored_in_parts(model: Any) -> None:
    """Parts keep the logits small; a question's scores do not depend on which part it is in."""
    torch.manual_seed(5)
    states = torch.randn(40, 5, 16)
    answers = [[first, second, 7] for first in range(5, 15) for second in range(5, 15)]
    scorer = AnswerScorer(model.text_decoder, AnswerTree.from_tokens(**encode(answers)), states)
    rows: list[int] = []
    model.text_decoder.head.register_forward_hook(lambda _, __, logits: rows.append(len(logits)))
    with torch.no_grad():
        chosen = torch.arange(100).expand(40, 100)
        whole = scorer.score(chosen)
        parts, rows[:] = list(rows), []
        single = torch.cat([scorer.score(chosen[:1], torch.tensor([row])) for row in range(40)])
    assert len(parts) > 1 and max(parts) <= NODES_A_BATCH
    torch.testing.assert_close(whole, single)


def test_a_win_by_less_than_rounding_is_not_given_up() -> None:
    """The third candidate ends at its bound, a twentieth of a thousandth above what the first two end at."""
    torch.manual_seed(6)
    model: Any = AlbefForQuestionAnswering(tiny_config(initializer_range=0.2)).double().eval()
    head, states = model.text_decoder.head.decoder, torch.randn(1, 5, 16, dtype=torch.float64)
    tree = AnswerTree.from_tokens(**encode([[7, 9], [8, 9], [11]]))
    with torch.no_grad():
        head.bias[SEP] += 60  # the end is certain after any token, so the third ends at its bound
        head.bias[[7, 8]] += 30
        for _ in range(4):
            scorer = AnswerScorer(model.text_decoder, tree, states)
            scores = scorer.score(torch.arange(3)[None])[0]
            head.bias[11] += scores[:2].max() + 5e-5 - scores[2]
        scorer = AnswerScorer(model.text_decoder, tree, states)
        scores, first = scorer.score(torch.arange(3)[None])[0], scorer.first_scores[0]
        assert 2e-5 < scores[2] - scores[:2].max() < 9e-5 and first[2] < first[:2].min()
        assert scores[2] == pytest.approx(first[2].item(), abs=1e-6)
        assert scorer.rank(3, count_first_token_twice=False, best_only=True).ids.tolist() == [[2]]


def test_nodes_take_an_attention_that_knows_masks_of_any_form() -> None:
    tree, chosen = AnswerTree.from_tokens(**ENCODED), torch.tensor([[0, 2]])
    for given, used in (("eager", "eager"), ("sdpa", "sdpa"), ("flash_attention_2", "sdpa")):
        assert TreeNodes.from_candidates(tree, chosen, given).implementation == used


def test_equal_answers_keep_the_order_of_their_first_tokens(model: Any, questions: Any) -> None:
    """In any number: a sort that is not stable keeps it only where there are few."""
    scorer = AnswerScorer(model.text_decoder, AnswerTree.from_tokens(**encode([[7, 8]] * 100)), *questions)
    with torch.no_grad():
        ranked = scorer.rank(100)
    assert torch.equal(ranked.ids, scorer.first_scores.topk(100).indices)
    torch.testing.assert_close(ranked.probabilities, torch.full((3, 100), 0.01))


def test_nodes_never_meet_an_attention_that_refuses_their_masks(
    model: Any, questions: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is registered with the library reads the start tokens; the nodes take torch's own."""

    def refuse(module: Any, query: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        assert query.shape[2] == 1, "more than a start token"
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, *args, **kwargs)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "refuse", refuse)
    tree = AnswerTree.from_tokens(**ENCODED)
    with torch.no_grad():
        expected = AnswerScorer(model.text_decoder, tree, *questions).rank(5)
        model.set_attn_implementation("refuse")
        found = AnswerScorer(model.text_decoder, tree, *questions).rank(5)
    assert torch.equal(found.ids, expected.ids)
    torch.testing.assert_close(found.probabilities, expected.probabilities)
