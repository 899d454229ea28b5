"""Which pairs of images and texts are scored, and how the scores become rankings: pure functions.

Scores are sparse, a number for each pair that some query asks for; no matrix of all images and texts is ever made.
Shapes: I images, T texts, Q queries, G gallery, k candidates, n pairs, E projection width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass
class RankedCandidates:
    """Candidates of each query, best first.

    Attributes:
        ids: (Q, k) int64 indices into the other modality's list.
        scores: (Q, k) float32 matching logits, falling.
    """

    ids: torch.Tensor
    scores: torch.Tensor

    def best(self, query: int, depth: int) -> list[tuple[int, float]]:
        """Return index and score of the first candidates of a query."""
        return list(zip(self.ids[query, :depth].tolist(), self.scores[query, :depth].tolist(), strict=True))


def select_candidates(
    queries: torch.Tensor, gallery: torch.Tensor, k: int, block_size: int = 1024, share: tuple[int, int] = (0, 1)
) -> torch.Tensor:
    """Return (Q, min(k, G)) the gallery rows (G, E) most similar to each query (Q, E), the best first.

    `share` says which of how many processes this is: the rows of the blocks of the others are 0.
    """
    k = min(k, len(gallery))
    chosen = torch.zeros(len(queries), k, dtype=torch.int64, device=queries.device)
    for start in range(share[0] * block_size, len(queries), share[1] * block_size):
        block = queries[start : start + block_size]
        chosen[start : start + block_size] = (block @ gallery.T).topk(k).indices
    return chosen


def pairs_to_score(texts_of_image: torch.Tensor, images_of_text: torch.Tensor) -> torch.Tensor:
    """Return (n, 2) image and text of every pair that either direction asks for, once, sorted by image, then text."""
    num_texts = len(images_of_text)
    keys = torch.cat([keys.flatten() for keys in _keys(texts_of_image, images_of_text)]).unique()
    return torch.stack([keys // num_texts, keys % num_texts], dim=1)


def pair_similarity(
    pairs: torch.Tensor, image_embeds: torch.Tensor, text_embeds: torch.Tensor, block_size: int = 1 << 14
) -> torch.Tensor:
    """Return (n,) the cosine similarity of pairs (n, 2) of image and text, of embeddings (I, E) and (T, E)."""
    return torch.cat(
        [(image_embeds[some[:, 0]] * text_embeds[some[:, 1]]).sum(dim=1) for some in pairs.split(block_size)]
    )


def rank_candidates(
    pairs: torch.Tensor,
    scores: torch.Tensor,
    texts_of_image: torch.Tensor,
    images_of_text: torch.Tensor,
    block_size: int = 2048,
) -> tuple[RankedCandidates, RankedCandidates]:
    """Sort the candidates of the images (I, k) and of the texts (T, k) by the scores (n,) of `pairs_to_score` (n, 2).

    Equal scores keep the order of similarity.
    """
    keys = pairs[:, 0] * len(images_of_text) + pairs[:, 1]
    by_image, by_text = _keys(texts_of_image, images_of_text)
    ranked = []
    for candidates, wanted in ((texts_of_image, by_image), (images_of_text, by_text)):
        ids, ordered = torch.empty_like(candidates), scores.new_empty(candidates.shape)
        for start in range(0, len(candidates), block_size):
            rows = slice(start, start + block_size)
            found = scores[torch.searchsorted(keys, wanted[rows])]
            order = found.argsort(descending=True, stable=True)
            ids[rows], ordered[rows] = candidates[rows].gather(1, order), found.gather(1, order)
        ranked.append(RankedCandidates(ids, ordered))
    return ranked[0], ranked[1]


def _keys(texts_of_image: torch.Tensor, images_of_text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (I, k) and (T, k): one number for each pair, image * T + text."""
    num_texts = len(images_of_text)
    by_image = torch.arange(len(texts_of_image))[:, None] * num_texts + texts_of_image
    return by_image, images_of_text * num_texts + torch.arange(num_texts)[:, None]
