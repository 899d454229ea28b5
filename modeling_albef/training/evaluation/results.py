"""Outcomes of evaluations, as plain records."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..rows import as_rows, image_names
from .abstention import BestScores
from .ranking import RankedCandidates


class EvaluationRecord(NamedTuple):
    """A finished evaluation.

    Attributes:
        split: Prefix of its metrics: eval or test.
        dataset: The rows that were evaluated.
        result: What the task's evaluator returned.
        metrics: Those of `Trainer.evaluate`, with the split before their names.
    """

    split: str
    dataset: Any
    result: Any
    metrics: dict[str, Any]


@dataclass
class RetrievalResult:
    """Outcome of a retrieval evaluation.

    Attributes:
        metrics: See `retrieval_metrics`.
        image_to_text: For each image its texts.
        text_to_image: For each text its images.
        captions: The texts, those of an image in a row.
        caption_image: (T,) the image of each text.
        image_rows: The row of the data set that each image is from, the first one that shows it; None: row i for image
            i.
        text_ranks: (Q,) rank of the best right text of each image with captions, in the whole gallery, 0 = best: the
            re-ranked candidates first, then the others by similarity.
        image_ranks: (T,) the same of each text's image.
        query_images: (Q,) the images with captions.
        best_scores: Of the queries of text retrieval, "txt", and image retrieval, "img"; see `BestScores`.
        details: What stands beside the metrics in the file of results; see `docs/retrieval_metrics.md`.
    """

    metrics: dict[str, float]
    image_to_text: RankedCandidates
    text_to_image: RankedCandidates
    captions: list[str]
    caption_image: torch.Tensor
    image_rows: Sequence[int] | None = None
    _: KW_ONLY
    text_ranks: torch.Tensor | None = None
    image_ranks: torch.Tensor | None = None
    query_images: torch.Tensor | None = None
    best_scores: dict[str, BestScores] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)

    def row_of(self, image: int) -> int:
        """Return the row of the data set that shows an image."""
        return image if self.image_rows is None else self.image_rows[image]

    def top_predictions(self, image_names: Sequence[str], depth: int = 10) -> dict[str, list[dict[str, Any]]]:
        """Return the `depth` best candidates of every query, with their scores and which are right, ready for JSON.

        The names are those of the images, each once.
        """
        image_of = self.caption_image.tolist()
        queries: dict[str, list[dict[str, Any]]] = {"image_to_text": [], "text_to_image": []}
        for image, name in enumerate(image_names):
            best = self.image_to_text.best(image, depth)
            texts = [{"caption": self.captions[t], "score": s, "correct": image_of[t] == image} for t, s in best]
            queries["image_to_text"].append({"image": name, "texts": texts})
        for text, caption in enumerate(self.captions):
            best = self.text_to_image.best(text, depth)
            images = [{"image": image_names[i], "score": s, "correct": image_of[text] == i} for i, s in best]
            queries["text_to_image"].append({"caption": caption, "images": images})
        return queries

    def write(self, dataset: Any, folder: Path) -> dict[str, Path]:
        """Write the ten best candidates of every query to `predictions.json`; return the file by what it holds.

        Images that are not files go by their row.
        """
        names = image_names(as_rows(dataset), [self.row_of(image) for image in range(len(self.image_to_text.ids))])
        path = folder / "predictions.json"
        path.write_text(json.dumps(self.top_predictions(names), indent=1), encoding="utf-8")
        return {"predictions": path}


@dataclass
class VQAResult:
    """Outcome of an evaluation of visual question answering (N questions).

    Attributes:
        metrics: See `vqa_accuracy`; empty where not all questions have answers.
        answers: `{"question_id", "answer"}` of every question, in the data set's order: the VQA server's format.
        probabilities: (N,) of the answers among the candidates that were scored, or of all answers where they are
            written; None with `best_answer_only`, and where one beam writes them.
        by_question_type: Accuracy for each `question_type`; empty where the data set has no such column.
        scores: (N,) accuracy of each question, per cent; None where not all questions have answers.
        details: What the metrics were measured by, for the file of results: `inference`, `vqa_rules`, `fold_answers`,
            `vqa_accuracy_interval`.
    """

    metrics: dict[str, float]
    answers: list[dict[str, Any]]
    probabilities: torch.Tensor | None
    by_question_type: dict[str, float] = field(default_factory=dict)
    scores: torch.Tensor | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def write(self, dataset: Any, folder: Path) -> dict[str, Path]:
        """Write `vqa_result.json` and, where types are known, `question_types.json`; return both by what they hold."""
        written = {"predictions": folder / "vqa_result.json"}
        written["predictions"].write_text(json.dumps(self.answers), encoding="utf-8")
        if self.by_question_type:
            written["accuracy by question type"] = path = folder / "question_types.json"
            path.write_text(json.dumps(self.by_question_type, indent=1), encoding="utf-8")
        return written
