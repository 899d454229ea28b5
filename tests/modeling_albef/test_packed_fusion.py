"""Packed texts get the scores of the published algorithm, written out in `benchmarks/published.py`."""

from __future__ import annotations

import pytest
import torch
from golden_cases import tiny_config

from benchmarks import published
from modeling_albef import AlbefForImageTextRetrieval
from modeling_albef.packed_fusion_albef import PackedTexts, Packing, finish_fusion, start_fusion
from modeling_albef.training.hardware import padding_left_out


def test_packing_in_closed_form() -> None:
    packing = Packing.from_lengths(torch.tensor([3, 1, 3, 2]))
    assert packing.order.tolist() == [1, 3, 0, 2]
    assert packing.runs == ((1, 1), (1, 2), (2, 3))
    assert packing.first_tokens().tolist() == [0, 1, 3, 6]
    starts = torch.tensor([100, 50, 10, 20])  # of the texts in a store
    assert packing.tokens(starts).tolist() == [50, 20, 21, 100, 101, 102, 10, 11, 12]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("fusion_layers", [1, 2, 3])
def test_scores_equal_the_published_ones(fusion_layers: int, attention: str) -> None:
    torch.manual_seed(0)
    model = AlbefForImageTextRetrieval(tiny_config(num_fusion_layers=fusion_layers, initializer_range=0.3)).eval()
    model.set_attn_implementation(attention)
    lengths = torch.tensor([4, 7, 1, 4, 2, 7, 5])
    mask = (torch.arange(9) < lengths[:, None]).long()
    ids = torch.randint(5, 64, (7, 9)) * mask
    image = torch.randn(1, 5, model.config.vision_config.hidden_size)
    with torch.no_grad():
        padded = published.encode_texts(model, ids, mask)
        expected = published.score_texts(model, image[0], padded, mask)
        packing, starts = Packing.from_lengths(lengths), lengths.cumsum(0) - lengths
        store = torch.cat([row[:length] for row, length in zip(padded, lengths.tolist(), strict=True)])
        text_model = model.albef.text_model
        read = start_fusion(text_model, store[packing.tokens(starts)], packing)
        fused = finish_fusion(text_model, read, packing, text_model.project_images(image))
    assert fused.shape == (7, 16)
    scores = model.itm_head(fused)[:, 1]
    assert scores.std() > 0.01  # the texts do differ
    torch.testing.assert_close(scores, expected[packing.order], atol=1e-5, rtol=0)


@pytest.mark.parametrize("first_only", [False, True])
def test_padded_all_at_once_equals_length_by_length(first_only: bool) -> None:
    """What a GPU computes and what a CPU does: the same contexts, and the same gradients."""
    torch.manual_seed(0)
    model = AlbefForImageTextRetrieval(tiny_config(initializer_range=0.3))
    module = model.albef.text_model.encoder.fusion_layers[0].attention.self
    packing = Packing.from_lengths(torch.tensor([4, 7, 1, 4, 2]))
    assert packing.slots.tolist() == [0, 7, 8, *range(14, 18), *range(21, 25), *range(28, 35)]
    pattern, found = PackedTexts(packing, first_only), []
    for attend in (pattern.attend_padded, pattern.attend_by_length):
        states = torch.randn(18, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
        context = attend(module, pattern.residual(states[None])[0], states, 2 * states)
        context.square().sum().backward()
        found.append((context, states.grad))
    assert found[0][0].shape == (5 if first_only else 18, 16)
    for padded, by_length in zip(*found, strict=True):
        torch.testing.assert_close(padded, by_length, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("side", ["right", "left"])
def test_no_layer_of_the_text_tower_computes_padding(side: str) -> None:
    """Within `padding_left_out`; the states of tokens are the same, and rows stay padded where maps are asked for."""
    torch.manual_seed(0)
    model = AlbefForImageTextRetrieval(tiny_config(initializer_range=0.3)).albef.text_model
    lengths = torch.tensor([4, 7, 1])
    mask = (torch.arange(9) < lengths[:, None]).long()
    mask = mask if side == "right" else mask.flip(1)
    ids, images = torch.randint(5, 64, (3, 9)) * mask, torch.randn(3, 5, model.config.encoder_hidden_size)
    tokens: list[int] = []
    for layer in model.encoder.layer:
        layer.intermediate.register_forward_hook(lambda _, given, __: tokens.append(given[0][..., 0].numel()))
    for is_training in (False, True):
        padded = model.train(is_training)(ids, mask, image_hidden_states=images).last_hidden_state
        assert set(tokens) == {27}
        tokens.clear()
        with padding_left_out(model):
            states = model(ids, mask, image_hidden_states=images).last_hidden_state
        assert set(tokens) == {12}
        tokens.clear()
        torch.testing.assert_close(states, padded * mask[..., None], atol=1e-5, rtol=0)
    with padding_left_out(model):
        assert model(ids, mask, output_hidden_states=True).hidden_states[1].shape == (3, 9, 16)
    assert set(tokens) == {27} and not model.leaves_out_padding


@pytest.mark.parametrize("texts", ["one an image", "two an image", "indexed", "padded"])
def test_images_stand_for_keys_and_values_where_texts_are_few(texts: str) -> None:
    """The same states and gradients as with images projected, dropout included; keys' biases have no gradient."""
    torch.manual_seed(0)
    model = AlbefForImageTextRetrieval(tiny_config(initializer_range=0.3)).albef.text_model.train()
    model.config.attention_probs_dropout_prob = 0.2
    for layer in model.encoder.fusion_layers:
        torch.nn.init.normal_(layer.crossattention.self.value.bias)
    images = torch.randn(3, 90, model.config.encoder_hidden_size, requires_grad=True)
    rows = 3 if texts in ("one an image", "padded") else 6
    ids, index = torch.randint(5, 64, (rows, 2)), torch.tensor([2, 0, 1, 1, 0, 2]) if texts == "indexed" else None
    mask = torch.ones_like(ids)
    if texts == "padded":
        mask[1, 1] = 0
    projected: list[int] = []
    for layer in model.encoder.fusion_layers:
        layer.crossattention.self.key.register_forward_hook(lambda *_: projected.append(1))

    def compute() -> dict[str, torch.Tensor]:
        torch.manual_seed(1)
        states = model(ids, mask, image_hidden_states=images, image_index=index).last_hidden_state * mask[..., None]
        weights = {name: value for name, value in model.named_parameters()} | {"images": images}
        directions = torch.linspace(-1, 1, states.numel()).view(states.shape).sin()  # squares of normed states are even
        gradients = torch.autograd.grad((states * directions).sum(), list(weights.values()), allow_unused=True)
        return {"states": states, **{name: part for name, part in zip(weights, gradients, strict=True)}}

    expected = compute()
    assert projected
    projected.clear()
    with padding_left_out(model):
        found = compute()
    assert not projected
    for name, value in expected.items():
        if "key.bias" in name:  # which softmax does not see: rounding alone
            assert value.abs().max() < 1e-5 and found[name].abs().max() < (1e-30 if "cross" in name else 1e-5)
        elif value is None:
            assert found[name] is None
        else:
            torch.testing.assert_close(found[name], value, atol=2e-5 * float(value.detach().abs().max()), rtol=1e-4)


def test_images_are_projected_where_that_is_less_work_or_maps_are_asked_for() -> None:
    model = AlbefForImageTextRetrieval(tiny_config()).albef.text_model
    images = torch.randn(2, 90, model.config.encoder_hidden_size)
    assert model._folds(images, 2, 2) and not model._folds(images, 40, 9)
    with padding_left_out(model):
        maps = model(torch.full((2, 2), 5), image_hidden_states=images, output_attentions=True).cross_attentions
    assert maps[0].shape[-1] == 90
