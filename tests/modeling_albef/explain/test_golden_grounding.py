"""Maps of a match and of a similarity against those that were recorded from the public implementation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from golden_cases import INDEX, load_case, tiny_config

from modeling_albef import AlbefForImageTextRetrieval
from modeling_albef.explain.gradcam import default_block, default_layer, gradcam, similarity_gradcam


@pytest.fixture(scope="module")
def recorded() -> tuple[dict[str, torch.Tensor], Any]:
    case, checkpoint = load_case("grounding")
    config = tiny_config()
    config.vision_config.image_size = INDEX["grounding"]["config"]["image_res"]
    model = AlbefForImageTextRetrieval(config).eval()
    model.load_state_dict(checkpoint.student)
    return case, model


def inputs(case: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: case[name] for name in ("pixel_values", "input_ids", "attention_mask")}


def close(ours: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(ours, expected, atol=1e-4 * expected.abs().max().item(), rtol=0)


def test_maps_of_a_match(recorded: tuple[dict[str, torch.Tensor], Any]) -> None:
    case, model = recorded
    layer = int(case["itm_block"])
    close(gradcam(model, **inputs(case), layer=layer), case["itm_gradcam_per_token"])
    ours = gradcam(model, **inputs(case), layer=layer, average_tokens=True)
    lengths, padded = case["attention_mask"].sum(dim=1), case["attention_mask"].shape[1]
    close(ours * (lengths / padded)[:, None, None], case["itm_gradcam"])  # which are divided by the padded length
    alone = case["attention_mask"][1].bool()
    second = gradcam(model, case["pixel_values"][1:], case["input_ids"][1:, alone], layer=layer, average_tokens=True)
    close(second[0], case["itm_gradcam_second_alone"])
    close(ours[1], case["itm_gradcam_second_alone"])  # whatever stands beside it
    logits = model(**inputs(case)).itm_logits.diagonal().T
    torch.testing.assert_close(logits, case["itm_logits"], atol=1e-5, rtol=1e-6)
    assert layer == default_layer(model.config.text_config)


@pytest.mark.parametrize("block", INDEX["grounding"]["itc_blocks"])
def test_maps_of_a_similarity(recorded: tuple[dict[str, torch.Tensor], Any], block: int) -> None:
    case, model = recorded
    ours = similarity_gradcam(model, **inputs(case), block=block)
    close(ours, case[f"itc_block{block}_gradcam"])
    torch.testing.assert_close(model(**inputs(case)).logits_per_image, case["similarity"], atol=1e-5, rtol=1e-6)
    one = similarity_gradcam(model, case["pixel_values"][:1], case["input_ids"], case["attention_mask"], block=block)
    close(one[0], case[f"itc_block{block}_gradcam"][0])
    assert not torch.allclose(one[1], one[0])


def test_similarity_leaves_the_model_as_it_was(recorded: tuple[dict[str, torch.Tensor], Any]) -> None:
    case, model = recorded
    expected = similarity_gradcam(model, **inputs(case))
    model.requires_grad_(False).train()
    vision_model = model.albef.vision_model
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            maps = similarity_gradcam(model, **{name: tensor.clone() for name, tensor in inputs(case).items()})
        torch.testing.assert_close(maps, expected)
    assert model.training and vision_model.blocks[0].training and vision_model.config._attn_implementation == "sdpa"
    assert not any(len(module._forward_hooks) for module in model.modules())
    model.eval().requires_grad_()
    with pytest.raises(ValueError, match=r"block is 2, but must be a layer of the vision tower, 0\.\.1"):
        similarity_gradcam(model, **inputs(case), block=2)


def test_the_default_block_is_the_published_one() -> None:
    config = tiny_config().vision_config
    assert default_block(config) == 1
    config.num_hidden_layers = 12
    assert default_block(config) == 8
