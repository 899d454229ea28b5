"""JSON is read item by item, with any cut between what is read at a time, and errors are placed where that is known."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from dataset_scripts.reading import json_files
from dataset_scripts.reading.json_files import JsonFile, read_list
from dataset_scripts.reading.problems import HALF_CHARACTER, UnusableFileError, encodes

ITEMS = [{"a": 1, "ü": '日本\n"x\\', "b": [{"c": None}, 1.5e3]}, 5, 2**63 - 1, [1, [2]], None, "q", {}, []]


def items(folder: Path, content: bytes, prefix: str = "item") -> list[Any]:
    (folder / "a.json").write_bytes(content)
    with JsonFile(str(folder / "a.json")) as opened:
        return list(opened.items(prefix))


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 50, 1 << 22])
@pytest.mark.parametrize("indent", [None, 2])
def test_any_cut_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, indent: int | None
) -> None:
    monkeypatch.setattr(json_files, "CHUNK", chunk)
    monkeypatch.setattr(json_files, "PARTS", 1)
    assert items(tmp_path, json.dumps(ITEMS, ensure_ascii=False, indent=indent).encode()) == ITEMS
    mixed = {"info": {"x": [1]}, "images": [1, {"y": 2}], "none": [], "name": "z"}
    content = b"\xef\xbb\xbf" + json.dumps(mixed, indent=indent).encode() + b" \n"
    assert items(tmp_path, content, "images.item") == [1, {"y": 2}]
    assert items(tmp_path, content, "name") == ["z"]
    texts = ["\ud800", "\U0001f600", "\\ud800", "a\udfffb", "\U0001f600\ud83d\U0001f600", "\ud83d\ud83d\ude00", "日本"]
    found = items(tmp_path, json.dumps(texts, indent=indent).encode())
    mark = HALF_CHARACTER
    assert found == [mark, texts[1], texts[2], f"a{mark}b", f"\U0001f600{mark}\U0001f600", f"{mark}\U0001f600", "日本"]
    assert [encodes(text) for text in found] == [False, True, True, False, False, False, True]


@pytest.mark.parametrize(
    ("content", "key", "fields"),
    [
        (b'[{"a": {"x": 1}, "b": [{"y": 2}]}, {"c": 3}]', None, ["a", "b"]),
        (b'[[{"a": 1}]]', None, []),
        (b'["x"]', None, []),
        (b'{"info": {"images": [{"a": 1}]}, "list": [5], "images": [], "questions": [{"b": 1}]}', "questions", ["b"]),
        (b'{"images": {"a": 1}, "annotations": [7]}', "annotations", []),
    ],
)
def test_the_first_item(tmp_path: Path, content: bytes, key: str | None, fields: list[str]) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with JsonFile(str(tmp_path / "a.json")) as opened:
        assert opened.first_item(("images", "annotations", "questions")) == (key, fields)


@pytest.mark.parametrize("chunk", [1, 4, 1 << 22])
@pytest.mark.parametrize(
    "content", [b'[\n {"image" 1}\n]', b"[1,\n 2", b"[1,]", b"[1] x", b'{"a" 1}', b'{"a": [1}', b"{1}", b"abc", b'["a']
)
def test_errors_are_where_pythons_parser_finds_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, chunk: int
) -> None:
    monkeypatch.setattr(json_files, "CHUNK", chunk)
    with pytest.raises(json.JSONDecodeError) as expected:
        json.loads(content)
    where = f"line {expected.value.lineno}, column {expected.value.colno}: {expected.value.msg}"
    with pytest.raises(UnusableFileError) as found:
        items(tmp_path, content)
    assert str(found.value) == f"is not JSON ({where}): one list of objects is expected"


def test_errors_of_large_files_name_the_item(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_files, "MAX_LOCATED", 5)
    with pytest.raises(UnusableFileError, match=r"cannot be parsed \(item 1: lexical error: .*, near '.*x"):
        items(tmp_path, b'[{"a": 1}, x]')


def test_bytes_that_are_no_utf8_are_placed(tmp_path: Path) -> None:
    content = '["läuft", "'.encode() + b"\xe4" + b'"]'
    with pytest.raises(UnusableFileError, match=rf"is not UTF-8 \(byte {content.index(0xE4, 5)}\): save it as UTF-8"):
        items(tmp_path, content)


def test_the_share_rises_from_0_to_1(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(["日本" * (n % 5) for n in range(100)], ensure_ascii=False))
    with JsonFile(str(tmp_path / "a.json")) as opened:
        shares = [opened.share for _ in opened.items("item")]
    assert shares == sorted(shares) and shares[0] < 0.05 and 0.9 < shares[-1] <= 1
    assert abs(shares[50] - 0.5) < 0.1


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"text": "x" * 1000}] * 10_000))
    tracemalloc.start()
    with JsonFile(str(tmp_path / "a.json")) as opened:
        assert sum(1 for _ in opened.items("item")) == 10_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000  # of a file of 10 MB


def test_a_list_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('["x", "y"]')
    assert read_list(str(tmp_path / "a.json")) == ["x", "y"]
    (tmp_path / "a.json").write_text('{"x": ["y"]}')
    with pytest.raises(UnusableFileError, match="holds a JSON object, not a list: one list of strings"):
        read_list(str(tmp_path / "a.json"), "list of strings")
