"""Training on streams: processes and workers share the rows, every pass has its own order, bad starts are refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image
from run_cases import TINY, refused, run, two_processes, write_config
from torch.utils.data import DataLoader

import run_vqa
from dataset_scripts import load_dataset_script, process_share, stream_captions
from processing import AugmentedStream, UnreadableImageError
from run_retrieval import main


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Twelve images, each of a color and size of its own, with two captions each, in ALBEF's layout."""
    rows = []
    for number in range(12):
        Image.new("RGB", (50 + number, 40), (20 * number, 0, 90)).save(tmp_path / f"{number}.png")
        rows += [{"image": f"{number}.png", "caption": f"{number} {word}", "image_id": number} for word in "ab"]
    (tmp_path / "train.json").write_text(json.dumps(rows))
    lists = [{"image": f"{number}.png", "caption": [f"{number} a", f"{number} b"]} for number in range(6)]
    (tmp_path / "val.json").write_text(json.dumps(lists))
    return tmp_path


def streamed(folder: Path, parts: int) -> datasets.IterableDataset:
    fields = {"train_files": str(folder / "train.json"), "image_root": str(folder)}
    stream = load_dataset_script("own_data", split="train", streaming=True, num_proc=parts, **fields)
    return stream_captions(stream.cast_column("image", datasets.Image(decode=False)))


def first_rows(dataset: AugmentedStream, count: int, workers: int) -> list[str]:
    loader = iter(DataLoader(dataset, batch_size=None, num_workers=workers))
    return [next(loader)["caption"] for _ in range(count)]


ALL = sorted(f"{number} {word}" for number in range(12) for word in "ab")


@pytest.mark.parametrize("workers", [0, 2])
def test_processes_and_workers_share_the_rows(images: Path, workers: int) -> None:
    """Two processes together see every caption once a pass."""
    shares = []
    for index in range(2):
        args = SimpleNamespace(seed=0, process_index=index, world_size=2)
        share = process_share(streamed(images, 2 * max(1, workers)), args, buffer_size=10)
        shares.append(first_rows(AugmentedStream(share, process_index=index), 12, workers))
    assert sorted(shares[0] + shares[1]) == ALL


def test_every_pass_has_its_own_order_and_draws(images: Path) -> None:
    args = SimpleNamespace(seed=3, process_index=0, world_size=1)

    def draw(image: Image.Image, rng: np.random.Generator) -> tuple[int, float]:
        assert image.mode == "RGB"
        return image.width, rng.random()

    rows = iter(AugmentedStream(process_share(streamed(images, 1), args, 10), draw, seed=3))
    passes = [[next(rows) for _ in range(24)] for _ in range(2)]
    orders = [[row["caption"] for row in one] for one in passes]
    assert sorted(orders[0]) == sorted(orders[1]) == ALL and orders[0] != orders[1]
    assert len({row["image"][1] for one in passes for row in one}) == 48
    assert all(row["image"][0] == 50 + int(row["caption"].split()[0]) for row in passes[0])
    again = iter(AugmentedStream(process_share(streamed(images, 1), args, 10), draw, seed=3))
    assert [next(again)["image"] for _ in range(24)] == [row["image"] for row in passes[0]]


def test_a_bad_image_is_named_and_an_empty_share_ends(images: Path) -> None:
    stream = streamed(images, 1)
    (images / "0.png").write_text("no image")
    with pytest.raises(UnreadableImageError, match=r"Row 0 of the stream: .*0\.png"):
        next(iter(AugmentedStream(stream)))
    assert list(AugmentedStream(stream.take(0))) == []


def write_stream(folder: Path, **changes: Any) -> str:
    files = {"train_files": str(folder / "train.json"), "validation_files": str(folder / "val.json")}
    fields = {
        "dataset": None,
        "dataset_config": None,
        "image_root": str(folder),
        "do_predict": False,
        "streaming": True,
    }
    return write_config(folder, **{**files, **fields, "queue_size": 24, "logging_steps": 1, **changes})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model with its processor."""
    from golden_cases import tiny_config

    from modeling_albef import AlbefForImageTextRetrieval
    from processing import AlbefImageProcessor, AlbefProcessor, build_tokenizer

    folder, tokenizer = tmp_path_factory.mktemp("model"), build_tokenizer(ALL)
    AlbefForImageTextRetrieval(tiny_config(vocab_size=len(tokenizer))).save_pretrained(folder)
    AlbefProcessor(AlbefImageProcessor(), tokenizer).save_pretrained(folder)
    return str(folder)


@pytest.mark.slow
def test_a_run_on_a_stream_in_two_processes(images: Path, model: str) -> None:
    """The steps are spread over the epochs: the teacher's weight rises in the first, the rate falls in the second."""
    changes = {"model_config": None, "model_name_or_path": model, "max_steps": 6, "num_train_epochs": 2, "alpha": 0.4}
    run("run_retrieval.py", [write_stream(images, dataloader_num_workers=1, **changes)], two_processes())
    out = images / "out"
    history = [line for line in json.loads((out / "trainer_state.json").read_text())["log_history"] if "alpha" in line]
    assert [line["alpha"] for line in history] == pytest.approx([0, 0.4 / 3, 0.8 / 3, 0.4, 0.4, 0.4])
    rates = [line["learning_rate"] for line in history]
    assert rates[0] == rates[1] and rates[-1] < rates[0]
    assert "eval_r_mean" in json.loads((out / "all_results.json").read_text())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "A stream has no length: give max_steps"),
        ({"max_steps": 3}, "needs a --tokenizer, or training data, not streamed"),
        ({"shuffle_buffer": 0}, "shuffle_buffer is 0, but must be at least 1"),
        ({"data_dir": "x"}, "data_dir belongs to a dataset"),
    ],
)
def test_starts_that_are_refused(images: Path, changes: dict[str, Any], message: str) -> None:
    assert message in refused(main, [write_stream(images, **changes)])


def test_answers_of_a_stream_are_not_known(tmp_path: Path) -> None:
    config = write_config(tmp_path, streaming=True, max_steps=2, dataset_config=TINY["dataset_config"])
    assert "give --answer_list, or training data, not streamed" in refused(run_vqa.main, [config])


def test_streams_are_checked_first(images: Path, model: str) -> None:
    rows = json.loads((images / "train.json").read_text())
    (images / "train.json").write_text(json.dumps([*rows, rows[0] | {"caption": "?"}]))
    changes = {"model_config": None, "model_name_or_path": model, "max_steps": 2}
    assert "train.json, row 24: caption '?' holds no letter" in refused(main, [write_stream(images, **changes)])


def test_every_row_of_every_worker_and_pass_has_its_own_draws(images: Path) -> None:
    """Four passes of two workers of two processes: no row is augmented as another one is."""
    draws = []
    for index in range(2):
        args = SimpleNamespace(seed=0, process_index=index, world_size=2)
        share = process_share(streamed(images, 4), args, buffer_size=10)
        dataset = AugmentedStream(share, augmentation=lambda image, rng: rng.random(2).tolist(), process_index=index)
        loader = iter(DataLoader(dataset, batch_size=None, num_workers=2))
        draws += [tuple(next(loader)["image"]) for _ in range(4 * 12)]
    assert len(set(draws)) == len(draws) == 96


def test_the_draws_of_a_row_follow_from_its_documented_numbers(images: Path) -> None:
    """Seed, pass, process, worker and position make the generator: a stored run can be repeated by these alone."""
    stream = streamed(images, 4).take(5)
    dataset = AugmentedStream(stream, lambda image, rng: rng.random(), seed=3, process_index=2)
    rows = iter(dataset)
    drawn = [next(rows)["image"] for _ in range(12)]
    expected = [np.random.default_rng((3, number // 5, 2, 0, number)).random() for number in range(12)]
    assert drawn == expected
