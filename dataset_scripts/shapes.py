"""Images of colored shapes with captions and questions: a data set that is drawn, not downloaded.

A scene is two or three objects in a row or in a column, or, where the configuration allows it, a single object.
Everything follows from the seed, the split and the index of the image, so every run and every machine draws the same
data, and both configurations show the same images.

* `retrieval`: an image and its captions ("a red circle left of a blue square").
* `vqa`: an image, a question ("what color is the star") and ten equal answers.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import datasets

from .reading.captions import FEATURES
from .reading.problems import DataError
from .reading.questions import VQA_FEATURES
from .scene_texts import all_captions, draw_questions
from .scenes import CAPTIONS, IMAGE, QUESTIONS, SPLITS, Scene, draw_image, draw_scenes, random_stream

ANNOTATORS = 10  # equal answers a question, as VQA v2 has ten annotators
RANGES = {name: (1, math.inf) for name in ("num_train", "num_validation", "num_test")}
RANGES |= {"image_size": (16, math.inf), "seed": (0, math.inf)}
RANGES |= {"captions_per_image": (1, 16), "questions_per_image": (3, 20), "min_objects": (1, 3)}


@dataclass
class ShapesConfig(datasets.BuilderConfig):
    """What to draw.

    Attributes:
        num_train: Images of the training split, >= 1.
        num_validation: Images of the validation split, >= 1.
        num_test: Images of the test split, >= 1.
        image_size: Side in pixels, >= 16.
        seed: >= 0; another seed draws other images.
        captions_per_image: 1..16, used by `retrieval`; a single object has four at most.
        questions_per_image: 3..20, used by `vqa`.
        min_objects: Least number of objects of a scene, 1..3; in `retrieval` single objects are for training alone,
            since outside of it a caption tells its image.
    """

    num_train: int = 2000
    num_validation: int = 200
    num_test: int = 200
    image_size: int = 64
    seed: int = 0
    captions_per_image: int = 2
    questions_per_image: int = 4
    min_objects: int = 2

    def check(self) -> None:
        """Check the ranges; the builder sets fields after construction, so this is called later.

        Raises:
            DataError: A value is no integer or out of its range; the text names it.
        """
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                wanted = f">= {low}" if high == math.inf else f"{low}..{high}"
                raise DataError(f"{name} is {value!r}, but must be an integer {wanted}.")


class Shapes(datasets.GeneratorBasedBuilder):
    """Draws the data set; load it with `dataset_scripts.load_dataset_script("shapes", "retrieval" or "vqa")`.

    Rows of `retrieval` are images: `image`, `caption` (list) and `image_id`, which counts from 0 in each split. Rows of
    `vqa` are questions: `image`, `question`, `answers` (ten equal ones), `question_id` (unique over the splits),
    `image_id` (as in `retrieval`), `answer_weight` (1) and `question_type`. Outside the training split no caption
    describes two images, and no two splits share a set of objects.
    """

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = ShapesConfig
    BUILDER_CONFIGS = [
        ShapesConfig("retrieval", datasets.Version("1.0.0")),
        ShapesConfig("vqa", datasets.Version("1.0.0")),
    ]
    DEFAULT_CONFIG_NAME = "retrieval"

    def _info(self) -> datasets.DatasetInfo:
        """Return the features of a row; raises DataError if the configuration is out of range."""
        self.config.check()
        names = ("image", "question", "answers", "question_id", "image_id", "answer_weight", "question_type")
        of_questions = datasets.Features({name: VQA_FEATURES[name] for name in names})
        features = FEATURES if self.config.name == "retrieval" else of_questions
        description = "Colored shapes in a row or a column, drawn from a seed."
        return datasets.DatasetInfo(description=description, features=features)

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        """Return one generator a split; nothing is downloaded."""
        return [datasets.SplitGenerator(split, gen_kwargs={"split": split}) for split in SPLITS]

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield rows of a split with their numbers."""
        config = self.config
        sizes = {split: getattr(config, f"num_{split}") for split in SPLITS}
        first_image = sum(sizes[earlier] for earlier in SPLITS[: SPLITS.index(split)])
        are_told_apart = config.name == "retrieval" and split != "train"
        min_objects = max(2, config.min_objects) if are_told_apart else config.min_objects
        for index, scene in enumerate(draw_scenes(config.seed, split, sizes[split], min_objects)):
            buffer = io.BytesIO()
            image = draw_image(scene, config.image_size, random_stream(config.seed, split, index, IMAGE))
            image.save(buffer, format="PNG")
            row = {"image": {"bytes": buffer.getvalue(), "path": None}, "image_id": index}
            if config.name == "retrieval":
                yield index, row | {"caption": self._captions(scene, split, index)}
                continue
            rng = random_stream(config.seed, split, index, QUESTIONS)
            for order, question in enumerate(draw_questions(scene, config.questions_per_image, rng)):
                number = (first_image + index) * config.questions_per_image + order
                columns = {"question": question.text, "answers": [question.answer] * ANNOTATORS, "question_id": number}
                yield number, row | columns | {"question_type": question.question_type, "answer_weight": 1.0}

    def _captions(self, scene: Scene, split: str, index: int) -> list[str]:
        """Return different captions of an image."""
        options = all_captions(scene)
        rng = random_stream(self.config.seed, split, index, CAPTIONS)
        count = min(len(options), self.config.captions_per_image)
        return [options[i] for i in rng.choice(len(options), size=count, replace=False)]
