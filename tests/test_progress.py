"""Progress bars: on a terminal they tell rate and remaining time; elsewhere nothing is written."""

from __future__ import annotations

import io
import re
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from dataset_scripts import load_dataset_script
from dataset_scripts.reading.problems import Problems
from dataset_scripts.reading.rows import SourceRow, accepted
from modeling_albef.training import RetrievalTrainingArguments
from modeling_albef.training.evaluation.base import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class AnyRow:
    """Takes every row."""

    roots = ()

    def add(self, source: SourceRow) -> None:
        """Makes nothing of it."""


def rows(count: int) -> list[SourceRow]:
    return [SourceRow("a.json", number, (number + 1) / count, {}) for number in range(count)]


def test_a_terminal_sees_rate_and_remaining_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr("tqdm.std.tqdm.monitor_interval", 0)
    assert list(progress(range(3), "Counting words")) == [0, 1, 2]
    assert "Counting words" in sys.stderr.getvalue() and "it/s" in sys.stderr.getvalue()
    shown = accepted(iter(rows(40_000)), AnyRow(), Problems(), "Reading train")
    first = [next(shown) for _ in range(20_000)]
    time.sleep(0.15)  # longer than between two drawings
    assert [*first, *shown] == rows(40_000)
    assert re.search(r"Reading train:  5\d%.*21,000 rows, [\d,]+ rows/s \[00:00<00:0\d\]", sys.stderr.getvalue())


def test_no_terminal_no_bar(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert list(progress(range(3), "Counting words")) == [0, 1, 2]
    assert list(accepted(iter(rows(2000)), AnyRow(), Problems(), "Reading train")) == rows(2000)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "train.csv").write_text("file_name,caption\na.png,a\na.png,b\n")
    data = load_dataset_script("own_data", "retrieval", data_dir=tmp_path, split="train", cache_dir=tmp_path / "cache")
    assert len(data) == 1 and sys.stderr.getvalue() == ""


@pytest.mark.parametrize(("stream", "quiet"), [(Terminal(), False), (io.StringIO(), True)])
def test_training_has_bars_on_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stream: io.StringIO, quiet: bool
) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    assert RetrievalTrainingArguments(output_dir=str(tmp_path), use_cpu=True).disable_tqdm is quiet
    assert RetrievalTrainingArguments(output_dir=str(tmp_path), use_cpu=True, disable_tqdm=False).disable_tqdm is False
