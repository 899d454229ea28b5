"""The converter on files of two images: the recorded ones, and ones with names by the rules of the public classes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from golden_cases import GOLDEN, INDEX, load_case
from golden_reasoning_cases import pair_inputs
from safetensors.torch import load_file

from modeling_albef import AlbefForTextAssignment, AlbefForVisualReasoning
from modeling_albef.conversion.convert_albef_to_hf import main
from modeling_albef.training import update_momentum

WIDTH, IMAGE_WIDTH, LAYERS, FUSION, VOCABULARY, POSITIONS = 16, 24, 18, 6, 64, 40
HEADS = ["--num_attention_heads", "2", "--vision_num_attention_heads", "3"]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vocabulary")
    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", *(chr(ord("a") + number) for number in range(59))]
    (folder / "vocab.txt").write_text("\n".join(words))
    return folder


def convert(checkpoint: Path, folder: Path, vocabulary: Path, *words: str) -> Path:
    main([str(checkpoint), "--output_dir", str(folder), "--tokenizer", str(vocabulary), *HEADS, *words])
    return folder


def public_shapes(layers: int = LAYERS, bert: str = "", types: bool = True) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the towers by the rules of the public classes: not by the code that is tested."""
    shapes: dict[str, tuple[int, ...]] = {
        "visual_encoder.cls_token": (1, 1, IMAGE_WIDTH),
        "visual_encoder.pos_embed": (1, 5, IMAGE_WIDTH),
        "visual_encoder.patch_embed.proj.weight": (IMAGE_WIDTH, 3, 16, 16),
        "visual_encoder.patch_embed.proj.bias": (IMAGE_WIDTH,),
    }

    def linear(name: str, out: int, width: int) -> None:
        shapes.update({f"{name}.weight": (out, width), f"{name}.bias": (out,)})

    def norm(name: str, width: int) -> None:
        shapes.update({f"{name}.weight": (width,), f"{name}.bias": (width,)})

    norm("visual_encoder.norm", IMAGE_WIDTH)
    for number in range(2):
        block = f"visual_encoder.blocks.{number}"
        norm(f"{block}.norm1", IMAGE_WIDTH)
        norm(f"{block}.norm2", IMAGE_WIDTH)
        linear(f"{block}.attn.qkv", 3 * IMAGE_WIDTH, IMAGE_WIDTH)
        linear(f"{block}.attn.proj", IMAGE_WIDTH, IMAGE_WIDTH)
        linear(f"{block}.mlp.fc1", 4 * IMAGE_WIDTH, IMAGE_WIDTH)
        linear(f"{block}.mlp.fc2", IMAGE_WIDTH, 4 * IMAGE_WIDTH)
    text = f"text_encoder.{bert}"
    shapes[f"{text}embeddings.word_embeddings.weight"] = (VOCABULARY, WIDTH)
    shapes[f"{text}embeddings.position_embeddings.weight"] = (POSITIONS, WIDTH)
    if types:
        shapes[f"{text}embeddings.token_type_embeddings.weight"] = (2, WIDTH)
    norm(f"{text}embeddings.LayerNorm", WIDTH)
    for number in range(layers):
        layer = f"{text}encoder.layer.{number}"
        for block, width in (("attention", WIDTH), ("crossattention", IMAGE_WIDTH)):
            if block == "crossattention" and number < FUSION:
                continue
            linear(f"{layer}.{block}.self.query", WIDTH, WIDTH)
            linear(f"{layer}.{block}.self.key", WIDTH, width)
            linear(f"{layer}.{block}.self.value", WIDTH, width)
            linear(f"{layer}.{block}.output.dense", WIDTH, WIDTH)
            norm(f"{layer}.{block}.output.LayerNorm", WIDTH)
        linear(f"{layer}.intermediate.dense", 2 * WIDTH, WIDTH)
        linear(f"{layer}.output.dense", WIDTH, 2 * WIDTH)
        norm(f"{layer}.output.LayerNorm", WIDTH)
    return shapes


def public_file(path: Path, twins: bool = True, head: str = "cls_head", **options: bool) -> dict[str, torch.Tensor]:
    """Write a file of the public form with random numbers, and return what it holds."""
    shapes = public_shapes(**options)  # type: ignore[arg-type]
    if head == "cls_head":
        shapes |= {"cls_head.0.weight": (WIDTH, WIDTH), "cls_head.0.bias": (WIDTH,)}
        shapes |= {"cls_head.2.weight": (2, WIDTH), "cls_head.2.bias": (2,)}
    else:
        shapes |= {"ta_head.weight": (3, WIDTH), "ta_head.bias": (3,), "temp": ()}
        shapes |= {"vision_proj.weight": (8, IMAGE_WIDTH), "vision_proj.bias": (8,)}
        shapes |= {"text_proj.weight": (8, WIDTH), "text_proj.bias": (8,)}
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for twin in ("", "_m") if twins else ("",):
        for name, shape in shapes.items():
            part, _, rest = name.partition(".")
            weights[f"{part}{twin}.{rest}" if rest else name] = torch.randn(shape, generator=generator)
        for number in range(FUSION, LAYERS, 2):
            for part in ("key.weight", "key.bias", "value.weight", "value.bias"):
                names = [
                    f"text_encoder{twin}.encoder.layer.{number + one}.crossattention.self.{part}" for one in (0, 1)
                ]
                if names[0] in weights:
                    weights[names[0]] = weights[names[1]]  # one tensor with two names, as there
    weights["text_encoder.embeddings.position_ids"] = torch.arange(POSITIONS)[None]
    torch.save({"model": weights, "epoch": 3}, path)
    return weights


@pytest.mark.parametrize("types", [True, False], ids=["salesforce", "lavis"])
def test_a_fine_tuned_file(types: bool, tmp_path: Path, vocabulary: Path) -> None:
    weights = public_file(tmp_path / "albef_nlvr_lavis.pt", types=types)
    folder = convert(tmp_path / "albef_nlvr_lavis.pt", tmp_path / "model", vocabulary)
    for place, twin in ((folder, ""), (folder / "teacher", "_m")):
        model, info = AlbefForVisualReasoning.from_pretrained(place, output_loading_info=True)
        assert not any(info.values())
        assert (model.config.text_config.images_per_text, model.config.num_labels) == (2, 2)
        assert model.config.id2label == {0: "False", 1: "True"}
        layers = model.albef.text_model.encoder.layer
        assert len(layers) == LAYERS
        for number in range(FUSION, LAYERS):
            name = f"text_encoder{twin}.encoder.layer.{number}.crossattention.self"
            for part in ("query", "key", "value"):
                assert torch.equal(
                    getattr(layers[number].crossattention.self, part).weight, weights[f"{name}.{part}.weight"]
                )
        assert torch.equal(model.classifier[0].weight, weights[f"cls_head{twin}.0.weight"])
        assert torch.equal(model.classifier[2].bias, weights[f"cls_head{twin}.2.bias"])
        types_there = model.albef.text_model.embeddings.token_type_embeddings.weight
        assert types or not types_there.any()
    card = (folder / "README.md").read_text()
    assert "# ALBEF for two images and a text" in card and "AlbefForVisualReasoning.from_pretrained" in card
    assert json.loads((folder / "processor_config.json").read_text()).get("end_texts", False) is not types


def test_a_text_assignment_file(tmp_path: Path, vocabulary: Path) -> None:
    weights = public_file(tmp_path / "pretrain_model_nlvr.pth", twins=False, head="ta_head")
    folder = convert(tmp_path / "pretrain_model_nlvr.pth", tmp_path / "model", vocabulary)
    model, info = AlbefForTextAssignment.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()) and not (folder / "teacher").exists()
    assert torch.equal(model.assignment_head.weight, weights["ta_head.weight"])
    assert torch.equal(model.albef.vision_proj.weight, weights["vision_proj.weight"])
    info = AlbefForVisualReasoning.from_pretrained(folder, output_loading_info=True)[1]
    assert {name.split(".")[0] for name in info["missing_keys"]} == {"classifier"}  # as published, where NLVR2 starts


def test_the_recorded_step_by_the_command(tmp_path: Path, vocabulary: Path) -> None:
    case = load_case("nlvr_distill")[0]
    folder = convert(GOLDEN / "nlvr_distill.weights.safetensors", tmp_path / "model", vocabulary)
    student = AlbefForVisualReasoning.from_pretrained(folder)
    teacher = AlbefForVisualReasoning.from_pretrained(folder / "teacher")
    update_momentum(teacher, student, INDEX["model"]["momentum"])
    batch = pair_inputs(case)
    with torch.no_grad():
        logits = teacher(**batch).logits
        outputs = student(**batch, labels=case["labels"], teacher_logits=logits, alpha=INDEX["model"]["alpha"])
    torch.testing.assert_close(outputs.logits, case["logits"], atol=1e-5, rtol=0)
    torch.testing.assert_close(outputs.loss, case["loss"], atol=1e-5, rtol=0)


def test_the_recorded_text_assignment_by_the_command(tmp_path: Path, vocabulary: Path) -> None:
    case = load_case("nlvr_pretrain")[0]
    folder = convert(GOLDEN / "nlvr_pretrain.weights.safetensors", tmp_path / "model", vocabulary)
    index = torch.stack([case["first_image"], case["second_image"]], dim=1)
    batch = {name: case[name] for name in ("pixel_values", "input_ids", "attention_mask", "labels")}
    outputs = AlbefForTextAssignment.from_pretrained(folder)(**batch, image_index=index)
    torch.testing.assert_close(outputs.logits, case["logits"], atol=1e-5, rtol=0)
    torch.testing.assert_close(outputs.loss, case["loss"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["nlvr_distill", "nlvr_plain", "nlvr_pretrain"])
@pytest.mark.parametrize("has_config", [True, False])
def test_there_and_back_is_the_identity(name: str, has_config: bool, tmp_path: Path, vocabulary: Path) -> None:
    folder = convert(GOLDEN / f"{name}.weights.safetensors", tmp_path / "model", vocabulary)
    if not has_config:
        (folder / "config.json").unlink()
    main([str(folder), "--output_dir", str(tmp_path / "back"), "--to", "salesforce"])
    ours = torch.load(tmp_path / "back/albef.pth", weights_only=True)["model"]
    expected = load_file(GOLDEN / f"{name}.weights.safetensors")
    assert set(ours) == set(expected)
    assert all(torch.equal(ours[key], tensor) for key, tensor in expected.items())


def test_a_file_whose_pairs_differ_is_refused(tmp_path: Path, vocabulary: Path) -> None:
    weights = public_file(tmp_path / "whole.pth", twins=False)
    name = "text_encoder.encoder.layer.{}.crossattention.self.key.weight"
    weights[name.format(9)] = weights[name.format(9)] + 1
    torch.save(weights, tmp_path / "odd.pth")
    with pytest.raises(
        SystemExit, match="fusion layers 8 and 9 have keys and values of their own, but other pairs share them"
    ):
        convert(tmp_path / "odd.pth", tmp_path / "model", vocabulary)
    assert not (tmp_path / "model").exists()
