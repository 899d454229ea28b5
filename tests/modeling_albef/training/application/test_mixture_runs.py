"""Runs on several data sets: how they are given, refused, trained on, resumed, repeated and measured."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from run_cases import refused, write_config
from safetensors.torch import load_file
from small_models import ANSWERS, save_retrieval, save_vqa

import run_retrieval
import run_vqa
from benchmarks.soak import differences
from dataset_scripts import load_dataset_script
from modeling_albef.training import RetrievalTrainingArguments, VQATrainer, VQATrainingArguments
from modeling_albef.training.application import (
    DataArguments,
    ModelArguments,
    VQADataArguments,
    load_splits,
    parse_arguments,
    training_rows,
)
from modeling_albef.training.evaluation.retrieval import RetrievalEvaluator
from modeling_albef.training.evaluation.vqa import VQAEvaluator
from processing import AlbefProcessor

SCRIPTS: dict[str, Any] = {"retrieval": run_retrieval.main, "vqa": run_vqa.main}
SIZES = {"num_train": 24, "num_validation": 8, "num_test": 8, "image_size": 32}
DATASETS: list[dict[str, Any]] = [
    {"name": "shapes", "source": "first", "weight": 0.5, "dataset_config": SIZES},
    {"name": "shapes", "source": "second", "weight": 0.3, "dataset_config": {**SIZES, "seed": 1}},
    {"name": "shapes", "weight": 0.2, "dataset_config": {**SIZES, "seed": 2, "num_validation": 6}},
]
MIXTURE: dict[str, Any] = {"dataset": None, "dataset_config": None, "datasets": DATASETS}


def parse(*words: str) -> DataArguments:
    """The data of a run that is started with these words."""
    given = ["--model_name_or_path", "a/b", "--output_dir", "out", "--use_cpu", *words]
    return parse_arguments((ModelArguments, DataArguments, RetrievalTrainingArguments), given)[1]


# ---- how a mixture is given


def test_names_on_the_command_line_are_mixed_in_equal_shares() -> None:
    sources = parse("--dataset", "shapes", "easy_vqa").sources
    assert [(one.name, one.weight, one.data.dataset) for one in sources] == [
        ("shapes", 1, "shapes"),
        ("easy_vqa", 1, "easy_vqa"),
    ]
    assert (parse("--dataset", "shapes").dataset, parse("--dataset", "shapes").sources) == ("shapes", [])
    assert [one.name for one in parse("--dataset", "shapes", "shapes").sources] == ["shapes_1", "shapes_2"]


def test_entries_have_the_fields_of_one_data_set_and_share_all_others(tmp_path: Path) -> None:
    entries = [{"name": "shapes"}, {"name": "mine", "train_files": "a.csv", "image_root": "photos", "weight": 3}]
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"datasets": entries, "max_rows": 5, "image_root": "others"}))
    for words in ([str(config)], ["--datasets", json.dumps(entries), "--max_rows", "5", "--image_root", "others"]):
        given = ["--model_name_or_path", "a/b", "--output_dir", "out", "--use_cpu"]
        data_args = parse_arguments((ModelArguments, DataArguments, RetrievalTrainingArguments), [*words, *given])[1]
        first, second = data_args.sources
        assert (first.weight, first.data.dataset, first.data.image_root) == (1, "shapes", "others")
        assert (second.name, second.weight, second.data.dataset) == ("mine", 3, None)
        assert (second.data.train_files, second.data.image_root) == (["a.csv"], "photos")
        assert first.data.max_rows == second.data.max_rows == 5


def test_the_command_line_takes_the_place_of_the_files_mixture(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"datasets": DATASETS, "model_name_or_path": "a/b", "output_dir": "out"}))
    for words, dataset, names in (
        (["--dataset", "shapes"], "shapes", []),
        (["--dataset", "shapes", "vqa_v2"], None, ["shapes", "vqa_v2"]),
        (["--datasets", "[{name: shapes, weight: 2}]"], None, ["shapes"]),
        (["--train_files", "a.csv"], None, []),
    ):
        _, data_args, _ = parse_arguments(
            (ModelArguments, DataArguments, RetrievalTrainingArguments), [str(config), "--use_cpu", *words]
        )
        assert (data_args.dataset, [one.name for one in data_args.sources]) == (dataset, names)


@pytest.mark.parametrize(
    "datasets, words",
    [
        ([{"name": "shapes", "weight": 0}], "entry 1 of datasets has the weight 0, but it must be a number above 0."),
        ([{"name": "shapes"}, {"name": "vqa_v2", "weight": -0.5}], "entry 2 of datasets has the weight -0.5, but"),
        ([{"name": "shapes", "weight": "much"}], "has the weight 'much', but it must be a number above 0."),
        ([{"name": "shapes", "weight": True}], "has the weight True, but"),
        ([{"name": "shapes", "weight": float("nan")}], "has the weight nan, but"),
        ([{"weight": 1}], "entry 1 of datasets has no name: give that of a builder"),
        ([{"name": "shapes", "wieght": 1}], "entry 1 of datasets has the field 'wieght', which is not known; there"),
        ([{"name": "shapes", "source": "a b"}], "has the source 'a b', which stands before the names of metrics"),
        ([{"name": "shapes", "source": "txt"}], "has the source 'txt', which stands before the names of metrics"),
        ([{"name": "shapes", "source": "a_img"}], "has the source 'a_img', which stands before"),
        ([{"name": "shapes", "source": "a"}] * 2, "datasets has two entries with the source 'a'"),
        (
            [{"name": "shapes"}, {"name": "shapes"}, {"name": "vqa_v2", "source": "shapes_1"}],
            "two entries with the source 'shapes_1'",
        ),
        ([{"name": "shapes", "data_dir": "x", "train_files": "a"}], "entry 1 of datasets: give either dataset, or"),
        ([], "datasets is [], but must be a list of mappings"),
        (["shapes"], "datasets is"),
        ("shapes", "datasets is 'shapes', but must be a list of mappings"),
        ("[{", "datasets is neither JSON nor YAML of a list of mappings"),
    ],
)
def test_entries_that_cannot_be_used_are_refused(tmp_path: Path, datasets: Any, words: str) -> None:
    config = write_config(tmp_path, dataset=None, dataset_config=None, datasets=datasets)
    assert words in refused(run_retrieval.main, [config])


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"dataset": "shapes"}, "dataset belongs to one data set: give it in the entries of datasets."),
        ({"dataset_config": {"seed": 1}}, "dataset_config belongs to one data set"),
        ({"train_files": ["a.csv"]}, "train_files belongs to one data set"),
        ({"stopping_strategy": "never"}, "stopping_strategy is 'never', but must be one of first_exhausted,"),
    ],
)
def test_fields_beside_a_mixture_are_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    assert words in refused(run_retrieval.main, [write_config(tmp_path, **{**MIXTURE, **changes})])


@pytest.mark.parametrize(
    "entry, words",
    [
        ({"name": "unheard_of"}, "source 'unheard_of' cannot be used. No data set is called 'unheard_of'; there are:"),
        ({"name": "mine", "train_files": []}, "No data set is called 'mine'"),
        ({"name": "shapes", "source": "x", "dataset_config": {"hue": 1}}, "source 'x' cannot be used. The data set "),
        (
            {"name": "own_data", "validation_files": ["a.csv"]},
            "train data of the source 'own_data' cannot be used.",
        ),
    ],
)
def test_sources_that_cannot_be_loaded_are_named(tmp_path: Path, entry: dict[str, Any], words: str) -> None:
    config = write_config(tmp_path, **{**MIXTURE, "datasets": [DATASETS[0], entry]})
    message = refused(run_retrieval.main, [config])
    assert words in message and "Traceback" not in message


def test_a_source_without_a_split_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("image,caption\n")
    entry = {"name": "mine", "train_files": [str(tmp_path / "train.csv")]}
    config = write_config(tmp_path, **{**MIXTURE, "datasets": [entry, DATASETS[0]]}, do_train=False)
    message = refused(run_retrieval.main, [config])
    assert message.startswith("The validation data of the source 'mine' cannot be used. There is no validation data: ")


# ---- what is trained on, and what is measured


def load(task: str, **changes: Any) -> tuple[dict[str, Any], Any, Any]:
    """The splits of a mixture, with the arguments that they were loaded by."""
    classes = {
        "retrieval": (DataArguments, RetrievalTrainingArguments),
        "vqa": (VQADataArguments, VQATrainingArguments),
    }
    data_class, arguments_class = classes[task]
    options: dict[str, Any] = {"output_dir": "unused", "use_cpu": True, "do_train": True, "do_eval": True}
    args = arguments_class(**options, eval_strategy="no", report_to="none", seed=3)
    data_args = data_class(datasets=DATASETS, augmentation=False, **changes)
    return load_splits(data_args, args, task), data_args, args


@pytest.mark.parametrize("task", ["retrieval", "vqa"])
def test_images_of_all_sources_have_ids_of_their_own(task: str) -> None:
    splits, *_ = load(task)
    pixels: dict[str, set[bytes]] = defaultdict(set)
    for row in splits["train"]:
        pixels[row["image_id"]].add(row["image"]["bytes"])
    assert len(pixels) == 3 * SIZES["num_train"] and all(len(images) == 1 for images in pixels.values())
    if task == "vqa":
        assert len(set(splits["validation"]["question_id"])) == len(splits["validation"])


@pytest.mark.parametrize("task", ["retrieval", "vqa"])
def test_the_epoch_reaches_the_draw(task: str) -> None:
    splits, data_args, args = load(task)
    rows = training_rows(splits["train"], data_args, args, 32)
    assert rows is not None
    text = "caption" if task == "retrieval" else "question"
    epochs = []
    for epoch in (0, 1, 0):
        rows.set_epoch(epoch)  # type: ignore[union-attr]
        epochs.append([(row["image_id"], row[text]) for row in (rows[i] for i in range(len(rows)))])  # type: ignore
    assert epochs[0] == epochs[2] and epochs[0] != epochs[1] and len(epochs[0]) == len(epochs[1])


def test_questions_of_an_image_follow_each_other_in_every_epoch(tmp_path: Path) -> None:
    splits, data_args, args = load("vqa")
    args.group_by_image = True
    model, processor = save_vqa(tmp_path), AlbefProcessor.from_pretrained(tmp_path)
    rows = training_rows(splits["train"], data_args, args, 32)
    trainer = VQATrainer(model, args, answer_list=ANSWERS, train_dataset=rows, processing_class=processor)
    sampler = trainer._get_train_sampler()
    for epoch in (0, 1):
        trainer.train_dataset.set_epoch(epoch)
        sampler.set_epoch(epoch)
        order = list(sampler)
        assert sorted(order) == list(range(len(trainer.train_dataset)))
        images = [trainer.train_dataset[row]["image_id"] for row in order]
        changes = sum(one != other for one, other in zip(images, images[1:], strict=False))
        assert changes == len(set(images)) - 1


@pytest.mark.parametrize("task", ["retrieval", "vqa"])
def test_metrics_by_source_are_those_of_the_source_alone(task: str, tmp_path: Path) -> None:
    splits, *_ = load(task)
    model = save_retrieval(tmp_path) if task == "retrieval" else save_vqa(tmp_path)
    processor = AlbefProcessor.from_pretrained(tmp_path)

    def metrics(rows: Any) -> dict[str, float]:
        if task == "vqa":
            return VQAEvaluator(model, processor, answer_list=["yes", "no", "red", "blue", "square", "2"])(rows).metrics
        result = RetrievalEvaluator(model, processor, k_test=100)(rows)
        return result.metrics | {name: value for name, value in result.details.items() if isinstance(value, float)}

    joint = metrics(splits["validation"])
    alone = {}
    for entry in DATASETS:
        rows = load_dataset_script("shapes", task, split="validation", **entry["dataset_config"])
        alone[entry.get("source", "shapes")] = metrics(rows)
    names = ("r_mean", "txt_r1", "txt_r5", "img_r1", "img_r10") if task == "retrieval" else ("vqa_accuracy",)
    for source, own in alone.items():
        for name in names:
            assert joint[f"{source}_{name}"] == pytest.approx(own[name]), (source, name)
    assert len({own[names[0]] for own in alone.values()}) > 1  # not the same figure three times
    if task == "vqa":
        sizes = [32, 32, 24]
        mean = sum(own["vqa_accuracy"] * size for own, size in zip(alone.values(), sizes, strict=True)) / sum(sizes)
        assert joint["vqa_accuracy"] == pytest.approx(mean)


# ---- whole runs


@pytest.fixture(scope="module", params=["retrieval", "vqa"])
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A run of two epochs and a half with checkpoints in the middle of epochs."""
    folder, task = tmp_path_factory.mktemp(request.param), request.param
    SCRIPTS[task]([config_of(folder, task)])
    return task, folder


def config_of(folder: Path, task: str) -> str:
    steps = {"max_steps": 20, "eval_steps": 5, "save_steps": 5, "eval_strategy": "steps", "save_strategy": "steps"}
    own = {"queue_size": 24} if task == "retrieval" else {"per_device_train_batch_size": 20}
    return write_config(folder, **{**MIXTURE, **steps, **own, "logging_steps": 1, "metric_for_best_model": BEST[task]})


BEST = {"retrieval": "second_r_mean", "vqa": "second_vqa_accuracy"}


def test_a_run_measures_each_source_and_all_together(finished: tuple[str, Path]) -> None:
    task, folder = finished
    metrics = json.loads((folder / "out" / "all_results.json").read_text())
    name = "r_mean" if task == "retrieval" else "vqa_accuracy"
    for split in ("eval", "test"):
        assert all(0 <= metrics[f"{split}_{prefix}{name}"] <= 100 for prefix in ("", "first_", "second_", "shapes_"))
    state = json.loads((folder / "out" / "trainer_state.json").read_text())
    measured = [line[f"eval_second_{name}"] for line in state["log_history"] if f"eval_second_{name}" in line]
    assert state["best_metric"] == max(measured) and len(measured) == 4
    assert state["epoch"] > 1  # the draw of the second epoch was read, too
    record = yaml.safe_load((folder / "out" / "run.yaml").read_text())
    assert record["run"]["mixture"]["shares"] == pytest.approx({"first": 0.5, "second": 0.3, "shapes": 0.2})
    assert set(record["run"]["data"]["train"]["rows_by_source"]) == {"first", "second", "shapes"}
    assert record["datasets"] == DATASETS


def test_predictions_say_their_source(finished: tuple[str, Path]) -> None:
    task, folder = finished
    if task == "vqa":
        answers = json.loads((folder / "out" / "vqa_result.json").read_text())
        assert len({one["question_id"] for one in answers}) == len(answers) == 96
        assert all(one["question_id"].startswith(f"{one['source']}/") for one in answers)
        return
    predictions = json.loads((folder / "out" / "predictions.json").read_text())
    assert [one["source"] for one in predictions["image_to_text"]] == ["first"] * 8 + ["second"] * 8 + ["shapes"] * 8
    assert [one["source"] for one in predictions["text_to_image"]] == [
        source for source in ("first", "second", "shapes") for _ in range(16)
    ]


@pytest.mark.parametrize("checkpoint", [5, 15])
def test_a_run_that_is_cut_off_goes_on_to_the_bit(finished: tuple[str, Path], tmp_path: Path, checkpoint: int) -> None:
    task, folder = finished
    for name in ("out", "cut"):
        shutil.copytree(folder / "out", tmp_path / name)
    for later in range(checkpoint + 5, 21, 5):
        shutil.rmtree(tmp_path / "cut" / f"checkpoint-{later}", ignore_errors=True)
    words = ["--output_dir", str(tmp_path / "cut"), "--resume_from_checkpoint", "last"]
    SCRIPTS[task]([config_of(tmp_path, task), *words])
    assert differences(tmp_path / "out", tmp_path / "cut", task, 20) == []


def test_run_yaml_repeats_a_mixture_to_the_bit(finished: tuple[str, Path], tmp_path: Path) -> None:
    task, folder = finished
    SCRIPTS[task]([str(folder / "out" / "run.yaml"), "--output_dir", str(tmp_path / "again")])
    first, second = (load_file(one / "model.safetensors") for one in (folder / "out", tmp_path / "again"))
    assert all(torch.equal(first[name], second[name]) for name in first.keys() | second.keys())
    assert yaml.safe_load((tmp_path / "again" / "run.yaml").read_text())["run"]["differs"] == []


def test_a_start_from_python_takes_names_and_entries() -> None:
    assert DataArguments(dataset="shapes").dataset == "shapes"
    assert [one.name for one in DataArguments(dataset=["shapes", "easy_vqa"]).sources] == ["shapes", "easy_vqa"]
    assert [one.weight for one in DataArguments(datasets=DATASETS).sources] == [0.5, 0.3, 0.2]
    assert DataArguments().sources == []
