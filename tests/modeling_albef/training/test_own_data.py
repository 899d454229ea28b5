"""A data set of one's own, from Python: what the trainers take of it, and by what names they measure it."""

from __future__ import annotations

import io
import random
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from small_models import ANSWERS, WORDS, save_retrieval, save_vqa
from torch.utils.data import Dataset, IterableDataset, Subset
from transformers import EarlyStoppingCallback, TrainerCallback

from modeling_albef import AlbefForImageTextRetrieval, AlbefForQuestionAnswering
from modeling_albef.training import (
    RetrievalResult,
    RetrievalTrainer,
    RetrievalTrainingArguments,
    SettingError,
    VQAResult,
    VQATrainer,
    VQATrainingArguments,
    last_checkpoint,
)
from modeling_albef.training.sampling import OneCaptionRows, one_caption_a_row
from processing import (
    AlbefProcessor,
    AugmentedDataset,
    ProcessingError,
    RetrievalCollator,
    TrainingAugmentation,
    VQACollator,
)

OPTIONS: dict[str, Any] = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no"}
OPTIONS |= {"per_device_train_batch_size": 3, "num_train_epochs": 1, "logging_steps": 1, "warmup_steps": 0, "seed": 3}
LIMIT = 12  # positions of the models' texts


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models with few positions, and pictures."""
    folder = tmp_path_factory.mktemp("place")
    for task, save, model_class in (
        ("retrieval", save_retrieval, AlbefForImageTextRetrieval),
        ("vqa", save_vqa, AlbefForQuestionAnswering),
    ):
        config = save(folder / task).config
        parts = [part for part in (config.text_config, config.decoder_config) if part is not None]
        for part in parts:
            part.max_position_embeddings = LIMIT
        torch.manual_seed(0)
        model_class(config).save_pretrained(folder / task)
    for number in range(9):
        Image.new("RGB", (40, 30), (28 * number, 90, 255 - 28 * number)).save(folder / f"{number}.png")
    return folder


def lists(place: Path, count: int = 9, **more: Any) -> list[dict[str, Any]]:
    """A row an image, with one to three captions."""
    return [
        {
            "image": str(place / f"{n}.png"),
            "caption": [f"{WORDS[(n + k) % 4]} {n} {k}" for k in range(1 + n % 3)],
            **more,
        }
        for n in range(count)
    ]


def retrieval_trainer(
    place: Path, folder: Path, train: Any, trainer_class: Any = RetrievalTrainer, **given: Any
) -> Any:
    """Made with nothing but a model, arguments, data and a processor."""
    names = {"callbacks", "compute_metrics", "eval_dataset", "data_collator", "processing_class"}
    parts = {name: given.pop(name) for name in names & given.keys()}
    options = {**OPTIONS, "queue_size": 6, "k_test": 4, "eval_strategy": "no", **given}
    return trainer_class(
        model=AlbefForImageTextRetrieval.from_pretrained(place / "retrieval"),
        args=RetrievalTrainingArguments(output_dir=str(folder), **options),
        train_dataset=train,
        **{"processing_class": AlbefProcessor.from_pretrained(place / "retrieval"), **parts},
    )


class Seen(TrainerCallback):
    """Collects what the trainer's collator is handed, by epoch."""

    def __init__(self, trainer: Any) -> None:
        self.rows: list[tuple[str, str]] = []
        collator = trainer.data_collator

        def collate(rows: list[dict[str, Any]]) -> Any:
            self.rows += [(str(row["image"]), row["caption"]) for row in rows]
            return collator(rows)

        trainer.data_collator = collate


# ---- captions in lists


class Own(Dataset):
    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]


class OwnStream(IterableDataset):
    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __iter__(self) -> Any:
        return iter(self.rows)


def pairs(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(row["image"], caption) for row in rows for caption in row["caption"] or ()]


@pytest.mark.slow
def test_lists_of_captions_are_dealt_out_whatever_holds_them(place: Path, tmp_path: Path) -> None:
    """Every caption once an epoch, with its own image."""
    rows = lists(place)
    rows[4]["caption"] = []
    for kind in (rows, tuple(rows), Own(rows), Subset(Own(rows), range(9)), datasets.Dataset.from_list(rows)):
        trainer = retrieval_trainer(place, tmp_path, kind, num_train_epochs=2, dataloader_drop_last=False)
        assert len(trainer.train_dataset) == len(pairs(rows)) == 16
        seen = Seen(trainer)
        trainer.train()
        assert Counter(seen.rows) == Counter(pairs(rows) * 2)
        assert seen.rows[:16] != seen.rows[16:] != pairs(rows)  # in another order each time


@pytest.mark.slow
def test_streams_are_dealt_out_too(place: Path, tmp_path: Path) -> None:
    rows = lists(place)
    table = datasets.Dataset.from_list(rows)
    pictures = table.cast_column("image", datasets.Image()).to_iterable_dataset()
    for kind in (OwnStream(rows), table.to_iterable_dataset(), pictures):
        trainer = retrieval_trainer(place, tmp_path, kind, max_steps=6)
        seen = Seen(trainer)
        trainer.train()
        assert [caption for _, caption in seen.rows][:18] == [caption for _, caption in pairs(rows)][:18]


def test_rows_with_one_caption_stay_as_they_are(place: Path) -> None:
    single = [{**row, "caption": row["caption"][0]} for row in lists(place)]
    table = datasets.Dataset.from_list(single)
    for kind in (single, Own(single), table, AugmentedDataset(table), table.to_iterable_dataset(), None, []):
        assert one_caption_a_row(kind) is kind


def test_augmented_rows_are_dealt_out_and_told_the_epoch(place: Path, tmp_path: Path) -> None:
    rows = AugmentedDataset(datasets.Dataset.from_list(lists(place)), TrainingAugmentation(32), seed=1)
    trainer = retrieval_trainer(place, tmp_path, rows, num_train_epochs=2)
    assert isinstance(trainer.train_dataset, OneCaptionRows) and len(trainer.train_dataset) == 18
    before = trainer.train_dataset[1]["image"].tobytes()
    trainer.train()
    assert int(rows._epoch) == 1 and trainer.train_dataset[1]["image"].tobytes() != before
    ids = trainer.data_collator([trainer.train_dataset[row] for row in range(4)])["image_ids"].tolist()
    assert ids[1] == ids[2] and len({*ids}) == 3  # rows 1 and 2 are of the second image


def test_dealing_out_goes_on_where_it_was_cut(place: Path, tmp_path: Path) -> None:
    options = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 4}
    whole = retrieval_trainer(place, tmp_path, lists(place), **options)
    seen = Seen(whole)
    whole.train()
    again = retrieval_trainer(place, tmp_path / "again", lists(place), **options)
    rest = Seen(again)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    assert seen.rows[-12:] == rest.rows[-12:]  # four steps of three rows
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name


# ---- collator and limits


def test_the_collator_comes_from_the_processor_and_the_limit_from_the_model(place: Path, tmp_path: Path) -> None:
    long = [{**row, "caption": " ".join(["blue circle"] * 40)} for row in lists(place)]
    mine = RetrievalCollator(AlbefProcessor.from_pretrained(place / "retrieval"))
    for given in ({}, {"data_collator": mine}):
        trainer = retrieval_trainer(place, tmp_path, long, **given)
        assert isinstance(trainer.data_collator, RetrievalCollator)
        batch = trainer.data_collator(long[:2])
        assert batch["input_ids"].shape == (2, LIMIT)
        trainer.train()
    assert mine.max_length is None  # what the user holds stays as it was
    shorter = RetrievalCollator(mine.processor, max_length=5)
    assert retrieval_trainer(place, tmp_path, long, data_collator=shorter).data_collator is shorter


def test_a_limit_of_the_tokenizer_holds_without_a_trainer(place: Path) -> None:
    processor = AlbefProcessor.from_pretrained(place / "retrieval")
    row = {"image": str(place / "1.png"), "caption": " ".join(["blue"] * 25), "image_id": 1}
    assert RetrievalCollator(processor)([row])["input_ids"].shape == (1, 26)
    processor.tokenizer.model_max_length = 9
    assert RetrievalCollator(processor)([row])["input_ids"].shape == (1, 9)


def test_a_message_names_the_file_of_an_image(place: Path, tmp_path: Path) -> None:
    trainer = retrieval_trainer(place, tmp_path, lists(place))
    names = trainer.data_collator([trainer.train_dataset[0], {**trainer.train_dataset[1], "image_name": "'there'"}])
    assert names["image_names"] == [repr(str(place / "0.png")), "'there'"]


def test_without_a_processor_there_is_a_sentence(place: Path, tmp_path: Path) -> None:
    trainer = retrieval_trainer(place, tmp_path, lists(place), processing_class=None)
    with pytest.raises(Exception, match="needs an AlbefProcessor: give it to the trainer as processing_class"):
        trainer.evaluate(lists(place))
    with pytest.raises(SettingError, match="There is no data to evaluate: give eval_dataset"):
        trainer.evaluate()
    tokenizer = AlbefProcessor.from_pretrained(place / "retrieval").tokenizer
    with pytest.raises(SettingError, match=r"processing_class is a \w+, but must be an AlbefProcessor"):
        retrieval_trainer(place, tmp_path, lists(place), processing_class=tokenizer)
    args = VQATrainingArguments(str(tmp_path), eval_strategy="no", **OPTIONS)
    for given in ({}, {"processing_class": tokenizer}):
        with pytest.raises(SettingError, match=r"processing_class is a \w+, but must be an AlbefProcessor"):
            VQATrainer(AlbefForQuestionAnswering.from_pretrained(place / "vqa"), args, answer_list=ANSWERS, **given)


# ---- questions


def questions(place: Path) -> list[dict[str, Any]]:
    return [
        {"image": str(place / f"{n % 4}.png"), "question": WORDS[n % 2], "answers": ["red", "blue"]} for n in range(12)
    ]


@pytest.mark.parametrize("grouped", [False, True])
def test_questions_need_rows_and_a_processor_alone(place: Path, tmp_path: Path, grouped: bool) -> None:
    trainer = VQATrainer(
        model=AlbefForQuestionAnswering.from_pretrained(place / "vqa"),
        args=VQATrainingArguments(str(tmp_path), group_by_image=grouped, eval_strategy="no", **OPTIONS),
        train_dataset=questions(place),
        eval_dataset={"one": questions(place), "two": questions(place)[:3]},
        processing_class=AlbefProcessor.from_pretrained(place / "vqa"),
        answer_list=ANSWERS,
        compute_metrics=lambda result: {"answered": len(result.answers), "is_result": isinstance(result, VQAResult)},
    )
    assert isinstance(trainer.data_collator, VQACollator) and trainer.data_collator.share_images is grouped
    trainer.train()
    assert trainer.state.global_step == 4
    metrics = trainer.evaluate()
    assert (metrics["eval_one_answered"], metrics["eval_two_answered"]) == (12, 3) and metrics["eval_one_is_result"]
    assert 0 <= metrics["eval_two_vqa_accuracy"] <= 100
    assert trainer.model.config.decoder_config.answer_list == ANSWERS
    if grouped:
        batch = trainer.data_collator(questions(place)[:8])
        assert batch["pixel_values"].shape[0] == 4 and batch["image_index"].tolist() == [0, 1, 2, 3] * 2
        assert {len(group) for group in trainer._get_train_sampler().groups} == {3}


def test_the_order_of_images_follows_the_seed_of_the_data(place: Path, tmp_path: Path) -> None:
    orders = []
    for given in ({"seed": 1}, {"seed": 2}, {"seed": 2, "data_seed": 1}):
        args = VQATrainingArguments(str(tmp_path), group_by_image=True, eval_strategy="no", **{**OPTIONS, **given})
        trainer = VQATrainer(
            AlbefForQuestionAnswering.from_pretrained(place / "vqa"),
            args,
            train_dataset=questions(place),
            processing_class=AlbefProcessor.from_pretrained(place / "vqa"),
            answer_list=ANSWERS,
        )
        orders.append(list(trainer._get_train_sampler()))
    assert orders[0] == orders[2] != orders[1]


def test_answers_longer_than_the_decoder_reads_get_a_sentence(place: Path, tmp_path: Path) -> None:
    rows = questions(place)
    rows[0]["answers"] = ["red " * 40]
    parts = {"processing_class": AlbefProcessor.from_pretrained(place / "vqa"), "train_dataset": rows}
    args = VQATrainingArguments(str(tmp_path), eval_strategy="no", **OPTIONS)
    model = AlbefForQuestionAnswering.from_pretrained(place / "vqa")
    trainer = VQATrainer(model, args, answer_list=ANSWERS, **parts)
    with pytest.raises(ProcessingError, match=r"The answer 'red red .+ has 42 tokens, .* reads at most 12: shorten it"):
        trainer.train()
    with pytest.raises(SettingError, match=r"The answer list has 'red red .+ of 42 tokens, but .* at most 12"):
        VQATrainer(model, args, answer_list=[*ANSWERS, "red " * 40], **parts)


# ---- evaluation


def score(result: RetrievalResult) -> dict[str, float]:
    assert isinstance(result, RetrievalResult)
    return {"images": len(result.image_to_text.ids)}


def test_metrics_may_be_numbers_of_any_library_or_none(place: Path, tmp_path: Path) -> None:
    """As the library takes them: they have to be written into a checkpoint."""
    given = {"a": torch.tensor(1.5), "b": np.float32(2.5), "eval_c": np.int64(3)}
    options = {"eval_strategy": "epoch", "save_strategy": "epoch", "metric_for_best_model": "b"}
    rows = lists(place)
    trainer = retrieval_trainer(place, tmp_path, rows, eval_dataset=rows, compute_metrics=lambda _: given, **options)
    trainer.train()
    line = next(line for line in trainer.state.log_history if "eval_a" in line)
    assert [line[name] for name in ("eval_a", "eval_b", "eval_c")] == [1.5, 2.5, 3]
    assert trainer.state.best_metric == 2.5 and last_checkpoint(tmp_path) is not None
    trainer.compute_metrics = lambda _: None
    assert "eval_a" not in trainer.evaluate()


def test_several_data_sets_are_measured_by_their_names(place: Path, tmp_path: Path) -> None:
    rows = lists(place)
    sets = {"all": rows, "half": datasets.Dataset.from_list(rows[:4]), "some": Subset(Own(rows), [1, 5, 7])}
    trainer = retrieval_trainer(place, tmp_path, rows, eval_dataset=sets, compute_metrics=score)
    metrics = trainer.evaluate()
    assert [metrics[f"eval_{name}_images"] for name in sets] == [9, 4, 3]
    for name, data in sets.items():
        alone = trainer.evaluate(data)
        for metric in ("r_mean", "txt_r1", "img_r5", "images"):
            assert alone[f"eval_{metric}"] == metrics[f"eval_{name}_{metric}"], name
    assert trainer.evaluate("half", metric_key_prefix="x")["x_images"] == 4  # by name, as the library does
    with pytest.raises(SettingError, match="There is no data set 'whole' in eval_dataset, which has all, half, some"):
        trainer.evaluate("whole")
    both = trainer.evaluate(datasets.DatasetDict({"a": sets["half"], "b": sets["half"]}), metric_key_prefix="test")
    assert both["test_a_r_mean"] == both["test_b_r_mean"] == metrics["eval_half_r_mean"]
    assert {"eval_half_runtime", "eval_half_samples_per_second"} <= metrics.keys()


class Scripted(RetrievalTrainer):
    """Evaluates to numbers that stand in the data."""

    def evaluate_dataset(self, dataset: Any) -> Any:
        result = super().evaluate_dataset(dataset)
        result.metrics["r_mean"] = dataset["values"][0].pop(0)
        return result


def test_one_of_several_data_sets_decides(place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The best checkpoint, early stopping and the card go by it, and callbacks see all metrics at once."""
    values = {"a": [9.0, 8.0, 7.0, 6.0], "b": [10.0, 30.0, 20.0, 15.0]}
    sets = {name: lists(place, 3, values=given) for name, given in values.items()}
    options: dict[str, Any] = {"eval_strategy": "epoch", "save_strategy": "epoch", "num_train_epochs": 4}
    events: list[dict[str, float]] = []

    class Watch(TrainerCallback):
        def on_evaluate(self, *_: Any, **kwargs: Any) -> None:
            events.append(kwargs["metrics"])
            assert [record.split for record in trainer.last_evaluations] == ["eval_a", "eval_b"]

    trainer = retrieval_trainer(
        place,
        tmp_path,
        lists(place),
        Scripted,
        eval_dataset=sets,
        metric_for_best_model="b_r_mean",
        callbacks=[EarlyStoppingCallback(2), Watch()],
        **options,
    )
    trainer.train()
    assert trainer.state.best_metric == 30.0 and trainer.state.global_step == 4 * 6  # 10 30 20 15
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-12")
    assert not [record for record in caplog.records if "early stopping" in record.message]
    assert [(e["eval_a_r_mean"], e["eval_b_r_mean"]) for e in events] == [(9, 10), (8, 30), (7, 20), (6, 15)]
    assert {split: found["r_mean"] for split, found in trainer.results.items()} == {"eval_a": 8.0, "eval_b": 30.0}


def test_the_deciding_metric_has_to_be_measured(place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows, options = lists(place), {"eval_strategy": "epoch", "save_strategy": "epoch"}
    sets = {"a": rows[:3], "b": rows[:3]}
    trainer = retrieval_trainer(place, tmp_path, rows, eval_dataset=sets, **options)
    assert trainer.args.metric_for_best_model == "a_r_mean"
    assert "metric_for_best_model is a_r_mean, of the first of 2 data sets." in caplog.messages
    trainer.train()
    assert trainer.state.best_metric is not None
    for data, metric in ((rows, "a_r_mean"), (sets, "c_r_mean"), (rows, "accuracy")):
        with pytest.raises(SettingError, match=f"metric_for_best_model is '{metric}', but must be one of "):
            retrieval_trainer(place, tmp_path, rows, eval_dataset=data, metric_for_best_model=metric, **options)
    own = {"eval_dataset": rows, "compute_metrics": score, **options}
    trainer = retrieval_trainer(place, tmp_path / "own", rows, metric_for_best_model="images", **own)
    trainer.train()
    assert trainer.state.best_metric == 9
    trainer = retrieval_trainer(place, tmp_path / "no", rows, metric_for_best_model="pictures", **own)
    with pytest.raises(SettingError, match=r"is 'pictures', which the evaluation does not have: set it to .*images"):
        trainer.train()
    assert last_checkpoint(tmp_path / "no") is not None  # what was trained is not lost


def test_flat_rows_train_and_evaluate_as_lists_do(place: Path, tmp_path: Path) -> None:
    grouped = [{**row, "image_id": f"x{n}"} for n, row in enumerate(lists(place))]
    flat = [{**row, "caption": caption} for row in grouped for caption in row["caption"]]
    random.Random(0).shuffle(shuffled := list(flat))
    trainer = retrieval_trainer(place, tmp_path, flat)
    expected = trainer.evaluate(grouped)
    for rows in (flat, shuffled):
        found = trainer.evaluate(rows)
        assert {n: v for n, v in found.items() if "_r" in n and "runtime" not in n} == pytest.approx(
            {n: v for n, v in expected.items() if "_r" in n and "runtime" not in n}
        )


def test_images_in_memory_need_no_id(place: Path, tmp_path: Path) -> None:
    def opened(path: str) -> Image.Image:
        return Image.open(io.BytesIO(Path(path).read_bytes()))

    rows = [{**row, "image": opened(row["image"])} for row in lists(place)]
    trainer = retrieval_trainer(place, tmp_path, rows, k_test=18)
    batch = trainer.data_collator([trainer.train_dataset[number] for number in range(6)])
    assert batch["image_ids"].unique().numel() == 3
    trainer.train()
    assert trainer.evaluate(rows)["eval_img_r10"] == 100
