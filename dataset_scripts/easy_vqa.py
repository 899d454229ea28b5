"""easy-VQA: 48,248 questions about 5,000 small images of one shape each, from the package easy-vqa.

The package brings its data along, so nothing is downloaded and the images are read where they are installed. Thirteen
answers occur, and a question has exactly one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import datasets

from .file_builder import SOURCES
from .reading.problems import DataError
from .reading.questions import VQA_FEATURES

SHAPES = ("circle", "rectangle", "triangle")  # the other answers are yes, no and colors


class MissingPackageError(ImportError, DataError):
    """A package that a data set needs is not installed."""


def _package() -> ModuleType:
    """Return the package easy-vqa; raises MissingPackageError."""
    try:
        import easy_vqa
    except ImportError as error:
        text = "The data set easy_vqa needs the package easy-vqa, which is not installed: pip install easy-vqa"
        raise MissingPackageError(text, name="easy_vqa") from error
    return easy_vqa


def question_type(answer: str) -> str:
    """Return the type of a question with this answer: "yes/no", "shape" or "color"."""
    if answer in ("yes", "no"):
        return "yes/no"
    return "shape" if answer in SHAPES else "color"


class EasyVQAConfig(datasets.BuilderConfig):
    """The plain configuration; prepared data holds paths into the package, so the cache goes by its folder too."""

    def create_config_id(self, config_kwargs: dict[str, Any], custom_features: datasets.Features | None = None) -> str:
        """Return the name of the configuration's folder in the cache; raises MissingPackageError."""
        folder = os.path.dirname(os.path.abspath(str(_package().__file__)))
        return super().create_config_id(config_kwargs | {"package": folder}, custom_features)


class EasyVQA(datasets.GeneratorBasedBuilder):
    """Reads the installed package; load it with `dataset_scripts.load_dataset_script("easy_vqa", "vqa")`.

    Rows are questions: `image` (read from the package's own file), `question`, `question_id` (the index in the split's
    file; those of the test split go on where the training split ends), `image_id` (the package's, from 0 in each
    split), `answers` (the one answer), `answer_weight` (1) and `question_type`.
    """

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = EasyVQAConfig
    BUILDER_CONFIGS = [EasyVQAConfig(name="vqa", version=VERSION, description="Images with questions and answers.")]
    DEFAULT_CONFIG_NAME = "vqa"

    def _info(self) -> datasets.DatasetInfo:
        """Return features of a row, and where the data comes from."""
        features = {name: feature for name, feature in VQA_FEATURES.items() if name != "answer_type"}
        return datasets.DatasetInfo(features=datasets.Features(features), **SOURCES["easy_vqa"])

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        """Return one generator a split; nothing is downloaded."""
        return [datasets.SplitGenerator(split, gen_kwargs={"split": split}) for split in ("train", "test")]

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield rows of a split with their numbers."""
        package = _package()
        columns, first_id = package.get_train_questions(), 0
        paths = package.get_train_image_paths() if split == "train" else package.get_test_image_paths()
        if split == "test":
            columns, first_id = package.get_test_questions(), len(columns[0])
        for question_id, (question, answer, image_id) in enumerate(zip(*columns, strict=True), start=first_id):
            row = {"image": paths[image_id], "question": question, "question_id": question_id, "image_id": image_id}
            yield question_id, row | {"answers": [answer], "answer_weight": 1.0, "question_type": question_type(answer)}
