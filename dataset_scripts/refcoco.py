"""RefCOCO+: photographs of COCO with texts that refer to one object each, without words for places."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from .file_builder import SOURCES, FileBuilder, FilesConfig
from .reading.problems import Problems
from .reading.rows import SourceRow
from .referring.annotations import referring_rows


@dataclass
class RefcocoConfig(FilesConfig):
    """Which files."""

    def files(self) -> dict[str, list[str]]:
        """Return absolute paths of the files of each split; of a pickle that is missing the JSON file beside it."""
        return {split: list(map(_in_json, files)) for split, files in super().files().items()}


class RefcocoPlus(FileBuilder):
    """Reads RefCOCO+; load it with `load_dataset_script("refcoco_plus", data_dir=...)`.

    Below `data_dir` are COCO's `train2014` (or this below `images`), and there, or below `annotations` or `data`, the
    files of salesforce/ALBEF: `refcoco+_train.json`, `refcoco+_val.json`, `refcoco+_test.json`; and in a folder
    `refcoco+`: `refs(unc).p`, a pickle, which is read without being unpickled, or `refs(unc).json`, `instances.json`
    with the boxes, and `dets.json` with those that a detector found, `boxes`. `cocos.json` is not needed. `subset` is
    "testA", where people are referred to, or "testB"; training rows have no box unless they have a `ref_id`.
    """

    BUILDER_CONFIG_CLASS = RefcocoConfig
    SOURCE = SOURCES["refcoco_plus"]
    BUILDER_CONFIGS = [RefcocoConfig("grounding", FileBuilder.VERSION, _source=SOURCE)]

    def sources(self, split: str, problems: Problems) -> Iterator[SourceRow]:
        """Read rows of a split's files, each with its box."""
        return referring_rows(self.config.files()[split], problems)


def _in_json(path: str) -> str:
    other = f"{path.removesuffix('.p')}.json"
    return other if path.endswith(".p") and not os.path.exists(path) and os.path.exists(other) else path
