"""Visual Genome's questions, each with one answer; ALBEF trains on them beside VQA v2."""

from __future__ import annotations

from dataclasses import dataclass

from .file_builder import FileBuilder, QuestionFilesConfig


@dataclass
class VisualGenomeConfig(QuestionFilesConfig):
    """Which files of Visual Genome; see `QuestionFilesConfig`."""

    USUAL_FILES = ({"train": ["vg_qa.json"]}, {"train": ["question_answers.json", "image_data.json"]})
    IMAGE_PATTERNS = (
        *("VG_100K/{name}", "VG_100K_2/{name}", "images/{name}", "image/{name}", "{name}"),
        *("images/VG_100K/{name}", "images/VG_100K_2/{name}"),
    )


class VisualGenome(FileBuilder):
    """Reads Visual Genome; load it with `load_dataset_script("visual_genome", data_dir=...)`.

    Below `data_dir` are the images, in `VG_100K` and `VG_100K_2` or merged, in one of them, in `images`, or directly;
    and there, or below `annotations` or `data`: ALBEF's `vg_qa.json`; or the official `question_answers.json` with
    `image_data.json`. There is only a training split. `answer_weight` is 0.5, as published. Columns: see `FileBuilder`.
    """

    BUILDER_CONFIG_CLASS = VisualGenomeConfig
    BUILDER_CONFIGS = [
        VisualGenomeConfig(name="vqa", version=FileBuilder.VERSION, description="Questions and answers.")
    ]
    DEFAULT_CONFIG_NAME = "vqa"
    DESCRIPTION = "Questions about photographs and their regions, with one answer each."
    HOMEPAGE = "https://homes.cs.washington.edu/~ranjay/visualgenome/"
    LICENSE = "CC BY 4.0"
    LAYOUT = "vg_qa.json, or question_answers.json and image_data.json, beside VG_100K and VG_100K_2"
    CITATION = """\
@article{krishna2017visual,
  author = {Ranjay Krishna and Yuke Zhu and Oliver Groth and Justin Johnson and Kenji Hata and Joshua Kravitz and
            Stephanie Chen and Yannis Kalantidis and Li-Jia Li and David A. Shamma and Michael S. Bernstein and
            Li Fei-Fei},
  title = {Visual Genome: Connecting Language and Vision Using Crowdsourced Dense Image Annotations},
  journal = {International Journal of Computer Vision},
  volume = {123},
  year = {2017}
}
"""
