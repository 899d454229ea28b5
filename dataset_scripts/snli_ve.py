"""SNLI-VE: does a sentence follow from a photograph of Flickr30k? (Xie et al., 2019, arXiv 1901.06706)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

from .file_builder import SOURCES, FileBuilder, FilesConfig
from .reading.layouts import named_once
from .reading.problems import Problems, UnusableFileError
from .reading.rows import WHOLE, Part, SourceRow
from .reading.tables import table_rows

NO_GOLD = "-"  # the label where the annotators do not agree
IMAGE_KEYS = ("Flickr30K_ID", "Flikr30kID", "Flickr30kID")  # of the releases of its JSON lines


class SnliVe(FileBuilder):
    """Reads SNLI-VE; load it with `load_dataset_script("snli_ve", data_dir=...)`.

    Below `data_dir` are Flickr30k's images, as for `Flickr30k`, and there, or below `annotations` or `data`, its own
    `snli_ve_train.jsonl`, `snli_ve_dev.jsonl`, `snli_ve_test.jsonl`, or ALBEF's `ve_train.json`, `ve_dev.json`,
    `ve_test.json`. Rows whose gold label is "-" are skipped, and their number is said. Columns: see `FileBuilder`.
    """

    SOURCE = SOURCES["snli_ve"]
    BUILDER_CONFIGS = [FilesConfig("classification", FileBuilder.VERSION, _source=SOURCE)]
    DEFAULT_CONFIG_NAME = "classification"

    def sources(self, split: str, problems: Problems) -> Iterator[SourceRow]:
        """Read rows of a split's files, those without a gold label left out."""
        self._skipped = 0
        files = named_once(self.config.files()[split], problems, "sentences")
        for index, file in enumerate(files):
            try:
                for row in table_rows(file):
                    renamed = _renamed(row.row)
                    if isinstance(renamed, dict) and renamed.get("label") == NO_GOLD:
                        self._skipped += 1
                    else:
                        share = (index + min(row.share, 0.999)) / len(files)
                        yield SourceRow(file, row.number, share, renamed, unit=row.unit)
            except UnusableFileError as error:
                problems.add(file, str(error))

    def rows(
        self, split: str, problems: Problems, part: Part = WHOLE, on_dropped: Callable[[str], Any] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Read, check and build rows, see `FileBuilder.rows`; `on_dropped` gets the number of skipped rows, too."""
        texts: list[str] = []
        yield from super().rows(split, problems, part, texts.append)
        if self._skipped:
            texts.append(f"{self._skipped} rows of {split} have no gold label ({NO_GOLD!r}): they are skipped.")
        if texts and on_dropped is not None:
            on_dropped("\n".join(texts))


def _renamed(row: Any) -> Any:
    """Return a row of SNLI-VE or of ALBEF's files with this package's names; others stay as they are."""
    if not isinstance(row, dict):
        return row
    image = next((row[name] for name in IMAGE_KEYS if name in row), row.get("image"))
    if isinstance(image, int) or (isinstance(image, str) and not os.path.splitext(image)[1]):
        image = f"{image}.jpg"
    names = {"text": ("sentence2", "sentence"), "label": ("gold_label", "label")}
    found = {ours: row[theirs] for ours, both in names.items() for theirs in both[::-1] if theirs in row}
    return found if image is None else {"image": image, **found}
