"""The recorded cases of question answering."""

from __future__ import annotations

import torch
from golden_cases import tiny_config

from modeling_albef import AlbefForQuestionAnswering
from modeling_albef.conversion.checkpoint_names import ConvertedCheckpoint


def build(checkpoint: ConvertedCheckpoint) -> AlbefForQuestionAnswering:
    model = AlbefForQuestionAnswering(tiny_config())
    model.load_state_dict(checkpoint.student)
    return model


def inputs_of(case: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        "pixel_values": case["pixel_values"],
        "input_ids": case["question_input_ids"],
        "attention_mask": case["question_attention_mask"],
    }


def answers_of(case: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    names = ("answer_input_ids", "answer_attention_mask", "answer_weights")
    return {**{name: case[name] for name in names}, "answers_per_question": case["answer_counts"]}
