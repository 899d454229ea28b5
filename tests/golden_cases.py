"""The recorded cases in `golden/` and small models that fit them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from modeling_albef import AlbefConfig, AlbefForImageTextRetrieval, AlbefImageTextRetrievalOutput
from modeling_albef.conversion.checkpoint_names import ConvertedCheckpoint, convert_name, convert_state_dict
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


def build(
    checkpoint: ConvertedCheckpoint, model_class: Any = AlbefForImageTextRetrieval
) -> tuple[Any, MomentumTeacher, FeatureQueue]:
    """Student, teacher and queue with the recorded weights."""
    student, twin = (model_class(tiny_config()) for _ in range(2))
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
        if (masked := inputs.get("masked_input_ids")) is not None:
            logits = teacher.model.predict_masked(masked, inputs["attention_mask"], image.last_hidden_state)
            inputs = {**inputs, "teacher_mlm_logits": logits}
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


def assert_gradients(model: torch.nn.Module, case: dict[str, torch.Tensor], tolerance: float = 1e-5) -> None:
    """The gradients are the recorded ones, by the largest number of each, and every trainable tensor has one."""
    gradients = {key: parameter.grad for key, parameter in model.named_parameters() if parameter.requires_grad}
    for key, expected in case.items():
        if not key.startswith("grad."):
            continue
        # the output bias of a language head is one tensor with two names there
        name = key.removeprefix("grad.").replace("cls.predictions.bias", "cls.predictions.decoder.bias")
        ours = gradients.pop(convert_name(name)[0])
        if "self.key.bias" in key:  # a softmax ignores a bias of the keys: the gradient is 0 but for rounding
            assert max(ours.abs().max(), expected.abs().max()) < 1e-6
            continue
        torch.testing.assert_close(ours, expected, atol=tolerance * expected.abs().max().item(), rtol=0, msg=key)
    assert not gradients


def assert_after(case: dict[str, torch.Tensor], teacher: MomentumTeacher, queue: FeatureQueue | None = None) -> None:
    """Teacher and queue are as recorded after the step."""
    after = convert_state_dict({k.removeprefix("after."): v for k, v in case.items() if k.startswith("after.")})
    assert after.teacher
    for key, expected in after.teacher.items():
        torch.testing.assert_close(teacher.model.state_dict()[key], expected, atol=1e-6, rtol=0)
    if queue is not None:
        for key in after.queue.keys() - (set() if "after.idx_queue" in case else {"image_ids"}):
            expected = after.queue[key]
            torch.testing.assert_close(queue.state_dict()[key], expected, atol=1e-6, rtol=0)
