"""JSON is read item by item, with any cut between what is read at a time, and errors are placed as the library does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dataset_scripts import json_stream
from dataset_scripts.json_stream import JsonItems, UnusableFileError, read_list

ITEMS = [{"a": 1, "ü": '日本\n"x\\', "b": [{"c": None}, 1.5e3]}, 5, 123, [1, [2]], None, "q", {}, []]


def items(folder: Path, content: bytes) -> list[tuple[str | None, Any]]:
    (folder / "a.json").write_bytes(content)
    return list(JsonItems(str(folder / "a.json")))


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 50, 1 << 22])
@pytest.mark.parametrize("indent", [None, 2])
def test_any_cut_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, indent: int | None
) -> None:
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    text = json.dumps(ITEMS, ensure_ascii=False, indent=indent).encode()
    assert items(tmp_path, text) == [(None, item) for item in ITEMS]
    mixed = {"info": {"x": [1]}, "images": [1, {"y": 2}], "none": [], "name": "z"}
    found = items(tmp_path, b"\xef\xbb\xbf" + json.dumps(mixed, indent=indent).encode() + b" \n")
    assert found == [("info", {"x": [1]}), ("images", 1), ("images", {"y": 2}), ("name", "z")]


@pytest.mark.parametrize("chunk", [1, 4, 1 << 22])
@pytest.mark.parametrize(
    "content", [b'[\n {"image" 1}\n]', b"[1,\n 2", b"[1,]", b"[1] x", b'{"a" 1}', b'{"a": [1}', b"{1}", b"abc", b'["a']
)
def test_errors_are_where_the_library_finds_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, chunk: int
) -> None:
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    with pytest.raises(json.JSONDecodeError) as expected:
        json.loads(content)
    if content == b"[1,]":  # newer versions of Python name the comma
        expected.value.colno, expected.value.msg = 4, "Expecting value"
    where = f"line {expected.value.lineno}, column {expected.value.colno}: {expected.value.msg}"
    with pytest.raises(UnusableFileError) as found:
        items(tmp_path, content)
    assert str(found.value) == f"is not JSON ({where}): one list of objects is expected"


def test_bytes_that_are_no_utf8_are_placed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "CHUNK", 5)
    content = '["läuft", "'.encode() + b"\xe4" + b'"]'
    with pytest.raises(UnusableFileError, match=rf"is not UTF-8 \(byte {content.index(0xE4, 5)}\): save it as UTF-8"):
        items(tmp_path, content)


def test_the_share_rises_from_0_to_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "CHUNK", 16)
    (tmp_path / "a.json").write_text(json.dumps(["日本" * (n % 5) for n in range(100)], ensure_ascii=False))
    reader = JsonItems(str(tmp_path / "a.json"))
    shares = [reader.share for _ in reader]
    assert shares == sorted(shares) and shares[0] < 0.05 and 0.9 < shares[-1] <= 1
    assert abs(shares[50] - 0.5) < 0.1


def test_memory_does_not_grow_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "CHUNK", 1 << 10)
    (tmp_path / "a.json").write_text(json.dumps([{"text": "x" * 100}] * 1000))
    reader = JsonItems(str(tmp_path / "a.json"))
    assert max(len(reader._buffer) for _ in reader) < 3 << 10


def test_a_list_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('["x", "y"]')
    assert read_list(str(tmp_path / "a.json")) == ["x", "y"]
    (tmp_path / "a.json").write_text('{"x": ["y"]}')
    with pytest.raises(UnusableFileError, match="holds a JSON object, not a list: one list of strings"):
        read_list(str(tmp_path / "a.json"), "list of strings")
