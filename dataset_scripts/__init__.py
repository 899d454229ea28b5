"""Data sets for the models: builders of the `datasets` library, and readers of ALBEF's annotation files.

Current versions of `datasets` run no code from a data set's folder: `load_dataset("shapes.py")` ends in "Dataset
scripts are no longer supported", whatever `trust_remote_code` says. The builder classes themselves still work, because
code that is already imported needs no trust. `load_dataset_script` does what `load_dataset` did: it makes the builder
in this process, prepares the data once in the cache and returns the splits.
"""

from __future__ import annotations

import dataclasses
import difflib
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
from datasets.fingerprint import Hasher

from .coco_retrieval import CocoRetrieval
from .easy_vqa import EasyVQA
from .file_builder import DROPPED, FileBuilder
from .flickr30k import Flickr30k
from .mixtures import MixedRows, concatenate_sources, interleave_streams
from .nlvr2 import NLVR2
from .own_data import OwnData
from .reading.answer_lists import load_answer_list
from .reading.image_checks import good_images, image_problems
from .reading.image_files import absolute
from .reading.problems import AnnotationError, DataError, MissingSplitError, short
from .reading.training_rows import CaptionRows, one_caption_a_row, process_share, stream_captions
from .refcoco import RefcocoPlus
from .shape_pairs import ShapePairs, ShapePairsConfig
from .shapes import Shapes, ShapesConfig
from .snli_ve import SnliVe
from .visual_genome import VisualGenome
from .vqa_v2 import VQAv2
from .web_shards import stream_shards

__all__ = [
    "BUILDERS",
    "NLVR2",
    "AnnotationError",
    "CaptionRows",
    "CocoRetrieval",
    "DataError",
    "EasyVQA",
    "FileBuilder",
    "Flickr30k",
    "MissingSplitError",
    "MixedRows",
    "OwnData",
    "RefcocoPlus",
    "ShapePairs",
    "ShapePairsConfig",
    "Shapes",
    "ShapesConfig",
    "SnliVe",
    "VQAv2",
    "VisualGenome",
    "concatenate_sources",
    "good_images",
    "image_problems",
    "interleave_streams",
    "load_answer_list",
    "load_dataset_script",
    "make_builder",
    "one_caption_a_row",
    "process_share",
    "stream_captions",
    "stream_shards",
]

BUILDERS: dict[str, type[datasets.GeneratorBasedBuilder]] = {
    "coco_retrieval": CocoRetrieval,
    "easy_vqa": EasyVQA,
    "flickr30k": Flickr30k,
    "nlvr2": NLVR2,
    "own_data": OwnData,
    "refcoco_plus": RefcocoPlus,
    "shape_pairs": ShapePairs,
    "shapes": Shapes,
    "snli_ve": SnliVe,
    "visual_genome": VisualGenome,
    "vqa_v2": VQAv2,
}
"""The builder of each data set, by the name that `load_dataset_script` and the field `dataset` take."""
logger = logging.getLogger(__name__)


def make_builder(
    name: str,
    config_name: str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    **config_kwargs: Any,
) -> datasets.GeneratorBasedBuilder:
    """Make the builder of a data set, which reads nothing yet; see `load_dataset_script`.

    Raises:
        DataError: `name`, the configuration or a field of it is unknown or out of range.
    """
    if name not in BUILDERS:
        raise DataError(f"No data set is called {name!r}; there are: {', '.join(sorted(BUILDERS))}.")
    if data_dir is not None:
        config_kwargs["data_dir"] = absolute(str(data_dir))
    folder = None if cache_dir is None else absolute(str(cache_dir))
    builder_class = BUILDERS[name]
    fields = dataclasses.fields(builder_class.BUILDER_CONFIG_CLASS)
    known = {field.name: str(field.type) for field in fields if not field.name.startswith("_")}
    if config_name is not None and config_name not in builder_class.builder_configs:
        names = ", ".join(builder_class.builder_configs)
        raise DataError(f"Configuration {config_name!r} not found in the data set {name}; there are: {names}.")
    for field, value in config_kwargs.items():
        if field not in known:
            near = difflib.get_close_matches(field, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}."
            raise DataError(f"The data set {name} has no field {field!r}; {hint}")
        values = value if isinstance(value, list) else [value]
        if "str" in known[field] and any(isinstance(one, int | float | dict) for one in values):
            raise DataError(f"{field} is {short(value)}, but must be text.")
    config_kwargs |= {"config_name": config_name, "hash": _source_hash(builder_class)}
    try:
        return builder_class(cache_dir=folder, **config_kwargs)
    except OSError as error:
        raise DataError(f"The data cannot be prepared in {folder or 'the cache'} ({error}).") from error


def load_dataset_script(
    name: str,
    config_name: str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    split: str | None = None,
    streaming: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
    num_proc: int | None = None,
    **config_kwargs: Any,
) -> Any:
    """Load one of the data sets of this package, as `datasets.load_dataset` would.

    Prepared data is kept in the cache under the configuration, `data_dir`, every value of `config_kwargs`, the version
    and a hash of the builder's source file, and, of builders that read annotation files, the files' content, so a
    change of any of them prepares anew. Processes that prepare the same data at the same time wait for the first.
    Progress bars appear only on a terminal.

    Args:
        name: Key of `BUILDERS`, such as "shapes".
        config_name: Configuration of the builder; None takes its default.
        data_dir: Folder of the source files, for builders that read files. Made absolute, since the cache goes by this
            string and the same relative path means another folder elsewhere.
        split: A split or a slice of one ("train", "test[:10]"); None returns all splits in a dictionary. Slices are not
            available when streaming. Builders that read files read only those of this split.
        streaming: Make rows while they are read, and keep nothing on disk. Annotation files are checked first.
        cache_dir: Folder for prepared data; None takes the library's own.
        num_proc: Processes that prepare; when streaming, the parts that processes and workers can read at the same
            time. Only builders that read files have parts.
        **config_kwargs: Fields of the builder's configuration.

    Returns:
        A data set, or a dictionary of them if `split` is None.

    Raises:
        DataError: `name`, the configuration or a field of it is unknown or out of range, or `num_proc` is below 1.
        AnnotationError: Annotation files cannot be used; the text lists the first problems of all of them.
    """
    if num_proc is not None and num_proc < 1:
        raise DataError(f"num_proc is {num_proc}, but must be at least 1.")
    if (
        issubclass(BUILDERS.get(name, object), FileBuilder)
        and split is not None
        and (one_split := re.match(r"(train|validation|test)(\[|$)", split))
    ):
        config_kwargs = {"splits": [one_split.group(1)]} | config_kwargs
    builder = make_builder(name, config_name, data_dir, cache_dir, **config_kwargs)
    if isinstance(builder, FileBuilder):
        builder.num_shards = num_proc or 1
        builder.shows_progress = builder.num_shards == 1 and not streaming
        if streaming:
            builder.reads_stream = True
            for each in builder.splits_with_files():
                builder.check(each)
    if streaming:
        return builder.as_streaming_dataset(split=split)
    with _bars_only_on_a_terminal():
        _prepare(builder, num_proc)
        try:
            return builder.as_dataset(split=split)
        except ValueError as error:  # the split
            raise MissingSplitError(str(error)) from error


def _prepare(builder: datasets.GeneratorBasedBuilder, num_proc: int | None) -> None:
    """Prepare data that the cache lacks; raise the cause that the library wraps in an error of its own."""
    try:
        builder.download_and_prepare(num_proc=num_proc if isinstance(builder, FileBuilder) else None)
    except (datasets.exceptions.DatasetGenerationError, OSError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if isinstance(cause, DataError):
            raise cause from None
        if isinstance(cause, OSError):
            raise DataError(f"The data cannot be prepared in {builder.cache_dir} ({cause}).") from error
        if isinstance(builder, FileBuilder):
            for split in builder.splits_with_files():  # an error of another process has lost its cause
                builder.check(split)
        raise
    for path in sorted(Path(builder.cache_dir).glob(f"{DROPPED}*.txt")):
        logger.warning(path.read_text(encoding="utf-8"))


def _source_hash(builder_class: type[datasets.GeneratorBasedBuilder]) -> str:
    """Return a hash of the files that define a builder, so that data of an older version is not used from the cache."""
    folder = Path(__file__).parent
    sources = [sys.modules[builder_class.__module__].__file__, *sorted(folder.glob("*.py"))]
    sources += [*sorted(folder.glob("reading/*.py")), *sorted(folder.glob("referring/*.py")), folder / "sources.yaml"]
    return Hasher.hash([Path(source).read_bytes() for source in sources if source] or builder_class.__qualname__)


@contextmanager
def _bars_only_on_a_terminal() -> Iterator[None]:
    """Silence the progress bars of `datasets` while standard error is no terminal, and restore them."""
    is_set = os.environ.get("HF_DATASETS_DISABLE_PROGRESS_BARS") is not None  # by the user, whose word counts
    quiet = not sys.stderr.isatty() and not datasets.are_progress_bars_disabled() and not is_set
    if quiet:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if quiet:
            datasets.enable_progress_bars()
