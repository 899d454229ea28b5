"""Box supervision: the loss in closed form, and its gradient through a gradient against finite differences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from golden_cases import tiny_config

from modeling_albef import AlbefForImageTextRetrieval
from modeling_albef.explain.gradcam import gradcam
from modeling_albef.explain.text_maps import match_maps
from modeling_albef.training.grounding.box_loss import box_attention_loss, box_masks
from modeling_albef.training.hardware import padding_left_out


def test_masks_are_shares_of_patches() -> None:
    boxes = torch.tensor([[0.25, 0.5, 0.625, 0.75], [0.3, 0.3, 0.35, 0.4], [0.0, 0.0, 1.0, 1.0]])
    masks = box_masks(boxes, 4, 4)
    expected = torch.zeros(4, 4)
    expected[2, 1], expected[2, 2] = 1, 0.5
    torch.testing.assert_close(masks[0], expected)
    assert masks[1, 1, 1] == 1 and masks[1].sum() == 1  # a box smaller than a patch
    assert (masks[2] == 1).all()


def test_the_loss_in_closed_form() -> None:
    inside = torch.zeros(3, 2, 4)
    inside[:, :, :2] = 1
    heat = torch.zeros(3, 2, 4)
    heat[0, 0, 0] = 7.0  # in the box: means 1/4 and 0, largest 1 and 0
    heat[1, 0, 3] = 7.0  # outside of it
    heat[2, 0, 0], heat[2, 0, 3] = 4.0, 3.0  # stretched to 1 and 3/4
    losses = [box_attention_loss(heat[n : n + 1], inside[n : n + 1]).item() for n in range(3)]
    assert losses == pytest.approx([0, 0.25 + 0.1 + 1 + 0.5, (0.75 - 1) / 4 + 0.1 + 0.75 - 1 + 0.5], abs=1e-5)
    assert box_attention_loss(heat, inside).item() == pytest.approx(sum(losses) / 3, abs=1e-5)
    empty = box_attention_loss(torch.zeros(1, 2, 4, requires_grad=True), inside[:1])
    assert empty.item() == pytest.approx(0.1 + 0.5)


@pytest.fixture
def case() -> tuple[Any, dict[str, torch.Tensor], torch.Tensor]:
    config = tiny_config()
    for part in (config, config.vision_config, config.text_config):
        part.initializer_range = 0.3
    torch.manual_seed(0)
    model = AlbefForImageTextRetrieval(config).double().eval()
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    inputs = {
        "pixel_values": torch.randn(2, 3, 32, 32, dtype=torch.float64),
        "input_ids": torch.randint(5, 40, (2, 5)) * mask,
        "attention_mask": mask,
    }
    return model, inputs, torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.5, 0.0, 1.0, 1.0]])


def maps_of(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    image = model.albef.vision_model(inputs["pixel_values"]).last_hidden_state
    text = model.albef.text_model(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state
    return match_maps(model, image, text, inputs["attention_mask"])


def test_maps_are_those_of_gradcam_and_the_attention_is_put_back(case: Any) -> None:
    model, inputs, _ = case
    torch.testing.assert_close(maps_of(model, inputs), gradcam(model, **inputs, average_tokens=True))
    assert model.albef.text_model.config._attn_implementation == "sdpa"
    assert all(parameter.grad is None for parameter in model.parameters())


def test_maps_are_the_same_where_padding_is_left_out_and_texts_are_few(case: Any) -> None:
    """Where one token meets many patches, images stand for keys and values, but not if probabilities are asked for."""
    model, inputs, _ = case
    inputs |= {"input_ids": torch.tensor([[5], [7]]), "attention_mask": torch.ones(2, 1, dtype=torch.long)}
    assert model.albef.text_model._folds(torch.zeros(2, 5, 24), 2, 1)  # by the attention that a model has at first
    expected = maps_of(model, inputs)
    with padding_left_out(model):
        torch.testing.assert_close(maps_of(model, inputs), expected)


@pytest.mark.parametrize(
    "name",
    [
        "albef.vision_model.blocks.0.attn.qkv.weight",
        "albef.text_model.encoder.layer.0.attention.self.value.weight",
        "albef.text_model.encoder.layer.2.crossattention.self.query.weight",
        "albef.text_model.encoder.layer.3.crossattention.self.value.weight",  # seen by the inner gradient alone
        "itm_head.weight",
    ],
)
def test_the_gradient_of_the_gradient(case: Any, name: str) -> None:
    """Central differences of the loss, which itself holds a gradient, along a random direction."""
    model, inputs, boxes = case
    parameter = model.get_parameter(name)
    inside = box_masks(boxes.double(), 2, 2)

    def loss() -> torch.Tensor:
        return box_attention_loss(maps_of(model, inputs).double(), inside)

    value = loss()
    assert value.item() > 0.1
    value.backward()
    direction = torch.randn_like(parameter)
    step, moved = 1e-3, []
    with torch.no_grad():
        for sign in (1, -1):
            parameter += sign * step * direction
            with torch.enable_grad():
                moved.append(loss().item())
            parameter -= sign * step * direction
    expected = (moved[0] - moved[1]) / (2 * step)
    assert abs(expected) > 1e-4
    assert (parameter.grad * direction).sum().item() == pytest.approx(expected, rel=2e-2, abs=1e-4)


def test_steps_move_the_map_into_the_box(case: Any) -> None:
    model, inputs, boxes = case
    model = model.float()
    inputs = {**inputs, "pixel_values": inputs["pixel_values"].float()}
    inside, shares = box_masks(boxes, 2, 2), []
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(30):
        maps = maps_of(model, inputs)
        loss = box_attention_loss(maps, inside)
        shares.append(((maps * inside).sum(dim=(1, 2)) / maps.sum(dim=(1, 2)).clamp(min=1e-9)).mean().item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert shares[-1] > 0.8 > shares[0] and loss.item() < 0.3
