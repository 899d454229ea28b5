"""Flickr30k: photographs with five captions each, in Karpathy's splits."""

from __future__ import annotations

from dataclasses import dataclass

from .file_builder import FileBuilder, FilesConfig


@dataclass
class Flickr30kConfig(FilesConfig):
    """Which files of Flickr30k; see `FilesConfig`."""

    USUAL_FILES = (
        {"train": ["flickr30k_train.json"], "validation": ["flickr30k_val.json"], "test": ["flickr30k_test.json"]},
        {split: ["dataset_flickr30k.json"] for split in ("train", "validation", "test")},
    )
    IMAGE_PATTERNS = ("flickr30k_images/{name}", "images/{name}", "{name}")


class Flickr30k(FileBuilder):
    """Reads Flickr30k; load it with `load_dataset_script("flickr30k", data_dir=...)`.

    Below `data_dir` are the images, in a folder `flickr30k-images`, `flickr30k_images` or `images` or directly, and
    there, or below `annotations` or `data`: ALBEF's `flickr30k_train.json`, `flickr30k_val.json` and
    `flickr30k_test.json`, or Karpathy's `dataset_flickr30k.json`. A row an image, with all its captions.
    """

    BUILDER_CONFIG_CLASS = Flickr30kConfig
    BUILDER_CONFIGS = [Flickr30kConfig(name="retrieval", version=FileBuilder.VERSION, description="Captions.")]
    DEFAULT_CONFIG_NAME = "retrieval"
    DESCRIPTION = "Photographs of people and animals in action, with five captions each, in Karpathy's splits."
    HOMEPAGE = "https://shannon.cs.illinois.edu/DenotationGraph/"
    LICENSE = "For non-commercial research and education; images: Flickr's terms of use."
    LAYOUT = "flickr30k_train.json .. or dataset_flickr30k.json, beside flickr30k-images"
    CITATION = """\
@article{young2014image,
  author = {Peter Young and Alice Lai and Micah Hodosh and Julia Hockenmaier},
  title = {From image descriptions to visual denotations: New similarity metrics for semantic inference over event
           descriptions},
  journal = {Transactions of the Association for Computational Linguistics},
  volume = {2},
  year = {2014}
}
"""
