"""Flickr30k: photographs with five captions each, in Karpathy's splits."""

from .file_builder import SOURCES, FileBuilder, FilesConfig


class Flickr30k(FileBuilder):
    """Reads Flickr30k; load it with `load_dataset_script("flickr30k", data_dir=...)`.

    Below `data_dir` are the images, in a folder `flickr30k-images`, `flickr30k_images` or `images` or directly, and
    there, or below `annotations` or `data`: ALBEF's `flickr30k_train.json`, `flickr30k_val.json` and
    `flickr30k_test.json`, or Karpathy's `dataset_flickr30k.json`. A row an image, with all its captions.
    """

    SOURCE = SOURCES["flickr30k"]
    BUILDER_CONFIGS = [FilesConfig("retrieval", FileBuilder.VERSION, _source=SOURCE)]
