"""COCO 2014 with its captions, in the splits of Karpathy and Fei-Fei that image-text retrieval is measured on."""

from __future__ import annotations

from dataclasses import dataclass

from .file_builder import FileBuilder, FilesConfig


@dataclass
class CocoRetrievalConfig(FilesConfig):
    """Which files of COCO; see `FilesConfig`."""

    USUAL_FILES = (
        {"train": ["coco_train.json"], "validation": ["coco_val.json"], "test": ["coco_test.json"]},
        {split: ["dataset_coco.json"] for split in ("train", "validation", "test")},
        {"train": ["captions_train2014.json"], "validation": ["captions_val2014.json"]},
        {"train": ["captions_train2017.json"], "validation": ["captions_val2017.json"]},
    )
    IMAGE_PATTERNS = ("images/{path}",)


class CocoRetrieval(FileBuilder):
    """Reads COCO; load it with `load_dataset_script("coco_retrieval", data_dir=...)`.

    Below `data_dir` are the folders `train2014` and `val2014` (or these below `images`), and there, or below
    `annotations` or `data`: ALBEF's `coco_train.json`, `coco_val.json`, `coco_test.json`; or Karpathy's
    `dataset_coco.json`, whose "restval" images are trained on, too; or COCO's own `captions_train2014.json` and
    `captions_val2014.json`, which have no test split. A row an image, with all its captions.
    """

    BUILDER_CONFIG_CLASS = CocoRetrievalConfig
    BUILDER_CONFIGS = [CocoRetrievalConfig(name="retrieval", version=FileBuilder.VERSION, description="Captions.")]
    DEFAULT_CONFIG_NAME = "retrieval"
    DESCRIPTION = "Photographs of everyday scenes with five captions each, in Karpathy's splits."
    HOMEPAGE = "https://cocodataset.org"
    LICENSE = "Captions: CC BY 4.0. Images: Flickr's terms of use; each has a licence of its own."
    LAYOUT = "coco_train.json .., dataset_coco.json or captions_train2014.json, beside train2014 and val2014"
    CITATION = """\
@inproceedings{lin2014coco,
  author = {Tsung-Yi Lin and Michael Maire and Serge Belongie and James Hays and Pietro Perona and Deva Ramanan and
            Piotr Doll{\\'a}r and C. Lawrence Zitnick},
  title = {Microsoft {COCO}: Common Objects in Context},
  booktitle = {ECCV},
  year = {2014}
}
@inproceedings{karpathy2015deep,
  author = {Andrej Karpathy and Li Fei-Fei},
  title = {Deep Visual-Semantic Alignments for Generating Image Descriptions},
  booktitle = {CVPR},
  year = {2015}
}
"""
