"""NLVR2: sentences about two photographs each, true or false."""

from __future__ import annotations

from collections.abc import Iterator

import datasets

from .file_builder import SOURCES, FileBuilder, FilesConfig
from .labelled.image_pairs import PAIR_FEATURES, PairRowBuilder, pair_rows
from .reading.problems import Problems
from .reading.rows import WHOLE, Part, RowBuilder, SourceRow


class NLVR2(FileBuilder):
    """Reads NLVR2, and own tables of two images; load it with `load_dataset_script("nlvr2", data_dir=...)`.

    Below `data_dir` are the images, `train/DIRECTORY/*.png`, `dev/*.png` and `test1/*.png` (or these below `images`),
    and there, or below `annotations` or `data`: NLVR2's `train.json`, `dev.json`, `test1.json`; or ALBEF's
    `nlvr_train.json`, `nlvr_dev.json`, `nlvr_test.json`. Named by `train_files` and so on, CSV, JSON lines and Parquet
    files with the columns `image`, `image_2`, `text`, `label` are read, too.

    Rows are `image`, `image_2`, `text` and `label`, which is "True" or "False", or what an own table has; None where a
    test file has none.
    """

    SOURCE = SOURCES["nlvr2"]
    BUILDER_CONFIGS = [FilesConfig("classification", FileBuilder.VERSION, _source=SOURCE)]

    def _info(self) -> datasets.DatasetInfo:
        """See `FileBuilder._info`."""
        about = {name: self.SOURCE[name] for name in ("description", "citation", "homepage", "license")}
        return datasets.DatasetInfo(features=PAIR_FEATURES, **about)

    def row_builder(self, split: str, part: Part = WHOLE) -> RowBuilder:
        """Return what builds rows of a split."""
        root = self.config.root(self.config.image_root, "image_root")
        return PairRowBuilder(root, need_labels=split != "test", part=part)

    def sources(self, split: str, problems: Problems) -> Iterator[SourceRow]:
        """Read rows of a split's annotation files."""
        return pair_rows(self.config.files()[split], problems)
