"""run_grounding.py as users start it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from run_cases import ROOT, refused, run, two_processes, write_config
from safetensors.torch import load_file

from modeling_albef.training import GroundingTrainingArguments
from modeling_albef.training.application import DataArguments, ModelArguments, parse_arguments
from modeling_albef.training.grounding.boxes import box_iou
from run_grounding import main

SCRIPT = "run_grounding.py"
SIZES = {"num_train": 20, "num_validation": 6, "num_test": 6, "image_size": 32}


def write_grounding(folder: Path, **changes: Any) -> str:
    return write_config(folder, **{"k_test": None, "queue_size": 24, "dataset_config": SIZES, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A whole run in one process, with box supervision, and what it printed."""
    folder = tmp_path_factory.mktemp("run")
    config = write_grounding(folder, box_loss_weight=0.5, logging_steps=1, save_total_limit=9)
    done = run(SCRIPT, [config])
    return folder / "out", done.stdout


def check_predictions(out: Path) -> list[dict[str, Any]]:
    """A row a text, and the figures follow from the rows."""
    rows = json.loads((out / "predictions.json").read_text())
    assert len({row["ref_id"] for row in rows}) == len(rows) >= 12
    metrics = json.loads((out / "test_results.json").read_text())
    assert 100 * sum(row["correct"] for row in rows) / len(rows) == pytest.approx(metrics["test_box_accuracy"])
    assert 100 * sum(row["points"] for row in rows) / len(rows) == pytest.approx(metrics["test_pointing_accuracy"])
    for row in rows:
        assert row["iou"] == pytest.approx(box_iou(row["box"], row["reference"]) if row["box"] else 0)
        (x, y), (left, top, width, height) = row["point"] or (-1, -1), row["reference"]
        assert row["points"] == (left <= x <= left + width and top <= y <= top + height)
    return rows


def test_a_run_leaves_model_metrics_and_predictions(finished: tuple[Path, str]) -> None:
    out, printed = finished
    for line in (f"model: {out}", f"metrics: {out}/all_results.json", f"predictions: {out}/predictions.json"):
        assert line in printed
    assert "Pointing game: the map is largest in the box" in printed and "chance" in printed
    check_predictions(out)
    metrics = json.loads((out / "all_results.json").read_text())
    for split in ("eval", "test"):
        low, high = metrics[f"{split}_pointing_accuracy_interval"]
        assert low <= metrics[f"{split}_pointing_accuracy"] <= high
        assert 0 < metrics[f"{split}_chance_pointing_accuracy"] < 20 < metrics[f"{split}_chance_box_accuracy"] < 60
    state = json.loads((out / "trainer_state.json").read_text())
    epochs = [line["eval_box_accuracy"] for line in state["log_history"] if "eval_box_accuracy" in line]
    assert metrics["eval_box_accuracy"] == max(epochs) and len(epochs) == 2
    steps = [line for line in state["log_history"] if "box_loss" in line]
    assert all(
        line["loss"] == pytest.approx(line["itc_loss"] + line["itm_loss"] + 0.5 * line["box_loss"], rel=1e-3)
        for line in steps
    )
    assert len(steps) > 4 and any(line["box_loss"] > 0 for line in steps)


def test_the_report_shows_maps(finished: tuple[Path, str]) -> None:
    page = (finished[0] / "report.html").read_text()
    assert "Where texts were found: the hardest, test data" in page and "Right box: " in page
    assert page.count("data:image/") >= 6 and "cannot be read" not in page


@pytest.mark.slow
def test_resumed_ends_where_the_whole_run_does(finished: tuple[Path, str], tmp_path: Path) -> None:
    config = write_grounding(tmp_path, box_loss_weight=0.5, logging_steps=1, save_total_limit=9)
    first = min((finished[0]).glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    shutil.copytree(first, tmp_path / "out" / first.name)
    run(SCRIPT, [config, "--resume_from_checkpoint", "last", "--do_eval", "false", "--do_predict", "false"])
    whole, again = (load_file(folder / "model.safetensors") for folder in (finished[0], tmp_path / "out"))
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


@pytest.mark.slow
def test_evaluation_alone_gives_the_same_in_one_and_two_processes(finished: tuple[Path, str], tmp_path: Path) -> None:
    fields = {"model_config": None, "model_name_or_path": str(finished[0]), "do_train": False}
    for name, launcher in (("one", ()), ("two", two_processes())):
        run(SCRIPT, [write_grounding(tmp_path, **fields, output_dir=str(tmp_path / name))], launcher)
    assert check_predictions(tmp_path / "one") == check_predictions(tmp_path / "two")


@pytest.mark.slow
def test_two_processes_train_with_boxes(tmp_path: Path) -> None:
    run(SCRIPT, [write_grounding(tmp_path, box_loss_weight=1.0, per_device_train_batch_size=4)], two_processes())
    check_predictions(tmp_path / "out")


def test_adapters_and_the_other_maps(finished: tuple[Path, str], tmp_path: Path) -> None:
    """LoRA trains with boxes; the same model has other maps of the similarity."""
    pytest.importorskip("peft")
    fields = {"model_config": None, "model_name_or_path": str(finished[0])}
    config = write_grounding(tmp_path, **fields, lora_rank=2, box_loss_weight=1.0, num_train_epochs=1, do_eval=False)
    main([config])
    assert (tmp_path / "out/adapter/adapter_model.safetensors").is_file()
    whole, adapted = (load_file(folder / "model.safetensors") for folder in (finished[0], tmp_path / "out"))
    assert whole.keys() == adapted.keys() and any(not torch.equal(whole[name], adapted[name]) for name in whole)
    config = write_grounding(tmp_path, **fields, do_train=False, do_eval=False, output_dir=str(tmp_path / "itc"))
    main([config, "--gradcam_mode", "itc", "--gradcam_layer", "0"])
    assert json.loads((tmp_path / "itc/test_results.json").read_text())["test_gradcam_mode"] == "itc"
    points = [[row["point"] for row in check_predictions(out)] for out in (finished[0], tmp_path / "itc")]
    assert points[0] != points[1]


def test_own_tables_without_boxes_to_choose_from(finished: tuple[Path, str], tmp_path: Path) -> None:
    """A box is drawn round the map's peak; a test without boxes has predictions and no metrics."""
    for number in range(3):
        Image.new("RGB", (60, 40), (80 * number, 90, 30)).save(tmp_path / f"{number}.png")
    (tmp_path / "test.csv").write_text("image,text\n0.png,a red circle\n1.png,a blue star\n2.png,a cross\n")
    boxes = "image,text,box\n0.png,a red circle,1 2 10 12\n1.png,a blue star,5 5 50 30\n"
    (tmp_path / "validation.csv").write_text(boxes)
    fields = {"dataset": "own_data", "dataset_config": None, "data_dir": str(tmp_path), "do_train": False}
    fields |= {"model_config": None, "model_name_or_path": str(finished[0])}
    main([write_grounding(tmp_path, **fields)])
    metrics = json.loads((tmp_path / "out/all_results.json").read_text())
    assert "test_box_accuracy" not in metrics and "eval_chance_box_accuracy" not in metrics
    assert metrics["eval_chance_pointing_accuracy"] == pytest.approx(100 * (120 + 1500) / 2 / 2400)
    rows = json.loads((tmp_path / "out/predictions.json").read_text())
    assert [Path(row["image"]).name for row in rows] == ["0.png", "1.png", "2.png"]
    for x, y, width, height in (row["box"] for row in rows if row["box"]):  # an empty map has none
        assert 0 <= x < x + width <= 60.001 and 0 <= y < y + height <= 40.001
    assert "Where texts were found" in (tmp_path / "out/report.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gradcam_mode", "cam"], "gradcam_mode is 'cam', but must be itm or itc"),
        (["--box_loss_weight", "-1"], "box_loss_weight is -1.0, but must be 0 or more"),
        (["--box_loss_weight", "1", "--gradcam_mode", "itc"], "box_loss_weight supervises maps of the match"),
        (["--box_loss_weight", "1", "--gradient_checkpointing"], "box_loss_weight needs gradients of gradients"),
        (["--gradcam_layer", "7"], "layer is 7, but must be a fusion layer, 1..1"),
        (["--gradcam_layer", "2", "--gradcam_mode", "itc"], "block is 2, but must be a layer of the vision tower"),
    ],
)
def test_what_is_refused_before_training(tmp_path: Path, words: list[str], message: str) -> None:
    assert message in refused(main, [write_grounding(tmp_path), *words])
    assert not list((tmp_path / "out").glob("checkpoint-*"))


def test_boxes_that_are_not_there_cannot_be_trained_on(tmp_path: Path) -> None:
    Image.new("RGB", (60, 40)).save(tmp_path / "0.png")
    (tmp_path / "train.csv").write_text("image,text\n" + "0.png,a red circle\n" * 8)
    fields = {"dataset": "own_data", "dataset_config": None, "data_dir": str(tmp_path), "eval_strategy": "no"}
    config = write_grounding(tmp_path, **fields, do_eval=False, do_predict=False)
    assert "no training row has a box" in refused(main, [config, "--box_loss_weight", "1"])


def test_recipe_is_the_published_one(tmp_path: Path) -> None:
    words = [str(ROOT / "configs/refcoco_plus.yaml"), "--use_cpu", "--output_dir", str(tmp_path)]
    classes = (ModelArguments, DataArguments, GroundingTrainingArguments)
    _, data_args, args = parse_arguments(classes, [*words, "--model_name_or_path", "x"])
    published = GroundingTrainingArguments(output_dir=str(tmp_path), use_cpu=True, eval_strategy="no")
    for name in ("learning_rate", "min_learning_rate", "warmup_learning_rate", "warmup_steps", "num_train_epochs"):
        assert getattr(args, name) == getattr(published, name)
    assert (args.learning_rate, args.min_learning_rate, args.num_train_epochs, args.weight_decay) == (
        1e-5,
        1e-6,
        5,
        0.02,
    )
    assert (args.per_device_train_batch_size, args.per_device_eval_batch_size, args.queue_size) == (32, 32, 65536)
    assert (args.alpha, args.distill, args.alpha_warmup, args.momentum) == (0.4, True, True, 0.995)
    assert (args.gradcam_mode, args.gradcam_layer, args.box_loss_weight) == ("itm", None, 0)
    assert data_args.dataset == "refcoco_plus"


def test_the_task_is_five_small_files() -> None:
    """Collator, trainer with its evaluator, figures and loss, script, recipe; the head is that of retrieval."""
    task = ROOT / "modeling_albef" / "training" / "grounding"
    files = [ROOT / SCRIPT, ROOT / "configs/refcoco_plus.yaml", ROOT / "processing/grounding_collator.py"]
    assert sum(len(path.read_text().splitlines()) for path in [*files, *task.glob("*.py")]) <= 600
    assert len((ROOT / SCRIPT).read_text().splitlines()) <= 90
