"""What builders that read annotation files and image folders share."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import datasets
import yaml

from .labelled.labels import SINGLE, LabelRowBuilder, label_features
from .reading.captions import FEATURES, CaptionRowBuilder
from .reading.image_files import FirstCopies, ImageRoot, absolute
from .reading.layouts import IMAGE_NAME, caption_rows, question_rows
from .reading.problems import AnnotationError, MissingSplitError, Problems
from .reading.questions import VG_WEIGHT, VQA_FEATURES, QuestionRowBuilder
from .reading.rows import SUBJECT, WHOLE, Part, RowBuilder, SourceRow, accepted, missing_roots
from .referring.boxes import GROUNDING_FEATURES, BoxRowBuilder

logger = logging.getLogger(__name__)
SOURCES: dict[str, dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("sources.yaml").read_text("utf-8"))
SPLITS = ("train", "validation", "test")
MAX_ENTRIES = 8  # of a folder, in a message
WITHOUT = {  # how a run does without a split
    "validation": " Without them: --eval_strategy no --do_eval false.",
    "test": " Without them: --do_predict false.",
}
FOLDERS = ("", "annotations", "data")  # below data_dir: where annotation files are looked for
FEATURES_OF_TASK = {"retrieval": FEATURES, "vqa": VQA_FEATURES, "grounding": GROUNDING_FEATURES}
DROPPED = "dropped-"  # name of the file in the cache that says what was dropped; the split follows


@dataclass
class FilesConfig(datasets.BuilderConfig):
    """Which files.

    Prepared data is kept by the content of the annotation files and the absolute paths of image folders, so a change of
    any of them prepares anew.

    Attributes:
        train_files: Annotation files, in any layout of `reading/layouts.py`; relative paths start from the working
            folder or, if there is no such file, from `data_dir`. If no split names any: those with the usual names
            below `data_dir`.
        validation_files: As `train_files`.
        test_files: As `train_files`; questions may lack answers there.
        splits: Read these alone; None reads all that have files.
        image_root: Folder that image paths start from; None takes `data_dir`.
        drop_bad_rows: Leave rows out that cannot be used, and say how many, where otherwise the data is refused.
        merge_duplicates: Take image files of a split with the same bytes for one image, the first of them: its captions
            are those of all, and questions share an `image_id`. Prepared data does not notice when image files change.
    """

    train_files: list[str] | str | None = None
    validation_files: list[str] | str | None = None
    test_files: list[str] | str | None = None
    splits: list[str] | None = None
    image_root: str | None = None
    drop_bad_rows: bool = False
    merge_duplicates: bool = False
    _source: dict[str, Any] = field(default_factory=dict, repr=False)  # of SOURCES

    def files(self) -> dict[str, list[str]]:
        """Return absolute paths of the annotation files of each split."""
        found = {}
        for split in SPLITS:
            if files := getattr(self, f"{split}_files"):
                found[split] = list(map(self._path, [files] if isinstance(files, (str, os.PathLike)) else files))
        if not found and self.data_dir is not None:
            layouts = [self._below_data_dir(layout) for layout in self._source.get("files", ())]
            found = max(layouts, key=len, default={})  # the first of those with the most splits
        return {split: files for split, files in found.items() if self.wants(split)}

    def wants(self, split: str) -> bool:
        """Return whether a split is to be read."""
        return self.splits is None or split in self.splits

    def _path(self, file: str | os.PathLike[str]) -> str:
        """Return where a named file is."""
        path = absolute(file)
        if not os.path.exists(path) and self.data_dir is not None:
            below = os.path.join(absolute(self.data_dir), os.path.expanduser(file))
            return below if os.path.exists(below) else path
        return path

    def _below_data_dir(self, layout: dict[str, list[str]]) -> dict[str, list[str]]:
        """Return the splits of a layout that are there; of a split with several files also those that are missing."""
        root, found = absolute(self.data_dir or "."), {}
        for split, names in layout.items():
            paths = []
            for name in names:
                candidates = [os.path.join(root, folder, name) for folder in FOLDERS]
                paths.append(next(filter(os.path.isfile, candidates), candidates[0]))
            if any(map(os.path.isfile, paths)):
                found[split] = paths
        return found

    def root(self, folder: str | None, setting: str) -> ImageRoot:
        """Return where image paths start: a folder that a setting names, or `data_dir`."""
        return ImageRoot(
            absolute(folder or self.data_dir or "."), setting, tuple(self._source.get("image_patterns", ()))
        )

    def roots(self) -> list[ImageRoot]:
        """Return the folders of images, which prepared data depends on."""
        return [self.root(self.image_root, "image_root")]

    def create_config_id(self, config_kwargs: dict[str, Any], custom_features: datasets.Features | None = None) -> str:
        """Return the name of the configuration's folder in the cache."""
        contents = {split: [_file_hash(file) for file in files] for split, files in self.files().items()}
        more = {"contents": contents, "folders": [root.folder for root in self.roots()]}
        return super().create_config_id(config_kwargs | more, custom_features)


@dataclass
class QuestionFilesConfig(FilesConfig):
    """Which files of questions.

    Attributes:
        vqa_root: Folder that image paths of VQA v2 start from; None takes `image_root`, or `data_dir`.
        vg_root: Folder that image paths of Visual Genome start from; None takes that of VQA v2.
        vg_weight: Weight of an answer of Visual Genome, >= 0; that of VQA v2's answers of a question is 1 together.
        data_subtype: Of VQA v2's questions where neither the file nor its name says it, such as "val2014"; None finds
            the images by their ids below the folder, whichever of COCO's folders has them.
        image_name: Path of an image of VQA v2's own files, with "{subset}" for "train2014" and the like, "{image_id}".
    """

    vqa_root: str | None = None
    vg_root: str | None = None
    vg_weight: float = VG_WEIGHT
    data_subtype: str | None = None
    image_name: str = IMAGE_NAME

    def roots(self) -> list[ImageRoot]:
        """Return the folders of the images of VQA v2 and of Visual Genome."""
        setting = "image_root" if self.vqa_root is None else "vqa_root"
        first = self.root(self.vqa_root or self.image_root, setting)
        return [first, first if self.vg_root is None else self.root(self.vg_root, "vg_root")]


class FileBuilder(datasets.GeneratorBasedBuilder):
    """Reads annotation files; the rows depend on the configuration's name.

    Rows of `retrieval` are images: `image`, `caption` (list) and `image_id`. Rows of `vqa` are questions: `image`,
    `question`, `question_id` (-1 where there is none), `image_id`, `answers` (of all annotators, with repeats; empty
    where the file has none), `answer_weight`, `question_type` and `answer_type`, which only VQA v2's own files tell.
    Rows of `classification` are texts: `image`, `text`, `label` (None where the file has none) and `image_id`.
    Rows of `grounding` are texts that refer to a part of an image: `image`, `text`, `box`, `boxes` to choose from, both
    as x, y, width, height in pixels, `subset`, `ref_id`, `image_id`. `image_id` is the index of the image in order of
    first appearance in its split.

    Attributes:
        reads_stream: Whether rows are streamed.
        shows_progress: Whether a bar tells how much of the files is read.
        num_shards: Parts of a split that processes can make at the same time. Each reads the files, for what one part
            needs to know of the others: questions up to its last row, captions to the end, since they belong to images.
            Rows of other parts are not built, nor checked, unless bad rows are dropped.
    """

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = FilesConfig
    DEFAULT_WRITER_BATCH_SIZE = 1000  # rows hold paths; the library's 100 for images is slower
    SOURCE: dict[str, Any] = {}
    reads_stream = shows_progress = False
    num_shards = 1

    def _info(self) -> datasets.DatasetInfo:
        """Return features of a row, and where the data comes from."""
        about = {name: self.SOURCE.get(name, "") for name in ("description", "citation", "homepage", "license")}
        is_labelled = self.config.name == "classification"
        features = label_features(self.problem_type) if is_labelled else FEATURES_OF_TASK[self.config.name]
        return datasets.DatasetInfo(features=features, **about)

    @property
    def problem_type(self) -> str:
        """Return what the labels of `classification` are."""
        return getattr(self.config, "problem_type", SINGLE)

    def splits_with_files(self) -> list[str]:
        """Return the splits that can be read; raises MissingSplitError if there are none."""
        found = list(self.config.files())
        if not found:
            wanted = " and ".join(self.config.splits or ()) or "annotation"
            without = "".join(WITHOUT.get(split, "") for split in self.config.splits or ())
            layout = self.SOURCE.get("layout", "see the README")
            raise MissingSplitError(
                f"{type(self).__name__} finds no {wanted} files{self._found()}: give data_dir with the usual names "
                f"({layout}), or name files with train_files, validation_files, test_files." + without
            )
        return found

    def _found(self) -> str:
        """Return where files are looked for, and what is there instead."""
        if self.config.data_dir is None:
            return ""
        folder = absolute(self.config.data_dir)
        if not os.path.isdir(folder):
            return f", since there is no folder {folder!r}"
        entries = sorted(os.listdir(folder))
        shown = ", ".join(entries[:MAX_ENTRIES]) + (" .." if len(entries) > MAX_ENTRIES else "") or "nothing"
        return f" below {folder!r}, which has {shown}"

    def row_builder(self, split: str, part: Part = WHOLE) -> RowBuilder | None:
        """Return what builds rows of a split out of rows of annotation files; None if the part has none."""
        config, builder = self.config, RowBuilder()
        if config.name == "retrieval":
            builder = CaptionRowBuilder(config.root(config.image_root, "image_root"), part)
        elif config.name == "classification":
            root = config.root(config.image_root, "image_root")
            builder = LabelRowBuilder(root, split != "test", self.problem_type, part)
        elif config.name == "grounding":
            builder = BoxRowBuilder(config.root(config.image_root, "image_root"), split == "validation", part)
        else:
            vqa_root, vg_root = config.roots()
            builder = QuestionRowBuilder(vqa_root, vg_root, config.vg_weight, need_answers=split != "test", part=part)
        builder.images.copies = FirstCopies() if config.merge_duplicates else None
        return builder

    def sources(self, split: str, problems: Problems) -> Iterator[SourceRow]:
        """Read rows of a split's annotation files."""
        return self.json_rows(self.config.files()[split], split, problems)

    def json_rows(self, files: list[str], split: str, problems: Problems) -> Iterator[SourceRow]:
        """Read rows of JSON files of all layouts of `reading/layouts.py`."""
        if self.config.name == "retrieval":
            return caption_rows(files, split, problems)
        return question_rows(files, problems, self.config.image_name, self.config.data_subtype)

    def accepted(self, split: str, builder: RowBuilder, problems: Problems) -> Iterator[SourceRow]:
        """Read and check rows of a split; see `accepted`."""
        progress = f"Reading {split}" if self.shows_progress else None
        return accepted(self.sources(split, problems), builder, problems, progress)

    def rows(
        self, split: str, problems: Problems, part: Part = WHOLE, on_dropped: Callable[[str], Any] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Read, check and build rows of a part of a split; `on_dropped` gets a text of what was dropped.

        Raises:
            AnnotationError: Something is wrong with a file, or, unless bad rows are dropped, with a row. All rows are
                checked first or, where rows can be built one by one, while they are built.
        """
        builder, is_empty = self.row_builder(split, part), True
        if builder is None:
            return
        if missing_roots(builder, problems):
            problems.raise_if_any(SUBJECT)
        sources = self.accepted(split, builder, problems)
        if isinstance(builder, QuestionRowBuilder | LabelRowBuilder) and not part.check_all:
            sources = takewhile(lambda source: source.share < part.end, sources)
        for _ in sources:
            is_empty = False
            yield from builder.pop_ready()
        problems.raise_if_any(SUBJECT, drop_rows=self.config.drop_bad_rows)
        yield from builder.flush()
        if is_empty and part.end >= 1:
            files = ", ".join(self.config.files()[split])
            raise AnnotationError(problems.describe(f"{SUBJECT}: no row of {split} is left of {files}"))
        if problems.refused and on_dropped is not None:
            on_dropped(problems.describe(f"{problems.refused} rows of {split} are dropped"))

    def check(self, split: str) -> None:
        """Read a split and keep nothing, as before rows are streamed; raises AnnotationError if it cannot be used."""
        self.shows_progress = True
        try:
            deque(self.rows(split, Problems()), maxlen=0)
        finally:
            self.shows_progress = False

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        """Return one generator a split; nothing is downloaded."""
        shards = [(index, self.num_shards) for index in range(self.num_shards)]
        kwargs = {"shards": shards, "streaming": dl_manager.is_streaming}
        splits = self.splits_with_files()
        return [datasets.SplitGenerator(split, gen_kwargs={"split": split, **kwargs}) for split in splits]

    def _generate_examples(
        self, split: str, shards: list[tuple[int, int]], streaming: bool
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Return numbered rows of some shards of a split; the first shard reports the dropped rows."""
        count = shards[0][1]
        part = Part(frozenset(index for index, _ in shards), count, self.config.drop_bad_rows or count == 1)
        kept = Path("" if streaming else self._output_dir, f"{DROPPED}{split}.txt")  # in the cache
        say = logger.warning if streaming else partial(kept.write_text, encoding="utf-8")
        return enumerate(self.rows(split, Problems(), part, say if part.holds(0) else None))


def _file_hash(file: str) -> str:
    """Return a hash of a file's content; of its name if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(file, "rb") as stream:
            while part := stream.read(1 << 20):
                digest.update(part)
    except OSError:
        return file
    return digest.hexdigest()
