"""VQA v2: questions about COCO's images, each with the answers of ten people."""

from __future__ import annotations

from dataclasses import dataclass

from .file_builder import FileBuilder, QuestionFilesConfig

_QUESTIONS, _ANSWERS = "v2_OpenEnded_mscoco_{}_questions.json", "v2_mscoco_{}_annotations.json"


@dataclass
class VQAv2Config(QuestionFilesConfig):
    """Which files of VQA v2; see `QuestionFilesConfig`."""

    USUAL_FILES = (
        {"train": ["vqa_train.json"], "validation": ["vqa_val.json"], "test": ["vqa_test.json"]},
        {
            "train": [_QUESTIONS.format("train2014"), _ANSWERS.format("train2014")],
            "validation": [_QUESTIONS.format("val2014"), _ANSWERS.format("val2014")],
            "test": [_QUESTIONS.format("test2015")],
        },
    )
    IMAGE_PATTERNS = ("images/{path}",)


class VQAv2(FileBuilder):
    """Reads VQA v2; load it with `load_dataset_script("vqa_v2", data_dir=...)`.

    Below `data_dir` are the folders `train2014`, `val2014` and `test2015` (or these below `images`), and there, or
    below `annotations` or `data`: ALBEF's `vqa_train.json`, `vqa_val.json`, `vqa_test.json`; or the official
    `v2_OpenEnded_mscoco_*_questions.json` with `v2_mscoco_*_annotations.json`. Training on Visual Genome as well, as
    published, takes `train_files` with all files and `vg_root`. Columns: see `FileBuilder`.
    """

    BUILDER_CONFIG_CLASS = VQAv2Config
    BUILDER_CONFIGS = [VQAv2Config(name="vqa", version=FileBuilder.VERSION, description="Questions and answers.")]
    DEFAULT_CONFIG_NAME = "vqa"
    DESCRIPTION = "Questions about photographs, with the answers of ten people each."
    HOMEPAGE = "https://visualqa.org"
    LICENSE = "Annotations: CC BY 4.0. Images: Flickr's terms of use; each has a licence of its own."
    LAYOUT = "vqa_train.json .. or v2_OpenEnded_mscoco_train2014_questions.json .., beside train2014, val2014, test2015"
    CITATION = """\
@inproceedings{goyal2017making,
  author = {Yash Goyal and Tejas Khot and Douglas Summers-Stay and Dhruv Batra and Devi Parikh},
  title = {Making the {V} in {VQA} Matter: Elevating the Role of Image Understanding in Visual Question Answering},
  booktitle = {CVPR},
  year = {2017}
}
"""
