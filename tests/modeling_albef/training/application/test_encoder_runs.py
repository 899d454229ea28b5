"""Runs that start from two encoders, with a frozen vision tower whose states are stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from encoder_cases import save_encoders
from run_cases import refused, run, two_processes, write_pictures, write_run
from safetensors.torch import load_file
from transformers import ViTModel

import run_retrieval
import run_vqa
from modeling_albef import AlbefForImageTextRetrieval, AlbefForQuestionAnswering
from processing import AlbefProcessor

CAPTIONS = [f"colour {number}, a b again" for number in range(12)]


def photos(folder: Path) -> dict[str, Any]:
    return {**save_encoders(folder, CAPTIONS), **write_pictures(folder), "dataset": None, "dataset_config": None}


def test_run_from_encoders_takes_their_weights_and_settings(tmp_path: Path) -> None:
    words = photos(tmp_path)
    run_retrieval.main([write_run(tmp_path, **words, freeze=["vision_model"], do_predict=False)])
    out = tmp_path / "out"
    start = yaml.safe_load((out / "run.yaml").read_text())
    assert start["vision_encoder"] == str(tmp_path / "vit")
    assert f"from {tmp_path / 'vit'} and {tmp_path / 'bert'}" in (out / "run.yaml").read_text()
    model = AlbefForImageTextRetrieval.from_pretrained(out)
    vit = ViTModel.from_pretrained(tmp_path / "vit", add_pooling_layer=False)
    pixel_values = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        states = model.get_image_features(pixel_values).last_hidden_state
        torch.testing.assert_close(states, vit.eval()(pixel_values).last_hidden_state, atol=1e-5, rtol=0)
    images = AlbefProcessor.from_pretrained(out).image_processor
    assert list(images.image_mean) == [0.2, 0.3, 0.4] and images.size["height"] == 32


def test_stored_states_give_the_same_run(tmp_path: Path) -> None:
    """Without augmentation a run from stored states is the run that encodes each image in every step."""
    words = photos(tmp_path)
    words |= {"freeze": ["vision_model"], "augmentation": False, "do_predict": False}
    weights = []
    for stored in (False, True):
        folder = tmp_path / str(stored)
        folder.mkdir()
        run_retrieval.main([write_run(folder, **words, store_image_states=stored, image_state_dtype="float32")])
        weights.append(load_file(folder / "out" / "model.safetensors"))
    assert len(list((tmp_path / "states").rglob("*.safetensors"))) == 1
    for name, tensor in weights[0].items():
        if name.endswith("key.bias"):  # its gradient is 0 but for rounding, of which Adam makes whole steps
            continue
        torch.testing.assert_close(weights[1][name], tensor, atol=2e-5, rtol=0, msg=name)  # of steps of 0.01


def test_questions_train_on_stored_states(tmp_path: Path) -> None:
    words = save_encoders(tmp_path, ["what color is the red blue green circle square", "left right above of"])
    changes = {**words, "freeze": ["vision_model"], "store_image_states": True, "image_state_variants": 2}
    run_vqa.main([write_run(tmp_path, **changes, queue_size=None, do_predict=False, num_train_epochs=1)])
    assert AlbefForQuestionAnswering.from_pretrained(tmp_path / "out").config.decoder_config.num_hidden_layers == 1


@pytest.mark.slow
def test_two_processes_encode_together(tmp_path: Path) -> None:
    words = photos(tmp_path)
    words |= {"freeze": ["vision_model"], "store_image_states": True, "do_predict": False, "image_state_variants": 2}
    config = write_run(tmp_path, **words, per_device_train_batch_size=4)
    run("run_retrieval.py", [config], two_processes())
    folders = [folder for folder in (tmp_path / "states").iterdir() if folder.is_dir()]  # augmented and as they are
    assert [len(list(folder.rglob("*.safetensors"))) for folder in folders] == [2, 2]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"store_image_states": True}, ["store_image_states", "--freeze vision_model"]),
        ({"text_encoder": None}, ["both vision_encoder and text_encoder"]),
        ({"num_text_layers": 3}, ["num_text_layers is 3", "2 layers"]),
        ({"do_train": False, "eval_strategy": "no"}, ["start a training"]),
        ({"model_name_or_path": "m", "model_config": None}, ["either model_name_or_path"]),
        ({"image_state_variants": 2, "augmentation": False}, ["image_state_variants"]),
        ({"store_image_states": True, "streaming": True, "max_steps": 3}, ["store_image_states", "streaming"]),
        ({"freeze": ["vision_modle"]}, ["vision_modle", "vision_model"]),
        ({"learning_rates": "vision_model"}, ["learning_rates"]),
    ],
)
def test_refusals(changes: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    settings = photos(tmp_path)
    message = refused(run_retrieval.main, [write_run(tmp_path, **{**settings, **changes})])
    assert all(word in message for word in words), message


def test_projections_start_in_closed_form_in_student_and_teacher(tmp_path: Path) -> None:
    """With a rate of zero what is saved is the start: fitted, the same in both, and other than random."""
    words = {**photos(tmp_path), "do_predict": False, "freeze": ["vision_model", "text_model"], "augmentation": False}
    words |= {"learning_rates": "new=1e-30", "save_total_limit": 1, "max_steps": 1, "max_temperature": 10}
    starts = {}
    for kind in ("ridge", "none", None):
        folder = tmp_path / str(kind)
        folder.mkdir()
        run_retrieval.main([write_run(folder, **words, init_projections=kind)])
        starts[kind] = load_file(folder / "out" / "model.safetensors")
        teacher = load_file(next(folder.glob("out/checkpoint-*")) / "teacher" / "model.safetensors")
        for name in ("albef.vision_proj.weight", "albef.text_proj.bias"):
            torch.testing.assert_close(teacher[name], starts[kind][name], atol=1e-6, rtol=0)
    name = "albef.text_proj.weight"
    torch.testing.assert_close(starts["ridge"][name], starts[None][name], atol=1e-6, rtol=0)
    axes = starts["ridge"][name]
    torch.testing.assert_close(axes @ axes.T, torch.eye(16), atol=1e-4, rtol=0)  # orthonormal
    assert not torch.allclose(starts["none"][name], axes, atol=1e-2)
