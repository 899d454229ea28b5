"""Any annotation file is read, with rows as they should be, or refused by a text that names file and row."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import hypothesis.strategies as st
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets.arrow_writer import ArrowWriter
from fuzz_cases import COUNTS, TEXT, VALUES, damaged, fuzz, mostly
from PIL import Image

from dataset_scripts import AnnotationError, make_builder
from dataset_scripts.__main__ import main
from dataset_scripts.reading.problems import Problems

IMAGES = ("a.png", "sub/b.png", "train2014/COCO_train2014_000000000001.jpg", "VG_100K/1.jpg")
PATHS = mostly(
    st.sampled_from(IMAGES[:2]),
    st.sampled_from(
        [
            *(
                "./a.png",
                "sub\\b.png",
                "",
                " ",
                ".",
                "sub",
                "empty.png",
                "missing.png",
                "../a.png",
                "/a.png",
                "~/a.png",
            ),
            *("C:\\a.png", "http://a/b.png", "a.png\0", "\ud800.png", "x" * 5000, "a.png/b", "{path}"),
        ]
    ),
    20,
)
SENTENCES = mostly(st.sampled_from(["a dog", "Zwei Hunde?", "一只狗", "7"]), TEXT, 20)
LISTS = st.lists(SENTENCES, min_size=1, max_size=3)
SMALL = st.integers(0, 3)
CAPTIONED = {"image": PATHS, "caption": st.one_of(SENTENCES, LISTS), "image_id": st.one_of(st.none(), SMALL, TEXT)}
ASKED = {
    "image": PATHS,
    "question": SENTENCES,
    "question_id": st.integers(0, 100_000),
    "answer": st.one_of(SENTENCES, LISTS),
    "dataset": st.sampled_from([*["vqa", "vg"] * 8, "other"]),
    "answer_weight": st.sampled_from([*[0, 0.5, 1.0] * 8, -1]),
    "question_type": SENTENCES,
    "answer_type": SENTENCES,
}


class Case(NamedTuple):
    """Annotation files: ending and content of each."""

    task: str
    files: list[tuple[str, bytes]]
    drop_bad_rows: bool


@st.composite
def objects(draw: st.DrawFn, fields: dict[str, st.SearchStrategy[Any]], wrong: int = 40) -> Any:
    """An object in which one field of so many is missing, and as many have a value of any kind."""
    if draw(st.integers(1, wrong)) == wrong:
        return draw(VALUES)
    row = {}
    for name, strategy in fields.items():
        fate = draw(st.integers(1, wrong))
        if fate < wrong:
            row[name] = draw(VALUES if fate == wrong - 1 else strategy)
    return row


def lists(fields: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[list[Any]]:
    return st.lists(objects(fields), min_size=1, max_size=4)


KARPATHY = objects(
    {
        "images": lists(
            {
                "filename": PATHS,
                "filepath": st.sampled_from(["", "sub", "..", "."]),
                "split": st.sampled_from(["train", "restval", "val"]),
                "sentences": lists({"raw": SENTENCES}),
            }
        ),
        "dataset": st.just("coco"),
    },
)
COCO = objects(
    {
        "images": lists({"id": SMALL, "file_name": PATHS}),
        "annotations": lists({"image_id": SMALL, "id": SMALL, "caption": SENTENCES}),
    }
)
QUESTIONS = objects(
    {
        "data_subtype": st.sampled_from(["train2014", "train2014", "other"]),
        "questions": lists({"image_id": st.just(1), "question": SENTENCES, "question_id": SMALL}),
    }
)
ANSWERS = objects(
    {
        "annotations": lists(
            {
                "question_id": SMALL,
                "answers": lists({"answer": SENTENCES}),
                "question_type": SENTENCES,
                "answer_type": SENTENCES,
            }
        )
    }
)
GENOME = lists({"id": st.just(1), "qas": lists({"qa_id": SMALL, "question": SENTENCES, "answer": SENTENCES})})
GENOME_IMAGES = lists({"image_id": st.just(1), "url": st.sampled_from(["http://a/VG_100K/1.jpg", "1.jpg"])})
LAYOUTS = {
    "retrieval": (lists(CAPTIONED), KARPATHY, COCO, VALUES),
    "vqa": (lists(ASKED), QUESTIONS, GENOME, VALUES),
}


@st.composite
def json_files(draw: st.DrawFn, content: st.SearchStrategy[Any]) -> tuple[str, bytes]:
    text = json.dumps(draw(content), ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1])))
    if draw(st.integers(0, 30)) == 0:
        depth = draw(st.sampled_from([200, 400, 900, 50_000]))
        deep = draw(st.sampled_from(["[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth, "[" * depth]))
        text = draw(st.sampled_from([deep, f"[{deep}]", f'[{{"image": "a.png", "caption": {deep}}}]', text + deep]))
    encoding = draw(st.sampled_from([*["utf-8"] * 8, "utf-8-sig", "utf-16", "utf-32-le", "cp1252"]))
    errors = "surrogatepass" if encoding.startswith("utf") else "replace"
    return "json", draw(damaged(text.encode(encoding, errors), most=draw(st.sampled_from([0, 0, 2]))))


@st.composite
def tables(draw: st.DrawFn, fields: dict[str, st.SearchStrategy[Any]]) -> tuple[str, bytes]:
    """CSV, JSON lines or Parquet."""
    rows, ending = draw(lists(fields)), draw(st.sampled_from(["csv", "tsv", "jsonl", "ndjson", "parquet", "txt"]))
    if ending in ("jsonl", "ndjson"):
        data = "\n".join(json.dumps(row, default=str) for row in rows).encode()
    elif ending == "parquet":
        data = parquet(rows)
    else:
        stream = io.StringIO()
        writer = csv.writer(stream, delimiter=draw(st.sampled_from(["\t" if ending == "tsv" else ",", ";"])))
        writer.writerow(fields)
        writer.writerows([row.values() if isinstance(row, dict) else [row] for row in rows])
        data = stream.getvalue().encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 5)) == 0:
        data = b"\xef\xbb\xbf" + data
    return ending, draw(damaged(data, most=draw(st.sampled_from([0, 0, 2]))))


def parquet(rows: list[Any]) -> bytes:
    """A file with the rows, as far as Arrow can hold them; some with the image itself."""
    stream = io.BytesIO()
    try:
        table = pa.Table.from_pylist([row for row in rows if isinstance(row, dict)])
        pq.write_table(table, stream)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return b""
    return stream.getvalue()


@st.composite
def cases(draw: st.DrawFn) -> Case:
    task = draw(st.sampled_from(["retrieval", "vqa"]))
    if draw(st.integers(0, 2)) == 0:
        embedded = st.fixed_dictionaries({"bytes": st.just(b"x"), "path": st.none()})
        fields = dict(CAPTIONED if task == "retrieval" else ASKED)
        if draw(st.integers(0, 3)) == 0:
            fields["image"] = embedded
        return Case(task, [draw(tables(fields))], draw(st.booleans()))
    files = [draw(json_files(draw(st.sampled_from(LAYOUTS[task]))))]
    if task == "vqa" and draw(st.booleans()):
        files.append(draw(json_files(draw(st.sampled_from([ANSWERS, GENOME_IMAGES])))))
    return Case(task, files, draw(st.booleans()))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for name in IMAGES:
        (folder / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 3)).save(folder / name)
    (folder / "empty.png").touch()
    return folder


def write_files(case: Case, root: Path) -> list[str]:
    for old in root.glob("rows*"):
        old.unlink()
    paths = [root / f"rows{number}.{ending}" for number, (ending, _) in enumerate(case.files)]
    for path, (_, data) in zip(paths, case.files, strict=True):
        path.write_bytes(data)
    return [str(path) for path in paths]


def check_rows(rows: list[dict[str, Any]], features: datasets.Features, task: str, root: Path) -> None:
    """The columns hold what is documented, and Arrow stores it and gives it back."""
    stream = pa.BufferOutputStream()
    with ArrowWriter(features=features, stream=stream) as writer:
        for row in rows:
            writer.write(features.encode_example(row))
        writer.finalize()
    table = pa.ipc.open_stream(stream.getvalue()).read_all()
    stored = table.to_pylist()
    assert len(stored) == len(rows) > 0 and table.column_names == list(features)
    for row in stored:
        path = row["image"]["path"]
        assert row["image"]["bytes"] or (os.path.isfile(path) and Path(path).is_relative_to(root))
        assert row["image_id"] >= 0
        if task == "retrieval":
            assert row["caption"] and all(re.search(r"\w", text) for text in row["caption"])
        else:
            assert re.search(r"\w", row["question"]) and row["answers"] and all(map(str.strip, row["answers"]))
            assert math.isfinite(row["answer_weight"]) and row["answer_weight"] >= 0


def check_case(case: Case, root: Path) -> None:
    paths, problems = write_files(case, root), Problems()
    fields = {"train_files": paths, "drop_bad_rows": case.drop_bad_rows}
    builder = make_builder("own_data", case.task, str(root), str(root / "cache"), **fields)
    rows = None
    try:
        rows = list(builder.rows("train", problems))
    except AnnotationError as error:
        message = str(error)
        assert any(path in message for path in paths) and message.encode()
        for line in problems.kept:
            assert line.startswith(tuple(paths)) and re.match(r"\S+?(, (row|line) \d+(, question \d+)?)?: \S", line), (
                line
            )
    else:
        check_rows(rows, builder.info.features, case.task, root)
    printed = io.StringIO()
    words = ["check", "own_data", "--config_name", case.task, "--data_dir", str(root)]
    config = json.dumps({"drop_bad_rows": case.drop_bad_rows, "train_files": paths})
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        status = main([*words, "--dataset_config", config])
    assert status == (rows is None), printed.getvalue()
    assert printed.getvalue().encode()


@pytest.mark.parametrize("count", COUNTS)
def test_annotation_files(count: int, root: Path) -> None:
    fuzz(count, cases(), lambda case: check_case(case, root))
