"""What the builders share that read annotation files and image folders from disk."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import datasets

from .annotation_files import IMAGE_NAME, SourceRow, caption_rows, question_rows
from .annotations import FEATURES, SUBJECT, Gallery, Rows, RowTaker, absolute, as_list, made_rows, with_bar
from .image_files import ImageRoot
from .problems import AnnotationError, Problems
from .vqa_annotations import VG_WEIGHT, VQA_FEATURES, Questions

logger = logging.getLogger(__name__)
SPLITS = ("train", "validation", "test")
MAX_ENTRIES = 8  # of a folder, in a message
WITHOUT = {  # how a run does without a split
    "validation": " Without them: --eval_strategy no --do_eval false.",
    "test": " Without them: --do_predict false.",
}
FOLDERS = ("", "annotations", "data")  # below data_dir: where annotation files are looked for
Layout = dict[str, Sequence[str]]  # split -> the files that it is made of
TEXT = datasets.Value("string")
FEATURES_OF_TASK = {
    "retrieval": datasets.Features(FEATURES | {"image": datasets.Image()}),
    "vqa": datasets.Features(VQA_FEATURES | {"image": datasets.Image(), "question_type": TEXT, "answer_type": TEXT}),
}


@dataclass
class FilesConfig(datasets.BuilderConfig):
    """Which files.

    Prepared data is kept by the content of the annotation files and the absolute paths of image folders, so a change of
    any of them prepares anew.

    Attributes:
        train_files: Annotation files, in any layout of `annotation_files`; relative paths start from the working folder
            or, if there is no such file, from `data_dir`. If no split names any: those with the usual names below
            `data_dir`.
        validation_files: As `train_files`.
        test_files: As `train_files`; questions may lack answers there.
        splits: Read these alone; None reads all that have files.
        image_root: Folder that image paths start from; None takes `data_dir`.
        drop_bad_rows: Leave rows out that cannot be used, and say how many, where otherwise the data is refused.
    """

    train_files: list[str] | str | None = None
    validation_files: list[str] | str | None = None
    test_files: list[str] | str | None = None
    splits: list[str] | None = None
    image_root: str | None = None
    drop_bad_rows: bool = False

    USUAL_FILES: ClassVar[Sequence[Layout]] = ()
    IMAGE_PLACES: ClassVar[tuple[str, ...]] = ()

    def files(self) -> dict[str, list[str]]:
        """Absolute paths of the annotation files of each split."""
        named = {split: getattr(self, f"{split}_files") for split in SPLITS}
        found = {split: [self._path(file) for file in as_list(files)] for split, files in named.items() if files}
        if not found and self.data_dir is not None:
            layouts = [self._below_data_dir(layout) for layout in self.USUAL_FILES]
            found = max(layouts, key=len, default={})  # the first of those with the most splits
        return {split: files for split, files in found.items() if self.splits is None or split in self.splits}

    def _path(self, file: str) -> str:
        """Where a named file is."""
        path = absolute(file)
        if not os.path.exists(path) and self.data_dir is not None:
            below = os.path.join(absolute(self.data_dir), os.path.expanduser(file))
            return below if os.path.exists(below) else path
        return path

    def _below_data_dir(self, layout: Layout) -> dict[str, list[str]]:
        """The splits of a layout that are there; of a split with several files also those that are missing."""
        root, found = absolute(self.data_dir or "."), {}
        for split, names in layout.items():
            paths = []
            for name in names:
                places = [os.path.join(root, folder, name) for folder in FOLDERS]
                paths.append(next(filter(os.path.isfile, places), places[0]))
            if any(map(os.path.isfile, paths)):
                found[split] = paths
        return found

    def root(self, folder: str | None, setting: str) -> ImageRoot:
        """Where image paths start: a folder that a setting names, or `data_dir`."""
        return ImageRoot(absolute(folder or self.data_dir or "."), setting, self.IMAGE_PLACES)

    def source_folders(self) -> list[str]:
        """Absolute folders that prepared data depends on."""
        return [self.root(self.image_root, "image_root").folder]

    def create_config_id(self, config_kwargs: dict[str, Any], custom_features: datasets.Features | None = None) -> str:
        """Name of the configuration's folder in the cache."""
        contents = {split: [_file_hash(file) for file in files] for split, files in self.files().items()}
        return super().create_config_id(
            config_kwargs | {"contents": contents, "folders": self.source_folders()}, custom_features
        )


@dataclass
class QuestionFilesConfig(FilesConfig):
    """Which files of questions.

    Attributes:
        vqa_root: Folder that image paths of VQA v2 start from; None takes `image_root`, or `data_dir`.
        vg_root: Folder that image paths of Visual Genome start from; None takes that of VQA v2.
        vg_weight: Weight of an answer of Visual Genome, >= 0; that of VQA v2's answers of a question is 1 together.
        image_name: Path of an image of VQA v2's own files, with "{subset}" for "train2014" and the like, "{image_id}".
    """

    vqa_root: str | None = None
    vg_root: str | None = None
    vg_weight: float = VG_WEIGHT
    image_name: str = IMAGE_NAME

    def question_roots(self) -> tuple[ImageRoot, ImageRoot]:
        """Folders of the images of VQA v2 and of Visual Genome."""
        setting = "image_root" if self.vqa_root is None else "vqa_root"
        first = self.root(self.vqa_root or self.image_root, setting)
        return first, first if self.vg_root is None else self.root(self.vg_root, "vg_root")

    def source_folders(self) -> list[str]:
        """Absolute folders that prepared data depends on."""
        return [root.folder for root in self.question_roots()]


class FileBuilder(datasets.GeneratorBasedBuilder):
    """Reads annotation files; the rows depend on the configuration's name.

    Rows of `retrieval` are images: `image`, `caption` (list) and `image_id`. Rows of `vqa` are questions: `image`,
    `question`, `question_id` (-1 where there is none), `image_id`, `answers` (of all annotators, with repeats; empty
    where the file has none), `answer_weight`, `question_type` and `answer_type`, which only VQA v2's own files tell.
    `image_id` is the place of the image in order of first appearance in its split.

    Attributes:
        reads_stream: Whether rows are streamed.
        shows_progress: Whether a bar tells how much of the files is read.
        num_shards: Parts of a split that processes can make at the same time; each reads the files, for what one part
            needs to know of the others, and makes its share of the rows.
    """

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = FilesConfig
    DEFAULT_WRITER_BATCH_SIZE = 1000  # rows hold paths; the library's 100 for images is slower
    DESCRIPTION = CITATION = HOMEPAGE = LICENSE = LAYOUT = ""
    reads_stream = shows_progress = False
    num_shards = 1

    def _info(self) -> datasets.DatasetInfo:
        """Features of a row, and where the data comes from."""
        return datasets.DatasetInfo(
            description=self.DESCRIPTION,
            citation=self.CITATION,
            homepage=self.HOMEPAGE,
            license=self.LICENSE,
            features=FEATURES_OF_TASK[self.config.name],
        )

    def splits_with_files(self) -> list[str]:
        """The splits that can be read.

        Raises:
            AnnotationError: There are none; the text says what was expected.
        """
        found = list(self.config.files())
        if not found:
            wanted = " and ".join(self.config.splits or ()) or "annotation"
            without = "".join(WITHOUT.get(split, "") for split in self.config.splits or ())
            raise AnnotationError(
                f"{type(self).__name__} finds no {wanted} files{self._place()}: give data_dir with the usual names "
                f"({self.LAYOUT or 'see the README'}), or name files with train_files, validation_files, test_files."
                + without
            )
        return found

    def _place(self) -> str:
        """Where files are looked for, and what is there instead."""
        if self.config.data_dir is None:
            return ""
        folder = absolute(self.config.data_dir)
        if not os.path.isdir(folder):
            return f", since there is no folder {folder!r}"
        entries = sorted(os.listdir(folder))
        shown = ", ".join(entries[:MAX_ENTRIES]) + (" .." if len(entries) > MAX_ENTRIES else "") or "nothing"
        return f" below {folder!r}, which has {shown}"

    def taker(self, split: str) -> RowTaker:
        """What makes rows of a split out of rows of annotation files."""
        config = self.config
        if config.name == "retrieval":
            return Gallery(config.root(config.image_root, "image_root"))
        vqa_root, vg_root = config.question_roots()
        return Questions(vqa_root, vg_root, config.vg_weight, need_answers=split != "test")

    def sources(self, split: str, problems: Problems) -> Iterator[SourceRow]:
        """Rows of a split's annotation files."""
        files = self.config.files()[split]
        if self.config.name == "retrieval":
            return caption_rows(files, split, problems)
        return question_rows(files, problems, self.config.image_name)

    def shown_sources(self, split: str, problems: Problems) -> Iterator[SourceRow]:
        """The same rows, with a bar where one is wanted."""
        found = self.sources(split, problems)
        return with_bar(found, f"Reading {split}") if self.shows_progress else found

    def rows(self, split: str, problems: Problems) -> Rows:
        """Rows of a split with their share of all.

        Raises:
            AnnotationError: Something is wrong with a file, or, unless bad rows are dropped, with a row.
        """
        made = made_rows(self.shown_sources(split, problems), self.taker(split), problems, self.config.drop_bad_rows)
        is_empty = True
        for share, row in made:
            is_empty = False
            yield share, row
        if is_empty:
            files = ", ".join(self.config.files()[split])
            raise AnnotationError(problems.describe(f"{SUBJECT}: no row of {split} is left of {files}"))

    def check(self, split: str) -> None:
        """Read a split and make nothing, as before rows are streamed.

        Raises:
            AnnotationError: It cannot be used.
        """
        self.shows_progress = True
        try:
            for _ in self.rows(split, Problems()):
                pass
        finally:
            self.shows_progress = False

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        """One generator a split; nothing is downloaded."""
        shards = [(place, self.num_shards) for place in range(self.num_shards)]
        kwargs = {"shards": shards, "streaming": dl_manager.is_streaming}
        return [
            datasets.SplitGenerator(split, gen_kwargs={"split": split, **kwargs}) for split in self.splits_with_files()
        ]

    def _generate_examples(
        self, split: str, shards: list[tuple[int, int]], streaming: bool
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Rows of some shards of a split with their numbers."""
        problems, wanted = Problems(), {place for place, _ in shards}
        for number, (share, row) in enumerate(self.rows(split, problems)):
            if int(share * shards[0][1]) in wanted:
                yield number, row
        if problems.refused and 0 in wanted:
            text = problems.describe(f"{problems.refused} rows of {split} are dropped")
            if streaming:
                logger.warning(text)
            else:
                with open(os.path.join(self._output_dir, f"{DROPPED}{split}.txt"), "w", encoding="utf-8") as stream:
                    stream.write(text)


DROPPED = "dropped-"  # name of the file in the cache that says what was dropped; the split follows


def _file_hash(file: str) -> str:
    """Hash of a file's content; of its name if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(file, "rb") as stream:
            while part := stream.read(1 << 20):
                digest.update(part)
    except OSError:
        return file
    return digest.hexdigest()
