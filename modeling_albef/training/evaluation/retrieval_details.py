"""What stands beside the recalls of a retrieval evaluation: intervals, chance, first stage, hubs, COCO's own metrics.

Shapes: I images, T texts, E projection width, Q queries, K re-ranked candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .abstention import BestScores, abstention_metrics
from .bootstrap import bootstrap_means, interval
from .eccv import NUM_FOLDS, coco_caption_ids, eccv_metrics, known_positives
from .first_stage import FirstStage, order_by_similarity
from .results import RetrievalResult
from .retrieval_metrics import (
    RECALL_DEPTHS,
    chance_recall,
    fold_recalls,
    largest_hub,
    median_rank,
    rank_of_first_match,
    recall_at_k,
    whole_ranks,
)


@dataclass
class _Direction:
    """Queries of one kind, "txt" (images ask, texts are found) or "img", and what came of them."""

    prefix: str
    ids: torch.Tensor  # (Q, K) ranked candidates
    scores: torch.Tensor  # (Q, K)
    images: torch.Tensor  # (Q,) the image that each query is or belongs to
    owners: torch.Tensor  # (G,) the same of each candidate
    first: FirstStage

    def __post_init__(self) -> None:
        self.matches = self.owners[self.ids] == self.images[:, None]
        self.found = rank_of_first_match(self.matches)
        self.ranks = whole_ranks(self.found, self.first.ranks, self.ids.shape[1])

    def details(self) -> dict[str, Any]:
        """Return what can be said without the other direction."""
        num_right = self.owners.bincount(minlength=int(self.images.max()) + 1)[self.images]
        chances = chance_recall(num_right, len(self.owners))
        distinct, hub, hub_size = largest_hub(self.ids[:, 0])
        values: dict[str, Any] = {f"chance_r{depth}": chance for depth, chance in _by_depth(chances)}
        values["chance_r_mean"] = sum(chances) / len(chances)
        values |= {f"first_stage_r{depth}": recall for depth, recall in _by_depth(recall_at_k(self.first.ranks))}
        values |= {
            "in_k_test": 100 * self.matches.any(dim=1).double().mean().item(),
            "median_rank": median_rank(self.ranks),
            "queries": len(self.images),
            "gallery": len(self.owners),
            "distinct_top1": distinct,
            "largest_hub": hub_size,
            "largest_hub_index": hub,
        }
        return {f"{self.prefix}_{name}": value for name, value in values.items()}

    def best_scores(self) -> BestScores:
        """Return the best scores with the right candidates and without them."""
        absent = self.scores.masked_fill(self.matches, -torch.inf).amax(dim=1)
        return BestScores(self.scores[:, 0], absent, self.first.best, self.first.best_wrong, self.images)


def add_details(
    result: RetrievalResult,
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    coco_ids: Sequence[int] | None = None,
    calibration: Mapping[str, float] | None = None,
) -> None:
    """Fill in the ranks, the best scores and the `details` of a result, which have all but its metrics.

    Args:
        result: What was ranked. Images without captions are candidates, but no queries.
        image_embeds: (I, E) of unit length.
        text_embeds: (T, E) of unit length.
        coco_ids: COCO's ids of the images, where they are the 5,000 of COCO's test.
        calibration: Of the model; None: no metrics of queries without an answer.
    """
    owners, images = result.caption_image, torch.arange(len(image_embeds))
    device = image_embeds.device
    queries = owners.unique()  # images with captions
    by_image, by_text = result.image_to_text, result.text_to_image
    first = order_by_similarity(image_embeds[queries.to(device)], text_embeds, queries.to(device), owners.to(device))
    txt = _Direction("txt", by_image.ids[queries], by_image.scores[queries], queries, owners, first)
    first = order_by_similarity(text_embeds, image_embeds, owners.to(device), images.to(device))
    img = _Direction("img", by_text.ids, by_text.scores, owners, images, first)
    result.query_images, result.text_ranks, result.image_ranks = queries, txt.ranks, img.ranks
    result.best_scores = {"txt": txt.best_scores(), "img": img.best_scores()}
    details = recall_intervals(txt.found, img.found, txt.images, img.images) | txt.details() | img.details()
    details["chance_r_mean"] = (details["txt_chance_r_mean"] + details["img_chance_r_mean"]) / 2
    if coco_ids is not None:
        details |= _coco_folds(txt, img) | _coco_positives(txt, img, coco_ids)
    if calibration is not None:
        details |= abstention_metrics(result.best_scores, calibration)
    result.details |= details


def recall_intervals(
    text_ranks: torch.Tensor,
    image_ranks: torch.Tensor,
    text_groups: torch.Tensor,
    image_groups: torch.Tensor,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Return 95 % bootstrap intervals of the metrics of `retrieval_metrics`: `.._interval`, low and high, per cent.

    Args:
        text_ranks: (Q,) text retrieval; see `retrieval_metrics`.
        image_ranks: (Q,) image retrieval.
        text_groups: The image of each query of text retrieval; images are drawn with all their queries.
        image_groups: The same of image retrieval.
        seed: Of the draws.
    """
    depths = torch.tensor(RECALL_DEPTHS)
    pairs = [
        (100 * (ranks[:, None] < depths), groups)
        for ranks, groups in ((text_ranks, text_groups), (image_ranks, image_groups))
    ]
    samples = bootstrap_means(pairs, seed=seed)
    intervals = {}
    for prefix, recalls in zip(("txt", "img"), samples, strict=True):
        for column, depth in enumerate(RECALL_DEPTHS):
            intervals[f"{prefix}_r{depth}_interval"] = interval(recalls[:, column])
        intervals[f"{prefix}_r_mean_interval"] = interval(recalls.mean(dim=1))
    intervals["r_mean_interval"] = interval((samples[0].mean(dim=1) + samples[1].mean(dim=1)) / 2)
    return intervals


def _by_depth(values: Sequence[float]) -> list[tuple[int, float]]:
    return list(zip(RECALL_DEPTHS, values, strict=True))


def _coco_folds(txt: _Direction, img: _Direction) -> dict[str, float]:
    """Return the recalls on five folds of 1,000 images each, in the order of the data set."""
    details: dict[str, float] = {}
    for one in (txt, img):
        size = len(img.owners) // NUM_FOLDS
        recalls = fold_recalls(one.ids, one.matches, one.images // size, one.owners // size)
        details |= {f"{one.prefix}_1k_r{depth}": recall for depth, recall in _by_depth(recalls)}
        details[f"{one.prefix}_1k_r_mean"] = sum(recalls) / len(recalls)
    details["1k_r_mean"] = (details["txt_1k_r_mean"] + details["img_1k_r_mean"]) / 2
    return details


def _coco_positives(txt: _Direction, img: _Direction, image_ids: Sequence[int]) -> dict[str, float]:
    """Return the metrics by CxC's and ECCV Caption's positives; none without their package, or for other images."""
    positives = known_positives()
    if positives is None or not positives["coco"]["i2t"].keys() >= set(image_ids):
        return {}
    captions = coco_caption_ids(image_ids, img.images.tolist(), positives["coco"]["i2t"])
    if len([number for number in captions if number is not None]) < len(positives["coco"]["t2i"]):
        return {}
    texts_of = {
        image_ids[image]: [number for row in rows if (number := captions[row]) is not None]
        for image, rows in zip(txt.images.tolist(), txt.ids.tolist(), strict=True)
    }
    images_of = {
        number: [image_ids[row] for row in rows]
        for number, rows in zip(captions, img.ids.tolist(), strict=True)
        if number is not None
    }
    return eccv_metrics({"i2t": texts_of, "t2i": images_of}, positives)
