"""Images of colored shapes with captions and questions: a data set that is drawn, not downloaded.

A scene is two or three objects in a row or in a column, or, where the configuration allows it, a single object.
Everything follows from the seed, the split and the index of the image, so every run and every machine draws the same
data, and all configurations show the same images.

* `retrieval`: an image and its captions ("a red circle left of a blue square").
* `classification`: an image, a text, and whether it is true of the image, false, or cannot be told.
* `vqa`: an image, a question ("what color is the star") and ten equal answers.
* `grounding`: an image, a text that names one of its objects ("a red circle"), and the object's box.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import datasets

from .drawn.scene_texts import all_captions, draw_claims, draw_questions
from .drawn.scenes import (
    CAPTIONS,
    CLAIMS,
    IMAGE,
    QUESTIONS,
    SPLITS,
    Scene,
    draw_image,
    draw_scenes,
    item_boxes,
    random_stream,
)
from .labelled.labels import label_features
from .reading.captions import FEATURES
from .reading.problems import DataError
from .reading.questions import VQA_FEATURES
from .referring.boxes import GROUNDING_FEATURES

ANNOTATORS = 10  # equal answers a question, as VQA v2 has ten annotators
RANGES = {name: (1, math.inf) for name in ("num_train", "num_validation", "num_test")}
RANGES |= {"image_size": (16, math.inf), "seed": (0, math.inf)}
RANGES |= {"captions_per_image": (1, 16), "questions_per_image": (3, 20), "min_objects": (1, 3)}
RANGES |= {"claims_per_image": (1, 12)}


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
        claims_per_image: 1..12, used by `classification`.
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
    claims_per_image: int = 3
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
    """Draws the data set; load it with `dataset_scripts.load_dataset_script("shapes", TASK)`.

    Rows of `retrieval` are images: `image`, `caption` (list) and `image_id`, which counts from 0 in each split. Rows of
    `vqa` are questions: `image`, `question`, `answers` (ten equal ones), `question_id` (unique over the splits),
    `image_id` (as in `retrieval`), `answer_weight` (1) and `question_type`. Rows of `classification` are claims:
    `image`, `text`, `label` ("true", "false", "cannot be told") and `image_id`. Rows of `grounding` are objects:
    `image`, `text`, `box` (x, y, width, height in pixels), `boxes` (of all objects of the image) and `image_id`.
    Outside the training split no caption describes two images, and no two splits share a set of objects.
    """

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = ShapesConfig
    BUILDER_CONFIGS = [
        ShapesConfig("retrieval", datasets.Version("1.0.0")),
        ShapesConfig("vqa", datasets.Version("1.0.0")),
        ShapesConfig("classification", datasets.Version("1.0.0")),
        ShapesConfig("grounding", datasets.Version("1.0.0")),
    ]
    DEFAULT_CONFIG_NAME = "retrieval"

    def _info(self) -> datasets.DatasetInfo:
        """Return the features of a row; raises DataError if the configuration is out of range."""
        self.config.check()
        names = ("image", "question", "answers", "question_id", "image_id", "answer_weight", "question_type")
        of_questions = datasets.Features({name: VQA_FEATURES[name] for name in names})
        tasks = {"retrieval": FEATURES, "vqa": of_questions, "classification": label_features()}
        tasks["grounding"] = GROUNDING_FEATURES
        description = "Colored shapes in a row or a column, drawn from a seed."
        return datasets.DatasetInfo(description=description, features=tasks[self.config.name])

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
            if config.name == "classification":
                rng = random_stream(config.seed, split, index, CLAIMS)
                for order, (text, label) in enumerate(draw_claims(scene, config.claims_per_image, rng)):
                    yield index * config.claims_per_image + order, row | {"text": text, "label": label}
                continue
            if config.name == "grounding":
                yield from ((one["ref_id"], one) for one in self._objects(scene, split, index, row))
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

    def _objects(self, scene: Scene, split: str, index: int, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield a row for each object of an image."""
        side, stream = self.config.image_size, random_stream(self.config.seed, split, index, IMAGE)
        corners = [[side * min(max(end, 0.0), 1.0) for end in box] for box in item_boxes(scene, stream)]
        boxes = [[left, top, right - left, bottom - top] for left, top, right, bottom in corners]
        for number, (item, box) in enumerate(zip(scene.items, boxes, strict=True), start=3 * index):
            yield row | {"text": f"a {item.name()}", "box": box, "boxes": boxes, "subset": None, "ref_id": number}
