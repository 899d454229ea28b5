"""The first stage of retrieval by itself: the whole gallery in the order of cosine similarity.

Shapes: Q queries, G gallery, R right candidates of the query that has most, E projection width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass
class FirstStage:
    """What the similarities alone say of each query.

    Attributes:
        ranks: (Q,) int64 rank of the best right candidate in the whole gallery, 0 = best; equal similarities keep the
            gallery's order.
        best: (Q,) the largest similarity.
        best_wrong: (Q,) the largest similarity of a candidate that is not right; -inf where all are right.
    """

    ranks: torch.Tensor
    best: torch.Tensor
    best_wrong: torch.Tensor


def order_by_similarity(
    queries: torch.Tensor,
    gallery: torch.Tensor,
    query_owners: torch.Tensor,
    gallery_owners: torch.Tensor,
    block_size: int = 256,
) -> FirstStage:
    """Compare queries (Q, E) with a gallery (G, E), in blocks; both are of unit length. The outcome is on the CPU.

    Args:
        queries: Embeddings of the queries.
        gallery: Embeddings of the candidates.
        query_owners: (Q,) the image that each query is or belongs to.
        gallery_owners: (G,) the same of the candidates. A candidate is right where the owners are equal; every query
            has one.
        block_size: Queries that are compared at once.
    """
    right = _right_candidates(query_owners, gallery_owners)
    indices, parts = torch.arange(len(gallery), device=gallery.device), []
    for block, own in zip(queries.split(block_size), right.split(block_size), strict=True):
        similarity = block @ gallery.T  # (b, G)
        of_right = similarity.gather(1, own.clamp(min=0)).masked_fill(own < 0, -torch.inf)  # (b, R)
        score, first = of_right.max(dim=1, keepdim=True)
        counted = torch.empty_like(similarity)  # sums of floats are many times faster than of booleans, and exact
        ahead = torch.gt(similarity, score, out=counted).sum(dim=1).long()
        is_tied = torch.eq(similarity, score, out=counted).sum(dim=1) > 1
        if is_tied.any():  # rare, but for a model whose embeddings have collapsed
            equal = similarity[is_tied] == score[is_tied]
            own_index = own[is_tied].gather(1, first[is_tied])
            ahead[is_tied] += (equal & (indices < own_index)).sum(dim=1)
        wrong = similarity.scatter_(1, _padded_with_own(own), -torch.inf).amax(dim=1)
        parts.append((ahead, torch.maximum(wrong, score[:, 0]), wrong))
    return FirstStage(*(torch.cat(part).cpu() for part in zip(*parts, strict=True)))


def _right_candidates(query_owners: torch.Tensor, gallery_owners: torch.Tensor) -> torch.Tensor:
    """Return (Q, R) the gallery indices of each query's right candidates, rising; -1 fills up."""
    order = gallery_owners.argsort(stable=True)
    sorted_owners = gallery_owners[order]
    starts = torch.searchsorted(sorted_owners, query_owners)
    counts = torch.searchsorted(sorted_owners, query_owners, right=True) - starts
    steps = torch.arange(int(counts.max()), device=order.device)
    taken = order[(starts[:, None] + steps).clamp(max=len(order) - 1)]
    return taken.masked_fill(steps >= counts[:, None], -1)


def _padded_with_own(right: torch.Tensor) -> torch.Tensor:
    """Return right candidates (Q, R) with each query's first one in place of -1."""
    return torch.where(right < 0, right[:, :1], right)
