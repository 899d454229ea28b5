"""Outcomes of evaluations, as plain records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from .ranking import RankedCandidates


class EvaluationRecord(NamedTuple):
    """An evaluation that was done.

    Attributes:
        split: What its metrics begin with: eval or test.
        dataset: What was evaluated.
        result: Its outcome, of the task's evaluator.
    """

    split: str
    dataset: Any
    result: Any


@dataclass
class RetrievalResult:
    """Outcome of a retrieval evaluation.

    Attributes:
        metrics: See `retrieval_metrics`.
        image_to_text: For each image its texts.
        text_to_image: For each text its images.
        captions: The texts, those of an image in a row.
        caption_image: (T,) the image of each text.
    """

    metrics: dict[str, float]
    image_to_text: RankedCandidates
    text_to_image: RankedCandidates
    captions: list[str]
    caption_image: torch.Tensor

    def top_predictions(self, image_names: Sequence[str], depth: int = 10) -> dict[str, list[dict[str, Any]]]:
        """Return the best candidates of every query, ready for JSON.

        Args:
            image_names: A name for each image.
            depth: Candidates a query.

        Returns:
            `image_to_text` and `text_to_image`: a list of queries with their candidates, scores, and which are right.
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


@dataclass
class VQAResult:
    """Outcome of an evaluation of visual question answering (N questions).

    Attributes:
        metrics: See `vqa_accuracy`; empty where not all questions have answers.
        answers: `{"question_id", "answer"}` of every question, in the data set's order: the VQA server's format.
        probabilities: (N,) of the answers among the candidates that were scored; None with `best_answer_only`.
        by_question_type: Accuracy for each `question_type`; empty where the data set has no such column.
    """

    metrics: dict[str, float]
    answers: list[dict[str, Any]]
    probabilities: torch.Tensor | None
    by_question_type: dict[str, float] = field(default_factory=dict)
