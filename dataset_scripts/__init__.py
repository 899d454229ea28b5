"""Data sets for the models: builders of the `datasets` library, and readers of ALBEF's annotation files.

Current versions of `datasets` run no code from a data set's folder: `load_dataset("shapes.py")` ends in "Dataset
scripts are no longer supported", whatever `trust_remote_code` says. The builder classes themselves still work, because
code that is already imported needs no trust. `load_dataset_script` does what `load_dataset` did: it makes the builder
in this process, prepares the data once in the cache and returns the splits.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
from datasets.fingerprint import Hasher

from .annotations import AnnotationError, check_images, load_retrieval_files, one_caption_a_row
from .easy_vqa import EasyVQA
from .shapes import Shapes, ShapesConfig
from .vqa_annotations import load_answer_list, load_vqa_files

__all__ = [
    "BUILDERS",
    "AnnotationError",
    "EasyVQA",
    "Shapes",
    "ShapesConfig",
    "check_images",
    "load_answer_list",
    "load_dataset_script",
    "load_retrieval_files",
    "load_vqa_files",
    "one_caption_a_row",
]

BUILDERS: dict[str, type[datasets.GeneratorBasedBuilder]] = {"easy_vqa": EasyVQA, "shapes": Shapes}


def load_dataset_script(
    name: str,
    config_name: str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    split: str | None = None,
    streaming: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
    **config_kwargs: Any,
) -> Any:
    """Load one of the data sets of this package, as `datasets.load_dataset` would.

    Prepared data is kept in the cache under the configuration, `data_dir`, every value of `config_kwargs`, the version
    and a hash of the builder's source file, so a change of any of them prepares anew. Processes that prepare the
    same data at the same time wait for the first. Progress bars appear only on a terminal.

    Args:
        name: Key of `BUILDERS`, such as "shapes".
        config_name: Configuration of the builder; None takes its default.
        data_dir: Folder of the source files, for builders that read files. Made absolute, since the cache goes by this
            string and the same relative path means another folder elsewhere.
        split: A split or a slice of one ("train", "test[:10]"); None returns all splits in a dictionary. Slices are not
            available when streaming.
        streaming: Make rows while they are read, and keep nothing on disk.
        cache_dir: Folder for prepared data; None takes the library's own.
        **config_kwargs: Fields of the builder's configuration.

    Returns:
        A data set, or a dictionary of them if `split` is None.

    Raises:
        ValueError: `name`, the configuration or a field of it is unknown or out of range.
    """
    if name not in BUILDERS:
        raise ValueError(f"No data set is called {name!r}; there are: {', '.join(sorted(BUILDERS))}.")
    if data_dir is not None:
        config_kwargs["data_dir"] = os.path.abspath(os.path.expanduser(data_dir))
    folder = None if cache_dir is None else os.path.abspath(os.path.expanduser(cache_dir))
    builder_class = BUILDERS[name]
    source = _source_hash(builder_class)
    builder = builder_class(cache_dir=folder, config_name=config_name, hash=source, **config_kwargs)
    if streaming:
        return builder.as_streaming_dataset(split=split)
    with _bars_only_on_a_terminal():
        builder.download_and_prepare()
        return builder.as_dataset(split=split)


def _source_hash(builder_class: type[datasets.GeneratorBasedBuilder]) -> str:
    """Hash of the file that defines a builder: data made by an older text of it is not taken from the cache."""
    source = sys.modules[builder_class.__module__].__file__
    return Hasher.hash(Path(source).read_bytes() if source else builder_class.__qualname__)


@contextmanager
def _bars_only_on_a_terminal() -> Iterator[None]:
    """Silence the progress bars of `datasets` while standard error is no terminal, and restore them."""
    quiet = not sys.stderr.isatty() and not datasets.are_progress_bars_disabled()
    if quiet and os.environ.get("HF_DATASETS_DISABLE_PROGRESS_BARS") is None:  # the variable is the user's word
        datasets.disable_progress_bars()
        try:
            yield
        finally:
            datasets.enable_progress_bars()
    else:
        yield
