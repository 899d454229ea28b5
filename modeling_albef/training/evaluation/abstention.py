"""When to say that nothing fits: a threshold on the best candidate's score, and how often it errs.

A query is present where its answer is in the gallery, and absent where the answer was taken out. Shapes: Q queries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ...configuration_albef import AlbefError
from .bootstrap import bootstrap_means, interval

_MAX_STEPS = 100


@dataclass
class BestScores:
    """The best score of each query with its answer in the gallery and without, by both stages.

    Attributes:
        present: (Q,) matching score of the best candidate.
        absent: (Q,) the same without the right candidates.
        cosine_present: (Q,) cosine similarity of the most similar candidate.
        cosine_absent: (Q,) the same without the right candidates.
        groups: (Q,) the image that each query is or belongs to.
    """

    present: torch.Tensor
    absent: torch.Tensor
    cosine_present: torch.Tensor
    cosine_absent: torch.Tensor
    groups: torch.Tensor

    def __post_init__(self) -> None:
        kept = self.absent.isfinite() & self.cosine_absent.isfinite()  # some candidate is wrong
        for name, values in vars(self).items():
            setattr(self, name, values[kept])


def fit_threshold(present: torch.Tensor, absent: torch.Tensor) -> tuple[float, float]:
    """Fit the probability that a query is present, `sigmoid((score - threshold) / temperature)`, to best scores.

    It is the maximum of the likelihood, with the targets of Platt (1999), which keep the temperature above 0 where the
    scores of present and absent queries do not overlap.

    Args:
        present: (n,) best scores of present queries.
        absent: (m,) best scores of absent ones.

    Returns:
        Temperature > 0, and threshold: the score at which both are equally likely.

    Raises:
        AlbefError: There are no queries, or the scores do not rise where the answer is there.
    """
    scores = torch.cat([present, absent]).double()
    if not (len(present) and len(absent)):
        raise AlbefError("No query has a wrong candidate: a threshold needs at least two images with captions.")
    center, scale = scores.mean(), scores.std(correction=0)
    inputs = torch.stack([(scores - center) / scale.clamp(min=1e-300), torch.ones_like(scores)], dim=1)
    targets = torch.cat(
        [
            scores.new_full((len(present),), (len(present) + 1) / (len(present) + 2)),
            scores.new_full((len(absent),), 1 / (len(absent) + 2)),
        ]
    )
    weights = scores.new_zeros(2)  # slope and offset

    def loss(weights: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.binary_cross_entropy_with_logits(inputs @ weights, targets, reduction="sum")

    for _ in range(_MAX_STEPS):  # Newton's method; the loss is convex
        probability = (inputs @ weights).sigmoid()
        gradient = inputs.T @ (probability - targets)
        hessian = (inputs.T * (probability * (1 - probability))) @ inputs
        step = torch.linalg.solve(hessian + 1e-12 * torch.eye(2, dtype=scores.dtype), gradient)
        size = 1.0
        while size > 1e-10 and loss(weights - size * step) > loss(weights):
            size /= 2
        weights = weights - size * step
        if (size * step).abs().max() < 1e-12:
            break
    if not (scale > 0 and weights[0] > 1e-9):
        raise AlbefError("The best scores do not rise where the answer is there: no threshold fits, train the model.")
    temperature = float(scale / weights[0])
    return temperature, float(center) - float(weights[1]) * temperature


def auroc(present: torch.Tensor, absent: torch.Tensor) -> float:
    """Return the share, per cent, of pairs in which the present query (n,) has the higher score than the absent (m,).

    Ties count half. 50 is a guess, 100 a perfect separation.
    """
    return 100 * _shares_below(present, absent).mean().item()


def _shares_below(values: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Return (n,) float64: for each value the share of others that are smaller, equal ones by half."""
    ordered = others.sort().values
    smaller = torch.searchsorted(ordered, values.contiguous())
    not_larger = torch.searchsorted(ordered, values.contiguous(), right=True)
    return (smaller + not_larger).double() / (2 * len(others))


def calibrate(scores: Mapping[str, BestScores]) -> dict[str, float]:
    """Fit one temperature and one threshold to the matching scores of all queries, and the same to the similarities.

    Args:
        scores: Of text retrieval ("txt") and image retrieval ("img").

    Returns:
        `temperature`, `threshold`, `cosine_temperature`, `cosine_threshold`: what a model's configuration keeps.
    """
    fitted = {}
    for stage in ("", "cosine_"):
        present, absent = (
            torch.cat([getattr(one, f"{stage}{name}") for one in scores.values()]) for name in ("present", "absent")
        )
        fitted[f"{stage}temperature"], fitted[f"{stage}threshold"] = fit_threshold(present, absent)
    return fitted


def abstention_metrics(scores: Mapping[str, BestScores], calibration: Mapping[str, float]) -> dict[str, object]:
    """Return how well best scores separate present queries from absent ones, per cent, with 95 % bootstrap intervals.

    Args:
        scores: By prefix, "txt" and "img".
        calibration: From `calibrate`.

    Returns:
        For each prefix, of the matching score and, after `cosine_`, of the similarity: `auroc`;
        `found_though_absent`, the share of absent queries whose best score reaches the threshold;
        `missed_though_present`, the share of present ones whose does not; each also as `.._interval`.
    """
    metrics: dict[str, object] = {}
    for prefix, one in scores.items():
        for stage in ("", "cosine_"):
            present, absent = getattr(one, f"{stage}present"), getattr(one, f"{stage}absent")
            if not len(present):
                continue
            threshold = calibration[f"{stage}threshold"]
            above, below = _shares_below(present, absent), 1 - _shares_below(absent, present)
            area = above.mean()
            values = torch.stack([above + below - area, absent >= threshold, present < threshold], dim=1)
            samples = bootstrap_means([(100 * values, one.groups)])[0]
            names = ("auroc", "found_though_absent", "missed_though_present")
            for column, name in enumerate(names):
                metrics[f"{prefix}_{stage}{name}"] = 100 * values[:, column].mean().item()
                metrics[f"{prefix}_{stage}{name}_interval"] = interval(samples[:, column])
    return metrics
