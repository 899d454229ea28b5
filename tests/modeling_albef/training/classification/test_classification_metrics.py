"""Metrics of classification against closed forms and counts taken pair by pair."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from modeling_albef import AlbefError
from modeling_albef.training import (
    accuracy,
    auroc_by_label,
    classification_metrics,
    f1_by_label,
    f1_macro,
    f1_micro,
)

SINGLE, SEVERAL = "single_label_classification", "multi_label_classification"


def one_hot(index: torch.Tensor, count: int) -> torch.Tensor:
    return index[:, None] == torch.arange(count)


def test_known_counts() -> None:
    """Of label 0 two of three are found and one too many: precision 2/3, recall 2/3; of label 1 1/2 and 1/2 .."""
    truths, predicted = torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([0, 0, 1, 1, 0, 2])
    pair = one_hot(predicted, 4), one_hot(truths, 4)
    assert f1_by_label(*pair) == [pytest.approx(200 / 3), pytest.approx(50.0), 100.0, None]  # nothing has label 3
    assert f1_macro(*pair) == pytest.approx((200 / 3 + 50 + 100) / 3)
    assert f1_micro(*pair) == pytest.approx(accuracy(predicted, truths)) == pytest.approx(400 / 6)


def test_f1_is_the_harmonic_mean_of_precision_and_recall() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted, truths = (torch.rand(50, 3, generator=generator) > threshold for threshold in (0.4, 0.7))
    for label, found in enumerate(f1_by_label(predicted, truths)):
        hits = sum(bool(a and b) for a, b in zip(predicted[:, label], truths[:, label], strict=True))
        precision, recall = hits / int(predicted[:, label].sum()), hits / int(truths[:, label].sum())
        assert found == pytest.approx(100 * 2 * precision * recall / (precision + recall))
    whole = f1_by_label(predicted.flatten()[:, None], truths.flatten()[:, None])[0]
    assert f1_micro(predicted, truths) == pytest.approx(whole)
    assert accuracy(predicted, truths) == pytest.approx(100 * sum(map(torch.equal, predicted, truths)) / 50)


def test_auroc_is_the_share_of_pairs_in_order() -> None:
    generator = torch.Generator().manual_seed(1)
    scores = torch.randint(0, 6, (40, 2), generator=generator).float()  # with ties
    truths = torch.rand(40, 2, generator=generator) > 0.6
    for label, found in enumerate(auroc_by_label(scores, truths)):
        ours = scores[truths[:, label], label].tolist()
        others = scores[~truths[:, label], label].tolist()
        pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in product(ours, others)]
        assert found == pytest.approx(100 * sum(pairs) / len(pairs))
    assert auroc_by_label(scores, torch.ones(40, 2, dtype=torch.bool)) == [None, None]


def test_metrics_of_each_problem_type() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 1.0], [0.0, 0.5]])
    found = classification_metrics(logits, torch.tensor([0, 1, 1, 1]), SINGLE)
    assert found["accuracy"] == found["f1_micro"] == 75.0 and found["auroc"] == pytest.approx(250 / 3)
    labels = torch.tensor([[1.0, 0], [0, 1], [1, 1], [0, 1]])
    found = classification_metrics(logits - 0.25, labels, SEVERAL)
    assert found == {"accuracy": 100.0, "f1_macro": 100.0, "f1_micro": 100.0, "auroc": 100.0}
    line = torch.tensor([[1.0], [2.0], [4.0]])
    found = classification_metrics(line, 3 * line.flatten() + 1, "regression")
    assert found == {
        "pearson": pytest.approx(100),
        "mse": pytest.approx((9 + 25 + 81) / 3),
        "mae": pytest.approx(17 / 3),
    }
    assert "pearson" not in classification_metrics(torch.ones(3, 1), line.flatten(), "regression")
    with pytest.raises(AlbefError, match="no row to measure"):
        classification_metrics(logits[:0], torch.tensor([]), SINGLE)


def test_one_label_in_the_data_has_no_area() -> None:
    found = classification_metrics(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0]), SINGLE)
    assert found == {"accuracy": 50.0, "f1_macro": pytest.approx(100 / 3), "f1_micro": 50.0}
