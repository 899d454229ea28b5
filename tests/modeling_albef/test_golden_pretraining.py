"""Pre-training equals the recorded step of the public implementation; fine-tuning starts from its weights."""

from __future__ import annotations

from pathlib import Path

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
from safetensors.torch import load_file
from transformers import AutoModelForPreTraining

from modeling_albef import AlbefConfig, AlbefForImageTextRetrieval, AlbefForPreTraining, AlbefForQuestionAnswering


def recorded_inputs(case: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    case = {**case, "image_ids": torch.arange(len(case["input_ids"]))}  # every pair is an image of its own
    return {**pick_inputs(case), "masked_input_ids": case["masked_input_ids"], "mlm_labels": case["labels"]}


@pytest.fixture
def saved(tmp_path: Path) -> tuple[AlbefForPreTraining, Path]:
    torch.manual_seed(0)
    model = AlbefForPreTraining(tiny_config()).eval()
    for parameter in model.mlm_head.parameters():
        torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path / "pretrained")
    return model, tmp_path / "pretrained"


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_losses_gradients_teacher_and_queue(attention: str) -> None:
    case, checkpoint = load_case("pretrain")
    assert checkpoint.leftover == []
    assert set(checkpoint.student) == set(checkpoint.teacher) == set(AlbefForPreTraining(tiny_config()).state_dict())
    student, teacher, queue = build(checkpoint, AlbefForPreTraining)
    student.train().set_attn_implementation(attention)
    outputs = training_step(student, teacher, queue, recorded_inputs(case), INDEX["model"]["alpha"])
    for name in ("mlm", "itc", "itm"):
        torch.testing.assert_close(outputs[f"{name}_loss"], case[f"loss_{name}"], atol=1e-5, rtol=0)
    torch.testing.assert_close(outputs.loss, outputs.itc_loss + outputs.itm_loss + outputs.mlm_loss)
    outputs.loss.backward()
    assert_gradients(student, case)
    assert_after(case, teacher, queue)


def test_each_part_alone() -> None:
    case, checkpoint = load_case("pretrain")
    model = build(checkpoint, AlbefForPreTraining)[0].eval()
    inputs = recorded_inputs(case)
    whole = model(**inputs)
    labels, masked = inputs.pop("mlm_labels"), inputs.pop("masked_input_ids")
    retrieval = AlbefForImageTextRetrieval(tiny_config()).eval()
    retrieval.load_state_dict({key: value for key, value in checkpoint.student.items() if "mlm_head" not in key})
    assert torch.equal(model(**inputs).loss, retrieval(**inputs).loss)
    del inputs["image_ids"]
    words = model(**inputs, masked_input_ids=masked, mlm_labels=labels)
    assert torch.equal(words.loss, whole.mlm_loss) and words.itc_loss is None
    assert torch.equal(words.itm_logits, retrieval(**inputs).itm_logits)
    assert torch.equal(model(**inputs, masked_input_ids=masked).mlm_logits, words.mlm_logits)
    with pytest.raises(ValueError, match="mlm_labels are given without masked_input_ids"):
        model(**inputs, mlm_labels=labels)


def test_nothing_masked_costs_nothing() -> None:
    case, checkpoint = load_case("pretrain")
    model = build(checkpoint, AlbefForPreTraining)[0]
    inputs = recorded_inputs(case)
    teacher_logits = torch.randn(*inputs["input_ids"].shape, 64)
    nothing = {"mlm_labels": torch.full_like(case["labels"], -100), "teacher_mlm_logits": teacher_logits, "alpha": 0.4}
    outputs = model(**{**inputs, **nothing})
    assert outputs.mlm_loss == 0
    outputs.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_save_and_load(saved: tuple[AlbefForPreTraining, Path]) -> None:
    model, folder = saved
    assert "mlm_head.decoder.weight" not in load_file(folder / "model.safetensors")  # the word embeddings
    again, info = AutoModelForPreTraining.from_pretrained(folder, output_loading_info=True)
    assert isinstance(again, AlbefForPreTraining) and not any(info.values())
    assert again.mlm_head.decoder.weight is again.get_input_embeddings().weight
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    again.resize_token_embeddings(70)
    assert again.mlm_head.decoder.weight is again.get_input_embeddings().weight
    assert again.mlm_head.decoder.bias.shape == (70,)


def test_retrieval_leaves_the_language_head_out(saved: tuple[AlbefForPreTraining, Path]) -> None:
    model, folder = saved
    retrieval, info = AlbefForImageTextRetrieval.from_pretrained(folder, output_loading_info=True)
    assert type(retrieval) is AlbefForImageTextRetrieval and not any(info.values())
    assert torch.equal(retrieval.itm_head.weight, model.itm_head.weight)


def test_the_answer_decoder_starts_from_the_language_head(
    saved: tuple[AlbefForPreTraining, Path], tmp_path: Path
) -> None:
    pretrained, folder = saved
    model, info = AlbefForQuestionAnswering.from_pretrained(folder, output_loading_info=True)
    assert not any("mlm_head" in key for key in info["unexpected_keys"])
    assert {key for key in info["missing_keys"] if "head" in key} == {"text_decoder.head.decoder.weight"}  # tied
    head = pretrained.mlm_head.state_dict()
    assert head and all(torch.equal(value, head[key]) for key, value in model.text_decoder.head.state_dict().items())
    assert model.text_decoder.head.decoder.weight is model.text_decoder.embeddings.word_embeddings.weight
    source, decoder = pretrained.albef.text_model, model.text_decoder
    for name, value in source.embeddings.state_dict().items():
        assert torch.equal(decoder.embeddings.state_dict()[name], value)
    for layer, fusion in zip(decoder.layer, source.encoder.fusion_layers, strict=True):
        assert torch.equal(layer.output.dense.weight, fusion.output.dense.weight)

    model.save_pretrained(tmp_path / "answers")  # by its own names: nothing of pre-training is left
    assert not any("mlm_head" in key for key in load_file(tmp_path / "answers/model.safetensors"))
    again, info = AlbefForQuestionAnswering.from_pretrained(tmp_path / "answers", output_loading_info=True)
    assert not any(info.values())
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_an_untied_output_map_is_kept(tmp_path: Path) -> None:
    config = tiny_config()
    config.tie_word_embeddings = False
    model = AlbefForPreTraining(config)
    assert model.mlm_head.decoder.weight is not model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    again = AlbefForPreTraining.from_pretrained(tmp_path)
    assert torch.equal(again.mlm_head.decoder.weight, model.mlm_head.decoder.weight)
    decoder = AlbefForQuestionAnswering.from_pretrained(tmp_path).text_decoder
    assert torch.equal(decoder.head.decoder.weight, model.mlm_head.decoder.weight)
    assert torch.equal(decoder.embeddings.word_embeddings.weight, model.get_input_embeddings().weight)


def test_published_size() -> None:
    with torch.device("meta"):
        model = AlbefForPreTraining(AlbefConfig(vision_config={"image_size": 256}))
    assert sum(parameter.numel() for parameter in model.parameters()) == 209_937_725
