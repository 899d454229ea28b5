"""The models as members of the library: loading, saving, attention, checkpointing, resolution."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from golden_cases import build, load_case, tiny_config
from transformers import AutoConfig, AutoModel, AutoModelForZeroShotImageClassification

from modeling_albef import AlbefConfig, AlbefForImageTextRetrieval, AlbefModel, AlbefTextConfig, AlbefVisionConfig
from modeling_albef.modeling_albef_vision import interpolate_position_embeddings


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "pixel_values": torch.randn(3, 3, 32, 32),
        "input_ids": torch.randint(5, 64, (4, 6)),
        "attention_mask": torch.tensor([[1] * 6, [1] * 6, [1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0]]),
    }


@pytest.fixture
def model() -> AlbefForImageTextRetrieval:
    torch.manual_seed(1)
    return AlbefForImageTextRetrieval(tiny_config()).eval()


def test_defaults_have_the_published_size() -> None:
    with torch.device("meta"):
        model = AlbefForImageTextRetrieval(AlbefConfig())
    assert sum(p.numel() for p in model.parameters()) == 209_560_835


def test_configs_check_their_sizes() -> None:
    with pytest.raises(ValueError, match="image_size is 100, but must be a multiple of patch_size"):
        AlbefVisionConfig(image_size=100)
    with pytest.raises(ValueError, match="num_fusion_layers is 13"):
        AlbefTextConfig(num_fusion_layers=13)
    for wrong in ({"num_hidden_layers": 10**9}, {"layer_norm_eps": float("nan")}, {"vocab_size": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .*, but must lie between"):
            AlbefTextConfig(**wrong)
    with pytest.raises(ValueError, match="hidden_act is 'gleu', but must be one of gelu"):
        AlbefVisionConfig(hidden_act="gleu")
    with pytest.raises(ValueError, match=r"temperature_init is 0\.0, but must lie"):
        AlbefConfig(temperature_init=0.0)
    config = AlbefConfig(vision_config={"hidden_size": 24, "num_attention_heads": 3})
    assert config.text_config.encoder_hidden_size == 24
    assert AlbefConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()


def test_every_pair_is_scored(model: AlbefForImageTextRetrieval, inputs: dict[str, torch.Tensor]) -> None:
    outputs = model(**inputs)
    assert outputs.logits_per_image.shape == (3, 4) and outputs.itm_logits.shape == (3, 4, 2)
    torch.testing.assert_close(outputs.image_embeds.norm(dim=1), torch.ones(3))
    cosine = torch.nn.functional.cosine_similarity(outputs.image_embeds[2], outputs.text_embeds[3], dim=0)
    torch.testing.assert_close(outputs.logits_per_image[2, 3], cosine / 0.07)
    for image in range(3):
        for text in range(4):
            length = int(inputs["attention_mask"][text].sum())  # alone, and without padding
            one = model(inputs["pixel_values"][image : image + 1], inputs["input_ids"][text : text + 1, :length])
            torch.testing.assert_close(one.itm_logits[0, 0], outputs.itm_logits[image, text], atol=1e-5, rtol=0)


def test_rows_may_name_their_image(model: AlbefForImageTextRetrieval, inputs: dict[str, torch.Tensor]) -> None:
    outputs = model(**inputs)
    index = torch.tensor([2, 0, 0, 1])
    logits = model.match(
        outputs.text_hidden_states, inputs["attention_mask"], outputs.image_hidden_states, image_index=index
    )
    torch.testing.assert_close(logits, outputs.itm_logits[index, torch.arange(4)], atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="4 text rows cannot be dealt out to 3 images: give `image_index`"):
        model.match(outputs.text_hidden_states, inputs["attention_mask"], outputs.image_hidden_states)


def test_eager_and_sdpa_agree_and_eager_gives_maps(
    model: AlbefForImageTextRetrieval, inputs: dict[str, torch.Tensor]
) -> None:
    sdpa = model(**inputs).itm_logits
    model.set_attn_implementation("eager")
    torch.testing.assert_close(model(**inputs).itm_logits, sdpa, atol=1e-5, rtol=0)
    image = model.get_image_features(inputs["pixel_values"], output_attentions=True)
    assert [tuple(a.shape) for a in image.attentions] == [(3, 3, 5, 5)] * 2
    fused = model.albef.text_model(
        inputs["input_ids"][:3], image_hidden_states=image.last_hidden_state, output_attentions=True
    )
    assert [tuple(a.shape) for a in fused.cross_attentions] == [(3, 2, 6, 5)] * 2 and len(fused.attentions) == 4
    folded = model.albef.text_model(
        inputs["input_ids"], image_hidden_states=image.last_hidden_state[:1], output_attentions=True
    )
    torch.testing.assert_close(folded.cross_attentions[1][0], fused.cross_attentions[1][0], atol=1e-6, rtol=0)


def test_padding_never_matters(model: AlbefForImageTextRetrieval, inputs: dict[str, torch.Tensor]) -> None:
    changed = {**inputs, "input_ids": inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, 9)}
    torch.testing.assert_close(model(**inputs).itm_logits, model(**changed).itm_logits, atol=1e-6, rtol=0)


def test_text_and_fusion_layers_apart_equal_both_at_once(
    model: AlbefForImageTextRetrieval, inputs: dict[str, torch.Tensor]
) -> None:
    image = model.get_image_features(inputs["pixel_values"]).last_hidden_state
    ids, mask, text_model = inputs["input_ids"][:3], inputs["attention_mask"][:3], model.albef.text_model
    at_once = text_model(ids, mask, image_hidden_states=image).last_hidden_state
    text = text_model(ids, mask).last_hidden_state
    apart = text_model(None, mask, text_hidden_states=text, image_hidden_states=image).last_hidden_state
    assert torch.equal(at_once, apart)
    with pytest.raises(ValueError, match="either input_ids or text_hidden_states"):
        text_model(ids, mask, text_hidden_states=text)


def test_too_long_or_wrong_size(model: AlbefForImageTextRetrieval, inputs: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="has 41 tokens, but the model reads at most 40"):
        model.get_text_features(torch.ones(1, 41, dtype=torch.long))
    with pytest.raises(ValueError, match=r"\(64, 64\) pixels, but the model takes \(32, 32\)"):
        model.get_image_features(torch.zeros(1, 3, 64, 64))
    for wrong, message in (
        ({"pixel_values": torch.zeros(1, 1, 32, 32)}, r"pixel_values has the shape \(1, 1, 32, 32\), .*with C = 3\."),
        ({"input_ids": inputs["input_ids"][0]}, r"input_ids has the shape .* but \(N, L\) is expected"),
        ({"attention_mask": inputs["attention_mask"][:, 1:]}, r"attention_mask has the shape .* with N = 4, L = "),
        ({"image_ids": torch.arange(3)}, r"input_ids has the shape .* \(B, L\) is expected, .*with B = 3\."),
    ):
        with pytest.raises(ValueError, match=message):
            model(**{**inputs, **wrong})
    pairs = {**inputs, "pixel_values": inputs["pixel_values"][:2]}
    pairs |= {name: inputs[name][:2] for name in ("input_ids", "attention_mask")} | {"image_ids": torch.arange(2)}
    candidates = dict.fromkeys(("image_candidates", "text_candidates"), torch.ones(1, model.config.projection_dim))
    with pytest.raises(ValueError, match=r"candidate_ids has the shape \(1,\), but the first 2 candidates must be"):
        model(**pairs, **candidates, candidate_ids=torch.arange(1))
    with pytest.raises(ValueError, match="text_candidates and candidate_ids together, or none"):
        model(**pairs, **candidates)


@pytest.mark.parametrize("class_", [AlbefModel, AlbefForImageTextRetrieval])
def test_save_and_load(class_: type, tmp_path: Path, inputs: dict[str, torch.Tensor]) -> None:
    model = class_(tiny_config()).eval()
    model.save_pretrained(tmp_path)
    again = class_.from_pretrained(tmp_path)
    assert not again.training
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    assert torch.equal(model(**inputs).logits_per_image, again(**inputs).logits_per_image)


def test_auto_classes(tmp_path: Path) -> None:
    model = AlbefForImageTextRetrieval(tiny_config())
    model.save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), AlbefConfig)
    base = AutoModel.from_pretrained(tmp_path)  # the base model of a head's checkpoint
    assert isinstance(base, AlbefModel)
    assert torch.equal(base.vision_proj.weight, model.albef.vision_proj.weight)
    assert isinstance(AutoModelForZeroShotImageClassification.from_pretrained(tmp_path), AlbefForImageTextRetrieval)


def test_what_a_checkpoint_lacks_is_initialised(tmp_path: Path) -> None:
    AlbefModel(tiny_config()).save_pretrained(tmp_path)
    model = AlbefForImageTextRetrieval.from_pretrained(tmp_path)
    assert model.itm_head.weight.std().item() == pytest.approx(0.02, rel=0.5)
    assert torch.equal(model.itm_head.bias, torch.zeros(2))
    fresh = AlbefModel(tiny_config())
    assert fresh.temperature.item() == pytest.approx(0.07)
    assert 0.01 < fresh.vision_model.pos_embed.std() < 0.03


def test_positions_are_resampled_on_loading(tmp_path: Path, inputs: dict[str, torch.Tensor]) -> None:
    model = AlbefForImageTextRetrieval(tiny_config())
    model.save_pretrained(tmp_path)
    old = model.albef.vision_model.pos_embed
    expected = interpolate_position_embeddings(old, 9)

    by_argument = AlbefForImageTextRetrieval.from_pretrained(tmp_path, image_size=48)
    by_config = AlbefForImageTextRetrieval.from_pretrained(
        tmp_path, config=AlbefConfig.from_dict({**tiny_config().to_dict(), "vision_config": {**_vision(48)}})
    )
    stored = AlbefConfig.from_pretrained(tmp_path)
    stored.vision_config.image_size = 48
    stored.save_pretrained(tmp_path)  # the config of the folder asks, its weights are of 32 pixels
    by_folder = AlbefForImageTextRetrieval.from_pretrained(tmp_path)
    for loaded in (by_argument, by_config, by_folder):
        assert loaded.config.vision_config.image_size == 48
        torch.testing.assert_close(loaded.albef.vision_model.pos_embed.data, expected)
        assert loaded.albef.vision_model.pos_embed.requires_grad
        loaded(torch.randn(3, 3, 48, 48), inputs["input_ids"])


def _vision(image_size: int) -> dict:
    return {**tiny_config().vision_config.to_dict(), "image_size": image_size}


def test_interpolation_keeps_the_class_position_and_constants() -> None:
    positions = torch.cat([torch.full((1, 1, 4), 7.0), torch.full((1, 16, 4), 3.0)], dim=1)
    larger = interpolate_position_embeddings(positions, 36)
    assert torch.equal(larger[:, 0], positions[:, 0]) and larger.shape == (1, 37, 4)
    torch.testing.assert_close(larger[:, 1:], torch.full((1, 36, 4), 3.0))
    assert interpolate_position_embeddings(positions, 16) is positions
    # a ramp along x stays a ramp along x, row by row
    ramp = torch.arange(4.0).repeat(4)[None, :, None]
    rows = interpolate_position_embeddings(torch.cat([torch.zeros(1, 1, 1), ramp], 1), 64)[0, 1:, 0].view(8, 8)
    torch.testing.assert_close(rows, rows[:1].expand(8, 8))
    assert (rows[0].diff() > 0).all()


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    case, checkpoint = load_case("retrieval_plain")
    names = ("pixel_values", "input_ids", "attention_mask", "image_ids")
    gradients = []
    for checkpointing in (False, True):
        student, _, _ = build(checkpoint)
        student.train()
        if checkpointing:
            enable = getattr(student, "activation_checkpointing_enable", None) or student.gradient_checkpointing_enable
            enable()
            assert sum(getattr(m, "gradient_checkpointing", False) for m in student.modules()) >= 6
        student(**{name: case[name] for name in names}).loss.backward()
        gradients.append([p.grad for p in student.parameters()])
    for plain, saved in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, saved, atol=1e-6, rtol=1e-5)


def test_without_a_teacher_the_batch_is_its_own_candidates(inputs: dict[str, torch.Tensor]) -> None:
    model = AlbefForImageTextRetrieval(tiny_config()).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    outputs = model(inputs["pixel_values"], inputs["input_ids"][:3], image_ids=torch.tensor([4, 5, 6]))
    logits = outputs.image_embeds @ outputs.text_embeds.T / 0.07
    labels = torch.arange(3)
    cross_entropy = torch.nn.functional.cross_entropy
    expected = (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2
    torch.testing.assert_close(outputs.itc_loss, expected)
    torch.testing.assert_close(outputs.loss, outputs.itc_loss + outputs.itm_loss)
    assert all(
        torch.equal(value, before[name]) for name, value in model.state_dict().items()
    )  # forward changes nothing


def test_published_weight_decay_groups() -> None:
    """No decay on tensors of one dimension and biases; decay on the rest, position embeddings and temperature too."""
    from transformers import Trainer

    model = AlbefForImageTextRetrieval(tiny_config())
    decayed = set(Trainer.get_decay_parameter_names(None, model))
    published = {n for n, p in model.named_parameters() if not (p.ndim == 1 or n.endswith(".bias"))}
    assert decayed == published
    assert {"albef.temperature", "albef.vision_model.pos_embed", "albef.vision_model.cls_token"} <= decayed


def test_the_loss_of_an_evaluation_is_the_same_each_time(
    model: AlbefForImageTextRetrieval, inputs: dict[str, torch.Tensor]
) -> None:
    batch = {name: tensor[:3] for name, tensor in inputs.items()} | {"image_ids": torch.arange(3)}
    losses = {float(model(**batch).loss) for _ in range(8)}
    assert len(losses) == 1
    assert len({float(model.train()(**batch).loss) for _ in range(8)}) > 1  # where negatives are drawn
