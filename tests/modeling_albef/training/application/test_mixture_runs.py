"""Runs on several data sets: how they are given, refused, trained on, resumed, repeated and measured."""

from __future__ import annotations

import io
import json
import shutil
from collections import defaultdict
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from run_cases import refused, write_config
from safetensors.torch import load_file
from small_models import ANSWERS, save_retrieval, save_vqa
from transformers import AutoConfig

import run_retrieval
import run_vqa
from benchmarks.soak import differences
from dataset_scripts import load_dataset_script
from modeling_albef.training import RetrievalTrainer, RetrievalTrainingArguments, VQATrainer, VQATrainingArguments
from modeling_albef.training.application import (
    DataArguments,
    ModelArguments,
    VQADataArguments,
    load_splits,
    parse_arguments,
    training_rows,
)
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
    given = [*words, "--model_name_or_path", "a/b", "--output_dir", "out", "--use_cpu"]
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


def test_names_on_the_command_line_have_weights(tmp_path: Path) -> None:
    words = ("--dataset", "shapes", "easy_vqa", "--dataset_weights", "3", "0.5")
    assert [(one.name, one.weight) for one in parse(*words).sources] == [("shapes", 3), ("easy_vqa", 0.5)]
    config = tmp_path / "config.yaml"
    config.write_text("dataset: [shapes, easy_vqa]\ndataset_weights: [3, 1e-1]\n")
    assert [one.weight for one in parse(str(config)).sources] == [3, 0.1]
    assert parse(str(config), "--dataset", "shapes").sources == []


@pytest.mark.parametrize(
    "words, message",
    [
        (["--dataset", "shapes", "vqa_v2", "--dataset_weights", "1"], "has 1 values, but dataset has 2 names: give a"),
        (["--dataset", "shapes", "--dataset_weights", "1"], "has 1 values, but dataset has 1 names: give a value"),
        (["--dataset", "shapes", "vqa_v2", "--dataset_weights", "1", "0"], "entry 2 of datasets has the weight 0.0"),
        (["--dataset", "shapes", "vqa_v2", "--dataset_weights", "nan", "1"], "entry 1 of datasets has the weight nan"),
        (["--dataset", "shapes", "vqa_v2", "--dataset_weights", "1", "inf"], "entry 2 of datasets has the weight inf"),
        (["--dataset", "a", "b", "--datasets", "[{name: shapes}]"], "dataset belongs to one data set"),
    ],
)
def test_weights_that_do_not_fit_are_refused(words: list[str], message: str) -> None:
    given = ["--model_name_or_path", "a/b", "--output_dir", "out", "--use_cpu"]
    assert message in refused(run_retrieval.main, [*given, *words])


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
        ([{"name": "shapes", "source": "a b"}], "has the source 'a b', which stands in the names of metrics"),
        ([{"name": "shapes", "source": "a"}] * 2, "datasets has two entries with the source 'a'"),
        (
            [{"name": "shapes"}, {"name": "shapes"}, {"name": "vqa_v2", "source": "shapes_1"}],
            "two entries with the source 'shapes_1'",
        ),
        (
            [{"name": "shapes", "data_dir": "x", "train_files": "a"}],
            "The source 'shapes' of datasets: data_dir belongs to a",
        ),
        ([], "datasets is [], but must be a list of mappings"),
        (["shapes"], "datasets is ['shapes'], but must be a list of mappings"),
        ({"name": "shapes"}, "datasets is {'name': 'shapes'}, but must be a list of mappings"),
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
        ({"stopping_strategy": "never"}, "invalid choice: 'never' (choose from"),
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


def test_a_source_without_evaluation_data_is_trained_on_all_the_same(tmp_path: Path) -> None:
    own = {"name": "mine", "train_files": [str(own_table(tmp_path, 3))], "image_root": str(tmp_path)}
    config = write_config(tmp_path, **{**MIXTURE, "datasets": [own, DATASETS[0]]}, max_steps=1)
    run_retrieval.main([config])
    metrics = json.loads((tmp_path / "out" / "all_results.json").read_text())
    measured = {name for name in metrics if name.endswith("r_mean") and name.count("_") == 3}
    assert measured == {"eval_first_r_mean", "test_first_r_mean"}
    record = yaml.safe_load((tmp_path / "out" / "run.yaml").read_text())
    assert record["run"]["data"]["train"]["images of mine"] == 3
    folder = tmp_path / "none"
    folder.mkdir()
    message = refused(run_retrieval.main, [write_config(folder, **{**MIXTURE, "datasets": [own]})])
    assert message.startswith("The validation data of the source 'mine' cannot be used. There is no validation data: ")


@pytest.mark.parametrize("split", ["train", "validation"])
def test_all_sources_need_training_data_and_files_that_can_be_read(tmp_path: Path, split: str) -> None:
    own = {"name": "mine", "validation_files": [str(tmp_path / "missing.csv")]}
    own |= {"train_files": [str(own_table(tmp_path, 3))], "image_root": str(tmp_path)} if split == "validation" else {}
    message = refused(run_retrieval.main, [write_config(tmp_path, **{**MIXTURE, "datasets": [DATASETS[0], own]})])
    assert message.startswith(f"The {split} data of the source 'mine' cannot be used. ")


def own_table(folder: Path, length: int, **columns: str) -> Path:
    """A table of captions, or of other columns, with its images."""
    columns = columns or {"caption": "a red square"}
    rows = [f"image,image_id,{','.join(columns)}"]
    for number in range(length):
        Image.new("RGB", (32, 32), (40 * number, 9, 9)).save(folder / f"{number}.png")
        rows.append(f"{number}.png,{number},{','.join(columns.values())}")
    path = folder / "own.csv"
    path.write_text("\n".join(rows))
    return path


@pytest.mark.parametrize("task", ["retrieval", "vqa"])
def test_the_table_of_another_task_is_named(tmp_path: Path, task: str) -> None:
    columns = {"caption": "a red square"} if task == "vqa" else {"question": "is it red?", "answer": "yes"}
    own = {"name": "mine", "train_files": [str(own_table(tmp_path, 3, **columns))], "image_root": str(tmp_path)}
    message = refused(SCRIPTS[task], [write_config(tmp_path, **{**MIXTURE, "datasets": [DATASETS[0], own]})])
    assert message.startswith("The train data of the source 'mine' cannot be used. ") and "own.csv" in message
    missing = "caption" if task == "retrieval" else "question"
    assert missing in message


def test_a_builder_of_another_task_is_named(tmp_path: Path) -> None:
    datasets = [DATASETS[0], {"name": "vqa_v2", "data_dir": str(tmp_path)}]
    message = refused(run_retrieval.main, [write_config(tmp_path, **{**MIXTURE, "datasets": datasets})])
    assert "source 'vqa_v2' cannot be used. Configuration 'retrieval' not found in the data set vqa_v2" in message


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
    data_args = data_class(**{"datasets": DATASETS, "augmentation": False, **changes})
    return load_splits(data_args, args, task), data_args, args


@pytest.mark.parametrize("task", ["retrieval", "vqa"])
def test_images_of_all_sources_have_ids_of_their_own(task: str) -> None:
    splits, *_ = load(task)
    pixels: dict[str, set[bytes]] = defaultdict(set)
    for row in splits["train"]:
        pixels[row["image_id"]].add(row["image"]["bytes"])
    assert len(pixels) == 3 * SIZES["num_train"] and all(len(images) == 1 for images in pixels.values())
    if task == "vqa":
        assert len(set(splits["train"]["question_id"])) == len(splits["train"])


@pytest.mark.parametrize("task", ["retrieval", "vqa"])
def test_the_epoch_reaches_the_draw(task: str) -> None:
    splits, data_args, args = load(task)
    rows = training_rows(splits["train"], data_args, args, None, None)
    text = "caption" if task == "retrieval" else "question"
    epochs = []
    for epoch in (0, 1, 0):
        rows.set_epoch(epoch)
        epochs.append([(row["image_id"], row[text]) for row in (rows[i] for i in range(len(rows)))])
    assert epochs[0] == epochs[2] and epochs[0] != epochs[1] and len(epochs[0]) == len(epochs[1])


@pytest.mark.parametrize("task", ["retrieval", pytest.param("vqa", marks=pytest.mark.slow)])
def test_2000_rows_of_a_trainer_have_the_shares_within_sampling_error(task: str, tmp_path: Path) -> None:
    many = {**SIZES, "num_train": 1_500, "image_size": 16}  # no source is exhausted within the draws
    entries = [{**entry, "dataset_config": {**many, "seed": seed}} for seed, entry in enumerate(DATASETS)]
    splits, data_args, args = load(task, datasets=entries)
    args.per_device_train_batch_size = 8
    rows = training_rows(splits["train"], data_args, args, None, None)
    save, trainer_class = {"retrieval": (save_retrieval, RetrievalTrainer), "vqa": (save_vqa, VQATrainer)}[task]
    model, options = save(tmp_path), {"answer_list": ANSWERS} if task == "vqa" else {}
    options |= {"processing_class": AlbefProcessor.from_pretrained(tmp_path), "data_collator": sources_of}
    trainer = trainer_class(model, args, train_dataset=rows, **options)
    drawn = [source for batch in islice(trainer.get_train_dataloader(), 2_000 // 8) for source in batch["sources"]]
    for number, share in enumerate((0.5, 0.3, 0.2)):
        error = (2_000 * share * (1 - share)) ** 0.5  # standard deviation of a binomial count
        assert abs(drawn.count(number) - 2_000 * share) < 4 * error
    assert len(drawn) == 2_000


def sources_of(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """A batch of nothing but the number of each row's source."""
    names = ["first", "second", "shapes"]
    return {"sources": torch.tensor([names.index(row["image_id"].partition("/")[0]) for row in rows])}


def test_questions_of_an_image_follow_each_other_in_every_epoch(tmp_path: Path) -> None:
    splits, data_args, args = load("vqa")
    args.group_by_image = True
    model, processor = save_vqa(tmp_path), AlbefProcessor.from_pretrained(tmp_path)
    rows = training_rows(splits["train"], data_args, args, model, processor)
    trainer = VQATrainer(model, args, answer_list=ANSWERS, train_dataset=rows, processing_class=processor)
    sampler = trainer._get_train_sampler()
    for epoch in (0, 1):
        trainer.train_dataset.set_epoch(epoch)
        sampler.set_epoch(epoch)
        order = list(sampler)
        assert sorted(order) == list(range(len(trainer.train_dataset)))
        images = [trainer.train_dataset[row]["image_id"] for row in order]
        changes = sum(one != other for one, other in pairwise(images))
        assert changes == len(set(images)) - 1


def test_stored_image_states_are_drawn_with_their_rows(tmp_path: Path) -> None:
    stores = {"store_image_states": True, "image_state_dir": str(tmp_path / "states"), "image_state_dtype": "float32"}
    splits, data_args, args = load("retrieval", **stores)
    args.freeze = ["vision_model"]
    model, processor = save_retrieval(tmp_path).eval(), AlbefProcessor.from_pretrained(tmp_path)
    rows = training_rows(splits["train"], data_args, args, model, processor)
    images = {row["image_id"]: row["image"]["bytes"] for row in splits["train"]}
    drawn = []
    for epoch in (0, 1):
        rows.set_epoch(epoch)
        drawn += [rows[index] for index in range(12)]
    for row in drawn:
        image = Image.open(io.BytesIO(images[row["image_id"]])).convert("RGB")
        pixels = processor.image_processor(images=image, return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            states = model.base_model.vision_model(pixels).last_hidden_state[0]
        assert torch.allclose(row["image_hidden_states"], states, atol=1e-5)
    assert [row["caption"] for row in drawn[:12]] != [row["caption"] for row in drawn[12:]]


@pytest.mark.parametrize("task", ["retrieval", "vqa"])
def test_an_evaluation_has_the_rows_of_each_source_as_they_are_alone(task: str) -> None:
    splits, *_ = load(task)
    assert list(splits["validation"]) == ["first", "second", "shapes"]
    for entry, rows in zip(DATASETS, splits["validation"].values(), strict=True):
        alone = load_dataset_script("shapes", task, split="validation", **entry["dataset_config"])
        assert rows.with_format("arrow")[:].to_pydict() == alone.with_format("arrow")[:].to_pydict()


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
    return write_config(
        folder, **{**MIXTURE, **steps, **own, "logging_steps": 1, "metric_for_best_model": f"second_{NAMES[task]}"}
    )


NAMES = {"retrieval": "r_mean", "vqa": "vqa_accuracy"}
METRICS = {
    "retrieval": ("r_mean", "txt_r1", "img_r10", "img_median_rank"),
    "vqa": ("vqa_accuracy", "vqa_accuracy_yes_no", "vqa_accuracy_other", "vqa_accuracy_interval"),
}


def test_metrics_and_predictions_of_each_source_are_those_of_a_run_on_it_alone(
    finished: tuple[str, Path], tmp_path: Path
) -> None:
    task, folder = finished
    metrics, name = json.loads((folder / "out" / "all_results.json").read_text()), NAMES[task]
    file = {"retrieval": "predictions.json", "vqa": "vqa_result.json"}[task]
    answers = {"answer_list": str(tmp_path / "answers.json")} if task == "vqa" else {}
    if task == "vqa":
        known = AutoConfig.from_pretrained(folder / "out").decoder_config.answer_list
        (tmp_path / "answers.json").write_text(json.dumps(known))
    measured = set()
    for entry, source in zip(DATASETS, ("first", "second", "shapes"), strict=True):
        own = {"dataset": "shapes", "dataset_config": entry["dataset_config"], "model_config": None, **answers}
        own |= {"model_name_or_path": str(folder / "out"), "output_dir": str(tmp_path / source), "do_train": False}
        SCRIPTS[task]([write_config(tmp_path, **own)])
        alone = json.loads((tmp_path / source / "all_results.json").read_text())
        pairs = {(split, one) for split in ("eval", "test") for one in METRICS[task]}
        for split, one in pairs:
            assert metrics[f"{split}_{source}_{one}"] == alone[f"{split}_{one}"], (source, split, one)
        measured.add(alone[f"eval_{name}"])
        theirs = json.loads((folder / "out" / f"test_{source}" / file).read_text())
        assert theirs == json.loads((tmp_path / source / file).read_text())
    assert len(measured) > 1  # not the same figure three times


def test_the_best_checkpoint_is_that_of_the_named_source(finished: tuple[str, Path]) -> None:
    task, folder = finished
    state = json.loads((folder / "out" / "trainer_state.json").read_text())
    key = f"eval_second_{NAMES[task]}"
    measured = [line[key] for line in state["log_history"] if key in line]
    assert state["best_metric"] == max(measured) and len(measured) == 4
    assert state["epoch"] > 1  # the draw of the second epoch was read, too


def test_the_record_and_the_page_name_the_sources(finished: tuple[str, Path]) -> None:
    task, folder = finished
    record = yaml.safe_load((folder / "out" / "run.yaml").read_text())
    assert record["run"]["mixture"]["shares"] == pytest.approx({"first": 0.5, "second": 0.3, "shapes": 0.2})
    rows = "images" if task == "retrieval" else "questions"
    train = record["run"]["data"]["train"]
    assert sum(train[f"{rows} of {source}"] for source in ("first", "second", "shapes")) == train[rows]
    assert record["run"]["data"]["validation"]["images"] == 8 + 8 + 6
    assert record["datasets"] == DATASETS
    page = (folder / "out" / "report.html").read_text()
    assert "validation: second" in page and "test: shapes" in page and f"second_{NAMES[task]}" in page


@pytest.mark.parametrize("finished", ["retrieval"], indirect=True)
def test_thresholds_are_those_of_the_first_source(finished: tuple[str, Path], tmp_path: Path) -> None:
    _, folder = finished
    words = {"do_train": False, "do_predict": False, "calibrate": True, "model_config": None}
    words |= {"model_name_or_path": str(folder / "out")}
    found = []
    for data in (MIXTURE, {"dataset": "shapes", "dataset_config": DATASETS[0]["dataset_config"]}):
        run_retrieval.main([write_config(tmp_path, **{**words, **data, "output_dir": str(tmp_path / "calibrated")})])
        found.append(AutoConfig.from_pretrained(tmp_path / "calibrated").search_calibration)
        shutil.rmtree(tmp_path / "calibrated")
    assert found[0] == found[1] != {}


def test_the_shares_are_said_before_training(finished: tuple[str, Path], capsys: Any, tmp_path: Path) -> None:
    task, _ = finished
    SCRIPTS[task]([config_of(tmp_path, task), "--max_steps", "1", "--do_predict", "false", "--do_eval", "false"])
    lines = capsys.readouterr().out.splitlines()
    assert next(line for line in lines if line.startswith("mixture")).split(maxsplit=1)[1] == (
        "50.0 % first, 30.0 % second, 20.0 % shapes; first_exhausted"
    )


@pytest.mark.slow
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
