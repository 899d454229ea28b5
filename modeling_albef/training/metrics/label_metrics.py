"""Metrics of classification and of regression as pure functions, per cent. Shapes: N rows, C labels."""

from __future__ import annotations

import torch

from ...configuration_albef import AlbefError
from ..evaluation.abstention import auroc

CLASSIFICATION_METRICS = ("accuracy", "f1_macro", "f1_micro", "auroc", "pearson", "mse", "mae")


def right_rows(predicted: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return (N,) float64 1 where a row is right, else 0; of rows with several labels (N, C) all have to be."""
    right = predicted == labels
    return (right if right.dim() == 1 else right.all(dim=1)).double()


def accuracy(predicted: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the share of right rows; arguments as in `right_rows`."""
    return 100.0 * right_rows(predicted, labels).mean().item()


def f1_by_label(predicted: torch.Tensor, labels: torch.Tensor) -> list[float | None]:
    """Return the F1 of each of C labels, the harmonic mean of precision and recall.

    Args:
        predicted: (N, C) True where a row is given a label.
        labels: (N, C) True where it has it.

    Returns:
        None for a label that no row has and none is given: it says nothing.
    """
    hits, both = (predicted & labels).sum(dim=0), predicted.sum(dim=0) + labels.sum(dim=0)
    return [200.0 * hit / count if count else None for hit, count in zip(hits.tolist(), both.tolist(), strict=True)]


def f1_macro(predicted: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the mean of `f1_by_label`."""
    known = [value for value in f1_by_label(predicted, labels) if value is not None]
    return sum(known) / max(len(known), 1)


def f1_micro(predicted: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the F1 of all labels counted together, arguments as in `f1_by_label`; of one label a row the accuracy."""
    return f1_by_label(predicted.reshape(-1, 1), labels.reshape(-1, 1))[0] or 0.0


def auroc_by_label(scores: torch.Tensor, labels: torch.Tensor) -> list[float | None]:
    """Return, for each of C labels, how often a row that has it scores higher than one that has it not.

    Args:
        scores: (N, C).
        labels: (N, C) True where a row has a label.

    Returns:
        Ties count half; 50 is a guess. None for a label that all rows have, or none.
    """
    columns = zip(scores.double().T, labels.T, strict=True)
    return [auroc(one[has], one[~has]) if has.any() and not has.all() else None for one, has in columns]


def single_label_metrics(logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Return `accuracy`, `f1_macro`, `f1_micro`, `auroc` of logits (N, C) and indices of labels (N,).

    `auroc` is that of the second label where there are two, else the mean of each label against all others.
    """
    names = torch.arange(logits.shape[1])
    predicted, truths = logits.argmax(dim=1)[:, None] == names, labels[:, None] == names
    probabilities = logits.double().softmax(dim=1)
    start = 1 if logits.shape[1] == 2 else 0
    found = {"accuracy": accuracy(logits.argmax(dim=1), labels)}
    return {**found, **_shared(predicted, truths, probabilities[:, start:], truths[:, start:])}


def multi_label_metrics(logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Return the same of rows with several labels (N, C) 0..1, by `logits` > 0; right is a row whose labels all are."""
    predicted, truths = logits > 0, labels > 0.5
    found = {"accuracy": accuracy(predicted, truths)}
    return {**found, **_shared(predicted, truths, logits, truths)}


def _shared(
    predicted: torch.Tensor, truths: torch.Tensor, scores: torch.Tensor, scored: torch.Tensor
) -> dict[str, float]:
    found = {"f1_macro": f1_macro(predicted, truths), "f1_micro": f1_micro(predicted, truths)}
    areas = [area for area in auroc_by_label(scores, scored) if area is not None]
    return {**found, "auroc": sum(areas) / len(areas)} if areas else found


def regression_metrics(predicted: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Return `pearson`, per cent, and `mse` and `mae` in the labels' own units, of numbers of the same shape.

    There is no `pearson` where all predictions or all labels are equal.
    """
    one, other = predicted.double().flatten(), labels.double().flatten()
    found = {"mse": (one - other).square().mean().item(), "mae": (one - other).abs().mean().item()}
    one, other = one - one.mean(), other - other.mean()
    size = (one.norm() * other.norm()).item()
    return {"pearson": 100 * (one @ other).item() / size, **found} if size else found


def classification_metrics(logits: torch.Tensor, labels: torch.Tensor, problem_type: str) -> dict[str, float]:
    """Return the metrics of a problem type of logits (N, C) and labels as the model's loss takes them."""
    if not len(logits):
        raise AlbefError("There is no row to measure: give data with at least one.")
    if problem_type == "regression":
        return regression_metrics(logits, labels.view_as(logits))
    return (single_label_metrics if problem_type.startswith("single") else multi_label_metrics)(logits, labels)
