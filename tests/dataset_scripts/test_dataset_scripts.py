"""Loading by name: the cache is never stale, processes may prepare together, and nothing is printed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets.table import InMemoryTable

import dataset_scripts
from dataset_scripts import BUILDERS, DataError, load_dataset_script
from dataset_scripts.shapes import Shapes

FEW = {"num_train": 6, "num_validation": 2, "num_test": 3}
ROOT = Path(dataset_scripts.__file__).parent.parent
COMMAND = """
import sys
from dataset_scripts import load_dataset_script
rows = load_dataset_script("shapes", cache_dir=sys.argv[1], split="train", num_train=300, num_validation=2, num_test=2)
assert len(rows) == 300 and rows[299]["image"].size == (64, 64)
"""


def arrow_files(cache: Path) -> set[Path]:
    return set(cache.rglob("*.arrow"))


def test_all_splits_and_one(tmp_path: Path) -> None:
    splits = load_dataset_script("shapes", cache_dir=tmp_path, **FEW)
    assert isinstance(splits, datasets.DatasetDict)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 6, "validation": 2, "test": 3}
    part = load_dataset_script("shapes", split="train[1:3]", cache_dir=tmp_path, **FEW)
    assert part["image_id"][:] == [1, 2]
    assert not isinstance(part.data, InMemoryTable), "rows are mapped from the cache"


def test_streaming_gives_the_same_rows_and_keeps_none(tmp_path: Path) -> None:
    rows = list(load_dataset_script("shapes", "vqa", split="test", streaming=True, cache_dir=tmp_path, **FEW))
    assert not arrow_files(tmp_path)
    kept = list(load_dataset_script("shapes", "vqa", split="test", cache_dir=tmp_path, **FEW))
    assert len(rows) == len(kept) == 12
    for row, other in zip(rows, kept, strict=True):
        assert row.pop("image").tobytes() == other.pop("image").tobytes()
        assert row == other
    both = load_dataset_script("shapes", streaming=True, cache_dir=tmp_path, **FEW)
    assert isinstance(both, datasets.IterableDatasetDict) and list(both) == ["train", "validation", "test"]


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"No data set is called 'shape'; there are: .*shapes"):
        load_dataset_script("shape", cache_dir=tmp_path)
    with pytest.raises(ValueError, match=r"'caption' not found.*retrieval.*vqa"):
        load_dataset_script("shapes", "caption", cache_dir=tmp_path)
    with pytest.raises(ValueError, match="no field 'num_trian'; did you mean 'num_train'"):
        load_dataset_script("shapes", cache_dir=tmp_path, num_trian=3)
    with pytest.raises(ValueError, match="Unknown split"):
        load_dataset_script("shapes", split="dev", cache_dir=tmp_path, **FEW)


@pytest.mark.parametrize("changed", [{"num_train": 7}, {"seed": 1}, {"image_size": 32}, {"version": "1.0.1"}])
def test_a_changed_setting_prepares_anew(changed: dict[str, Any], tmp_path: Path) -> None:
    first = load_dataset_script("shapes", cache_dir=tmp_path, **FEW)["train"]
    files = arrow_files(tmp_path)
    again = load_dataset_script("shapes", cache_dir=tmp_path, **FEW)["train"]
    assert arrow_files(tmp_path) == files and again.cache_files == first.cache_files
    other = load_dataset_script("shapes", cache_dir=tmp_path, **(FEW | changed))["train"]
    assert len(arrow_files(tmp_path)) == 2 * len(files)
    assert len(other) == changed.get("num_train", 6)
    assert other[0]["image"].size == (changed.get("image_size", 64),) * 2
    assert str(other.version) == changed.get("version", "1.0.0")


def test_a_changed_source_prepares_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_dataset_script("shapes", cache_dir=tmp_path, **FEW)
    files = arrow_files(tmp_path)
    edited = tmp_path / "shapes.py"
    edited.write_bytes(Path(sys.modules[Shapes.__module__].__file__).read_bytes() + b"\n# edited\n")
    monkeypatch.setattr(sys.modules[Shapes.__module__], "__file__", str(edited))
    load_dataset_script("shapes", cache_dir=tmp_path, **FEW)
    assert len(arrow_files(tmp_path)) == 2 * len(files)


def test_data_dir_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same relative folder in two folders is two data sets, and the builder sees whole paths."""
    seen = []

    class Recorder(Shapes):
        def _info(self) -> datasets.DatasetInfo:
            seen.append(self.config.data_dir)
            return super()._info()

    monkeypatch.setitem(BUILDERS, "recorder", Recorder)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        load_dataset_script("recorder", data_dir="data", cache_dir=tmp_path / "cache", split="test", **FEW)
    assert seen == [str(tmp_path / "one" / "data"), str(tmp_path / "two" / "data")]
    assert len(arrow_files(tmp_path)) == 2 * 3


@pytest.mark.slow
def test_two_processes_at_once_and_quietly(tmp_path: Path) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    environment.pop("HF_DATASETS_DISABLE_PROGRESS_BARS", None)
    command = [sys.executable, "-c", COMMAND, str(tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, env=environment, cwd=tmp_path, **pipes) for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert outputs == [("", ""), ("", "")]
    assert len(arrow_files(tmp_path)) == 3
    assert not list(tmp_path.rglob("*.incomplete"))


def test_progress_bars_are_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_DATASETS_DISABLE_PROGRESS_BARS", raising=False)
    was_off = datasets.are_progress_bars_disabled()
    try:
        datasets.enable_progress_bars()
        load_dataset_script("shapes", cache_dir=tmp_path, **FEW)
        assert not datasets.are_progress_bars_disabled()
        datasets.disable_progress_bars()
        load_dataset_script("shapes", cache_dir=tmp_path, **FEW)
        assert datasets.are_progress_bars_disabled()
    finally:
        (datasets.disable_progress_bars if was_off else datasets.enable_progress_bars)()


@pytest.mark.parametrize("bug", [KeyError("bug"), TypeError("bug"), AttributeError("bug"), RuntimeError("bug")])
def test_a_bug_of_a_builder_is_not_a_sentence(bug: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Faulty(Shapes):
        def _generate_examples(self, split: str) -> Any:
            yield 0, {"image": None, "caption": ["a"], "image_id": 0}
            raise bug

    monkeypatch.setitem(BUILDERS, "faulty", Faulty)
    with pytest.raises(datasets.exceptions.DatasetGenerationError) as caught:
        load_dataset_script("faulty", cache_dir=tmp_path, **FEW)
    assert caught.value.__cause__ is bug and not isinstance(caught.value, DataError)


def test_load_dataset_refuses_the_file(tmp_path: Path) -> None:
    """The reason for this package: should this ever pass, the docstring of the package is out of date."""
    with pytest.raises(RuntimeError, match="Dataset scripts are no longer supported"):
        datasets.load_dataset(str(ROOT / "dataset_scripts" / "shapes.py"), cache_dir=str(tmp_path))
