"""Accuracy of visual question answering as a metric of the `evaluate` library."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate

from modeling_albef.training.evaluation.vqa_metrics import vqa_accuracy as accuracy_of
from modeling_albef.training.evaluation.vqa_records import QuestionRecord

_DESCRIPTION = "The official accuracy of VQA v2: min(matches / 3, 1) of normalised answers, leaving out each annotator."
_INPUTS = """
Args:
    predictions: Configuration "default": the answers, as strings. Configuration "rows": the rows of a result file,
        `{"question_id": 262148000, "answer": "down"}`, in any order.
    references: "default": for each prediction the list of the annotators' answers. "rows": annotations,
        `{"question_id": 262148000, "answers": ["down", ..], "answer_type": "other"}`; with "" the type is derived
        from the answers, as "default" does.
    rules: "vqa", those of today's evaluation of VQA v2 (default), or "albef", the older ones of salesforce/ALBEF, by
        which its authors measured.

Returns:
    `vqa_accuracy` and `vqa_accuracy_yes_no`, `vqa_accuracy_number`, `vqa_accuracy_other` for the types that occur,
    and one for each annotated type of another name; per cent, not rounded.
"""
_CITATION = """@inproceedings{goyal2017vqa, author = {Goyal, Yash and others}, booktitle = {CVPR}, year = {2017},
  title = {Making the {V} in {VQA} Matter: Elevating the Role of Image Understanding in Visual Question Answering}}"""
_ID, _TEXT = datasets.Value("int64"), datasets.Value("string")
_ANSWERS = datasets.Sequence(_TEXT)
_FEATURES = {
    "default": {"predictions": _TEXT, "references": _ANSWERS},
    "rows": {
        "predictions": {"question_id": _ID, "answer": _TEXT},
        "references": {"question_id": _ID, "answers": _ANSWERS, "answer_type": _TEXT},
    },
}


class VQAAccuracy(evaluate.Metric):
    """Load it with `evaluate.load` from this folder in a checkout of the project."""

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in _FEATURES:
            raise ValueError(f"No configuration is called {self.config_name!r}; there are: {', '.join(_FEATURES)}.")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(_FEATURES[self.config_name]),
            reference_urls=["https://visualqa.org/evaluation.html"],
        )

    def _compute(self, predictions: list[Any], references: list[Any], rules: str = "vqa") -> dict[str, float]:
        if self.config_name == "rows":
            return accuracy_of(predictions, [_record(**row) for row in references], rules)
        return accuracy_of(dict(enumerate(predictions)), [_record(*row) for row in enumerate(references)], rules)


def _record(question_id: int, answers: list[str], answer_type: str = "") -> QuestionRecord:
    return QuestionRecord(question_id, answers=tuple(answers), answer_type=answer_type or None)
