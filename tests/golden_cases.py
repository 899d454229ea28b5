"""The recorded cases in `golden/` and small models that fit them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from modeling_albef import AlbefConfig, AlbefForImageTextRetrieval, AlbefImageTextRetrievalOutput
from modeling_albef.checkpoint_names_albef import ConvertedCheckpoint, convert_state_dict
from modeling_albef.training import FeatureQueue, MomentumTeacher

GOLDEN = Path(__file__).parent / "golden"
INDEX = json.loads((GOLDEN / "index.json").read_text())


def tiny_config(**text: object) -> AlbefConfig:
    """Sizes of the recorded models; `text` changes the text tower."""
    sizes, bert = INDEX["config"], INDEX["bert"]
    names = (
        "hidden_size intermediate_size num_hidden_layers num_attention_heads max_position_embeddings vocab_size "
        "type_vocab_size layer_norm_eps hidden_dropout_prob attention_probs_dropout_prob pad_token_id"
    )
    return AlbefConfig(
        vision_config={
            "hidden_size": sizes["vw"],
            "intermediate_size": 4 * sizes["vw"],
            "num_hidden_layers": sizes["vdepth"],
            "num_attention_heads": sizes["vheads"],
            "image_size": sizes["image_res"],
        },
        text_config={
            **{name: bert[name] for name in names.split()},
            "num_fusion_layers": sizes["layers"] - bert["fusion_layer"],
            **text,
        },
        projection_dim=sizes["embed"],
        temperature_init=INDEX["model"]["temp"],
    )


def load_case(name: str) -> tuple[dict[str, torch.Tensor], ConvertedCheckpoint]:
    """Inputs and outputs of a case, and its weights taken apart."""
    weights = load_file(GOLDEN / f"{name}.weights.safetensors")
    return load_file(GOLDEN / f"{name}.io.safetensors"), convert_state_dict(weights)


def build(checkpoint: ConvertedCheckpoint) -> tuple[AlbefForImageTextRetrieval, MomentumTeacher, FeatureQueue]:
    """Student, teacher and queue with the recorded weights."""
    student, twin = (AlbefForImageTextRetrieval(tiny_config()) for _ in range(2))
    student.load_state_dict(checkpoint.student)
    twin.load_state_dict(checkpoint.teacher)
    queue = FeatureQueue(INDEX["model"]["queue_size"], INDEX["model"]["embed_dim"])
    queue.load_state_dict(checkpoint.queue)
    return student, MomentumTeacher(student, INDEX["model"]["momentum"], twin), queue


def training_step(
    student: AlbefForImageTextRetrieval,
    teacher: MomentumTeacher,
    queue: FeatureQueue,
    inputs: dict[str, torch.Tensor],
    alpha: float,
) -> AlbefImageTextRetrievalOutput:
    """A step in the published order: teacher, its features, forward, queue."""
    teacher.update(student)
    with torch.no_grad():
        image = teacher.model.get_image_features(inputs["pixel_values"])
        text = teacher.model.get_text_features(inputs["input_ids"], inputs["attention_mask"])
    features = {
        "image_embeds": image.pooler_output,
        "text_embeds": text.pooler_output,
        "image_ids": inputs["image_ids"],
    }
    outputs = student(**inputs, **queue.candidates(**features), alpha=alpha)
    queue.enqueue(**features)
    return outputs


def pick_inputs(case: dict[str, torch.Tensor], prefix: str = "") -> dict[str, torch.Tensor]:
    return {name: case[prefix + name] for name in ("pixel_values", "input_ids", "attention_mask", "image_ids")}
