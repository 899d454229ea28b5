"""run_retrieval.py as users start it: whole runs, and starts that are refused."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from run_cases import (
    ONE_THREAD,
    ROOT,
    TINY,
    readme_block,
    refused,
    run,
    two_processes,
    write_pictures,
    write_run,
)
from safetensors.torch import load_file
from small_models import save_retrieval, save_vqa

from benchmarks.soak import free_port
from modeling_albef import AlbefError, AlbefForImageTextRetrieval, AlbefForQuestionAnswering
from modeling_albef.training import RetrievalTrainingArguments
from modeling_albef.training.application import DataArguments, ModelArguments, load_model, parse_arguments
from processing import AlbefProcessor
from run_retrieval import main

SCRIPT = "run_retrieval.py"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A whole run in one process, and what it printed."""
    folder = tmp_path_factory.mktemp("run")
    done = run(SCRIPT, [write_run(folder)])
    return folder / "out", done.stdout


def test_a_run_leaves_model_metrics_and_predictions(finished: tuple[Path, str]) -> None:
    out, printed = finished
    for line in (f"model: {out}", f"metrics: {out}/all_results.json", f"predictions: {out}/predictions.json"):
        assert line in printed
    metrics = json.loads((out / "all_results.json").read_text())
    for split in ("eval", "test"):
        assert 0 <= metrics[f"{split}_r_mean"] <= 100 and f"{split}_txt_r1" in metrics
    state = json.loads((out / "trainer_state.json").read_text())
    epochs = [line["eval_r_mean"] for line in state["log_history"] if "eval_r_mean" in line]
    assert metrics["eval_r_mean"] == max(epochs)  # the best checkpoint, not the last, is the model


def test_what_stands_beside_the_metrics_is_in_their_file_and_not_in_the_log(finished: tuple[Path, str]) -> None:
    out, printed = finished
    metrics = json.loads((out / "all_results.json").read_text())
    for split, images in (("eval", 12), ("test", 14)):
        assert metrics[f"{split}_txt_queries"] == metrics[f"{split}_img_gallery"] == images
        assert metrics[f"{split}_img_chance_r1"] == pytest.approx(100 / images)
        low, high = metrics[f"{split}_r_mean_interval"]
        assert low <= metrics[f"{split}_r_mean"] <= high
        for prefix in ("txt", "img"):
            recalls = [metrics[f"{split}_{prefix}_first_stage_r{depth}"] for depth in (1, 5, 10)]
            assert recalls == sorted(recalls)
            assert metrics[f"{split}_{prefix}_in_k_test"] == pytest.approx(recalls[1])  # five candidates are re-ranked
            assert metrics[f"{split}_{prefix}_r10"] == pytest.approx(recalls[1])
            assert metrics[f"{split}_{prefix}_median_rank"] >= 1
    assert "interval" not in printed and "first_stage" not in printed
    assert "search_calibration" not in json.loads((out / "config.json").read_text()) or (
        json.loads((out / "config.json").read_text())["search_calibration"] is None
    )


@pytest.mark.slow
def test_calibration_is_kept_with_the_model(tmp_path: Path) -> None:
    model = save_retrieval(tmp_path / "model")
    assert model.config.search_calibration is None
    changes = {"model_config": None, "model_name_or_path": str(tmp_path / "model"), "do_train": False}
    config = write_run(tmp_path, **changes, eval_strategy="no")
    done = run(SCRIPT, [config, "--calibrate"])
    out = tmp_path / "out"
    assert f"model: {out}" in done.stdout
    calibration = json.loads((out / "config.json").read_text())["search_calibration"]
    assert calibration["temperature"] > 0 and calibration["cosine_temperature"] > 0 and len(calibration) == 4
    metrics = json.loads((out / "all_results.json").read_text())
    for split in ("eval", "test"):
        for name in ("txt_auroc", "img_cosine_auroc", "img_found_though_absent", "txt_cosine_missed_though_present"):
            low, high = metrics[f"{split}_{name}_interval"]
            assert 0 <= low <= metrics[f"{split}_{name}"] <= high <= 100
        assert metrics[f"{split}_img_auroc"] >= 50  # an answer never lowers the best score
    assert "auroc" not in done.stdout

    # the copy in the output folder is the model, and training it anew gives the calibration up
    expected, found = (load_file(folder / "model.safetensors") for folder in (tmp_path / "model", out))
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    words = ["--model_name_or_path", str(out), "--do_train", "true", "--output_dir", str(tmp_path / "trained")]
    run(SCRIPT, [config, *words, "--max_steps", "1", "--do_eval", "false", "--do_predict", "false"])
    assert json.loads((tmp_path / "trained/config.json").read_text()).get("search_calibration") is None


@pytest.mark.slow
def test_a_run_that_cannot_be_calibrated_keeps_its_results(tmp_path: Path) -> None:
    """One image has no wrong caption, so no threshold fits; the evaluation and the test are done all the same."""
    save_retrieval(tmp_path / "model")
    changes = {"model_config": None, "model_name_or_path": str(tmp_path / "model"), "do_train": False}
    done = run(SCRIPT, [write_run(tmp_path, **changes, eval_strategy="no"), "--calibrate", "--max_rows", "1"])
    assert "The model is not calibrated. No query has a wrong candidate" in done.stderr
    metrics = json.loads((tmp_path / "out/all_results.json").read_text())
    assert metrics["eval_r_mean"] == metrics["test_r_mean"] == 100
    assert (tmp_path / "out/report.html").is_file() and not (tmp_path / "out/config.json").exists()


def test_calibration_needs_validation_data(tmp_path: Path) -> None:
    message = refused(main, [write_run(tmp_path), "--calibrate", "--do_eval", "false"])
    assert "calibrate is true, but do_eval is false" in message


def check_predictions(out: Path) -> dict[str, Any]:
    predictions = json.loads((out / "predictions.json").read_text())
    images = [query["image"] for query in predictions["image_to_text"]]
    assert images == [str(number) for number in range(14)]  # each once, in order
    assert len({query["caption"] for query in predictions["text_to_image"]}) == 28
    assert all(len(query["texts"]) == 5 for query in predictions["image_to_text"])
    hits = [query["texts"][0]["correct"] for query in predictions["image_to_text"]]
    assert 100 * sum(hits) / 14 == pytest.approx(json.loads((out / "test_results.json").read_text())["test_txt_r1"])
    return predictions


def test_predictions_are_complete(finished: tuple[Path, str]) -> None:
    check_predictions(finished[0])


@pytest.mark.slow
def test_evaluation_alone_gives_the_same_in_one_and_two_processes(finished: tuple[Path, str], tmp_path: Path) -> None:
    launchers = {
        "one": (),
        "two": two_processes(),
    }
    for name, launcher in launchers.items():
        config = write_run(
            tmp_path,
            model_config=None,
            model_name_or_path=str(finished[0]),
            do_train=False,
            output_dir=str(tmp_path / name),
        )
        run(SCRIPT, [config], launcher)
    trained = json.loads((finished[0] / "test_results.json").read_text())
    one, two = (json.loads((tmp_path / name / "test_results.json").read_text()) for name in ("one", "two"))
    names = [f"test_{name}" for name in RetrievalTrainingArguments.METRICS]
    assert len(names) == 9
    assert [one[name] for name in names] == [two[name] for name in names] == [trained[name] for name in names]
    assert check_predictions(tmp_path / "one") == check_predictions(tmp_path / "two")  # to the bit


@pytest.mark.slow
def test_two_processes_train_as_one_model(tmp_path: Path, finished: tuple[Path, str]) -> None:
    launcher = (
        *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
        *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", str(free_port())),
    )
    done = run(SCRIPT, [write_run(tmp_path), "--use_cpu"], launcher)
    out = tmp_path / "out"
    assert sorted(json.loads((out / "all_results.json").read_text())) == sorted(
        json.loads((finished[0] / "all_results.json").read_text())
    )
    check_predictions(out)
    assert done.stdout.count("metrics: ") == done.stdout.count("report: ") == 1
    state = json.loads((out / "trainer_state.json").read_text())
    assert state["max_steps"] == 2 * (80 // (2 * 8))  # 80 captions over two processes of 8
    checkpoint = max(out.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    queue = load_file(checkpoint / "teacher" / "queue.safetensors")
    assert (queue["image_ids"] >= 0).all() and queue["pointer"] == 10 * 16 % 24  # both processes' rows went in


@pytest.mark.slow
def test_processes_that_do_not_know_each_other_are_refused(tmp_path: Path) -> None:
    launcher = two_processes()
    done = run(SCRIPT, [write_run(tmp_path, use_cpu=None)], launcher, check=False)
    assert done.returncode != 0
    assert "2 processes were started, but each would train alone" in done.stderr
    assert "accelerate launch --multi_gpu --num_processes 2" in done.stderr and "--use_cpu" in done.stderr
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


@pytest.mark.slow
def test_annotation_files_and_another_resolution(tmp_path: Path, finished: tuple[Path, str]) -> None:
    config = write_run(
        tmp_path,
        dataset=None,
        dataset_config=None,
        model_config=None,
        model_name_or_path=str(finished[0]),
        image_size=48,
        num_train_epochs=1,
        **write_pictures(tmp_path),
    )
    run(SCRIPT, [config, "--learning_rate", "2e-3"])
    out = tmp_path / "out"
    assert json.loads((out / "config.json").read_text())["vision_config"]["image_size"] == 48
    assert load_file(out / "model.safetensors")["albef.vision_model.pos_embed"].shape[1] == 1 + 6 * 6
    predictions = json.loads((out / "predictions.json").read_text())
    assert [Path(query["image"]).name for query in predictions["image_to_text"]] == [f"{n}.png" for n in range(6)]
    history = json.loads((out / "trainer_state.json").read_text())["log_history"]
    assert (out / "processor_config.json").is_file() and history


def test_bad_files_are_named_before_training(tmp_path: Path) -> None:
    files = write_pictures(tmp_path)
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:60])
    words = [write_run(tmp_path, dataset=None, dataset_config=None, **files)]
    message = refused(main, words)
    assert "3.png" in message and "damaged or cut short" in message
    (tmp_path / "3.png").unlink()
    assert "3.png" in refused(main, words)
    rows = json.loads((tmp_path / "train.json").read_text())
    rows[4]["caption"] = " ... "
    (tmp_path / "train.json").write_text(json.dumps(rows))
    assert "row 5" in refused(main, words) and "train.json" in refused(main, words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "words", "message"),
    [
        ({"momentun": 1}, [], "the field 'momentun', which is not known. Did you mean 'momentum'?"),
        ({}, ["--k_tets", "3"], "'--k_tets', which is not known. Did you mean '--k_test'?"),
        (
            {"model_config": {"vision_config": {"image_sise": 3}}},
            [],
            "Model_config.vision_config has the field 'image_sise'",
        ),
        ({"model_config": None}, [], "give either model_name_or_path, or vision_encoder and text_encoder, or"),
        ({"dataset": None}, [], "There is no train data: give train_files"),
        ({"momentum": 2.0}, [], "momentum is 2.0, but must lie between 0 and 1"),
        ({}, ["--resume_from_checkpoint", "nowhere"], "nowhere is not a checkpoint"),
        ({"metric_for_best_model": "accuracy"}, [], "metric_for_best_model is 'accuracy', but must be one of txt_r1"),
        ({"k_test": 5.5}, [], "argument --k_test/--k-test: invalid int value: '5.5'"),
        ({"train_files": {"a": 3}, "dataset": None}, [], "train_files: {'a': 3}, but the field takes one value"),
        ({"per_device_eval_batch_size": 0}, [], "per_device_eval_batch_size is 0, but must be at least 1"),
        ({"per_device_train_batch_size": 90}, [], "has 80 rows, fewer than the 90 of one step"),
        ({"dataset": "coco"}, [], "No data set is called 'coco'"),
        ({"dataset_config": {"num_trian": 3}}, [], "num_trian"),
        ({"train_files": "a.json"}, [], "give either dataset, or train_files"),
        ({"model_config": {"vision_config": 5}}, [], "model_config.vision_config is 5, but must be a mapping"),
        ({"image_size": 33}, [], "image_size is 33, but must be a multiple of patch_size (8)"),
        ({"model_config": {"vision_config": {"patch_size": 0}}}, [], "patch_size 0, but both must be at least 1"),
        ({"tokenizer": "/nowhere/tokenizer"}, [], "/nowhere/tokenizer"),
        ({"learning_rate": float("nan")}, [], "learning_rate is nan, but must be a finite number"),
        ({"logging_steps": float("inf")}, [], "logging_steps is inf, but must be a finite number"),
        ({"seed": -1}, [], "seed is -1, but must lie between 0 and 2**32 - 1"),
        ({"max_words": 0}, [], "max_words is 0, but must be at least 1"),
        ({"image_size": -8}, [], "image_size is -8, but must be at least 1"),
        ({"queue_size": 10**40}, [], "but must lie between 0 and 16777216"),
        ({"log_level": "loud"}, [], "argument --log_level/--log-level: invalid choice: 'loud'"),
        ({}, ["--output_dir", ""], "output_dir is '', but must be the path of a folder"),
        ({"output_dir": "a\0b"}, [], "but must be the path of a folder"),
        ({"output_dir": "x" * 300}, [], "output_dir is 'xxx"),
        ({"distill": 5}, [], "argument --distill: Truthy value expected: got 5"),
        ({"tokenizer": {"a": 1}}, [], "tokenizer: {'a': 1}, but the field takes one value"),
        ({"eval_strategy": "sometimes"}, [], "refused (eval_strategy): sometimes is not a valid"),
        ({"logging_strategy": ""}, [], "argument --logging_strategy/--logging-strategy: invalid choice: ''"),
        ({"accelerator_config": "none.json"}, [], "refused (accelerator_config): "),
        ({"tokenizer": "a\udfffb"}, [], "tokenizer is 'a\\udfffb', half of a surrogate pair"),
        ({"train_files": ["a.json", "\ud800"]}, [], "train_files is '\\ud800', half of a surrogate pair"),
        ({}, ["--k_test", "\ud800"], "a word of the command line is '\\ud800', half of a surrogate pair"),
        ({"model_config": {"id2label": True}}, [], "model_config is refused: "),
        ({"model_config": {"text_config": {"num_hidden_layers": 10**9}}}, [], "num_hidden_layers is 1000000000, but"),
    ],
)
def test_misspelt_and_missing(tmp_path: Path, changes: dict[str, Any], words: list[str], message: str) -> None:
    assert message in refused(main, [write_run(tmp_path, **changes), *words])


def test_unknown_configuration_file(tmp_path: Path) -> None:
    assert "nowhere.yaml cannot be read: No such file" in refused(main, [str(tmp_path / "nowhere.yaml")])
    (tmp_path / "broken.yaml").write_text("a: [1,")
    assert "broken.yaml is not YAML" in refused(main, [str(tmp_path / "broken.yaml")])
    (tmp_path / "list.yaml").write_text("- 1")
    assert "must hold `field: value` lines" in refused(main, [str(tmp_path / "list.yaml")])
    for name, text in (("date", "a: 2020-99-99"), ("deep", "[" * 5000), ("number", "a: " + "1" * 5000)):
        (tmp_path / f"{name}.yaml").write_text(text)
        assert f"{name}.yaml is not YAML" in refused(main, [str(tmp_path / f"{name}.yaml")])


def test_a_field_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_text("5: 1")
    assert "the field '5', which is not known" in refused(main, [str(tmp_path / "odd.yaml")])


def test_references_that_grow_without_bounds(tmp_path: Path) -> None:
    """Nine lines of YAML that would be a message of a billion words."""
    lines = ["a: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"b{n}: &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]" for n in range(8)]
    (tmp_path / "bomb.yaml").write_text("\n".join([*lines, "seed: *a8"]).replace("b7:", "k_test:"))
    assert len(refused(main, [str(tmp_path / "bomb.yaml")])) < 500
    (tmp_path / "bomb.yaml").write_text("model_config:\n" + "\n".join(f"  {line}" for line in lines) + "\nseed: *a8")
    assert "seed: [[[[[[[...]" in refused(main, [str(tmp_path / "bomb.yaml")])


def test_a_folder_without_its_configuration(finished: tuple[Path, str], tmp_path: Path) -> None:
    for name in ("model.safetensors", "processor_config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(finished[0] / name, tmp_path)
    words = [write_run(tmp_path, model_config=None, model_name_or_path=str(tmp_path))]
    assert f"The folder {tmp_path} has no config.json" in refused(main, words)
    shutil.copy(finished[0] / "config.json", tmp_path)
    (tmp_path / "model.safetensors").write_bytes((finished[0] / "model.safetensors").read_bytes()[:5000])
    assert f"The model in {tmp_path} cannot be used: " in refused(main, words)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("albef-14m", ". Give a folder"),
        ("out/run/model", ". Give a folder"),
        ("/nowhere", ". Give a folder"),
        ("output/demo_x", ", and the Hub does not give it (We couldn't connect"),
    ],
)
def test_a_model_that_is_not_there_is_told_before_data_is_read(tmp_path: Path, name: str, reason: str) -> None:
    words = [write_run(tmp_path, model_config=None, model_name_or_path=name), "--data_dir", "no_such_folder"]
    assert f"There is no model at {name!r}: there is no such folder here ({Path(name).absolute()}){reason}" in refused(
        main, words
    )


def test_a_model_without_the_head_is_not_evaluated(tmp_path: Path) -> None:
    save_vqa(tmp_path / "vqa")
    changes = {"model_config": None, "model_name_or_path": str(tmp_path / "vqa"), "do_train": False}
    assert f"The model '{tmp_path / 'vqa'}' has no matching head" in refused(main, [write_run(tmp_path, **changes)])


@pytest.mark.slow
def test_settings_that_show_late_end_in_a_sentence(finished: tuple[Path, str], tmp_path: Path) -> None:
    config = write_run(tmp_path)
    assert "warmup_steps is 5, but the published schedule" in refused(main, [config, "--warmup_steps", "5"])
    nothing = ["--do_train", "false", "--do_eval", "false", "--do_predict", "false", "--eval_strategy", "no"]
    done = run(SCRIPT, [config, *nothing, "--model_name_or_path", str(finished[0])])
    assert "There was nothing to do: give --do_train true" in done.stderr
    text = "dataset_config is neither JSON nor YAML of a mapping"
    assert text in refused(main, [config, "--dataset_config", "{image_size"])


CLASSES = (ModelArguments, DataArguments, RetrievalTrainingArguments)


def test_mappings_are_changed_in_part(tmp_path: Path) -> None:
    config = write_run(tmp_path)
    given = yaml.safe_load(Path(config).read_text())
    for words in (
        ["--model_config.vision_config.hidden_size", "64"],
        ["--model_config.vision_config.hidden_size=64"],
        ["--model_config", "{vision_config: {hidden_size: 64}}"],
        ['--model_config={"vision_config": {"hidden_size": 64}}'],
    ):
        model_args, data_args, _ = parse_arguments(CLASSES, [config, *words])
        expected = {**given["model_config"], "vision_config": {**given["model_config"]["vision_config"]}}
        expected["vision_config"]["hidden_size"] = 64
        assert model_args.model_config == expected and data_args.dataset_config == given["dataset_config"]
    several = ["--model_config.vision_config.layer_norm_eps", "1e-5", "--dataset_config.num_train=7"]
    model_args, data_args, _ = parse_arguments(CLASSES, [config, *several])
    assert model_args.model_config["vision_config"]["layer_norm_eps"] == 1e-5
    assert data_args.dataset_config == {**given["dataset_config"], "num_train": 7}
    message = refused(main, [config, "--model_config.vision_config.hiden_size", "64"])
    assert "Model_config.vision_config has the field 'hiden_size', which is not known. Did you mean" in message


@pytest.mark.slow
def test_a_start_without_words_shows_a_command() -> None:
    done = run(SCRIPT, [], check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "accelerate launch run_retrieval.py configs/demo_retrieval.yaml --use_cpu" in done.stderr


@pytest.mark.slow
def test_help_shows_our_fields_first() -> None:
    lines = run(SCRIPT, ["--help"]).stdout.splitlines()
    titles = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert titles == ["model:", "data:", "training:", "transformers.TrainingArguments:"]
    text = "\n".join(lines[lines.index("model:") :])
    names = ["--model_name_or_path", "--dataset ", "--queue_size ", "--momentum ", "--adam_beta1"]
    rows = [text.index(f"\n  {name}") for name in names]
    assert "--queue-size" not in text and "--no_" not in text
    assert rows[:2] == sorted(rows[:2]) and max(rows[:2]) < min(rows[2:4]) and max(rows[2:4]) < rows[4]


def test_the_command_line_displaces_what_cannot_stand_beside_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    classes = (ModelArguments, DataArguments, RetrievalTrainingArguments)
    config = write_run(tmp_path, data_dir="photos")
    given = yaml.safe_load(Path(config).read_text())
    assert given["model_config"] and given["dataset"] and given["dataset_config"]
    with caplog.at_level("WARNING"):
        model_args, data_args, _ = parse_arguments(classes, [config, "--model_name_or_path", "a/b"])
        assert (model_args.model_name_or_path, model_args.model_config) == ("a/b", {})
        assert data_args.dataset == given["dataset"] and data_args.data_dir == "photos"
        _, data_args, _ = parse_arguments(classes, [config, "--dataset=own_data", "--data_dir", "mine"])
        assert (data_args.dataset, data_args.data_dir, data_args.dataset_config) == ("own_data", "mine", {})
        _, data_args, _ = parse_arguments(classes, [config, "--train_files", "a.json", "b.json"])
        assert (data_args.dataset, data_args.data_dir, data_args.dataset_config) == (None, None, {})
        assert data_args.train_files == ["a.json", "b.json"]
    told = [record.message for record in caplog.records]
    assert told[0] == "--model_name_or_path takes the place of model_config in the configuration file."
    assert told[2] == "--train_files takes the place of dataset, dataset_config, data_dir in the configuration file."
    assert "either dataset, or train_files" in refused(main, [config, "--dataset", "shapes", "--train_files", "a.json"])


def test_a_loaded_model_is_changed_where_its_weights_allow_it(
    finished: tuple[Path, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config, name = write_run(tmp_path), str(finished[0])
    processor = AlbefProcessor.from_pretrained(name)

    def loaded(*words: str, model_class: Any = AlbefForImageTextRetrieval, file: str = config) -> Any:
        model_args, _, _ = parse_arguments(CLASSES, [file, *words])
        return load_model(model_class, model_args, processor.tokenizer)

    named = ("--model_name_or_path", name)
    dropout, part = "--model_config.text_config.hidden_dropout_prob=0.25", "--model_config.text_config"
    before, _ = loaded(*named)
    vision = "--model_config.vision_config.attention_dropout"
    after, _ = loaded(*named, dropout, vision, "0.5", "--model_config.temperature_init", "0.2")
    text = after.config.text_config
    assert (text.hidden_dropout_prob, text.attention_probs_dropout_prob) == (0.25, 0.1)
    rates = {module.p for module in after.albef.text_model.modules() if isinstance(module, torch.nn.Dropout)}
    assert 0.25 in rates and after.config.vision_config.attention_dropout == 0.5
    assert float(after.albef.temperature.detach()) == pytest.approx(0.2)
    kept, state = before.state_dict(), after.state_dict()
    assert {key for key in kept if not torch.equal(kept[key], state[key])} == {"albef.temperature"}
    # a file that names a model keeps it; sizes on the command line still mean a model from scratch
    own = write_run(tmp_path, model_config=None, model_name_or_path=name)
    assert loaded(dropout, file=own)[0].config.text_config.hidden_dropout_prob == 0.25
    assert parse_arguments(CLASSES, [own, f"{part}.hidden_size", "64"])[0].model_name_or_path is None
    for words, sentence in (
        (
            [f"{part}.hidden_size", "64"],
            f"model_config.text_config.hidden_size is 64, but {name} has its own",
        ),
        (["--model_config.projection_dim", "8"], "model_config.projection_dim is 8, but"),
        ([f"{part}.hidden_dropout_prob", "2"], "hidden_dropout_prob is 2, but must lie between 0 and 1"),
        (["--model_config.decoder_config.hidden_dropout_prob", "0"], f"the model in {name} has no answer decoder"),
    ):
        with pytest.raises(AlbefError, match=re.escape(sentence)):
            loaded(*named, *words)
    with pytest.raises(AlbefError, match=r"temperature_init is 0\.2, but this task has no temperature"):
        loaded(*named, "--model_config.temperature_init", "0.2", model_class=AlbefForQuestionAnswering)
    decoder = loaded(*named, dropout, model_class=AlbefForQuestionAnswering)[0].config.decoder_config
    assert decoder.hidden_dropout_prob == 0.25 and decoder.hidden_size == 32


@pytest.mark.slow
def test_going_on_from_the_end_keeps_what_the_training_measured(finished: tuple[Path, str], tmp_path: Path) -> None:
    folder = shutil.copytree(finished[0], tmp_path / "out")
    before = json.loads((folder / "train_results.json").read_text())
    assert before["train_loss"] > 0
    done = run(SCRIPT, [write_run(tmp_path), "--resume_from_checkpoint", "last"])
    assert "is the end of the training: there was no step left." in done.stderr
    assert json.loads((folder / "train_results.json").read_text()) == before
    assert json.loads((folder / "all_results.json").read_text())["train_loss"] == before["train_loss"]


def test_full_output_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("x")
    message = refused(main, [write_run(tmp_path)])
    assert "is not empty" in message and "--resume_from_checkpoint last" in message


@pytest.mark.slow
def test_killed_at_random_moments_ends_with_the_same_weights(tmp_path: Path) -> None:
    """SIGKILL several times; the run that goes on each time ends as the one that was let be."""
    changes = {
        "save_strategy": "steps",
        "save_steps": 3,
        "eval_strategy": "steps",
        "eval_steps": 3,
        "num_train_epochs": 6,
    }
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    start = time.monotonic()
    run(SCRIPT, [write_run(whole, **changes)])
    duration = time.monotonic() - start
    words = [write_run(cut, **changes), "--resume_from_checkpoint", "last"]
    moments = random.Random(3)
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "run_retrieval.py", *words],
            cwd=ROOT,
            env={**os.environ, **ONE_THREAD},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(moments.uniform(0.35, 0.95) * duration)
        process.send_signal(signal.SIGKILL)
        process.wait()
    run(SCRIPT, words)
    expected, found = (load_file(folder / "out" / "model.safetensors") for folder in (whole, cut))
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    last = {folder: load_file(folder / "out/checkpoint-60/teacher/queue.safetensors") for folder in (whole, cut)}
    assert all(torch.equal(value, last[cut][name]) for name, value in last[whole].items())


def test_python_of_the_readme_runs(finished: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images and texts are scored, a trainer is made, which here trains and evaluates, and a metric computed."""
    scoring, training = readme_block("itm_logits.softmax(-1)[..."), readme_block("AugmentedDataset(pairs")
    metric = readme_block("evaluate.load")
    for name in ("photo.jpg", "photos/img_2.jpg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (48, 40), "teal").save(path)
    names: dict[str, Any] = {}
    monkeypatch.chdir(tmp_path)
    exec(scoring.replace("output/demo_retrieval", str(finished[0])), names)
    assert names["outputs"].itm_logits.shape == (2, 2, 2) and names["outputs"].logits_per_image.shape == (2, 2)
    monkeypatch.chdir(ROOT)  # the metric is loaded by its path
    small = f'output_dir="{tmp_path}", use_cpu=True, per_device_train_batch_size=8, queue_size=8, report_to="none"'
    for published, tiny in {
        '"coco_retrieval", data_dir="data/coco"': f'"shapes", **{TINY["dataset_config"]}',
        "albef-14m": str(finished[0]),
        'output_dir="out"': small,
        "384": "32",
    }.items():
        training = training.replace(published, tiny)
    exec(training, names)
    exec(metric, names)
    assert names["metric"].name == "vqa_accuracy"
    assert names["trainer"].state.global_step > 0
    assert "eval_r_mean" in names["trainer"].evaluate()


@pytest.mark.parametrize("recipe", sorted(path.name for path in (ROOT / "configs").glob("*retrieval*.yaml")))
def test_recipes_are_read(recipe: str, tmp_path: Path) -> None:
    words = [str(ROOT / "configs" / recipe), "--use_cpu", "--output_dir", str(tmp_path)]
    if not recipe.startswith("demo"):
        words += ["--model_name_or_path", "some/model"]
    _, _, args = parse_arguments((ModelArguments, DataArguments, RetrievalTrainingArguments), words)
    if recipe == "retrieval_flickr30k_zero_shot.yaml":
        assert (args.do_train, args.do_eval, args.do_predict, args.k_test) == (False, False, True, 128)
        return
    published = {"retrieval_coco.yaml": (5, 256), "retrieval_flickr30k.yaml": (10, 128), "demo_retrieval.yaml": (5, 32)}
    published["retrieval_mixture.yaml"] = published["retrieval_coco.yaml"]
    assert (args.num_train_epochs, args.k_test) == published[recipe]
    assert isinstance(args.learning_rate, float) and args.do_train and args.do_eval and args.do_predict


@pytest.mark.slow
def test_overwriting_leaves_nothing_of_the_old_run(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "checkpoint-900").mkdir(parents=True)
    (out / "checkpoint-900/trainer_state.json").write_text('{"global_step": 900}')
    (out / "test_results.json").write_text("{}")
    (out / "notes.txt").write_text("mine")
    run(SCRIPT, [write_run(tmp_path, max_steps=2, do_eval=False, do_predict=False), "--overwrite_output_dir"])
    assert not (out / "checkpoint-900").exists() and not (out / "test_results.json").exists()
    assert (out / "notes.txt").read_text() == "mine" and (out / "model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("checked", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_bad_image_ends_both_processes_with_one_sentence(checked: bool, tmp_path: Path) -> None:
    files = write_pictures(tmp_path)
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:60])
    config = write_run(tmp_path, dataset=None, dataset_config=None, check_image_files=checked, **files)
    done = run(SCRIPT, [config, "--per_device_train_batch_size=4"], two_processes(), check=False)
    assert done.returncode != 0 and done.stderr.count("damaged or cut short") == 1
    assert "Connection closed" not in done.stderr


@pytest.mark.slow
def test_two_processes_check_the_images_together(tmp_path: Path) -> None:
    """What is damaged is told once, and both drop the same rows as one process does."""
    files = write_pictures(tmp_path)
    for number in (3, 6):
        (tmp_path / f"{number}.png").write_text("<html>not found</html>")
    said = {}
    for name, launcher in {"one": (), "two": two_processes()}.items():
        folder = tmp_path / name
        folder.mkdir()
        changes = {"dataset": None, "dataset_config": None, "max_steps": 2, "drop_bad_rows": True, **files}
        config = write_run(folder, do_predict=False, per_device_train_batch_size=4, **changes)
        done = run(SCRIPT, [config], launcher)
        words = ("are dropped", ".png'")
        said[name] = [line.strip() for line in done.stderr.splitlines() if any(word in line for word in words)]
        starts = [" ".join(line.split()[:7]) for line in said[name]]
        assert "2 of the 12 rows of train" in starts and "1 of the 6 rows of validation" in starts, done.stderr[-3000:]
        assert done.stderr.count("there are 20 training captions") == (1 if name == "one" else 2)  # by each process
    assert said["one"] == said["two"] and len(said["one"]) == 5
