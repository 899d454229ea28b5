"""Retrieval metrics as pure functions. Shapes: Q queries, K ranked candidates of each."""

from __future__ import annotations

import torch

RECALL_DEPTHS = (1, 5, 10)
RETRIEVAL_METRICS = (
    *("txt_r1", "txt_r5", "txt_r10", "txt_r_mean", "img_r1", "img_r5", "img_r10", "img_r_mean"),
    "r_mean",
)


def rank_of_first_match(matches: torch.Tensor) -> torch.Tensor:
    """Return (Q,) int64 ranks, 0 = best, of the first match (Q, K) of each query; without a match the largest int64."""
    first = matches.int().argmax(dim=1)
    return torch.where(matches.any(dim=1), first, torch.iinfo(torch.int64).max)


def recall_at_k(ranks: torch.Tensor, depths: tuple[int, ...] = RECALL_DEPTHS) -> list[float]:
    """Return the share of queries with a right candidate among the first ones, per cent for each depth.

    Args:
        ranks: (Q,) from `rank_of_first_match`.
        depths: How many candidates count.
    """
    return [100.0 * (ranks < depth).sum().item() / len(ranks) for depth in depths]


def retrieval_metrics(text_ranks: torch.Tensor, image_ranks: torch.Tensor) -> dict[str, float]:
    """Return the published retrieval metrics (salesforce/ALBEF `Retrieval.py`).

    Args:
        text_ranks: (images,) text retrieval: the rank of the best of an image's captions.
        image_ranks: (texts,) image retrieval: the rank of a caption's image.

    Returns:
        `txt_r1 txt_r5 txt_r10 txt_r_mean img_r1 img_r5 img_r10 img_r_mean r_mean`, per cent.
    """
    metrics: dict[str, float] = {}
    for name, ranks in (("txt", text_ranks), ("img", image_ranks)):
        recalls = recall_at_k(ranks)
        metrics.update({f"{name}_r{depth}": recall for depth, recall in zip(RECALL_DEPTHS, recalls, strict=True)})
        metrics[f"{name}_r_mean"] = sum(recalls) / len(recalls)
    metrics["r_mean"] = (metrics["txt_r_mean"] + metrics["img_r_mean"]) / 2
    return metrics
