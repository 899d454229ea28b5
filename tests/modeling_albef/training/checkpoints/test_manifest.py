"""What a manifest says of a folder, which damage it shows, and what is moved aside."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from modeling_albef.training import find_damage, last_checkpoint
from modeling_albef.training.checkpoints.manifest import (
    list_checkpoints,
    quarantine_newer_checkpoints,
    write_manifest,
)


def write_checkpoint(folder: Path, step: int = 3) -> Path:
    """A checkpoint of three files, the last of them of two blocks."""
    (folder / "teacher").mkdir(parents=True)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    (folder / "teacher/b.bin").write_bytes(b"abc")
    (folder / "a.bin").write_bytes(bytes(range(256)) * (5 * 4096))
    write_manifest(folder)
    return folder


def test_a_manifest_lists_size_and_digest_of_each_file(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint-3")
    text = (folder / "manifest.json").read_text()
    assert json.loads(text) == {
        path: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for path in ("a.bin", "teacher/b.bin", "trainer_state.json")
        for data in [(folder / path).read_bytes()]
    }
    lines = text.split("\n")
    assert lines[:2] == ["{", ' "a.bin": {'] and len(lines) == 14  # one to read, one to compare
    write_manifest(folder)
    assert (folder / "manifest.json").read_text() == text  # it does not list itself
    assert find_damage(folder) is None and find_damage(str(folder)) is None


def edit_manifest(folder: Path, change: Any) -> None:
    entries = json.loads((folder / "manifest.json").read_text())
    change(entries)
    (folder / "manifest.json").write_text(json.dumps(entries))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "trainer_state.json").unlink(), "trainer_state.json is missing"),
        (lambda f: (f / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda f: (f / "teacher/b.bin").unlink(), "teacher/b.bin is missing"),
        (lambda f: (f / "teacher/b.bin").write_bytes(b"ab"), "teacher/b.bin has 2 bytes in place of 3"),
        (lambda f: (f / "teacher/b.bin").write_bytes(b"abd"), "teacher/b.bin has other content than was written"),
        (lambda f: (f / "trainer_state.json").write_text('{"global_step": "3"}'), "trainer_state.json has no number"),
        (lambda f: (f / "trainer_state.json").write_text("{}"), "trainer_state.json or manifest.json is damaged"),
        (lambda f: (f / "trainer_state.json").write_bytes(b"\xff\xfe{"), "or manifest.json is damaged"),
        (lambda f: (f / "manifest.json").write_text("{"), "trainer_state.json or manifest.json is damaged"),
        (lambda f: (f / "manifest.json").write_text("[3]"), "manifest.json does not list trainer_state.json"),
        (lambda f: edit_manifest(f, lambda e: e.pop("trainer_state.json")), "does not list trainer_state.json"),
        (lambda f: edit_manifest(f, lambda e: e["a.bin"].pop("size")), "or manifest.json is damaged"),
        (lambda f: edit_manifest(f, lambda e: e.update({"a.bin": 3})), "or manifest.json is damaged"),
        (lambda f: edit_manifest(f, lambda e: e["a.bin"].update(size=1)), "a.bin has 5242880 bytes in place of 1"),
    ],
)
def test_damage_in_a_few_words(tmp_path: Path, damage: Any, words: str) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint-3")
    damage(folder)
    found = find_damage(folder)
    assert found is not None and words in found


def test_a_folder_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint-3")
    (folder / "trainer_state.json").unlink()
    (folder / "trainer_state.json").mkdir()
    assert "it cannot be read ([Errno 21]" in (find_damage(folder) or "")


def test_the_newest_whole_one_is_taken_by_its_number(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    assert last_checkpoint(tmp_path) is None and list_checkpoints(tmp_path) == []
    for step in (9, 10, 100):
        write_checkpoint(tmp_path / f"checkpoint-{step}", step)
    for name in ("checkpoint-best", "checkpoint-", "my-checkpoint-7"):
        (tmp_path / name).mkdir()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-10", "checkpoint-100"]
    assert last_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoint-100") and not caplog.records
    (tmp_path / "checkpoint-100/a.bin").unlink()
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    (record,) = caplog.records
    assert record.getMessage().endswith("checkpoint-100 is not whole and is left aside: a.bin is missing.")
    assert record.getMessage().startswith(str(tmp_path))


def test_what_is_newer_is_moved_aside_and_what_was_being_written_removed(tmp_path: Path) -> None:
    quarantine_newer_checkpoints(tmp_path / "none", None)  # nothing was written yet
    for name in ("checkpoint-2", "checkpoint-10", "checkpoint-20", "unfinished", "damaged-checkpoint-20"):
        write_checkpoint(tmp_path / name)
    write_checkpoint(tmp_path / "replaced-checkpoint-2")
    (tmp_path / "damaged-checkpoint-20/old").write_bytes(b"")
    quarantine_newer_checkpoints(tmp_path, str(tmp_path / "checkpoint-2"))
    left = {"checkpoint-2", "damaged-checkpoint-10", "damaged-checkpoint-20"}
    assert {path.name for path in tmp_path.iterdir()} == left
    assert not (tmp_path / "damaged-checkpoint-20/old").exists()
    assert (tmp_path / "damaged-checkpoint-20/a.bin").exists()
    quarantine_newer_checkpoints(str(tmp_path), None)
    assert {path.name for path in tmp_path.iterdir()} == left - {"checkpoint-2"} | {"damaged-checkpoint-2"}
