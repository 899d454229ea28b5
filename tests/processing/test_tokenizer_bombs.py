"""Tokenizer files that would take minutes or all memory are refused in a sentence; other tokenizers are not."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from processing import AlbefImageProcessor, AlbefProcessor, ProcessingError, build_tokenizer

DOUBLE = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}


def saved(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A processor's folder, with its tokenizer.json changed."""
    AlbefProcessor(AlbefImageProcessor(), build_tokenizer(["a red circle"])).save_pretrained(folder)
    path = folder / "tokenizer.json"
    fields = json.loads(path.read_text(encoding="utf-8"))
    change(fields)
    path.write_text(json.dumps(fields), encoding="utf-8")
    return folder


def added_tokens(count: int) -> list[dict[str, Any]]:
    kinds = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return [{"id": 1000 + number, "content": f"token{number}", **kinds} for number in range(count)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda f: f.update(normalizer={"type": "Sequence", "normalizers": [DOUBLE] * 40}),
            "makes up to 1099511627776 c",
        ),
        (
            lambda f: f.update(
                normalizer={"type": "Replace", "pattern": {"Regex": "."}, "content": "x" * 2000},
            ),
            "makes up to 2001 characters of one, more than 1000",
        ),
        (lambda f: f["model"]["vocab"].update(zebra=2**32 - 10), "has the id 4294967286, but"),
        (lambda f: f.update(added_tokens=added_tokens(20_000)), "20,000 added ones"),
        (lambda f: f["model"]["vocab"].update({f"w{n}": 500 + n for n in range(1_000_001)}), "more than 1,000,000 or"),
        (lambda f: f["model"].update(vocab={}), r"has no \[UNK\] in its vocabulary"),
        (lambda f: f.update(extra="x" * 50_000_001), "bytes, more than 50,000,000"),
    ],
)
def test_bombs(tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    folder = saved(tmp_path, change)
    started = time.monotonic()
    with pytest.raises(ProcessingError, match=message):
        AlbefProcessor.from_pretrained(folder)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    "text", ["[" * 200_000, '{"normalizer":' + '{"normalizers":[' * 9000 + "]}" * 9000 + "}", "", "[1]"]
)
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "processor_config.json"])
def test_json_that_is_nested_without_end(tmp_path: Path, text: str, name: str) -> None:
    saved(tmp_path, lambda fields: None)
    (tmp_path / name).write_text(text)
    with pytest.raises(ProcessingError, match=r"The processor in .* cannot be used"):
        AlbefProcessor.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f.update(normalizer={"type": "Sequence", "normalizers": [f["normalizer"], DOUBLE, DOUBLE]}),
        lambda f: f.update(normalizer=None),
        lambda f: f.update(normalizer={"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}),
        lambda f: f["model"]["vocab"].update({f"w{n}": 500 + n for n in range(50_000)}),
        lambda f: f.update(added_tokens=added_tokens(100)),
    ],
)
def test_tokenizers_of_ones_own_are_loaded(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    assert AlbefProcessor.from_pretrained(saved(tmp_path, change))(text="a circle")["input_ids"]
