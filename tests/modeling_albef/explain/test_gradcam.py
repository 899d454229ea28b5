"""Grad-CAM against finite differences of a forward pass that is written out by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from golden_cases import tiny_config
from torch.nn import functional as F  # noqa: N812

from modeling_albef import AlbefForImageTextRetrieval, AlbefForQuestionAnswering, AlbefModel
from modeling_albef.configuration_albef import AlbefTextConfig
from modeling_albef.explain.gradcam import default_layer, gradcam

STEP = 1e-5


def make(model_class: Any) -> Any:
    """A small model in double precision, whose inputs make a difference."""
    config = tiny_config()
    for part in (config, config.vision_config, config.text_config):
        part.initializer_range = 0.3
    torch.manual_seed(0)
    return model_class(config).double().eval()


@pytest.fixture
def matcher() -> AlbefForImageTextRetrieval:
    return make(AlbefForImageTextRetrieval)


@pytest.fixture
def answerer() -> AlbefForQuestionAnswering:
    return make(AlbefForQuestionAnswering)


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    return {
        "pixel_values": torch.randn(2, 3, 32, 32, generator=generator, dtype=torch.float64),
        "input_ids": torch.randint(5, 40, (2, 5), generator=generator) * mask,
        "attention_mask": mask,
    }


@pytest.fixture
def answers() -> dict[str, torch.Tensor]:
    return {
        "answer_input_ids": torch.tensor([[2, 7, 8, 3], [2, 9, 3, 0]]),
        "answer_attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
    }


class ByHand:
    """The text tower written out, with the cross-attention of one layer open to changes."""

    def __init__(self, model: Any, inputs: dict[str, torch.Tensor], layer: int) -> None:
        text_model = model.albef.text_model
        self.config, self.weights = text_model.config, dict(text_model.state_dict())
        self.image = model.albef.vision_model(inputs["pixel_values"]).last_hidden_state
        self.ids, self.mask, self.layer = inputs["input_ids"], inputs["attention_mask"], layer

    def linear(self, name: str, states: torch.Tensor) -> torch.Tensor:
        return F.linear(states, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def norm(self, name: str, states: torch.Tensor) -> torch.Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return F.layer_norm(states, states.shape[-1:], weight, bias, self.config.layer_norm_eps)

    def probabilities(self, name: str, states: torch.Tensor, other: torch.Tensor, mask: Any) -> torch.Tensor:
        heads = self.config.num_attention_heads
        query = self.linear(f"{name}.self.query", states).unflatten(-1, (heads, -1))
        key = self.linear(f"{name}.self.key", other).unflatten(-1, (heads, -1))
        scores = torch.einsum("blhd,bphd->bhlp", query, key) / query.shape[-1] ** 0.5
        return (scores if mask is None else scores.masked_fill(mask[:, None, None] == 0, -torch.inf)).softmax(-1)

    def block(self, name: str, states: torch.Tensor, other: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
        value = self.linear(f"{name}.self.value", other).unflatten(-1, (self.config.num_attention_heads, -1))
        context = torch.einsum("bhlp,bphd->blhd", attention, value).flatten(2)
        return self.norm(f"{name}.output.LayerNorm", self.linear(f"{name}.output.dense", context) + states)

    @torch.no_grad()
    def run(self, change: torch.Tensor | float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
        """States after the last layer, and the attention to the image in the open layer before it is changed."""
        names = ("word_embeddings", "position_embeddings", "token_type_embeddings")
        word, position, kind = (self.weights[f"embeddings.{name}.weight"] for name in names)
        states = self.norm("embeddings.LayerNorm", word[self.ids] + position[: self.ids.shape[1]] + kind[0])
        for index in range(self.config.num_hidden_layers):
            name = f"encoder.layer.{index}"
            own = self.probabilities(f"{name}.attention", states, states, self.mask)
            states = self.block(f"{name}.attention", states, states, own)
            if index >= self.config.num_text_layers:
                attention = self.probabilities(f"{name}.crossattention", states, self.image, None)
                if index == self.layer:
                    looked = attention
                    attention = attention + change
                states = self.block(f"{name}.crossattention", states, self.image, attention)
            inner = F.gelu(self.linear(f"{name}.intermediate.dense", states))
            states = self.norm(f"{name}.output.LayerNorm", self.linear(f"{name}.output.dense", inner) + states)
        return states, looked


def expected_maps(by_hand: ByHand, score: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Attention times the positive part of central differences of the score, each entry moved alone: (B, L, P - 1)."""
    _, attention = by_hand.run()  # (B, heads, L, P)
    gradient = torch.zeros_like(attention)
    for place in torch.ones_like(attention[0]).nonzero().tolist():
        change = torch.zeros_like(attention)
        change[(slice(None), *place)] = STEP  # rows of a batch do not see each other
        gradient[(slice(None), *place)] = (score(by_hand.run(change)[0]) - score(by_hand.run(-change)[0])) / (2 * STEP)
    maps = (attention * gradient.clamp(min=0)).mean(dim=1)[..., 1:]
    return maps * by_hand.mask[..., None]


@pytest.mark.parametrize("layer", [2, 3])
def test_maps_of_a_match(matcher: AlbefForImageTextRetrieval, inputs: dict[str, torch.Tensor], layer: int) -> None:
    head = matcher.itm_head
    expected = expected_maps(
        ByHand(matcher, inputs, layer), lambda states: states[:, 0] @ head.weight[1].detach() + head.bias[1].detach()
    )
    maps = gradcam(matcher, **inputs, layer=layer)
    assert maps.shape == (2, 5, 2, 2) and maps.dtype == torch.float32
    torch.testing.assert_close(maps.double().flatten(2), expected, atol=1e-7, rtol=1e-4)
    assert (maps[:, 0] > 0).any()
    assert (maps[:, 1:] > 0).any() == (layer == 2)  # the match logit sees nothing but [CLS] of the last layer
    average = gradcam(matcher, **inputs, layer=layer, average_tokens=True)
    torch.testing.assert_close(average, torch.stack([maps[0].mean(dim=0), maps[1, :3].mean(dim=0)]))


@pytest.mark.parametrize("layer", [2, 3])
def test_maps_of_an_answer(
    answerer: AlbefForQuestionAnswering,
    inputs: dict[str, torch.Tensor],
    answers: dict[str, torch.Tensor],
    layer: int,
) -> None:
    @torch.no_grad()
    def log_likelihood(states: torch.Tensor) -> torch.Tensor:
        sums = []
        for row, length in enumerate((4, 3)):  # each answer alone, without padding
            ids, tokens = answers["answer_input_ids"][row, :length], int(inputs["attention_mask"][row].sum())
            logits = answerer.text_decoder(ids[None], encoder_hidden_states=states[row : row + 1, :tokens]).logits[0]
            sums.append(torch.distributions.Categorical(logits=logits[:-1]).log_prob(ids[1:]).sum())
        return torch.stack(sums)

    expected = expected_maps(ByHand(answerer, inputs, layer), log_likelihood)
    maps = gradcam(answerer, **inputs, **answers, layer=layer)
    torch.testing.assert_close(maps.double().flatten(2), expected, atol=1e-6, rtol=1e-3)
    assert (maps[:, 1:] > 0).any()


def state_of(model: torch.nn.Module) -> dict[str, Any]:
    """All that could be left changed."""
    return {
        "modes": [module.training for module in model.modules()],
        "hooks": [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
        "attributes": [set(vars(module)) for module in model.modules()],
        "trainable": [parameter.requires_grad for parameter in model.parameters()],
        "attention": [getattr(getattr(m, "config", None), "_attn_implementation", None) for m in model.modules()],
    }


@pytest.mark.parametrize("frozen", [False, True])
def test_the_model_is_left_as_it_was(
    matcher: AlbefForImageTextRetrieval, inputs: dict[str, torch.Tensor], frozen: bool
) -> None:
    expected = gradcam(matcher, **inputs)
    weights = {name: tensor.clone() for name, tensor in matcher.state_dict().items()}
    matcher.requires_grad_(not frozen).train()
    matcher.albef.vision_model.eval()  # modes may be mixed
    matcher.itm_head.weight.grad = grad = torch.full_like(matcher.itm_head.weight, 3.0)
    before = state_of(matcher)
    assert {"sdpa"} == set(before["attention"]) - {None}
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            maps = gradcam(matcher, **{name: tensor.clone() for name, tensor in inputs.items()})
        torch.testing.assert_close(maps, expected)  # dropout is off
        assert not maps.requires_grad
    assert state_of(matcher) == before
    assert matcher.itm_head.weight.grad is grad and (grad == 3).all()
    others = [parameter.grad for name, parameter in matcher.named_parameters() if name != "itm_head.weight"]
    assert others == [None] * len(others)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in matcher.state_dict().items())


def test_an_error_leaves_it_as_it_was_too(matcher: AlbefForImageTextRetrieval, inputs: dict[str, torch.Tensor]) -> None:
    before = state_of(matcher.train())
    with pytest.raises(ValueError, match="has 41 tokens, but the model reads at most 40"):
        gradcam(matcher, inputs["pixel_values"], torch.ones(2, 41, dtype=torch.long))
    assert state_of(matcher) == before


def test_a_batch_is_its_rows(matcher: AlbefForImageTextRetrieval, inputs: dict[str, torch.Tensor]) -> None:
    together = gradcam(matcher, **inputs)
    alone = gradcam(matcher, inputs["pixel_values"][1:], inputs["input_ids"][1:, :3])
    torch.testing.assert_close(together[1:, :3], alone)
    assert not together[1, 3:].any()
    one_image = gradcam(matcher, inputs["pixel_values"][:1], inputs["input_ids"], inputs["attention_mask"])
    torch.testing.assert_close(one_image[0], together[0])
    assert not torch.allclose(one_image[1], together[1])


def test_the_default_is_the_published_layer() -> None:
    sizes = {(12, 6): 8, (4, 2): 2, (3, 2): 1, (2, 1): 1, (24, 12): 16}
    for (layers, fusion), expected in sizes.items():
        assert default_layer(AlbefTextConfig(num_hidden_layers=layers, num_fusion_layers=fusion)) == expected


def test_what_is_refused(
    matcher: AlbefForImageTextRetrieval,
    answerer: AlbefForQuestionAnswering,
    inputs: dict[str, torch.Tensor],
    answers: dict[str, torch.Tensor],
) -> None:
    for layer in (1, 4, -1):
        with pytest.raises(ValueError, match=rf"layer is {layer}, but must be a fusion layer, 2\.\.3"):
            gradcam(matcher, **inputs, layer=layer)
    with pytest.raises(ValueError, match="Give answer_input_ids, an answer for each question"):
        gradcam(answerer, **inputs)
    with pytest.raises(ValueError, match="answer_input_ids are for AlbefForQuestionAnswering"):
        gradcam(matcher, **inputs, **answers)
    with pytest.raises(ValueError, match="3 images and 2 texts do not pair"):
        gradcam(matcher, torch.zeros(3, 3, 32, 32, dtype=torch.float64), inputs["input_ids"])
    with pytest.raises(TypeError, match="not AlbefModel"):
        gradcam(AlbefModel(tiny_config()), **inputs)
