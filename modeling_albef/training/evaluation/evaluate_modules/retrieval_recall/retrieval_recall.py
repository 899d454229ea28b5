"""Recall of image-text retrieval as a metric of the `evaluate` library."""

from __future__ import annotations

import math
from typing import Any

import datasets
import evaluate
import torch

from modeling_albef.training.evaluation.retrieval_metrics import rank_of_first_match, retrieval_metrics

_DESCRIPTION = "Recall at 1, 5, 10 of text retrieval (an image asks) and image retrieval (a caption asks), their means."
_INPUTS = """
Args:
    predictions: Configuration "default": for each query the rank of its best right candidate, 0 = first. Configuration
        "scores": for each query its scores of all candidates, higher = better; equals keep their order.
    references: "default": for each query "txt" (text retrieval) or "img" (image retrieval). "scores":
        `{"retrieval": "txt", "matches": [0, 1]}`, the indices of the right candidates. Both retrievals have to occur.

Returns:
    `txt_r1 txt_r5 txt_r10 txt_r_mean img_r1 img_r5 img_r10 img_r_mean r_mean`; per cent, not rounded.
"""
_CITATION = """@inproceedings{li2021albef, author = {Li, Junnan and others}, booktitle = {NeurIPS}, year = {2021},
  title = {Align before Fuse: Vision and Language Representation Learning with Momentum Distillation}}"""
_RETRIEVALS = ("txt", "img")
_MATCHES = {"retrieval": datasets.Value("string"), "matches": datasets.Sequence(datasets.Value("int64"))}
_FEATURES = {
    "default": {"predictions": datasets.Value("int64"), "references": datasets.Value("string")},
    "scores": {"predictions": datasets.Sequence(datasets.Value("float64")), "references": _MATCHES},
}


class RetrievalRecall(evaluate.Metric):
    """Load it with `evaluate.load` from this folder in a checkout of the project."""

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in _FEATURES:
            raise ValueError(f"No configuration is called {self.config_name!r}; there are: {', '.join(_FEATURES)}.")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(_FEATURES[self.config_name]),
            reference_urls=["https://arxiv.org/abs/2107.07651"],
        )

    def _compute(self, predictions: list[Any], references: list[Any]) -> dict[str, float]:
        ranks: dict[str, list[int]] = {name: [] for name in _RETRIEVALS}
        for query, (prediction, reference) in enumerate(zip(predictions, references, strict=True)):
            with_scores = self.config_name == "scores"
            name = reference["retrieval"] if with_scores else reference
            rank = _rank(query, prediction, reference["matches"]) if with_scores else prediction
            if name not in ranks or rank < 0:
                raise ValueError(
                    f"Query {query} has retrieval {name!r}, rank {rank}: use 'txt' or 'img', and 0 or more."
                )
            ranks[name].append(rank)
        if absent := [name for name in _RETRIEVALS if not ranks[name]]:
            raise ValueError(f"No query of {' and '.join(absent)}: the means need text and image retrieval; add both.")
        return retrieval_metrics(*(torch.tensor(ranks[name]) for name in _RETRIEVALS))


def _rank(query: int, scores: list[float], matches: list[int]) -> int:
    """Return the rank of the best right candidate when sorted by score."""
    if not matches or not all(0 <= match < len(scores) for match in matches):
        raise ValueError(f"Query {query} has matches {matches}: name indices of its list of {len(scores)} scores.")
    if any(map(math.isnan, scores)):
        raise ValueError(f"Query {query} has a score that is not a number: mend the model's scores.")
    right = torch.zeros(len(scores), dtype=torch.bool)
    right[matches] = True
    order = torch.tensor(scores, dtype=torch.float64).argsort(descending=True, stable=True)
    return int(rank_of_first_match(right[order][None]))
