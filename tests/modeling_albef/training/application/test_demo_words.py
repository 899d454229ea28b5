"""Demos that start from another demo speak its words: a word in pieces would be new to the model."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import pytest
import yaml
from run_cases import ROOT

from dataset_scripts import load_dataset_script
from processing import build_tokenizer


@pytest.mark.parametrize(("name", "new"), [("demo_reasoning", {"and"}), ("demo_classification", set())])
def test_words_are_those_of_the_start(name: str, new: set[str], tmp_path: Path) -> None:
    recipe, start = (yaml.safe_load((ROOT / f"configs/{one}.yaml").read_text()) for one in (name, "demo_vqa"))
    assert recipe["model_name_or_path"] == start["output_dir"]
    small = {"num_train": 200, "num_validation": 1, "num_test": 1, "image_size": 16}
    drawn = {"split": "train", "cache_dir": tmp_path}
    asked = load_dataset_script("shapes", "vqa", **drawn, **{**start["dataset_config"], **small})
    said = load_dataset_script(recipe["dataset"], "classification", **drawn, **{**recipe["dataset_config"], **small})
    tokenizer = build_tokenizer([*asked["question"], *chain.from_iterable(asked["answers"])])
    words = {word for text in said["text"] for word in text.split()}
    assert {word for word in words if len(tokenizer.tokenize(word)) > 1} == new
