"""COCO 2014 with its captions, in the splits of Karpathy and Fei-Fei that image-text retrieval is measured on."""

from .file_builder import SOURCES, FileBuilder, FilesConfig


class CocoRetrieval(FileBuilder):
    """Reads COCO; load it with `load_dataset_script("coco_retrieval", data_dir=...)`.

    Below `data_dir` are the folders `train2014` and `val2014` (or these below `images`), and there, or below
    `annotations` or `data`: ALBEF's `coco_train.json`, `coco_val.json`, `coco_test.json`; or Karpathy's
    `dataset_coco.json`, whose "restval" images are trained on, too; or COCO's own `captions_train2014.json` and
    `captions_val2014.json`, which have no test split. A row an image, with all its captions.
    """

    SOURCE = SOURCES["coco_retrieval"]
    BUILDER_CONFIGS = [FilesConfig("retrieval", FileBuilder.VERSION, _source=SOURCE)]
