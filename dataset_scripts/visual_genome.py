"""Visual Genome's questions, each with one answer; ALBEF trains on them beside VQA v2."""

from .file_builder import SOURCES, FileBuilder, QuestionFilesConfig


class VisualGenome(FileBuilder):
    """Reads Visual Genome; load it with `load_dataset_script("visual_genome", data_dir=...)`.

    Below `data_dir` are the images, in `VG_100K` and `VG_100K_2` or merged, in one of them, in `images`, or directly;
    and there, or below `annotations` or `data`: ALBEF's `vg_qa.json`; or the official `question_answers.json` with
    `image_data.json`. There is only a training split. `answer_weight` is 0.5, as published. Columns: see `FileBuilder`.
    """

    BUILDER_CONFIG_CLASS = QuestionFilesConfig
    SOURCE = SOURCES["visual_genome"]
    BUILDER_CONFIGS = [QuestionFilesConfig("vqa", FileBuilder.VERSION, _source=SOURCE)]
