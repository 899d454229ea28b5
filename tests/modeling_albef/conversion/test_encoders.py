"""Models that start from two encoders have their states, and say what is new in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    CamembertConfig,
    CamembertModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    DeiTConfig,
    DeiTModel,
    Dinov2Config,
    Dinov2Model,
    DistilBertConfig,
    DistilBertModel,
    PreTrainedModel,
    RobertaConfig,
    RobertaModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from modeling_albef import (
    AlbefForImageTextRetrieval,
    AlbefForPreTraining,
    AlbefForQuestionAnswering,
    AlbefModel,
    AlbefTextModel,
    AlbefVisionModel,
)
from modeling_albef.configuration_albef import AlbefError
from modeling_albef.conversion.onnx_encoder import convert_onnx_encoder, main
from processing import AlbefProcessor, build_tokenizer
from processing.image_processing_albef import ProcessingError

SIZES = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
VISION: dict[str, Any] = {**SIZES, "image_size": 28, "patch_size": 7}
TEXT: dict[str, Any] = {**SIZES, "intermediate_size": 48, "vocab_size": 60, "max_position_embeddings": 40}
DISTILBERT = {"dim": 32, "n_heads": 4, "n_layers": 4, "hidden_dim": 48, "vocab_size": 60}


def random(model: Any) -> Any:
    """Give a model weights that are all far from their starts: biases, norms and scales too."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return model.eval()


def vit(**changes: Any) -> Any:
    return random(ViTModel(ViTConfig(**{**VISION, "intermediate_size": 48, **changes})))


def bert(**changes: Any) -> Any:
    return random(BertModel(BertConfig(**{**TEXT, **changes})))


@pytest.mark.parametrize(
    "encoder",
    [
        ViTModel(ViTConfig(**VISION, intermediate_size=48)),
        ViTModel(ViTConfig(**VISION, intermediate_size=48, qkv_bias=False, layer_norm_eps=1e-3, hidden_act="relu")),
        ViTForImageClassification(ViTConfig(**VISION, intermediate_size=48)),
        Dinov2Model(Dinov2Config(**VISION, mlp_ratio=2)),
    ],
    ids=["vit", "vit_other", "vit_with_head", "dinov2"],
)
@pytest.mark.parametrize("side", [28, 56])
def test_image_states_are_those_of_the_encoder(encoder: PreTrainedModel, side: int, tmp_path: Path) -> None:
    random(encoder).save_pretrained(tmp_path)
    pixel_values = torch.randn(2, 3, side, side)
    options = {} if side == 28 else {"interpolate_pos_encoding": True}
    if isinstance(encoder, Dinov2Model):
        options = {}  # it always does
    with torch.no_grad():
        expected = encoder.base_model(pixel_values, **options).last_hidden_state
        for source in (encoder, tmp_path):
            model = AlbefModel.from_encoders(source, bert(), image_size=side)
            states = model.get_image_features(pixel_values).last_hidden_state
            torch.testing.assert_close(states, expected, atol=1e-5, rtol=0)


def test_deit_loses_its_distillation_token(caplog: pytest.LogCaptureFixture) -> None:
    deit = random(DeiTModel(DeiTConfig(**VISION, intermediate_size=48)))
    model = AlbefModel.from_encoders(deit, bert())
    assert "distillation token" in caplog.text
    plain = vit()
    state = deit.state_dict()
    state.pop("embeddings.distillation_token")
    positions = state["embeddings.position_embeddings"]
    state["embeddings.position_embeddings"] = torch.cat([positions[:, :1], positions[:, 2:]], dim=1)
    plain.load_state_dict(state)
    pixel_values = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        states = model.get_image_features(pixel_values).last_hidden_state
        torch.testing.assert_close(states, plain(pixel_values).last_hidden_state, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "encoder",
    [
        BertModel(BertConfig(**TEXT)),
        BertForMaskedLM(BertConfig(**TEXT, layer_norm_eps=1e-3, hidden_act="relu", type_vocab_size=1)),
        RobertaModel(RobertaConfig(**TEXT)),
        XLMRobertaModel(XLMRobertaConfig(**TEXT, pad_token_id=3)),
        CamembertModel(CamembertConfig(**TEXT)),
        DistilBertModel(DistilBertConfig(**DISTILBERT, max_position_embeddings=40)),
        DistilBertModel(DistilBertConfig(**DISTILBERT, activation="relu", sinusoidal_pos_embds=True)),
    ],
    ids=["bert", "bert_other", "roberta", "xlm_roberta", "camembert", "distilbert", "distilbert_other"],
)
def test_text_states_are_those_of_the_encoder(encoder: PreTrainedModel, tmp_path: Path) -> None:
    random(encoder).save_pretrained(tmp_path)
    input_ids, attention_mask = torch.randint(5, 60, (3, 9)), torch.ones(3, 9, dtype=torch.long)
    attention_mask[1, 6:] = 0
    input_ids[1, 6:] = encoder.config.pad_token_id
    with torch.no_grad():
        expected = encoder.base_model(input_ids, attention_mask).last_hidden_state
        for source in (encoder, tmp_path):
            model = AlbefModel.from_encoders(vit(), source, num_text_layers=4, num_fusion_layers=0)
            states = model.get_text_features(input_ids, attention_mask).last_hidden_state
            difference = (states - expected) * attention_mask[..., None]
            assert difference.abs().max() <= 1e-5


@pytest.mark.parametrize(
    ("numbers", "layers"),
    [
        ({}, (2, 2)),
        ({"num_text_layers": 3}, (3, 1)),
        ({"num_fusion_layers": 1}, (3, 1)),
        ({"num_text_layers": 4, "num_fusion_layers": 2}, (4, 2)),
        ({"num_text_layers": 1, "num_fusion_layers": 1}, (1, 1)),
    ],
)
def test_layers_are_dealt_out(numbers: dict[str, int], layers: tuple[int, int]) -> None:
    text, encoder = bert(), None
    model = AlbefModel.from_encoders(vit(), text, **numbers)
    config = model.config.text_config
    assert (config.num_text_layers, config.num_fusion_layers) == layers
    for index, layer in enumerate(model.text_model.encoder.layer):
        is_known = index < 4
        encoder = text.encoder.layer[index] if is_known else None
        prefix = f"text_model.encoder.layer.{index}."
        new = {name.removeprefix(prefix) for name in model.new_parameters if name.startswith(prefix)}
        expected = {name for name, _ in layer.named_parameters() if not is_known or name.startswith("crossattention.")}
        assert new == expected
        if encoder is not None:
            torch.testing.assert_close(layer.output.dense.weight, encoder.output.dense.weight, atol=0, rtol=0)


def test_odd_layers_leave_more_to_the_text() -> None:
    config = AlbefModel.from_encoders(vit(), bert(num_hidden_layers=5)).config.text_config
    assert (config.num_text_layers, config.num_fusion_layers) == (3, 2)


@pytest.mark.parametrize("head", [AlbefForImageTextRetrieval, AlbefForPreTraining, AlbefForQuestionAnswering])
def test_every_head_starts_from_encoders(head: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image, text = vit(), bert()
    model = head.from_encoders(image, text, projection_dim=16, num_text_layers=3, num_fusion_layers=2)
    assert not model.training and model.config.projection_dim == 16
    assert {name for name, _ in model.named_parameters()} >= set(model.new_parameters)
    model.save_pretrained(tmp_path)
    again = head.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())
    assert AlbefVisionModel.from_pretrained(tmp_path) and AlbefTextModel.from_pretrained(tmp_path)


def test_answer_decoder_starts_from_the_upper_layers() -> None:
    text = bert()
    model = AlbefForQuestionAnswering.from_encoders(vit(), text, num_text_layers=3, num_fusion_layers=2)
    decoder = model.text_decoder
    torch.testing.assert_close(
        decoder.layer[0].attention.self.query.weight, text.encoder.layer[3].attention.self.query.weight
    )
    new = {name for name in model.new_parameters if name.startswith("text_decoder.")}
    assert not any(name.startswith(("text_decoder.embeddings", "text_decoder.layer.0.attention")) for name in new)
    assert any(name.startswith("text_decoder.layer.0.crossattention") for name in new)
    assert any(name.startswith("text_decoder.layer.1.attention") for name in new)


@pytest.mark.parametrize(
    ("vision", "text", "words"),
    [
        (lambda: CLIPVisionModel(CLIPVisionConfig(**VISION)), bert, ["CLIPVisionModel", "before the first layer"]),
        (lambda: SiglipVisionModel(SiglipVisionConfig(**VISION)), bert, ["no class token", "vit, deit, dinov2"]),
        (lambda: Dinov2Model(Dinov2Config(**VISION, use_swiglu_ffn=True)), bert, ["SwiGLU"]),
        (bert, bert, ["'bert'", "vit, deit, dinov2"]),
        (vit, vit, ["'vit'", "distilbert"]),
        (lambda: "/there/is/none", bert, ["no vision encoder at '/there/is/none'"]),
        (lambda: 3, bert, ["vision encoder is 3"]),
        (vit, lambda: None, ["text encoder is None"]),
    ],
)
def test_refusals(vision: Any, text: Any, words: list[str]) -> None:
    with pytest.raises(AlbefError) as caught:
        AlbefModel.from_encoders(vision(), text())
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"num_text_layers": 5}, ["num_text_layers is 5", "4 layers"]),
        ({"num_fusion_layers": -1}, ["num_fusion_layers is -1"]),
        ({"image_size": 30}, ["30", "multiple"]),
        ({"text_config": {"hidden_size": 64}}, ["64", "32"]),
        ({"vision_config": {"patch_size": 14}}, ["patch_embed.proj.weight", "encoder's"]),
    ],
)
def test_refused_sizes(numbers: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(AlbefError) as caught:
        AlbefModel.from_encoders(vit(), bert(), **numbers)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_folders_that_hold_no_encoder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no such type"}')
    with pytest.raises(AlbefError, match="not one that the library knows"):
        AlbefModel.from_encoders(tmp_path, bert())
    ViTConfig(**VISION).save_pretrained(tmp_path)
    with pytest.raises(AlbefError, match="cannot be loaded"):  # no weights
        AlbefModel.from_encoders(tmp_path, bert())


def test_encoder_with_missing_weights_is_refused(tmp_path: Path) -> None:
    vit().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    removed = next(name for name in weights if "layernorm_after" in name)
    save_file({name: value for name, value in weights.items() if name != removed}, tmp_path / "model.safetensors")
    with pytest.raises(AlbefError, match="lacks 1 weights"):
        AlbefModel.from_encoders(tmp_path, bert())


def test_processor_takes_the_encoders_settings(tmp_path: Path) -> None:
    vit().save_pretrained(tmp_path / "vision")
    settings = {
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.4, 0.5, 0.6],
        "resample": 2,
        "size": {"shortest_edge": 9},
    }
    (tmp_path / "vision" / "preprocessor_config.json").write_text(json.dumps(settings))
    texts = ["Ein Hund läuft über die Straße", "Собака бежит", "一只狗"]
    tokenizer = build_tokenizer(texts)
    tokenizer.save_pretrained(tmp_path / "text")
    processor = AlbefProcessor.from_encoders(tmp_path / "vision", tmp_path / "text")
    images = processor.image_processor
    assert (list(images.image_mean), list(images.image_std)) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    assert int(images.resample) == 2
    assert dict(images.size) == {"height": 28, "width": 28}
    assert dict(AlbefProcessor.from_encoders(tmp_path / "vision", tokenizer, 56).image_processor.size)["height"] == 56
    ids = processor(text=texts, padding=True, return_tensors="pt")["input_ids"]
    assert tokenizer.unk_token_id not in ids.flatten().tolist()
    read = [processor.tokenizer.decode(row, skip_special_tokens=True) for row in ids]
    assert read[1] == "собака бежит" and read[2].replace(" ", "") == "一只狗"


def test_processor_needs_the_settings_of_the_images(tmp_path: Path) -> None:
    vit().save_pretrained(tmp_path)
    with pytest.raises(ProcessingError, match=r"preprocessor_config\.json"):
        AlbefProcessor.from_encoders(tmp_path, build_tokenizer(["a dog"]))


def test_onnx_file_becomes_a_folder(tmp_path: Path) -> None:
    encoder = random(Dinov2Model(Dinov2Config(**{**VISION, "hidden_size": 128, "num_attention_heads": 2})))
    torch.onnx.export(encoder, (torch.randn(1, 3, 28, 28),), dynamo=False, f=str(tmp_path / "model.onnx"))
    main([str(tmp_path / "model.onnx"), str(tmp_path / "folder")])
    model = AlbefModel.from_encoders(tmp_path / "folder", bert())
    pixel_values = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        expected = encoder(pixel_values).last_hidden_state
        states = model.get_image_features(pixel_values).last_hidden_state
    torch.testing.assert_close(states, expected, atol=1e-4, rtol=0)
    assert (
        AlbefProcessor.from_encoders(tmp_path / "folder", build_tokenizer(["a dog"])).image_processor.size["height"]
        == 28
    )


@pytest.mark.parametrize("content", [b"", b"no ONNX at all"])
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(AlbefError, match=r"model\.onnx"):
        convert_onnx_encoder(tmp_path / "model.onnx", tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize("as_folder", [False, True])
def test_the_masked_language_head_of_a_bert_is_taken_over(tmp_path: Path, as_folder: bool) -> None:
    """Its predictions from a text tower's states are the library's; a BERT without the head leaves ours new."""
    with_head, without = random(BertForMaskedLM(BertConfig(**TEXT))), bert()
    sources: list[Any] = [with_head, without]
    if as_folder:
        for number, one in enumerate(sources):
            one.save_pretrained(tmp_path / str(number))
        sources = [str(tmp_path / str(number)) for number in range(2)]
    first, second = (AlbefForPreTraining.from_encoders(vit(), source) for source in sources)
    states = torch.randn(2, 5, 32)
    torch.testing.assert_close(first.mlm_head(states), with_head.cls(states), atol=1e-5, rtol=1e-5)
    assert not any("mlm_head" in name for name in first.new_parameters)
    assert {name for name in second.new_parameters if "mlm_head" in name} == {
        f"mlm_head.{name}"
        for name in ("dense.weight", "dense.bias", "LayerNorm.weight", "LayerNorm.bias", "decoder.bias")
    }
