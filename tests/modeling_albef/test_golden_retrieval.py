"""Fine-tuning for retrieval equals the recorded steps of the public implementation."""

from __future__ import annotations

import pytest
import torch
from golden_cases import (
    INDEX,
    assert_after,
    assert_gradients,
    build,
    load_case,
    pick_inputs,
    tiny_config,
    training_step,
)

from modeling_albef import AlbefForImageTextRetrieval
from modeling_albef.conversion.checkpoint_names import convert_name, convert_state_dict


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["retrieval_distill", "retrieval_plain"])
def test_states_logits_losses_and_gradients(name: str, attention: str) -> None:
    case, checkpoint = load_case(name)
    student, teacher, queue = build(checkpoint)
    student.train().set_attn_implementation(attention)
    alpha = INDEX["model"]["alpha"] if name == "retrieval_distill" else 0.0
    outputs = training_step(student, teacher, queue, pick_inputs(case), alpha)

    def close(ours: torch.Tensor, recorded: str, tolerance: float = 1e-5) -> None:
        torch.testing.assert_close(ours, case[recorded], atol=tolerance, rtol=0)

    close(outputs.image_hidden_states, "image_last_hidden_state")
    close(outputs.text_hidden_states, "text_last_hidden_state")
    close(outputs.image_embeds, "image_feat")
    close(outputs.text_embeds, "text_feat")
    batch = len(case["image_ids"])
    close(outputs.multimodal_hidden_states[:batch], "fusion_last_hidden_state")
    close(outputs.itm_logits[:batch], "itm_logits")
    close(outputs.itc_loss, "loss_itc")
    close(outputs.itm_loss, "loss_itm")

    outputs.loss.backward()
    assert_gradients(student, case)
    assert_after(case, teacher, queue)


def test_three_steps_of_sgd() -> None:
    case, checkpoint = load_case("retrieval_three_steps")
    student, teacher, queue = build(checkpoint)
    student.train()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    for step in range(3):
        prefix = f"step{step}."
        inputs, alpha = pick_inputs(case, prefix), case[prefix + "alpha"].item()
        outputs = training_step(student, teacher, queue, inputs, alpha)
        torch.testing.assert_close(outputs.itc_loss, case[prefix + "loss_itc"], atol=1e-5, rtol=0)
        torch.testing.assert_close(outputs.itm_loss, case[prefix + "loss_itm"], atol=1e-5, rtol=0)
        optimizer.zero_grad()
        outputs.loss.backward()
        optimizer.step()
    final = convert_state_dict({k.removeprefix("final."): v for k, v in case.items() if k.startswith("final.")})
    assert set(final.student) == set(student.state_dict())
    for key, expected in final.student.items():
        torch.testing.assert_close(student.state_dict()[key], expected, atol=1e-5, rtol=0, msg=key)
    untwinned = ("itm_head.weight", "itm_head.bias", "albef.temperature")  # these have no twin in the original
    for key in set(final.teacher) - set(untwinned):
        torch.testing.assert_close(teacher.model.state_dict()[key], final.teacher[key], atol=1e-6, rtol=0, msg=key)
    for key, expected in final.queue.items():
        torch.testing.assert_close(queue.state_dict()[key], expected, atol=1e-6, rtol=0, msg=key)


def test_every_recorded_name_has_one_place() -> None:
    _, checkpoint = load_case("retrieval_distill")
    model = AlbefForImageTextRetrieval(tiny_config())
    assert set(checkpoint.student) == set(checkpoint.teacher) == set(model.state_dict())
    assert checkpoint.leftover == []
    assert convert_name("text_encoder_m.bert.encoder.layer.0.output.dense.bias") == (
        "albef.text_model.encoder.layer.0.output.dense.bias",
        True,
    )
    assert convert_name("text_encoder_m.cls.predictions.transform.dense.bias") == ("mlm_head.dense.bias", True)
    assert convert_name("text_encoder.cls.predictions.bias") is None  # the decoder's bias once more
    assert convert_name("text_encoder.cls.seq_relationship.bias") is None
    assert convert_name("text_encoder.embeddings.position_ids") is None
