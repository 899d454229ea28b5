"""Two images equal the recorded steps of the public implementation; a model of one image starts both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_cases import INDEX, assert_after, assert_gradients, load_case, tiny_config
from golden_reasoning_cases import build_pair, pair_config, pair_inputs
from transformers import AutoModelForPreTraining, AutoModelForSequenceClassification

from modeling_albef import (
    AlbefConfig,
    AlbefError,
    AlbefForImageTextClassification,
    AlbefForImageTextRetrieval,
    AlbefForPreTraining,
    AlbefForQuestionAnswering,
    AlbefForTextAssignment,
    AlbefForVisualReasoning,
    AlbefModel,
)
from modeling_albef.losses_albef import assign_texts, assignment_weights
from modeling_albef.model_card_albef import make_model_card
from modeling_albef.training import MomentumTeacher

UNTRAINED = {"albef.vision_proj.weight", "albef.vision_proj.bias", "albef.text_proj.weight", "albef.text_proj.bias"}
ROUNDING = 1e-4  # of float32 in 18 layers: the recorded gradients differ by 4e-5 from those of double precision


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["nlvr_distill", "nlvr_plain"])
def test_states_logits_loss_gradients_and_teacher(name: str, attention: str) -> None:
    case, checkpoint = load_case(name)
    assert checkpoint.leftover == []
    model = build_pair(checkpoint, AlbefForVisualReasoning).train()
    model.set_attn_implementation(attention)
    batch, distillation = pair_inputs(case), {}
    if name == "nlvr_distill":
        twin = AlbefForVisualReasoning(pair_config())
        twin.load_state_dict(checkpoint.teacher)
        teacher = MomentumTeacher(model, INDEX["model"]["momentum"], twin)
        teacher.update(model)
        with torch.no_grad():
            logits = teacher.model(**batch).logits
        torch.testing.assert_close(logits, case["logits_m"], atol=1e-5, rtol=0)
        distillation = {"teacher_logits": logits, "alpha": INDEX["model"]["alpha"]}
        assert_after(case, teacher)
    outputs = model(**batch, labels=case["labels"], **distillation)
    for ours, theirs in {
        "image_hidden_states": "image_last_hidden_state",
        "multimodal_hidden_states": "fusion_last_hidden_state",
        "logits": "logits",
        "loss": "loss",
    }.items():
        torch.testing.assert_close(outputs[ours], case[theirs], atol=1e-5, rtol=0, msg=ours)
    outputs.loss.backward()
    assert_gradients(model, case, ROUNDING)
    swapped = model(**{**batch, "pixel_values": batch["pixel_values"].flip(1)}).logits
    torch.testing.assert_close(swapped, case["logits_images_swapped"], atol=1e-5, rtol=0)


def test_text_assignment() -> None:
    case, checkpoint = load_case("nlvr_pretrain")
    assert checkpoint.leftover == [] and not checkpoint.teacher
    model = build_pair(checkpoint, AlbefForTextAssignment).train()
    batch = {name: case[name] for name in ("pixel_values", "input_ids", "attention_mask", "labels")}
    index = torch.stack([case["first_image"], case["second_image"]], dim=1)
    outputs = model(**batch, image_index=index)
    for ours, theirs in {
        "image_hidden_states": "image_last_hidden_state",
        "multimodal_hidden_states": "fusion_last_hidden_state",
        "logits": "logits",
        "loss": "loss",
    }.items():
        expected = case[theirs]
        torch.testing.assert_close(outputs[ours], expected, atol=1e-5, rtol=0, msg=ours)
    outputs.loss.backward()
    for name in UNTRAINED | {"albef.temperature"}:
        parameter = model.get_parameter(name)
        assert parameter.grad is None
        parameter.requires_grad_(False)
    assert_gradients(model, case, ROUNDING)


def test_the_draw_has_the_recorded_weights() -> None:
    case, checkpoint = load_case("nlvr_pretrain")
    model = build_pair(checkpoint, AlbefForTextAssignment).eval()
    with torch.no_grad():
        embeds = model.albef.get_image_features(case["pixel_values"]).pooler_output
    torch.testing.assert_close(assignment_weights(embeds), case["draw_weights"], atol=1e-5, rtol=1e-4)


def test_the_draw_keeps_its_promises() -> None:
    torch.manual_seed(0)
    ids = torch.tensor([0, 1, 2, 0, 3])
    embeds = torch.nn.functional.normalize(torch.randn(5, 8), dim=1)
    weights = assignment_weights(embeds, ids)
    assert (weights[0, 3], weights[3, 0]) == (0, 0)  # two captions of an image
    draws = [assign_texts(embeds, ids) for _ in range(3000)]
    pairs, labels = torch.stack([one[0] for one in draws]), torch.stack([one[1] for one in draws])  # (D, 5, 2), (D, 5)
    own = torch.arange(5)[None]
    assert ((pairs[..., 0] == own) == (labels == 0)).all() and ((pairs[..., 1] == own) == (labels == 1)).all()
    assert (pairs[..., 0] != pairs[..., 1]).all()
    shown = ids[pairs] == ids[own][..., None]
    assert (shown.sum(-1) == (labels != 2)).all()  # its image once, or not at all
    shares = torch.stack([(labels == one).float().mean() for one in range(3)])
    torch.testing.assert_close(shares, torch.full((3,), 1 / 3), atol=0.02, rtol=0)
    first = pairs[labels[:, 1] == 1, 1, 0]  # the wrong image beside the second text's own
    found = torch.bincount(first, minlength=5) / len(first)
    torch.testing.assert_close(found, weights[1] / weights[1].sum(), atol=0.05, rtol=0)


@pytest.mark.parametrize(("count", "allowed"), [(1, {-100}), (2, {0, 1}), (3, {0, 1, 2})])
def test_a_draw_of_few_images(count: int, allowed: set[int]) -> None:
    embeds = torch.nn.functional.normalize(torch.ones(count, 4), dim=1)
    seen = {int(label) for _ in range(50) for label in assign_texts(embeds)[1]}
    assert seen == allowed
    assert torch.equal(assign_texts(embeds, hardest=True)[1], assign_texts(embeds, hardest=True)[1])


def test_a_batch_of_one_image_costs_nothing() -> None:
    model = AlbefForTextAssignment(tiny_config()).train()
    loss = model(torch.randn(1, 3, 32, 32), torch.tensor([[1, 5, 6]])).loss
    loss.backward()
    assert loss.item() == 0


@pytest.mark.parametrize("source_class", [AlbefModel, AlbefForImageTextRetrieval, AlbefForPreTraining])
@pytest.mark.parametrize("head", [AlbefForVisualReasoning, AlbefForTextAssignment])
def test_a_model_of_one_image_starts_both(head: Any, source_class: Any, tmp_path: Path) -> None:
    """As published: layer 6 + j goes to 6 + 2j and 7 + 2j, here 2 + j; keys and values of a pair are one tensor."""
    source = source_class(tiny_config())
    source.save_pretrained(tmp_path)
    model, info = head.from_pretrained(tmp_path, output_loading_info=True)
    assert all(name.startswith(("classifier.", "assignment_head.")) for name in info["missing_keys"])
    assert not info["unexpected_keys"] and not info["mismatched_keys"]
    text = getattr(source, "albef", source).text_model
    ours, theirs = model.albef.text_model.encoder.layer, text.encoder.layer
    origin = [0, 1, 2, 2, 3, 3]
    assert len(ours) == len(origin)
    for layer, number in zip(ours, origin, strict=True):
        expected = theirs[number].state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in layer.state_dict().items())
    for one, other in ((2, 3), (4, 5)):
        first, second = ours[one].crossattention.self, ours[other].crossattention.self
        for part in ("key", "value"):
            assert getattr(first, part).weight is getattr(second, part).weight
            assert getattr(first, part).bias is getattr(second, part).bias
        assert first.query.weight is not second.query.weight
        assert ours[one].attention.self.query.weight is not ours[other].attention.self.query.weight
    sizes = model.config.text_config
    assert (sizes.num_hidden_layers, sizes.num_fusion_layers, sizes.images_per_text) == (6, 4, 2)
    assert all(
        module.config is sizes for module in model.modules() if type(module).__name__ == "AlbefTextSelfAttention"
    )


def test_two_equal_images_start_as_the_layers_applied_twice(tmp_path: Path) -> None:
    """An oracle of another kind: the fusion layers of the model of one image, each run twice in a row."""
    source = AlbefForImageTextRetrieval(tiny_config()).eval()
    source.save_pretrained(tmp_path)
    model = AlbefForVisualReasoning.from_pretrained(tmp_path)
    pixels, ids = torch.randn(2, 3, 32, 32), torch.tensor([[1, 7, 9], [1, 4, 8]])
    text, image = source.albef.text_model, source.albef.vision_model(pixels).last_hidden_state
    states = text(ids).last_hidden_state
    for layer, key_value in zip(text.encoder.fusion_layers, text.project_images(image), strict=True):
        for _ in range(2):
            states = layer(states, None, *key_value)
    both = pixels[:, None].expand(-1, 2, -1, -1, -1)
    torch.testing.assert_close(model(both, ids).multimodal_hidden_states, states, atol=1e-5, rtol=1e-5)


def _random_pair_model() -> AlbefForVisualReasoning:
    config = tiny_config()
    for part in (config, config.vision_config, config.text_config):
        part.initializer_range = 0.3
    torch.manual_seed(0)
    return AlbefForVisualReasoning(config).eval()


def test_the_given_configuration_stays_as_it_is() -> None:
    config = tiny_config()
    AlbefForVisualReasoning(config)
    assert (config.text_config.num_hidden_layers, config.text_config.images_per_text) == (4, 1)


def test_save_and_load(tmp_path: Path) -> None:
    model = _random_pair_model()
    model.save_pretrained(tmp_path)
    again, info = AlbefForVisualReasoning.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert set(again.state_dict()) == set(model.state_dict())
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    pixels, ids = torch.randn(1, 2, 3, 32, 32), torch.tensor([[1, 7, 9]])
    torch.testing.assert_close(again(pixels, ids).logits, model(pixels, ids).logits)
    layers = again.albef.text_model.encoder.layer  # what is shared stays so
    assert layers[2].crossattention.self.key.weight is layers[3].crossattention.self.key.weight
    assert len(list(again.parameters())) == len(list(model.parameters())) == len(model.state_dict()) - 2 * 4


def test_a_text_assignment_model_starts_visual_reasoning(tmp_path: Path) -> None:
    source = AlbefForTextAssignment(tiny_config())
    source.save_pretrained(tmp_path)
    model, info = AlbefForVisualReasoning.from_pretrained(tmp_path, output_loading_info=True)
    assert {name.split(".")[0] for name in info["missing_keys"]} == {"classifier"} and not info["unexpected_keys"]
    for name, tensor in model.state_dict().items():
        assert name.startswith("classifier.") or torch.equal(tensor, source.state_dict()[name])


def test_auto_classes_give_the_class_that_was_saved(tmp_path: Path) -> None:
    for auto_class, head in (
        (AutoModelForSequenceClassification, AlbefForVisualReasoning),
        (AutoModelForPreTraining, AlbefForTextAssignment),
        (AutoModelForSequenceClassification, AlbefForImageTextClassification),
        (AutoModelForPreTraining, AlbefForPreTraining),
    ):
        head(tiny_config()).save_pretrained(tmp_path / head.__name__, save_code=True)
        assert type(auto_class.from_pretrained(tmp_path / head.__name__)) is head
        described = json.loads((tmp_path / head.__name__ / "config.json").read_text())["auto_map"]
        assert described[auto_class.__name__].endswith(f".{head.__name__}")
    assert type(AutoModelForPreTraining.from_config(tiny_config())) is AlbefForPreTraining
    card = make_model_card(tiny_config(), "AlbefForVisualReasoning", "user/nlvr2")
    assert "AutoModelForSequenceClassification.from_pretrained(" in card.text


@pytest.mark.slow
def test_the_code_beside_a_model_runs_alone(tmp_path: Path) -> None:
    """Where the package is not installed, the files that are saved with a model load it, and give the same numbers."""
    model = _random_pair_model()
    model.save_pretrained(tmp_path / "model", save_code=True)
    pixels, ids = torch.randn(2, 2, 3, 32, 32), torch.tensor([[1, 7], [1, 4]])
    torch.save((pixels, ids, model(pixels, ids).logits), tmp_path / "expected.pt")
    program = (
        "import sys, torch; from transformers import AutoModelForSequenceClassification as Auto\n"
        f"model = Auto.from_pretrained({str(tmp_path / 'model')!r}, trust_remote_code=True)\n"
        f"pixels, ids, expected = torch.load({str(tmp_path / 'expected.pt')!r})\n"
        "torch.testing.assert_close(model(pixels, ids).logits, expected)\n"
        "assert 'modeling_albef' not in sys.modules and type(model).__module__.startswith('transformers_modules')"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path, env=environment)


@pytest.mark.parametrize("layout", ["stacked", "index"])
def test_layouts_of_images(layout: str) -> None:
    """Texts that share images give what each gives with images of its own."""
    model, pixels = _random_pair_model(), torch.randn(4, 3, 32, 32)
    ids, index = torch.tensor([[1, 7, 9], [1, 4, 8], [1, 4, 3]]), torch.tensor([[0, 1], [3, 0], [2, 3]])
    expected = model(pixels[index], ids).logits
    assert (expected[0] - expected[1]).abs().max() > 1e-3
    if layout == "stacked":  # the original's: all first images, then all second ones
        ours = model(torch.cat([pixels[index[:, 0]], pixels[index[:, 1]]]), ids).logits
    else:
        ours = model(pixels, ids, image_index=index).logits
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_padding_on_the_left_changes_nothing() -> None:
    model, pixels = _random_pair_model(), torch.randn(2, 2, 3, 32, 32)
    right = torch.tensor([[1, 7, 9, 5], [1, 4, 0, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    left = torch.tensor([[1, 7, 9, 5], [0, 0, 1, 4]]), torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
    torch.testing.assert_close(model(pixels, *left).logits, model(pixels, *right).logits, atol=1e-5, rtol=1e-5)


def test_gradient_checkpointing_changes_nothing() -> None:
    batch = {"pixel_values": torch.randn(2, 2, 3, 32, 32), "input_ids": torch.tensor([[1, 7], [1, 4]])}
    gradients = []
    for checkpointed in (False, True):
        model = _random_pair_model().train()
        if checkpointed:
            model.gradient_checkpointing_enable()
        model(**batch, labels=torch.tensor([0, 1])).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def test_attention_maps_of_both_images() -> None:
    model = _random_pair_model()
    outputs = model(torch.randn(2, 2, 3, 32, 32), torch.tensor([[1, 7], [1, 4]]), output_attentions=True)
    assert len(outputs.attentions) == 6 and len(outputs.cross_attentions) == 4
    assert outputs.cross_attentions[0].shape == (2, 2, 2, 5)  # texts, heads, tokens, class token and 2 x 2 patches


def test_adapters_reach_what_two_layers_share() -> None:
    """Merged adapters give what separate ones gave: the shared maps have one adapter, not one a layer."""
    from modeling_albef.training.lora import add_lora, merged_state_dict

    model, plain = _random_pair_model(), _random_pair_model()
    batch = (torch.randn(2, 2, 3, 32, 32), torch.tensor([[1, 7], [1, 4]]))
    add_lora(model, 2, targets=("query", "key", "value"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    assert (model(*batch).logits - plain(*batch).logits).abs().max() > 1e-3
    plain.load_state_dict(merged_state_dict(model))
    torch.testing.assert_close(plain(*batch).logits, model(*batch).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "head", [AlbefForImageTextRetrieval, AlbefForQuestionAnswering, AlbefForImageTextClassification]
)
def test_heads_of_one_image_refuse_a_model_of_two(head: Any, tmp_path: Path) -> None:
    _random_pair_model().save_pretrained(tmp_path)
    with pytest.raises(AlbefError, match=r"reads 2 images with each text, .* one: load it as AlbefForVisualReasoning"):
        head.from_pretrained(tmp_path)
    assert AlbefModel.from_pretrained(tmp_path).config.text_config.images_per_text == 2  # whose towers fit


def test_bad_inputs_are_refused(tmp_path: Path) -> None:
    model, ids = _random_pair_model(), torch.tensor([[1, 7], [1, 4]])
    with pytest.raises(ValueError, match=r"pixel_values has the shape \(2, 3, 3, 32, 32\).*K = 2"):
        model(torch.randn(2, 3, 3, 32, 32), ids)
    with pytest.raises(ValueError, match="3 images are not 2 a text: give `image_index`"):
        model(torch.randn(3, 3, 32, 32), ids)
    with pytest.raises(ValueError, match=r"image_index has the shape \(2,\), but \(N, K\)"):
        model(torch.randn(3, 3, 32, 32), ids, image_index=torch.tensor([0, 1]))
    with pytest.raises(AlbefError, match="labels are given without image_index"):
        AlbefForTextAssignment(tiny_config())(torch.randn(2, 3, 32, 32), ids, labels=torch.tensor([0, 1]))
    with pytest.raises(AlbefError, match="images_per_text is 2, but must be at least 1 and divide num_fusion_layers"):
        tiny_config(num_fusion_layers=1, images_per_text=2)
    AlbefForImageTextRetrieval(tiny_config()).save_pretrained(tmp_path)
    with pytest.raises(AlbefError, match="fewer text layers than the configuration: leave config out"):
        AlbefForVisualReasoning.from_pretrained(tmp_path, config=pair_config())


def test_published_sizes() -> None:
    with torch.device("meta"):
        model = AlbefForVisualReasoning(AlbefConfig())
        pretraining = AlbefForTextAssignment(AlbefConfig(vision_config={"image_size": 256}))
    assert sum(parameter.numel() for parameter in model.parameters()) == 259_381_250
    assert sum(parameter.numel() for parameter in pretraining.parameters()) == 258_939_396
