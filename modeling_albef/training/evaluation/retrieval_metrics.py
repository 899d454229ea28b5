"""Retrieval metrics as pure functions. Shapes: Q queries, K ranked candidates of each, G gallery."""

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


def whole_ranks(ranks: torch.Tensor, first_stage_ranks: torch.Tensor, num_candidates: int) -> torch.Tensor:
    """Return (Q,) ranks in the whole gallery: the re-ranked candidates come first, then the others by similarity.

    Args:
        ranks: (Q,) from `rank_of_first_match`, among the candidates that were re-ranked.
        first_stage_ranks: (Q,) rank of the same in the whole gallery, by similarity.
        num_candidates: K.
    """
    return torch.where(ranks < num_candidates, ranks, first_stage_ranks.clamp(min=num_candidates))


def median_rank(ranks: torch.Tensor) -> float:
    """Return the median of ranks (Q,) which start at 0, counted from 1; of two in the middle their mean."""
    return ranks.double().quantile(0.5).item() + 1


def chance_recall(num_right: torch.Tensor, gallery_size: int, depths: tuple[int, ...] = RECALL_DEPTHS) -> list[float]:
    """Return the recall, per cent for each depth, that a random order of the gallery is expected to have.

    Args:
        num_right: (Q,) right candidates of each query, which any of is enough.
        gallery_size: G.
        depths: How many candidates count.
    """
    values, counts = num_right.double().unique(return_counts=True)
    chances = []
    for depth in depths:
        steps = torch.arange(min(depth, gallery_size))
        misses = ((gallery_size - values[:, None] - steps).clamp(min=0) / (gallery_size - steps)).prod(dim=1)
        chances.append(100 * ((1 - misses) * counts).sum().item() / len(num_right))
    return chances


def largest_hub(best: torch.Tensor) -> tuple[int, int, int]:
    """Return how many different candidates are the best (Q,) of some query, and the most frequent one and its count."""
    candidates, counts = best.unique(return_counts=True)
    most = int(counts.argmax())
    return len(candidates), int(candidates[most]), int(counts[most])


def fold_recalls(
    ids: torch.Tensor,
    matches: torch.Tensor,
    query_folds: torch.Tensor,
    candidate_folds: torch.Tensor,
    depths: tuple[int, ...] = RECALL_DEPTHS,
) -> list[float]:
    """Return the recall, per cent for each depth, of galleries that are parts of the whole: the mean over the parts.

    The order of a part's candidates is that of the whole ranking, as in published results on 1,000 images of COCO. A
    right candidate that is not among the K ones counts as missed.

    Args:
        ids: (Q, K) ranked candidates of the whole gallery.
        matches: (Q, K) which are right; they are of their query's fold.
        query_folds: (Q,) the fold of each query.
        candidate_folds: (G,) the fold of each candidate.
        depths: How many candidates count.
    """
    is_in_fold = candidate_folds[ids] == query_folds[:, None]
    last = torch.iinfo(torch.int64).max
    ranks = torch.where(matches & is_in_fold, is_in_fold.cumsum(dim=1) - 1, last).amin(dim=1)
    folds = [ranks[query_folds == fold] for fold in query_folds.unique().tolist()]
    recalls = torch.tensor([recall_at_k(fold, depths) for fold in folds], dtype=torch.float64)
    return recalls.mean(dim=0).tolist()
