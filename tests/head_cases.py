"""A small model of each class, and inputs that each can take, with and without a loss."""

from __future__ import annotations

from typing import Any

import torch
from golden_cases import tiny_config

from modeling_albef import (
    AlbefForImageTextClassification,
    AlbefForImageTextRetrieval,
    AlbefForPreTraining,
    AlbefForQuestionAnswering,
    AlbefModel,
)

HEADS: tuple[Any, ...] = (
    AlbefModel,
    AlbefForImageTextRetrieval,
    AlbefForPreTraining,
    AlbefForQuestionAnswering,
    AlbefForImageTextClassification,
)
LENGTHS = (6, 4, 3)  # tokens of each text
ANSWERS = torch.tensor([[1, 9, 2, -100], [1, 8, 7, 2], [1, 5, 5, 2]])  # [CLS] 1, [SEP] 2


def make_head(head: Any) -> Any:
    """A model in evaluation mode, with weights large enough for different inputs to give different outputs."""
    config = tiny_config()
    for part in (config, config.vision_config, config.text_config):
        part.initializer_range = 0.3
    torch.manual_seed(0)
    model = head(config).eval()
    if head is AlbefForQuestionAnswering:
        model.config.decoder_config.bos_token_id, model.config.decoder_config.eos_token_id = 1, 2
    return model


def inputs() -> dict[str, torch.Tensor]:
    """Three images and three texts of different lengths, padded on the right."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 64, (3, max(LENGTHS)), generator=generator)
    mask = torch.tensor([[1] * length + [0] * (max(LENGTHS) - length) for length in LENGTHS])
    pixels = torch.randn(3, 3, 32, 32, generator=generator)
    return {"pixel_values": pixels, "input_ids": ids * mask, "attention_mask": mask}


def targets(head: Any) -> dict[str, Any]:
    """What makes a head compute its loss, by the names that the library's `Trainer` knows."""
    if head is AlbefForQuestionAnswering:
        return {"labels": ANSWERS}
    if head is AlbefForImageTextClassification:
        return {"labels": torch.tensor([1, 0, 1])}
    if head is AlbefModel:
        return {"return_loss": True}
    if head is AlbefForPreTraining:
        masked = inputs()["input_ids"].masked_fill(torch.arange(6) == 1, 4)
        return {
            "image_ids": torch.arange(3),
            "masked_input_ids": masked,
            "mlm_labels": torch.where(masked == 4, inputs()["input_ids"], -100),
        }
    return {"image_ids": torch.arange(3)}


def pad_left(batch: dict[str, Any]) -> dict[str, Any]:
    """The same texts with their padding on the left."""
    length = max(LENGTHS)
    columns = torch.stack([torch.arange(length).roll(length - n) for n in LENGTHS])
    names = {"input_ids", "attention_mask", "masked_input_ids", "mlm_labels"} & batch.keys()
    return {**batch, **{name: batch[name].gather(1, columns) for name in names}}


def scores(outputs: Any) -> dict[str, torch.Tensor]:
    """The numbers of an output that do not depend on where padding is."""
    names = (
        "loss",
        "itc_loss",
        "itm_loss",
        "mlm_loss",
        "logits_per_image",
        "logits",
        "itm_logits",
        "text_embeds",
        "image_embeds",
    )
    found = {name: outputs[name] for name in names if outputs.get(name) is not None}
    # those of answers depend on how long the answers are
    return {name: value for name, value in found.items() if name != "logits" or value.dim() == 2}
