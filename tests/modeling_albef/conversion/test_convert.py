"""The converter of released checkpoints: what it writes is what the public implementations computed, and goes back."""

from __future__ import annotations

import hashlib
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from golden_cases import GOLDEN, INDEX, pick_inputs, training_step
from hub_server import serve
from huggingface_hub import ModelCard
from run_cases import no_file_larger_than, write_config
from safetensors.torch import load_file, save_file

import run_retrieval
import run_vqa
from modeling_albef import (
    AlbefForImageTextClassification,
    AlbefForImageTextRetrieval,
    AlbefForPreTraining,
    AlbefForQuestionAnswering,
)
from modeling_albef.conversion.checkpoint_names import convert_name
from modeling_albef.conversion.convert_albef_to_hf import main
from modeling_albef.explain.gradcam import gradcam, similarity_gradcam
from modeling_albef.training import FeatureQueue, MomentumTeacher, update_momentum
from modeling_albef.training.application import ModelArguments, load_model, load_saved_queue
from processing import AlbefProcessor

ROOT = Path(__file__).parents[3]
SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]  # the recorded models' ids 0..4
HEADS = {"salesforce": "2", "torchmultimodal": "3"}
ALPHA, MOMENTUM = INDEX["model"]["alpha"], INDEX["model"]["momentum"]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a vocabulary of the recorded models' size."""
    folder = tmp_path_factory.mktemp("vocabulary")
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *(chr(ord("a") + number) for number in range(59))]))
    return folder


def weights_of(name: str) -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / f"{name}.weights.safetensors")


def heads_of(name: str) -> list[str]:
    text = HEADS["torchmultimodal" if name.startswith("torchmultimodal") else "salesforce"]
    return ["--num_attention_heads", text, "--vision_num_attention_heads", "3"]


def convert(checkpoint: Path, folder: Path, vocabulary: Path, name: str = "", words: tuple[str, ...] = ()) -> Path:
    main([str(checkpoint), "--output_dir", str(folder), "--tokenizer", str(vocabulary), *heads_of(name), *words])
    return folder


def back(folder: Path, output: Path) -> dict[str, torch.Tensor]:
    main([str(folder), "--output_dir", str(output), "--to", "salesforce"])
    return torch.load(output / "albef.pth", weights_only=True)["model"]


def assert_same(ours: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert set(ours) == set(expected)
    for name, tensor in expected.items():
        assert ours[name].dtype == tensor.dtype and torch.equal(ours[name], tensor), name


def refused(words: list[Any]) -> str:
    """The one sentence of a refusal; nothing is written."""
    words = [str(word) for word in words]
    with pytest.raises(SystemExit) as error:
        main(words)
    assert not Path(words[words.index("--output_dir") + 1]).exists()
    message = str(error.value)
    assert "\n" not in message
    return message


def step(folder: Path, inputs: dict[str, torch.Tensor]) -> tuple[Any, MomentumTeacher, FeatureQueue]:
    """One recorded step by what the folder holds; without dropout, as recorded."""
    student = AlbefForImageTextRetrieval.from_pretrained(folder)
    twin = AlbefForImageTextRetrieval.from_pretrained(folder / "teacher")
    teacher = MomentumTeacher(student, MOMENTUM, twin)
    teacher.model.eval()
    queue = FeatureQueue(INDEX["model"]["queue_size"], INDEX["model"]["embed_dim"])
    queue.load(folder)
    return training_step(student, teacher, queue, inputs, ALPHA), teacher, queue


def test_a_flat_file_of_grounding_has_the_recorded_maps(tmp_path: Path, vocabulary: Path) -> None:
    """As `refcoco.pth` is: names of retrieval, no wrapper, no momentum model, no queue."""
    weights = {
        name: tensor
        for name, tensor in weights_of("grounding").items()
        if "_m." not in name and not name.endswith(("_queue", "queue_ptr"))
    }
    torch.save(weights, tmp_path / "refcoco.pth")
    folder = convert(tmp_path / "refcoco.pth", tmp_path / "model", vocabulary)
    assert not (folder / "teacher").exists()
    model, case = AlbefForImageTextRetrieval.from_pretrained(folder), load_file(GOLDEN / "grounding.io.safetensors")
    inputs = {name: case[name] for name in ("pixel_values", "input_ids", "attention_mask")}
    for ours, expected in (
        (gradcam(model, **inputs), case["itm_gradcam_per_token"]),
        (similarity_gradcam(model, **inputs), case["itc_block1_gradcam"]),
    ):
        torch.testing.assert_close(ours, expected, atol=1e-4 * expected.abs().max().item(), rtol=0)


@pytest.mark.parametrize("name", ["retrieval_distill", "pretrain"])
def test_retrieval_reproduces_the_recorded_step(name: str, tmp_path: Path, vocabulary: Path) -> None:
    case = load_file(GOLDEN / f"{name}.io.safetensors")
    folder = convert(GOLDEN / f"{name}.weights.safetensors", tmp_path / "model", vocabulary)
    case.setdefault("image_ids", torch.arange(len(case["input_ids"])))  # in pre-training every pair is its own image
    outputs, teacher, queue = step(folder, pick_inputs(case))
    torch.testing.assert_close(outputs.itc_loss, case["loss_itc"], atol=1e-5, rtol=0)
    torch.testing.assert_close(outputs.itm_loss, case["loss_itm"], atol=1e-5, rtol=0)
    if name == "retrieval_distill":
        torch.testing.assert_close(outputs.image_embeds, case["image_feat"], atol=1e-5, rtol=0)
        torch.testing.assert_close(outputs.text_embeds, case["text_feat"], atol=1e-5, rtol=0)
    torch.testing.assert_close(queue.image_embeds.T, case["after.image_queue"], atol=1e-6, rtol=0)
    torch.testing.assert_close(queue.text_embeds.T, case["after.text_queue"], atol=1e-6, rtol=0)
    moved = [key for key in case if key.startswith("after.") and convert_name(key.removeprefix("after."))]
    assert moved
    for key in moved:
        ours = teacher.model.state_dict()[convert_name(key.removeprefix("after."))[0]]
        torch.testing.assert_close(ours, case[key], atol=1e-6, rtol=0)


def test_torchmultimodal_retrieval(tmp_path: Path, vocabulary: Path) -> None:
    name = "torchmultimodal_retrieval"
    case = load_file(GOLDEN / f"{name}.io.safetensors")
    folder = convert(GOLDEN / f"{name}.weights.safetensors", tmp_path / "model", vocabulary, name)
    outputs, _, _ = step(folder, pick_inputs(case))
    torch.testing.assert_close(outputs.image_hidden_states, case["image_last_hidden_state"], atol=1e-5, rtol=0)
    torch.testing.assert_close(outputs.text_hidden_states, case["text_last_hidden_state"], atol=1e-5, rtol=0)
    torch.testing.assert_close(outputs.image_embeds, case["image_feat"], atol=1e-5, rtol=0)
    torch.testing.assert_close(outputs.text_embeds, case["text_feat"], atol=1e-5, rtol=0)
    torch.testing.assert_close(outputs.itm_logits[:2, 1], case["itm_score"], atol=1e-5, rtol=0)
    torch.testing.assert_close(outputs.loss, case["loss"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["vqa_distill", "vqa_plain", "torchmultimodal_vqa"])
def test_question_answering(name: str, tmp_path: Path, vocabulary: Path) -> None:
    case = load_file(GOLDEN / f"{name}.io.safetensors")
    folder = convert(GOLDEN / f"{name}.weights.safetensors", tmp_path / "model", vocabulary, name)
    model = AlbefForQuestionAnswering.from_pretrained(folder)
    assert model.config.decoder_config.tie_word_embeddings == name.startswith("vqa")
    questions = {"input_ids": case["question_input_ids"], "attention_mask": case["question_attention_mask"]}
    batch = {
        **{key: case[key] for key in ("pixel_values", "answer_input_ids", "answer_attention_mask", "answer_weights")},
        **questions,
        "answers_per_question": case["answer_counts"],
    }
    distillation = {}
    assert (folder / "teacher").exists() == (name != "vqa_plain")
    if name != "vqa_plain":
        teacher = MomentumTeacher(model, MOMENTUM, AlbefForQuestionAnswering.from_pretrained(folder / "teacher"))
        teacher.model.eval()
        teacher.update(model)
        if name.startswith("torchmultimodal"):  # ranked before the step, which moves the encoders' twins there
            update_momentum(teacher.model.albef, model.albef, MOMENTUM)
        with torch.no_grad():
            distillation = {"teacher_logits": teacher.model(**batch).logits, "alpha": ALPHA}
    torch.testing.assert_close(model(**batch, **distillation).loss, case["loss"], atol=1e-5, rtol=0)
    candidates = {key: case[f"candidate_{key}"] for key in ("input_ids", "attention_mask")}
    ranked = model.rank_answers(case["pixel_values"], **questions, candidates=candidates, k=int(case["rank_k"]))
    assert torch.equal(ranked.ids, case["topk_ids"])
    torch.testing.assert_close(ranked.probabilities, case["topk_probs"], atol=1e-5, rtol=0)


# ---- and back


@pytest.mark.parametrize("name", ["retrieval_distill", "vqa_distill", "vqa_plain", "pretrain"])
def test_there_and_back_is_the_identity(name: str, tmp_path: Path, vocabulary: Path) -> None:
    folder = convert(GOLDEN / f"{name}.weights.safetensors", tmp_path / "model", vocabulary)
    assert_same(back(folder, tmp_path / "back"), weights_of(name))
    again = convert(tmp_path / "back/albef.pth", tmp_path / "again", vocabulary)
    for file in sorted(path.relative_to(folder) for path in folder.rglob("*.safetensors")):
        assert_same(load_file(again / file), load_file(folder / file))
    assert (again / "config.json").read_text() == (folder / "config.json").read_text()


def test_a_pretrained_file_keeps_its_language_head(tmp_path: Path, vocabulary: Path) -> None:
    weights = weights_of("pretrain")
    folder = convert(GOLDEN / "pretrain.weights.safetensors", tmp_path / "model", vocabulary)
    for place, twin in ((folder, ""), (folder / "teacher", "_m")):
        model, info = AlbefForPreTraining.from_pretrained(place, output_loading_info=True)
        assert not any(info.values())
        head = f"text_encoder{twin}.cls.predictions"
        assert torch.equal(model.mlm_head.dense.weight, weights[f"{head}.transform.dense.weight"])
        assert torch.equal(model.mlm_head.decoder.bias, weights[f"{head}.bias"])
        assert model.mlm_head.decoder.weight is model.get_input_embeddings().weight
    card = (folder / "README.md").read_text()
    assert "# ALBEF, pre-trained" in card and "AlbefForPreTraining.from_pretrained" in card


def test_an_untied_language_head(tmp_path: Path, vocabulary: Path) -> None:
    weights = {**weights_of("pretrain"), "text_encoder.cls.predictions.decoder.weight": torch.ones(64, 16)}
    save_file(weights, tmp_path / "untied.safetensors")
    folder = convert(tmp_path / "untied.safetensors", tmp_path / "model", vocabulary)
    model = AlbefForPreTraining.from_pretrained(folder)
    assert torch.equal(model.mlm_head.decoder.weight, torch.ones(64, 16))
    assert torch.equal(
        model.get_input_embeddings().weight, weights["text_encoder.bert.embeddings.word_embeddings.weight"]
    )
    words = [folder, "--output_dir", tmp_path / "x", "--to", "salesforce"]
    assert "differs from its word embeddings, but in salesforce/ALBEF the two are one tensor" in refused(words)


def test_torchmultimodal_goes_to_the_original(tmp_path: Path, vocabulary: Path) -> None:
    name = "torchmultimodal_retrieval"
    original = back(GOLDEN / f"{name}.weights.safetensors", tmp_path / "back")
    prefix, weights = "model_with_similarity.albef_model.", weights_of(name)
    for ours, theirs in {
        "text_encoder_m.encoder.layer.3.crossattention.output.LayerNorm.bias": (
            f"{prefix}multimodal_encoder_m.layer.1.cross_attention_layernorm.bias"
        ),
        "visual_encoder.blocks.1.attn.qkv.weight": (
            f"{prefix}vision_encoder.encoder.encoder.layers.encoder_layer_1.self_attention.in_proj_weight"
        ),
        "image_queue": "model_with_similarity.image_queue",
    }.items():
        assert torch.equal(original[ours], weights[theirs])
    assert set(original) == set(weights_of("retrieval_distill"))
    vqa = GOLDEN / "torchmultimodal_vqa.weights.safetensors"
    assert "in salesforce/ALBEF the two are one tensor" in refused(
        [vqa, "--output_dir", tmp_path / "x", "--to", "salesforce"]
    )


# ---- other containers


def wrapped(kind: str, weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    training = {"optimizer": {"state": {}, "param_groups": [{"lr": 1e-5, "betas": (0.9, 0.98)}]}, "epoch": 4}
    return {
        "wrapped": {"model": weights, **training},
        "flat": weights,
        "parallel": {"model": {f"module.{name}": tensor for name, tensor in weights.items()}, **training},
        "bert": {"model": {name.replace("_encoder.e", "_encoder.bert.e"): tensor for name, tensor in weights.items()}},
        "without_twin": {name: tensor for name, tensor in weights.items() if "_m." not in name},
    }[kind]


@pytest.mark.parametrize(
    ("kind", "legacy"),
    [
        ("wrapped", False),
        ("wrapped", True),
        ("flat", False),
        ("parallel", False),
        ("bert", False),
        ("without_twin", True),
    ],
)
def test_containers(kind: str, legacy: bool, tmp_path: Path, vocabulary: Path) -> None:
    weights = weights_of("retrieval_distill")
    torch.save(wrapped(kind, weights), tmp_path / "file.pth", _use_new_zipfile_serialization=not legacy)
    folder = convert(tmp_path / "file.pth", tmp_path / "model", vocabulary)
    has_twin = kind != "without_twin"
    assert (folder / "teacher/config.json").exists() == has_twin
    expected = {name: tensor for name, tensor in weights.items() if has_twin or "_m." not in name}
    assert_same(back(folder, tmp_path / "back"), expected)


def test_fine_tuned_checkpoint_of_torchmultimodal(tmp_path: Path, vocabulary: Path) -> None:
    weights = weights_of("torchmultimodal_vqa")
    torch.save({"model": weights, "optimizer": {}, "lr_scheduler": {}, "epoch": 7}, tmp_path / "vqa_checkpoint.pt")
    folder = convert(tmp_path / "vqa_checkpoint.pt", tmp_path / "model", vocabulary, "torchmultimodal_vqa")
    stored = load_file(folder / "model.safetensors")
    assert torch.equal(
        stored["text_decoder.head.decoder.weight"], weights["answer_decoder.prediction_head.decoder.weight"]
    )
    # where the two tensors agree they are one, as in the original
    for twin in ("", "_m"):
        words = weights[f"answer_decoder{twin}.text_embeddings.word_embeddings.weight"]
        weights[f"answer_decoder{twin}.prediction_head.decoder.weight"] = words.clone()
    torch.save(weights, tmp_path / "tied.pt")
    tied = convert(tmp_path / "tied.pt", tmp_path / "tied", vocabulary, "torchmultimodal_vqa")
    assert "text_decoder.head.decoder.weight" not in load_file(tied / "model.safetensors")


def test_a_bare_file_of_this_package(tmp_path: Path, vocabulary: Path) -> None:
    folder = convert(GOLDEN / "vqa_plain.weights.safetensors", tmp_path / "model", vocabulary)
    again = convert(folder / "model.safetensors", tmp_path / "again", vocabulary)
    assert (again / "config.json").read_text() == (folder / "config.json").read_text()
    assert_same(load_file(again / "model.safetensors"), load_file(folder / "model.safetensors"))


def test_positions_stay_and_are_resampled_on_loading(tmp_path: Path, vocabulary: Path) -> None:
    weights = weights_of("retrieval_distill")
    folder = convert(GOLDEN / "retrieval_distill.weights.safetensors", tmp_path / "model", vocabulary)
    stored = load_file(folder / "model.safetensors")["albef.vision_model.pos_embed"]
    assert torch.equal(stored, weights["visual_encoder.pos_embed"])
    model = AlbefForImageTextRetrieval.from_pretrained(folder, image_size=48)
    grid = stored[:, 1:].reshape(1, 2, 2, 24).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(grid, size=(3, 3), mode="bicubic").flatten(2).transpose(1, 2)
    torch.testing.assert_close(model.albef.vision_model.pos_embed[:, 1:], expected)
    processor = AlbefProcessor.from_pretrained(folder)
    assert processor.image_processor.size == {"height": 32, "width": 32}
    assert processor(text="A b!", return_tensors="pt")["input_ids"].tolist() == [[1, 5, 6]]


# ---- LAVIS


def lavis_states(weights: dict[str, torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
    """The text layers of LAVIS written out: words and positions, no token types; two heads, post-norm."""

    def linear(states: torch.Tensor, name: str) -> torch.Tensor:
        return torch.nn.functional.linear(states, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(states: torch.Tensor, name: str) -> torch.Tensor:
        return torch.nn.functional.layer_norm(states, (16,), weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-12)

    embeddings = "text_encoder.embeddings"
    words = weights[f"{embeddings}.word_embeddings.weight"][ids]
    states = norm(words + weights[f"{embeddings}.position_embeddings.weight"][: len(ids)], f"{embeddings}.LayerNorm")
    for layer in ("text_encoder.encoder.layer.0", "text_encoder.encoder.layer.1"):
        query, key, value = (
            linear(states, f"{layer}.attention.self.{part}").view(-1, 2, 8).transpose(0, 1)
            for part in ("query", "key", "value")
        )
        context = ((query @ key.transpose(1, 2) / 8**0.5).softmax(-1) @ value).transpose(0, 1).reshape(-1, 16)
        states = norm(
            linear(context, f"{layer}.attention.output.dense") + states, f"{layer}.attention.output.LayerNorm"
        )
        inner = torch.nn.functional.gelu(linear(states, f"{layer}.intermediate.dense"))
        states = norm(linear(inner, f"{layer}.output.dense") + states, f"{layer}.output.LayerNorm")
    return states


@pytest.mark.parametrize("name", ["retrieval_distill", "vqa_plain"])
def test_lavis_files_have_no_token_types(name: str, tmp_path: Path, vocabulary: Path) -> None:
    weights = {key: tensor for key, tensor in weights_of(name).items() if "token_type" not in key}
    torch.save({"model": weights, "config": {"run": {}}, "epoch": "best"}, tmp_path / "albef_lavis.pt")
    folder = convert(tmp_path / "albef_lavis.pt", tmp_path / "model", vocabulary)
    processor = AlbefProcessor.from_pretrained(folder)
    ids = processor(text="c a b", return_tensors="pt")["input_ids"]
    assert ids.tolist() == [[1, 7, 5, 6, 2]]  # [CLS] c a b [SEP]
    assert processor.encode_answers(["a b"])["input_ids"].tolist() == [[1, 5, 6, 2]]
    model_class = AlbefForQuestionAnswering if name == "vqa_plain" else AlbefForImageTextRetrieval
    states = model_class.from_pretrained(folder).albef.text_model(ids).last_hidden_state[0]
    torch.testing.assert_close(states, lavis_states(weights, ids[0]), atol=1e-5, rtol=0)
    card = (folder / "README.md").read_text()
    assert "LAVIS drops the token-type embeddings. Here they are zeros" in card and "ends its texts in `[SEP]`" in card


# ---- what the run scripts do with a converted folder


def test_a_run_starts_from_teacher_and_queue(tmp_path: Path, vocabulary: Path) -> None:
    folder = convert(GOLDEN / "retrieval_distill.weights.safetensors", tmp_path / "model", vocabulary)
    weights = weights_of("retrieval_distill")
    model_args = ModelArguments(str(folder))
    _, teacher = load_model(AlbefForImageTextRetrieval, model_args, AlbefProcessor.from_pretrained(folder).tokenizer)
    assert torch.equal(teacher.albef.vision_proj.weight, weights["vision_proj_m.weight"])
    queue = FeatureQueue(12, 8)
    load_saved_queue(queue, model_args)
    pointer = int(weights["queue_ptr"])
    oldest_first = torch.cat([weights["image_queue"][:, pointer:], weights["image_queue"][:, :pointer]], dim=1)
    assert torch.equal(queue.image_embeds.T, oldest_first)
    assert queue.image_ids.tolist() == [-100] * 12 and queue.pointer == 0
    smaller, larger = FeatureQueue(5, 8), FeatureQueue(14, 8)
    for other in (smaller, larger):
        load_saved_queue(other, model_args)
    assert torch.equal(smaller.image_embeds[smaller.pointer - 1], oldest_first[:, -1])  # the newest
    assert {tuple(row) for row in smaller.image_embeds.tolist()} == {tuple(row) for row in oldest_first.T[-5:].tolist()}
    assert torch.equal(larger.image_embeds[:12].T, oldest_first) and larger.pointer == 12
    fresh = FeatureQueue(12, 8)
    load_saved_queue(fresh, ModelArguments(model_config={"projection_dim": 8}))
    assert torch.equal(fresh.image_embeds, FeatureQueue(12, 8).image_embeds)


@pytest.mark.parametrize("name", ["retrieval_distill", "pretrain"])
def test_a_new_decoder_starts_alike_for_student_and_teacher(name: str, tmp_path: Path, vocabulary: Path) -> None:
    folder = convert(GOLDEN / f"{name}.weights.safetensors", tmp_path / "model", vocabulary)
    tokenizer = AlbefProcessor.from_pretrained(folder).tokenizer
    student, teacher = load_model(AlbefForQuestionAnswering, ModelArguments(str(folder)), tokenizer)
    weights, bert = weights_of(name), ".bert" if name == "pretrain" else ""
    for model, twin in ((student, ""), (teacher, "_m")):
        start = weights[f"text_encoder{twin}{bert}.encoder.layer.3.attention.self.query.weight"]
        assert torch.equal(model.text_decoder.layer[1].attention.self.query.weight, start)
        words = weights[f"text_encoder{twin}{bert}.embeddings.word_embeddings.weight"]
        assert torch.equal(model.text_decoder.head.decoder.weight, words)
        assert torch.equal(model.text_decoder.embeddings.word_embeddings.weight, words)
        for key, tensor in model.text_decoder.head.named_parameters():
            if name == "pretrain":
                place = key if key.startswith("decoder") else f"transform.{key}"
                assert torch.equal(tensor, weights[f"text_encoder{twin}.cls.predictions.{place}"]), key
            elif key != "decoder.weight":  # a random head is the same for both
                assert torch.equal(tensor, student.text_decoder.head.get_parameter(key)), key


def test_the_script_trains_on_from_the_stored_queue(tmp_path: Path, vocabulary: Path) -> None:
    folder = convert(GOLDEN / "retrieval_distill.weights.safetensors", tmp_path / "model", vocabulary)
    changes = {"model_config": None, "model_name_or_path": str(folder), "do_eval": False, "do_predict": False}
    training = {"max_steps": 1, "eval_strategy": "no", "save_strategy": "steps", "save_steps": 1, "save_total_limit": 1}
    training |= {"load_best_model_at_end": False, "queue_size": 12}
    run_retrieval.main([write_config(tmp_path, **changes, **training)])
    queue = load_file(tmp_path / "out/checkpoint-1/teacher/queue.safetensors")
    weights, slots = weights_of("retrieval_distill"), range(8, 12)  # the batch of 8 took the place of the oldest
    stored = [(int(weights["queue_ptr"]) + slot) % 12 for slot in slots]
    assert torch.equal(queue["image_embeds"][8:], weights["image_queue"].T[stored])
    assert queue["image_ids"][8:].tolist() == [-100] * 4 and queue["image_ids"][:8].min() >= 0


@pytest.mark.parametrize(
    ("script", "tensors"),
    [
        (run_retrieval, {"albef.text_proj.bias": "text_proj{}.bias"}),
        (
            run_vqa,
            {
                "text_decoder.head.dense.weight": "text_encoder{}.cls.predictions.transform.dense.weight",
                "text_decoder.head.decoder.bias": "text_encoder{}.cls.predictions.bias",
                "text_decoder.layer.0.output.dense.bias": "text_encoder{}.bert.encoder.layer.2.output.dense.bias",
            },
        ),
    ],
)
def test_the_scripts_start_from_a_pretrained_file(script: Any, tensors: dict[str, str], tmp_path: Path) -> None:
    words = (
        "0 1 2 3 a above are at below black blue bottom circle color cross cyan green how is left many no of on purple "
        "red right shape shapes square star the there top triangle what white yellow yes ?"
    ).split()
    filling = [f"[unused{number}]" for number in range(59 - len(words))]
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL, *words, *filling]))
    folder = convert(GOLDEN / "pretrain.weights.safetensors", tmp_path / "model", tmp_path)
    changes = {"model_config": None, "model_name_or_path": str(folder), "do_eval": False, "do_predict": False}
    training = {"max_steps": 1, "eval_strategy": "no", "save_strategy": "steps", "save_steps": 1, "learning_rate": 1e-9}
    queue = {"queue_size": 12} if script is run_retrieval else {}
    script.main([write_config(tmp_path, **changes, **training, **queue, load_best_model_at_end=False)])
    student = load_file(tmp_path / "out/model.safetensors")
    teacher = load_file(tmp_path / "out/checkpoint-1/teacher/model.safetensors")
    assert not any("mlm_head" in name for name in (*student, *teacher))
    weights = weights_of("pretrain")
    for ours, theirs in tensors.items():
        start, twin = weights[theirs.format("")], weights[theirs.format("_m")]
        torch.testing.assert_close(student[ours], start, atol=1e-6, rtol=0)
        torch.testing.assert_close(teacher[ours], MOMENTUM * twin + (1 - MOMENTUM) * start, atol=1e-6, rtol=0)


PUSH = """
import shutil, sys
from modeling_albef import AlbefForImageTextRetrieval
from modeling_albef.convert_albef_to_hf import main
from modeling_albef.training import FeatureQueue
from modeling_albef.training.application import ModelArguments, load_model, load_saved_queue
from processing import AlbefProcessor

folder = sys.argv[sys.argv.index("--output_dir") + 1]
try:
    main(sys.argv[1:])
except SystemExit as error:
    print(error)
AlbefForImageTextRetrieval.from_pretrained(folder)
shutil.rmtree(folder)
main(sys.argv[1:])
model_args, queue = ModelArguments("someone/albef"), FeatureQueue(12, 8)
tokenizer = AlbefProcessor.from_pretrained("someone/albef").tokenizer
_, teacher = load_model(AlbefForImageTextRetrieval, model_args, tokenizer)
load_saved_queue(queue, model_args)
print("pulled", teacher.albef.vision_proj.weight.sum().item(), queue.image_embeds.sum().item())
"""


@pytest.mark.slow
def test_push_and_start_a_run_from_the_hub(tmp_path: Path, vocabulary: Path) -> None:
    file, folder = GOLDEN / "retrieval_distill.weights.safetensors", tmp_path / "albef"
    words = [str(file), "--output_dir", str(folder), "--tokenizer", str(vocabulary), *heads_of("")]
    command = [sys.executable, "-c", PUSH, *words, "--push_to_hub", "someone/albef", "--private"]
    with serve() as hub:
        hub.fail("POST", "/commit/", status=403)
        environment = hub.environment(tmp_path / "cache")
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert hub.repositories["models", "someone/albef"].private
        files = hub.files("someone/albef")
    assert f"{folder} is complete, but was not uploaded to someone/albef (" in done.stdout
    written = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert written == set(files) - {".gitattributes"}
    assert b'from_pretrained("someone/albef")' in files["README.md"]
    assert b'from_pretrained("someone/albef", trust_remote_code=True)' in files["README.md"]
    assert {"modeling_albef.py", "processing_albef.py"} <= set(files)  # loads where this package is not
    weights = weights_of("retrieval_distill")
    pulled = [float(number) for number in done.stdout.split("pulled")[1].split()]
    expected = [weights["vision_proj_m.weight"].sum().item(), weights["image_queue"].sum().item()]
    assert pulled == pytest.approx(expected, abs=1e-4)


# ---- refusals


class Malicious:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_malicious_pickle_is_not_run(legacy: bool, tmp_path: Path) -> None:
    trace, file = tmp_path / "trace", tmp_path / "evil.pth"
    torch.save(
        {"model": {"temp": torch.ones(())}, "x": Malicious(trace)}, file, _use_new_zipfile_serialization=not legacy
    )
    message = refused([file, "--output_dir", tmp_path / "out"])
    assert "evil.pth needs getattr to be unpickled, which could run code, and is not read" in message
    assert not trace.exists()
    plain = tmp_path / "plain.pth"
    plain.write_bytes(pickle.dumps(Malicious(trace)))
    refused([plain, "--output_dir", tmp_path / "out"])
    assert not trace.exists()
    pickle.loads(plain.read_bytes())  # noqa: S301, it would have
    assert trace.exists()


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors", "page", "nothing"])
def test_damaged_files(kind: str, tmp_path: Path) -> None:
    weights, file = weights_of("retrieval_plain"), tmp_path / "cut.pth"
    if kind == "safetensors":
        file = tmp_path / "cut.safetensors"
        save_file(weights, file)
    else:
        torch.save({"model": weights}, file, _use_new_zipfile_serialization=kind == "zip")
    file.write_bytes(file.read_bytes()[: {"nothing": 0}.get(kind, 200_000)])
    if kind == "page":
        file.write_text("<html>404 Not Found</html>")
    assert f"{file} is damaged or cut short" in refused([file, "--output_dir", tmp_path / "out"])


def changed(**tensors: torch.Tensor | None) -> dict[str, torch.Tensor]:
    weights = {**weights_of("retrieval_distill"), **tensors}
    return {name: tensor for name, tensor in weights.items() if tensor is not None}


def blip_like() -> dict[str, torch.Tensor]:
    weights = {name: tensor for name, tensor in changed().items() if "token_type" not in name}
    for name in list(weights):
        if "layer.2.crossattention" in name or "layer.3.crossattention" in name:
            weights[re.sub(r"layer\.(\d)", lambda match: f"layer.{int(match[1]) - 2}", name)] = weights[name]
    return weights


REFUSED: dict[str, tuple[Any, str]] = {
    "clip": (
        {"text_model.embeddings.position_ids": torch.ones(1), "vision_model.class_embedding": torch.ones(1)},
        r"is no ALBEF: its tensors, text_model\.embeddings\.position_ids, vision_model\.class_embedding, have",
    ),
    "blip": (blip_like(), r"Of 4 text layers those with attention to the image are \[0, 1, 2, 3\].* another model"),
    "entailment": (
        changed(**{"cls_head.0.bias": torch.ones(16)}),
        r"has no place for classifier\.0\.bias: --allow_leftover",
    ),
    "list": ([torch.ones(2)], r"holds no tensors by name"),
    "mixed": (
        changed(**{"visual_encoder.blocks.1.norm1.bias": torch.ones(32)}),
        r"The model in .* is of mixed sizes: albef\.vision_model\.blocks\.1\.norm1\.bias has \(32,\) in place of \(24",
    ),
    "mixed twin": (
        changed(**{"vision_proj_m.weight": torch.ones(6, 24)}),
        r"The momentum model in .* is of mixed sizes: albef\.vision_proj\.weight has \(6, 24\) in place of \(8, 24\)",
    ),
    "missing": (changed(**{"text_proj.bias": None}), r"The model in .* lacks albef\.text_proj\.bias: --allow_missing"),
    "missing twin": (changed(**{"text_proj_m.bias": None}), r"The momentum model in .* lacks albef\.text_proj\.bias"),
    "sizes": (changed(**{"visual_encoder.pos_embed": None}), r"The sizes cannot be found: .*pos_embed is missing"),
    "oblong": (
        changed(**{"visual_encoder.pos_embed": torch.ones(1, 7, 24)}),
        r"7 positions, which are not a class token",
    ),
    "task": (changed(**{"itm_head.weight": None}), r"no answer decoder, classifier or matching head"),
    "layers": (
        {re.sub(r"blocks\.1", "blocks.99999999", name): tensor for name, tensor in changed().items()},
        r"file\.pth: Of 2 layers albef\.vision_model\.blocks\.\* one has the number 99999999",
    ),
    "whole numbers": (
        changed(**{"itm_head.bias": torch.ones(2, dtype=torch.int64)}),
        r"The model in .* has itm_head\.bias of torch\.int64: weights must be floats",
    ),
    "shared": (
        changed(**dict.fromkeys(("visual_encoder.norm.weight", "visual_encoder.norm.bias"), torch.ones(24))),
        r"file\.pth: The weights trying to be saved contained shared tensors",
    ),
    "sparse": (changed(temp=torch.ones(1).to_sparse()), r"file\.pth has tensors that are sparse.*: temp\."),
    "queue": (changed(image_queue=torch.ones(3)), r"file\.pth has a queue or embeddings of another shape"),
    "queues": (changed(idx_queue=torch.ones(1, 2, 3)), r"The queue in .*file\.pth has .*, but expected are"),
    "leftover": (
        changed(**{"prompt": torch.ones(2)}),
        r"tensors without a counterpart: prompt: --allow_leftover drops them",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_checkpoints_are_refused(kind: str, tmp_path: Path, vocabulary: Path) -> None:
    content, message = REFUSED[kind]
    torch.save(content, tmp_path / "file.pth")
    words = [tmp_path / "file.pth", "--output_dir", tmp_path / "out", "--tokenizer", vocabulary, *heads_of("")]
    assert re.search(message, refused(words))


def test_a_dictionary_that_holds_itself(tmp_path: Path) -> None:
    content: dict[str, Any] = {}
    content["model"] = content
    torch.save(content, tmp_path / "file.pth")
    assert "holds no tensors by name" in refused([tmp_path / "file.pth", "--output_dir", tmp_path / "out"])


def test_nothing_is_left_half_written(tmp_path: Path, vocabulary: Path) -> None:
    source = convert(GOLDEN / "retrieval_distill.weights.safetensors", tmp_path / "source", vocabulary)
    with no_file_larger_than(1000):  # as on a full disk
        message = refused([source, "--output_dir", tmp_path / "out", "--tokenizer", vocabulary])
    assert "File too large" in message and {path.name for path in tmp_path.iterdir()} == {"source"}


def test_widths_and_heads(tmp_path: Path, vocabulary: Path) -> None:
    file, out = GOLDEN / "retrieval_plain.weights.safetensors", tmp_path / "out"
    words = [file, "--output_dir", out, "--tokenizer", vocabulary]
    said = "The width 24 is no multiple of 64: say how many heads with --vision_num_attention_heads."
    assert refused(words) == f"{file}: {said}"
    words += ["--vision_num_attention_heads", 3]
    assert refused(words).endswith("The width 16 is no multiple of 64: say how many heads with --num_attention_heads.")
    assert "must be a multiple of num_attention_heads (3)" in refused([*words, "--num_attention_heads", 3])


def test_leftover_and_missing_on_demand(tmp_path: Path, vocabulary: Path) -> None:
    torch.save(
        changed(prompt=torch.ones(2), **{"text_proj.bias": None, "text_proj_m.bias": None}), tmp_path / "file.pth"
    )
    folder = convert(tmp_path / "file.pth", tmp_path / "out", vocabulary, words=("--allow_leftover", "--allow_missing"))
    card = (folder / "README.md").read_text()
    assert "left out: prompt" in card and "started at random: albef.text_proj.bias" in card
    model = AlbefForImageTextRetrieval.from_pretrained(folder)
    assert torch.equal(model.albef.text_proj.weight, weights_of("retrieval_distill")["text_proj.weight"])
    assert model.albef.text_proj.bias.isfinite().all()


def test_vocabularies_and_folders(tmp_path: Path, vocabulary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    out = ["--output_dir", tmp_path / "out"]
    words = [GOLDEN / "retrieval_plain.weights.safetensors", *heads_of("")]
    message = refused([*words, *out])
    assert message.startswith("The tokenizer 'bert-base-uncased' is no folder here, and the Hub does not give it")
    assert "--tokenizer" in message and "of bert-base-uncased" in message
    (tmp_path / "small").mkdir()
    (tmp_path / "small/vocab.txt").write_text("\n".join([*SPECIAL, "a"]))
    assert "knows 6 tokens, the checkpoint 64" in refused([*words, *out, "--tokenizer", tmp_path / "small"])
    with pytest.raises(SystemExit, match="is not empty: name a new folder"):
        main([*map(str, words), "--output_dir", str(vocabulary)])
    assert "There is no checkpoint" in refused([tmp_path / "nowhere.pth", *out])
    assert "has no model.safetensors" in refused([tmp_path / "small", *out])


# ---- the card


def test_the_card_tells_results_by_the_files_name(
    tmp_path: Path, vocabulary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mscoco.pth"
    torch.save({"model": weights_of("retrieval_plain")}, file)
    folder = convert(file, tmp_path / "albef-coco", vocabulary)
    card = ModelCard.load(folder / "README.md")
    assert card.data.pipeline_tag == "zero-shot-image-classification" and card.data.license == "bsd-3-clause"
    assert hashlib.sha256(file.read_bytes()).hexdigest() in card.text
    assert (
        "| COCO 5k test, text retrieval | 77.6 / 94.3 / 97.2 | the paper, as recalled; LAVIS' dataset cards"
        in card.text
    )
    assert "none was measured with this model" in card.text and str(tmp_path) not in card.text
    monkeypatch.chdir(tmp_path)
    shutil.copy(GOLDEN / "image.png", "photo.jpg")
    other = convert(GOLDEN / "vqa_plain.weights.safetensors", tmp_path / "other", vocabulary)
    answers = (other / "README.md").read_text()
    assert "None are known for a file called `vqa_plain.weights.safetensors`." in answers
    for text, model_class in ((card.text, AlbefForImageTextRetrieval), (answers, AlbefForQuestionAnswering)):
        loaded, used = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        scope: dict[str, Any] = {}
        exec(loaded, scope)
        assert isinstance(scope["model"], model_class) and "trust_remote_code" not in text
        if model_class is AlbefForImageTextRetrieval:
            exec(used, {})
    assert 'answer_list=["red", "blue", "green"]))' in answers  # the model has none of its own


def test_the_command_in_the_readme(tmp_path: Path, vocabulary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "README.md").read_text().replace("\\\n", " ")
    line = re.search(r"^python -m modeling_albef\.convert_albef_to_hf (.+)$", text, re.MULTILINE)
    words = line[1].split()
    torch.save({"model": weights_of("retrieval_plain")}, tmp_path / words[0])
    monkeypatch.chdir(tmp_path)
    main([*(str(vocabulary) if word == "bert-base-uncased" else word for word in words), *heads_of("")])
    AlbefForImageTextRetrieval.from_pretrained("albef-coco", image_size=48)
    processor = AlbefProcessor.from_pretrained("albef-coco", size={"height": 48, "width": 48})
    assert processor(images=GOLDEN / "image.png", return_tensors="pt")["pixel_values"].shape == (1, 3, 48, 48)


# ---- the size of the released files


def linear(name: str, outputs: int, inputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm(name: str) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (768,), f"{name}.bias": (768,)}


def attention(name: str) -> dict[str, tuple[int, ...]]:
    parts = [linear(f"{name}.self.{part}", 768, 768) for part in ("query", "key", "value")]
    shapes = {key: shape for part in parts for key, shape in part.items()}
    return {**shapes, **linear(f"{name}.output.dense", 768, 768), **norm(f"{name}.output.LayerNorm")}


def towers(twin: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a pre-trained model's parts that have a twin."""
    vision, text = f"visual_encoder{twin}", f"text_encoder{twin}.bert"
    shapes: dict[str, tuple[int, ...]] = {
        f"{vision}.cls_token": (1, 1, 768),
        f"{vision}.pos_embed": (1, 257, 768),
        f"{vision}.patch_embed.proj.weight": (768, 3, 16, 16),
        f"{vision}.patch_embed.proj.bias": (768,),
        **norm(f"{vision}.norm"),
        f"{text}.embeddings.position_ids": (1, 512),
        f"{text}.embeddings.word_embeddings.weight": (30522, 768),
        f"{text}.embeddings.position_embeddings.weight": (512, 768),
        f"{text}.embeddings.token_type_embeddings.weight": (2, 768),
        **norm(f"{text}.embeddings.LayerNorm"),
        f"text_encoder{twin}.cls.predictions.bias": (30522,),
        **linear(f"text_encoder{twin}.cls.predictions.transform.dense", 768, 768),
        **norm(f"text_encoder{twin}.cls.predictions.transform.LayerNorm"),
        **linear(f"text_encoder{twin}.cls.predictions.decoder", 30522, 768),
        **linear(f"vision_proj{twin}", 256, 768),
        **linear(f"text_proj{twin}", 256, 768),
    }
    for number in range(12):
        block, layer = f"{vision}.blocks.{number}", f"{text}.encoder.layer.{number}"
        shapes |= {
            **norm(f"{block}.norm1"),
            **linear(f"{block}.attn.qkv", 2304, 768),
            **linear(f"{block}.attn.proj", 768, 768),
            **norm(f"{block}.norm2"),
            **linear(f"{block}.mlp.fc1", 3072, 768),
            **linear(f"{block}.mlp.fc2", 768, 3072),
            **attention(f"{layer}.attention"),
            **(attention(f"{layer}.crossattention") if number >= 6 else {}),
            **linear(f"{layer}.intermediate.dense", 3072, 768),
            **linear(f"{layer}.output.dense", 768, 3072),
            **norm(f"{layer}.output.LayerNorm"),
        }
    return shapes


def released_weights() -> dict[str, torch.Tensor]:
    """Random tensors by the names and in the shapes of `ALBEF.pth`."""
    torch.manual_seed(0)
    queues = {"image_queue": (256, 65536), "text_queue": (256, 65536)}
    shapes = {"temp": (), **queues, **linear("itm_head", 2, 768), **towers(""), **towers("_m")}
    weights = {name: torch.randn(shape) * 0.02 for name, shape in shapes.items()}
    weights |= {"temp": torch.tensor(0.07), "queue_ptr": torch.tensor([512])}
    for twin in ("", "_m"):
        head, embeddings = f"text_encoder{twin}.cls.predictions", f"text_encoder{twin}.bert.embeddings"
        weights[f"{head}.decoder.weight"] = weights[f"{embeddings}.word_embeddings.weight"]
        weights[f"{head}.decoder.bias"] = weights[f"{head}.bias"]
        weights[f"{embeddings}.position_ids"] = torch.arange(512)[None]
    return weights


@pytest.mark.slow
def test_a_file_of_the_released_size(tmp_path: Path) -> None:
    weights = released_weights()
    assert len(weights) == 844
    trained = {tensor.data_ptr(): tensor.numel() for tensor in weights.values() if tensor.is_floating_point()}
    assert sum(trained.values()) - 2 * 256 * 65536 == 419_873_911  # as counted in the public implementation
    torch.save({"model": weights, "epoch": 29}, tmp_path / "ALBEF.pth")
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL, *(f"[unused{number}]" for number in range(30517))]))
    command = (
        "import re, sys; from modeling_albef.convert_albef_to_hf import main; "
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]); "
        "start = peak(); main(sys.argv[1:]); print('peak', peak() - start)"
    )
    words = [str(tmp_path / "ALBEF.pth"), "--output_dir", str(tmp_path / "albef"), "--tokenizer", str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", command, *words], cwd=ROOT, capture_output=True, text=True, check=True)
    share = int(done.stdout.split("peak")[1]) * 1024 / (tmp_path / "ALBEF.pth").stat().st_size
    print(f"peak memory / size of the file: {share:.2f}")
    assert 0 < share < 1.5  # the pages of the mapped file, and no second copy of it
    (tmp_path / "ALBEF.pth").unlink()
    model = AlbefForImageTextRetrieval.from_pretrained(tmp_path / "albef", image_size=384)
    assert model.config.text_config.num_attention_heads == model.config.vision_config.num_attention_heads == 12
    assert model.albef.vision_model.pos_embed.shape == (1, 577, 768)
    assert torch.equal(model.albef.text_proj.weight, weights["text_proj.weight"])
    teacher = AlbefForImageTextRetrieval.from_pretrained(tmp_path / "albef/teacher")
    assert torch.equal(teacher.albef.text_proj.weight, weights["text_proj_m.weight"])
    assert torch.equal(load_file(tmp_path / "albef/teacher/queue.safetensors")["text_embeds"].T, weights["text_queue"])
    teacher = AlbefForPreTraining.from_pretrained(tmp_path / "albef/teacher")
    assert torch.equal(teacher.mlm_head.decoder.bias, weights["text_encoder_m.cls.predictions.bias"])
    assert "Pre-trained on 14 million images" in (tmp_path / "albef/README.md").read_text()


@pytest.mark.parametrize("source", ["salesforce", "lavis"])
def test_visual_entailment_reproduces_the_recorded_step_and_goes_back(
    source: str, tmp_path: Path, vocabulary: Path
) -> None:
    case, weights = load_file(GOLDEN / "entailment.io.safetensors"), weights_of("entailment")
    if source == "lavis":  # which has no types, and adds theirs to the words
        for tower in ("text_encoder", "text_encoder_m"):
            types = weights.pop(f"{tower}.embeddings.token_type_embeddings.weight")
            weights[f"{tower}.embeddings.word_embeddings.weight"] += types[0]
    file = tmp_path / f"albef_snli_ve_{source}.pt"
    torch.save({"model": weights}, file)
    folder = convert(file, tmp_path / "model", vocabulary)
    student = AlbefForImageTextClassification.from_pretrained(folder)
    twin = AlbefForImageTextClassification.from_pretrained(folder / "teacher")
    assert list(student.config.id2label.values()) == ["contradiction", "neutral", "entailment"]
    teacher = MomentumTeacher(student, MOMENTUM, twin)
    teacher.model.eval()
    teacher.update(student)
    batch = {name: case[name] for name in ("pixel_values", "input_ids", "attention_mask")}
    with torch.no_grad():
        opinion = teacher.model(**batch).logits
    outputs = student(**batch, labels=case["labels"], teacher_logits=opinion, alpha=ALPHA)
    torch.testing.assert_close(outputs.logits, case["logits"], atol=1e-5, rtol=0)
    torch.testing.assert_close(outputs.loss, case["loss"], atol=1e-5, rtol=0)
    card = (folder / "README.md").read_text()
    assert "ALBEF for image-text classification" in card and ("81.04" in card) == (source == "lavis")
    assert AlbefProcessor.from_pretrained(folder).end_texts == (source == "lavis")
    if source == "salesforce":
        assert_same(back(folder, tmp_path / "back"), weights)
