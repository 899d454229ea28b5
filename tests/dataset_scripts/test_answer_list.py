"""Candidate answers are counted an annotator at a time, and the list does not depend on chance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dataset_scripts import AnnotationError
from dataset_scripts.__main__ import main
from dataset_scripts.commands.answer_list import build_answer_list

VQA = [
    {"question": "a?", "answer": ["yes"] * 6 + ["no"] * 4, "dataset": "vqa"},
    {"question": "b?", "answer": ["red"] * 3 + ["Red", "dark red", " blue ", "blue", "blue", "", "a"]},
]
GENOME = [{"question": "c?", "answer": "no", "dataset": "vg"}, {"question": "d?", "answer": "éclair"}]
# yes 6, no 5, red 4 with its capital, blue 3, then once each: a, dark red, éclair
ALL = ["yes", "no", "red", "blue", "a", "dark red", "éclair"]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    return [write(tmp_path / "vqa_train.json", VQA), write(tmp_path / "vg_qa.json", GENOME)]


def write(path: Path, content: Any) -> str:
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


def test_by_frequency_then_alphabet_in_any_order_of_files(files: list[str]) -> None:
    assert build_answer_list(files, min_count=1) == ALL
    assert build_answer_list(files[::-1], min_count=1) == ALL


def test_limits(files: list[str]) -> None:
    assert build_answer_list(files, min_count=3) == ALL[:4]
    assert build_answer_list(files, min_count=6) == ["yes"]
    assert build_answer_list(files, num_answers=3) == ALL[:3]
    assert build_answer_list(files, num_answers=99) == ALL
    assert build_answer_list(files, min_count=3, num_answers=2) == ALL[:2]
    assert build_answer_list(files, min_count=5, num_answers=3) == ALL[:2]


def test_spellings_that_the_tokenizer_cannot_tell_apart_are_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    answers = ["Café", "cafe", "Café", "Yes", "yes", "8:30", "8 : 30", "8 : 30", "no"]
    file = write(tmp_path / "a.json", [{"answer": answers}])
    assert build_answer_list(file, min_count=1) == ["8 : 30", "Café", "Yes", "no"]  # of equals the first by code points
    assert build_answer_list(file, min_count=3) == ["8 : 30", "Café"]  # they count together
    assert "'Café' (2) and 'cafe' (1) are one candidate, 'Café': the tokenizer cannot tell them apart" in caplog.text
    caplog.clear()
    assert build_answer_list(write(tmp_path / "b.json", [{"answer": ["a", "b", "ab", "a b"]}]), min_count=1)
    assert not caplog.text


def test_one_file_by_its_path(files: list[str]) -> None:
    assert build_answer_list(Path(files[1]), min_count=1) == ["no", "éclair"]


def test_unusable_limits(files: list[str]) -> None:
    with pytest.raises(ValueError, match="Give min_count, num_answers or both"):
        build_answer_list(files)
    with pytest.raises(ValueError, match="num_answers is 0, but must be at least 1"):
        build_answer_list(files, num_answers=0)
    with pytest.raises(ValueError, match="No answer reaches min_count=7: the most frequent one, 'yes', occurs 6 times"):
        build_answer_list(files, min_count=7)


def test_blank_answers_alone_give_no_list(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="all are blank"):
        build_answer_list(write(tmp_path / "a.json", [{"answer": ["", " "]}]), min_count=1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"annotations": []}, "a.json: holds a JSON object, not a list"),
        ([], "a.json: is empty"),
        ([VQA[0], "x"], "a.json, row 2: is 'x', not an object"),
        (
            [{"question": "a?"}],
            r"a.json, row 1: has no answer in answers or answer or .*; its columns are \['question'\]: name files",
        ),
        ([{"answer": []}], r"row 1: answer is \[\]: a string or a list of strings"),
        ([{"answer": ["yes", None]}], r"answer is \['yes', None\]"),
        ([{"answer": None}], "row 1: has nothing in answer: fill it"),
    ],
)
def test_unusable_rows(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(AnnotationError, match=message):
        build_answer_list(write(tmp_path / "a.json", content), min_count=1)


def test_unusable_files(files: list[str], tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="is listed twice"):
        build_answer_list([*files, files[0]], min_count=1)
    with pytest.raises(AnnotationError, match="does not exist: check the path"):
        build_answer_list(tmp_path / "absent.json", min_count=1)
    with pytest.raises(AnnotationError, match="name at least one"):
        build_answer_list([], min_count=1)


def test_tables_as_own_data_reads_them(files: list[str], tmp_path: Path) -> None:
    table = tmp_path / "train.csv"
    table.write_text('file_name,question,answers\na.jpg,how many?,"[""2"", ""2"", ""two""]"\nb.jpg,what?,swing\n')
    assert build_answer_list(str(table), min_count=1) == ["2", "swing", "two"]
    rows = write(tmp_path / "rows.json", [{"image": "a.jpg", **row} for row in GENOME])
    assert build_answer_list([rows, str(table)], num_answers=3) == ["2", "no", "swing"]
    table.write_text("file_name,question,label\na.jpg,how many?,2\n")
    with pytest.raises(
        AnnotationError, match=r"train\.csv, line 2: has no answer in answers or .*; its columns are \["
    ):
        build_answer_list(str(table), min_count=1)
    table.write_text("page,question,answer\na.jpg,how many?,2\n")  # images are not needed
    assert build_answer_list(str(table), min_count=1) == ["2"]


def test_command(files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "answer_list.json"
    main(["answer_list", *files, "--min_count", "1", "--num_answers", "8", "--output", str(output)])
    assert json.loads(output.read_text(encoding="utf-8")) == ALL
    assert capsys.readouterr().out == f"7 answers written to {output}\n"


def test_command_ends_with_a_clear_error(files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "answer_list.json"
    assert main(["answer_list", *files, "--min_count", "70", "--output", str(output)]) == 1
    assert not output.exists()
    error = capsys.readouterr().err
    assert "No answer reaches min_count=70" in error and "Traceback" not in error
