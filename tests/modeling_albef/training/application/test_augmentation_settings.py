"""Strength of the augmentation as settings of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from run_cases import TINY, refused, write_run

from modeling_albef import AlbefConfig, AlbefForImageTextRetrieval
from modeling_albef.training import RetrievalTrainingArguments
from modeling_albef.training.application import (
    DataArguments,
    ModelArguments,
    load_splits,
    parse_arguments,
    training_rows,
)
from processing import RandomAugment, TrainingAugmentation
from run_retrieval import main

CLASSES = (ModelArguments, DataArguments, RetrievalTrainingArguments)


def rows_of(folder: Path, *words: str, **changes: Any) -> Any:
    _, data_args, args = parse_arguments(CLASSES, [write_run(folder, **changes), *words])
    model = AlbefForImageTextRetrieval(AlbefConfig(**TINY["model_config"]))
    return training_rows(load_splits(data_args, args, task="retrieval")["train"], data_args, args, model, None)


def test_without_operations_and_crops_an_image_stays_but_for_the_flip(tmp_path: Path) -> None:
    """Closed form: the whole of a square image, as it is or mirrored, both in turn."""
    whole = rows_of(tmp_path, "--augmentation_num_ops", "0", "--augmentation_scale", "1", "1")
    plain = rows_of(tmp_path, augmentation=False)
    flipped = []
    for row in range(12):
        image, own = (np.asarray(rows[row]["image"]) for rows in (whole, plain))
        flipped.append(not np.array_equal(image, own))
        assert np.array_equal(image, own[:, ::-1] if flipped[-1] else own)
    assert len(set(flipped)) == 2


def test_strength_reaches_the_operations(tmp_path: Path) -> None:
    config = {"augmentation_num_ops": 3, "augmentation_magnitude": 2.5, "augmentation_scale": [0.2, 0.9]}
    augmentation = rows_of(tmp_path, **config).augmentation
    assert augmentation.scale == (0.2, 0.9) and augmentation.random_augment.num_ops == 3
    image = Image.effect_noise((32, 32), 90).convert("RGB")
    for seed in range(8):
        made, expected = (np.random.default_rng(seed) for _ in range(2))
        other = TrainingAugmentation(32, (0.2, 0.9))
        other.random_augment = RandomAugment(3, 2.5)
        assert np.array_equal(np.asarray(augmentation(image, made)), np.asarray(other(image, expected)))
    default = rows_of(tmp_path).augmentation
    assert (default.scale, default.random_augment.num_ops, default.random_augment.magnitude) == ((0.5, 1.0), 2, 7)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--augmentation_num_ops", "-1"], "augmentation_num_ops is -1, but must be at least 0."),
        (["--augmentation_magnitude", "11"], "augmentation_magnitude is 11.0, but must lie between 0 and 10."),
        (["--augmentation_scale", "0.9", "0.2"], "augmentation_scale is [0.9, 0.2], but must be two rising shares"),
        (["--augmentation_scale", "0.5"], "augmentation_scale is [0.5], but must be two rising shares"),
        (["--augmentation", "false", "--augmentation_magnitude", "3"], "augmentation is false, but its strength is"),
    ],
)
def test_a_strength_that_cannot_be(words: list[str], sentence: str, tmp_path: Path) -> None:
    assert sentence in refused(main, [write_run(tmp_path), *words])


def test_numbers_of_a_list_are_numbers(tmp_path: Path) -> None:
    config = write_run(tmp_path, augmentation_scale=[0.25, 1])
    _, data_args, _ = parse_arguments(CLASSES, [config])
    assert data_args.augmentation_scale == data_args.given.fields["augmentation_scale"] == [0.25, 1.0]
    message = refused(main, [write_run(tmp_path, augmentation_scale=[0.25, "much"])])
    assert "augmentation_scale" in message and "invalid float value: 'much'" in message
