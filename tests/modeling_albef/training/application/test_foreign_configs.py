"""Configuration files of salesforce/ALBEF and of TorchMultimodal's example, read as they are."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from foreign_configs import (
    salesforce_retrieval,
    salesforce_vqa,
    torchmultimodal_retrieval,
    torchmultimodal_vqa,
)
from run_cases import ROOT, refused, write_pictures

import run_retrieval
import run_vqa
from modeling_albef.conversion.foreign_configs import _REPEATED, _flat, translate_config
from modeling_albef.training import RetrievalTrainingArguments, VQATrainingArguments
from modeling_albef.training.application import DataArguments, ModelArguments, VQADataArguments, parse_arguments

RETRIEVAL = (ModelArguments, DataArguments, RetrievalTrainingArguments)
VQA = (ModelArguments, VQADataArguments, VQATrainingArguments)
PAGE = ROOT / "docs/coming_from.md"
OTHER_WORDS = {  # of the page: fields within model_config, values, theirs
    *("num_fusion_layers", "fusion_layer", "encoder_width", "vocab_size", "pad_token_id", "adamw_torch", "output_path"),
    *("coco_retrieval", "vqa_v2", "coco_vqa", "vg_vqa", "cosine_with_min_lr", "linear_warmup_cosine_lr"),
}
PLACES = {"output_dir", "data_dir", "dataset", "image_root", "vqa_root", "vg_root", "answer_list"}  # of our recipes
PLACES |= {"train_files", "validation_files", "test_files"}
BERT = {
    **{"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    **{"layer_norm_eps": 1e-12, "type_vocab_size": 2, "max_position_embeddings": 512, "num_fusion_layers": 6},
}


def written(folder: Path, config: dict[str, Any], name: str = "theirs.yaml") -> str:
    (folder / name).write_text(yaml.safe_dump(config))
    return str(folder / name)


@pytest.mark.parametrize(
    ("config", "classes", "recipe"),
    [
        (salesforce_retrieval(), RETRIEVAL, "retrieval_coco.yaml"),
        (salesforce_retrieval("flickr30k", 10, 128), RETRIEVAL, "retrieval_flickr30k.yaml"),
        (salesforce_vqa(), VQA, "vqa.yaml"),
        (torchmultimodal_vqa(), VQA, "vqa_torchmultimodal.yaml"),
    ],
)
def test_their_files_are_our_recipes(
    config: dict[str, Any], classes: tuple[Any, ...], recipe: str, tmp_path: Path
) -> None:
    """Our recipes were written by hand; what they say is what the files say, except where data is."""
    words = ["--model_name_or_path", "some/model", "--use_cpu"]
    theirs, ours = (
        parse_arguments(classes, [path, *words]) for path in (written(tmp_path, config), str(ROOT / "configs" / recipe))
    )
    left = {"fold_answers", "vg_weight", "augmentation_magnitude", *PLACES}  # what the files leave to the code
    fields = yaml.safe_load((ROOT / "configs" / recipe).read_text()).keys() - left
    assert len(fields) > 15
    for name in fields:
        (one,) = [getattr(each, name) for each in theirs if hasattr(each, name)]
        (other,) = [getattr(each, name) for each in ours if hasattr(each, name)]
        assert one == other, name


def test_every_value_of_salesforce(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    sizes = {"hidden_size": 64, "num_hidden_layers": 5, "fusion_layer": 3, "encoder_width": 768, "vocab_size": 30522}
    (tmp_path / "configs" / "config_bert.json").write_text(json.dumps({**sizes, "hidden_dropout_prob": 0.2}))
    config = salesforce_retrieval() | {"vision_width": 512, "embed_dim": 128, "temp": 0.05, "warm_up": False}
    path = written(tmp_path / "configs", config, "Retrieval_coco.yaml")
    found = translate_config(config, path)
    assert found is not None and found.notes == [] and (found.source, found.task) == ("salesforce/ALBEF", "retrieval")
    assert found.fields["model_config"] == {
        "vision_config": {"hidden_size": 512},
        "text_config": {"hidden_size": 64, "num_hidden_layers": 5, "num_fusion_layers": 2, "hidden_dropout_prob": 0.2},
        "projection_dim": 128,
        "temperature_init": 0.05,
    }
    assert found.fields["train_files"] == ["data/coco_train.json"] and found.fields["test_files"] == [
        "data/coco_test.json"
    ]
    assert found.fields["alpha_warmup"] is False and found.fields["output_dir"] == "output/Retrieval_coco"
    assert found.fields["image_root"] == "images/" and found.fields["do_eval"] is True


def test_every_value_of_torchmultimodal(tmp_path: Path) -> None:
    found = translate_config(torchmultimodal_retrieval(), "retrieval.yaml")
    assert found is not None and found.task == "retrieval" and len(found.notes) == 2
    vision = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    expected = {
        "model_config": {
            "vision_config": {**vision, "patch_size": 16, "attention_dropout": 0.0, "layer_norm_eps": 1e-6},
            "text_config": BERT,
            **{"projection_dim": 256, "temperature_init": 0.07},
        },
        **{"image_size": 384, "train_files": ["coco_train.json"], "test_files": ["coco_test.json"]},
        **{"image_root": "coco", "per_device_train_batch_size": 32, "per_device_eval_batch_size": 32},
        **{"dataloader_num_workers": 8, "queue_size": 65536, "k_test": 256, "alpha": 0.4, "weight_decay": 0.02},
        **{"learning_rate": 1e-5, "min_learning_rate": 1e-6, "num_train_epochs": 5, "warmup_steps": 100},
        **{"output_dir": "examples/albef/outputs", "schedule_rules": "torchmultimodal", "eval_strategy": "no"},
        **{"do_train": True, "do_eval": False, "do_predict": True},
    }
    assert found.fields == expected
    found = translate_config(torchmultimodal_vqa() | {"device": "cpu"}, "vqa.yaml")
    assert found is not None and found.task == "vqa" and found.fields["use_cpu"] is True
    values = {"answer_list": "answer_list.json", "vqa_root": "coco", "vg_root": "visual_genome", "k_test": 128}
    values |= {"seed": 42, "output_dir": "outputs", "logging_steps": 100, "warmup_steps": 400, "num_train_epochs": 8}
    assert {name: found.fields[name] for name in values} == values
    left = [note.split()[0] for note in found.notes]
    assert left == ["world_size", "dist_url", "training_args.checkpoint_root", "eval_args.log_every_n_steps"]


@pytest.mark.parametrize(
    ("config", "change", "note"),
    [
        (salesforce_vqa, {"eos": "[END]"}, "eos is '[END]', which has no counterpart"),
        (salesforce_vqa, {"colour_jitter": 0.4}, "no counterpart and are left out: colour_jitter."),
        (salesforce_vqa, {"optimizer": {"opt": "lamb", "lr": 2e-5}}, "optimizer.opt is 'lamb'"),
        (salesforce_vqa, {"optimizer": {"opt": "adamW", "lr": 3e-5}}, "schedular.lr differs from optimizer.lr"),
        (salesforce_vqa, {"bert_config": "nowhere.json"}, "There is no file nowhere.json (bert_config)"),
        (torchmultimodal_vqa, {"training_args": {"amp": True}}, "left out: training_args.amp."),
        (torchmultimodal_vqa, {"multimodal_encoder_args": {"hidden_size": 512}}, "hidden_size is 512, but all text"),
        (torchmultimodal_retrieval, {"pretrained_checkpoint": "a.pth"}, "convert_albef_to_hf"),
    ],
)
def test_what_has_no_counterpart_is_said(
    config: Callable[[], dict[str, Any]], change: dict[str, Any], note: str
) -> None:
    found = translate_config(config() | change, "theirs.yaml")
    assert found is not None and [note for one in found.notes if note in one] == [note]


@pytest.mark.parametrize(
    ("main", "config", "sentence"),
    [
        (run_retrieval.main, salesforce_vqa(), "is for vqa: start run_vqa.py."),
        (run_vqa.main, torchmultimodal_retrieval(), "is for retrieval: start run_retrieval.py."),
        (run_vqa.main, {"schedular": {}, "train_file": "data/ve_train.json"}, "for a task that no script here has"),
        (run_vqa.main, {"model": {"arch": "albef_vqa"}, "datasets": {}, "run": {}}, "is a configuration file of LAVIS"),
        (
            run_vqa.main,
            salesforce_vqa() | {"schedular": {"warmup_epochs": "four"}},
            "has schedular.warmup_epochs: 'four', but it must be a whole number",
        ),
    ],
)
def test_what_cannot_be_translated(
    main: Callable[[list[str]], None], config: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    path = written(tmp_path, config)
    message = refused(main, [path])
    assert sentence in message and path in message


def test_a_damaged_bert_config_is_named(tmp_path: Path) -> None:
    (tmp_path / "config_bert.json").write_text("{")
    message = refused(run_vqa.main, [written(tmp_path, salesforce_vqa())])
    assert f"The file {tmp_path}/config_bert.json, bert_config of" in message and "cannot be read" in message


def test_ours_are_left_alone() -> None:
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        assert translate_config(yaml.safe_load(path.read_text()), path) is None


def write_questions(folder: Path) -> dict[str, str]:
    """ALBEF's files of questions, on the images of `write_pictures`."""
    write_pictures(folder)
    rows = [
        {"question_id": n, "question": f"what is {n}?", "image": f"{n}.png", "dataset": "vqa", "answer": ["red", "two"]}
        for n in range(8)
    ]
    (folder / "questions.json").write_text(json.dumps(rows))
    (folder / "answers.json").write_text(json.dumps(["red", "two"]))
    file = str(folder / "questions.json")
    roots = {"vqa_root": str(folder), "vg_root": str(folder)}
    return {"train_files": file, "test_files": file, "answer_list": str(folder / "answers.json"), **roots}


@pytest.mark.parametrize(
    ("main", "config"),
    [
        (run_retrieval.main, salesforce_retrieval()),
        (run_retrieval.main, salesforce_retrieval("flickr30k", 10, 128)),
        (run_retrieval.main, torchmultimodal_retrieval()),
        (run_vqa.main, salesforce_vqa()),
        (run_vqa.main, torchmultimodal_vqa()),
    ],
)
def test_their_files_start_a_run(
    main: Callable[[list[str]], None], config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    is_vqa = main is run_vqa.main
    places = write_questions(tmp_path) if is_vqa else write_pictures(tmp_path)
    if "val_file" not in config:
        places.pop("validation_files", None)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    small = {f"model_config.vision_config.{name}": value for name, value in {**sizes, "patch_size": 8}.items()}
    small |= {f"model_config.text_config.{name}": value for name, value in {**sizes, "num_fusion_layers": 1}.items()}
    small |= {"image_size": 32, "max_steps": 1, "dataloader_num_workers": 0, "per_device_train_batch_size": 4}
    small |= {} if is_vqa else {"queue_size": 16}
    fields = {**places, **small, "output_dir": str(tmp_path / "out"), "use_cpu": True, "report_to": "none"}
    main([written(tmp_path, config), *(f"--{name}={value}" for name, value in fields.items())])
    printed = capsys.readouterr().out
    translated = yaml.safe_load(printed[: printed.index("\n\n")])
    assert "Translated for run_" in printed and translated["model_config"]["text_config"]["num_hidden_layers"] == 12
    recorded = yaml.safe_load((tmp_path / "out" / "run.yaml").read_text())
    assert recorded["alpha"] == 0.4 and recorded["max_steps"] == 1 and recorded["run"]["model"]["image_size"] == 32
    metrics = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert metrics["train_loss"] > 0 and any(name.startswith("test_") for name in metrics)


LAVIS = {  # the keys of its three files for ALBEF, as they are nested
    "model": ("arch", "model_type", "load_finetuned", "image_size", "queue_size"),
    "run": (
        *("task", "lr_sched", "init_lr", "min_lr", "weight_decay", "max_epoch", "batch_size_train", "batch_size_eval"),
        *("num_workers", "max_len", "min_len", "num_beams", "num_ans_candidates", "inference_method", "seed", "k_test"),
        *("output_dir", "evaluate", "train_splits", "valid_splits", "test_splits", "device", "world_size", "dist_url"),
        *("distributed", "use_dist_eval_sampler"),
    ),
}


def test_the_page_has_every_key_and_names_fields_that_exist() -> None:
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL))
    theirs = {
        "salesforce/ALBEF": [salesforce_retrieval(), salesforce_vqa()],
        "TorchMultimodal": [torchmultimodal_retrieval(), torchmultimodal_vqa()],
        "LAVIS": [{part: dict.fromkeys(names, 1) for part, names in LAVIS.items()}],
    }
    known = {field.name for each in (*RETRIEVAL, *VQA) for field in dataclasses.fields(each)}
    for source, configs in theirs.items():
        rows = re.findall(r"^\| (.+?) \| (.+) \|$", sections[source], re.MULTILINE)[1:]
        keys = {word for left, _ in rows for word in re.findall(r"`([^`]+)`", left)}
        needed = {key for config in configs for key, _ in _flat(config) if not key.startswith(_REPEATED)}
        assert not needed - keys, source
        named = {word for _, right in rows for word in re.findall(r"`([\w.]+)`", right)}
        fields = {word.split(".")[0] for word in named if "_" in word and not word.endswith(".py")}
        assert len(fields & known) > 15 and not fields - known - OTHER_WORDS, source
