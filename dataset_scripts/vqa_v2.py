"""VQA v2: questions about COCO's images, each with the answers of ten people."""

from .file_builder import SOURCES, FileBuilder, QuestionFilesConfig


class VQAv2(FileBuilder):
    """Reads VQA v2; load it with `load_dataset_script("vqa_v2", data_dir=...)`.

    Below `data_dir` are the folders `train2014`, `val2014` and `test2015` (or these below `images`), and there, or
    below `annotations` or `data`: ALBEF's `vqa_train.json`, `vqa_val.json`, `vqa_test.json`; or the official
    `v2_OpenEnded_mscoco_*_questions.json` with `v2_mscoco_*_annotations.json`. Training on Visual Genome as well, as
    published, takes `train_files` with all files and `vg_root`. Columns: see `FileBuilder`.
    """

    BUILDER_CONFIG_CLASS = QuestionFilesConfig
    SOURCE = SOURCES["vqa_v2"]
    BUILDER_CONFIGS = [QuestionFilesConfig("vqa", FileBuilder.VERSION, _source=SOURCE)]
