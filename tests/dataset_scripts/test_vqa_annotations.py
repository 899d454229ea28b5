"""Question files of both sources give one table, and every fault is found before anything is returned."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import datasets
import pytest
from data_cases import read_questions
from PIL import Image

from dataset_scripts import AnnotationError, good_images, load_answer_list


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Folder with val/0.png .. val/5.png, each of a color of its own."""
    folder = tmp_path / "images"
    (folder / "val").mkdir(parents=True)
    for number in range(6):
        Image.new("RGB", (24, 20), (20 * number, 0, 0)).save(folder / "val" / f"{number}.png")
    return folder


def write(path: Path, content: Any) -> str:
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return str(path)


def row(number: int, question_id: Any, answer: Any = ("red", "red", "pink"), **more: Any) -> dict[str, Any]:
    """A VQA row; no answer if it is None."""
    made = {"dataset": "vqa", "image": f"val/{number}.png", "question": "what color is it", "question_id": question_id}
    return made | ({} if answer is None else {"answer": answer}) | more


def vg(number: int, **more: Any) -> dict[str, Any]:
    return {"dataset": "vg", "image": f"val/{number}.png", "question": "where", "answer": "on the left", **more}


def fails(root: Path, content: Any, message: str, **options: Any) -> None:
    with pytest.raises(AnnotationError, match=message) as caught:
        read_questions([write(root.parent / "a.json", content)], str(root), **options)
    assert "Cannot load the annotations: 1 problem" in str(caught.value)


def test_rows_of_both_sources(root: Path, tmp_path: Path) -> None:
    genome = tmp_path / "genome"
    (genome / "val").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(genome / "val" / "3.png")
    plain = {"image": "val/1.png", "question": "is it red", "question_id": 7, "answer": "yes"}
    first = write(tmp_path / "vqa.json", [row(3, 9), plain, row(3, 2**63 - 1, [])])
    second = write(tmp_path / "vg.json", [vg(3), vg(3, question_id=9, answer=["left", "left"])])
    dataset = read_questions([first, second], str(root), str(genome), need_answers=False)
    assert dataset.features == datasets.Features(
        {
            "image": datasets.Image(decode=False),
            "question": datasets.Value("string"),
            "question_id": datasets.Value("int64"),
            "image_id": datasets.Value("int64"),
            "answers": datasets.List(datasets.Value("string")),
            "answer_weight": datasets.Value("float32"),
            "question_type": datasets.Value("string"),
            "answer_type": datasets.Value("string"),
        }
    )
    paths = [root / "val" / "3.png", root / "val" / "1.png", root / "val" / "3.png", *[genome / "val" / "3.png"] * 2]
    assert dataset[:] == {
        "image": [{"bytes": None, "path": str(path)} for path in paths],
        "question": ["what color is it", "is it red", "what color is it", "where", "where"],
        "question_id": [9, 7, 2**63 - 1, -1, 9],
        "image_id": [0, 1, 0, 2, 2],
        "answers": [["red", "red", "pink"], ["yes"], [], ["on the left"], ["left", "left"]],
        "answer_weight": [1.0, 1.0, 1.0, 0.5, 0.5],
        "question_type": [None] * 5,
        "answer_type": [None] * 5,
    }
    assert not dataset.cache_files
    good_images(dataset, decode=False)


def test_one_root_for_both_and_another_weight(root: Path) -> None:
    """The same file of either source is the same image."""
    file = write(root.parent / "a.json", [vg(2), row(2, 0), vg(2, image="val\\2.png"), vg(4)])
    dataset = read_questions(file, str(root), need_answers=True, vg_weight=0.25)
    assert dataset["image_id"][:] == [0, 0, 0, 1]
    assert dataset["answer_weight"][:] == [0.25, 1.0, 0.25, 0.25]


def test_a_test_file_has_no_answers(root: Path) -> None:
    file = write(root.parent / "test.json", [row(1, 5, None), row(0, 6, None)])
    dataset = read_questions([file], str(root))
    assert dataset["answers"][:] == [[], []]
    assert dataset["question_id"][:] == [5, 6]


def test_paths_are_absolute(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(root.parent / "a.json", [row(3, 1)])
    monkeypatch.chdir(root.parent)
    dataset = read_questions([file], "images")
    assert dataset[0]["image"]["path"] == str(root / "val" / "3.png")
    assert dataset.cast_column("image", datasets.Image())[0]["image"].getpixel((0, 0)) == (60, 0, 0)


def test_an_absolute_path_to_a_known_image(root: Path) -> None:
    absolute = str(root / "val" / "1.png")
    message = "row 2: image .* is an absolute path: write it relative to vqa_root"
    fails(root, [row(1, 1), row(1, 2, image=absolute)], message)


def test_an_image_is_asked_for_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, real = [], os.stat

    def stat(path: Any, *args: Any, **options: Any) -> os.stat_result:
        asked.append(str(path))
        return real(path, *args, **options)

    rows = [row(number % 3, number, image=f"{'./' * (number % 2)}val/{number % 3}.png") for number in range(60)]
    file = write(root.parent / "a.json", rows)
    monkeypatch.setattr("dataset_scripts.reading.image_files.os.stat", stat)
    read_questions([file], str(root))
    assert sorted(path for path in asked if path.endswith(".png")) == [str(root / "val" / f"{n}.png") for n in range(3)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b" \n", r"a\.json: is empty: download"),
        (b"[\xff]", r"a\.json: is not UTF-8 \(byte 1\)"),
        (b'[\n {"image" 1}\n]', r"a\.json: is not JSON \(line 2, column 11"),
        ({"questions": []}, r"a\.json: holds a JSON object, not a list"),
        ([row(1, 2**63)], r"a\.json: cannot be parsed \(.*integer overflow, near .*9223372036854775808"),
        ([row(1, 1), row(1, 2, answer_weight=float("nan"))], r"a\.json: cannot be parsed \(item 1: .*, near .*NaN"),
    ],
)
def test_a_bad_file(root: Path, content: Any, message: str) -> None:
    fails(root, content, message)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("where", "is a JSON string, not an object: write {'image': .., 'question': .., 'question_id': ..}"),
        (row(1, 1, dataset="gqa"), "'dataset' is 'gqa': 'vqa' or 'vg' is expected"),
        (row(1, 1, dataset=["vqa"]), r"'dataset' is \['vqa'\]: 'vqa' or 'vg'"),
        (row(1, 1, dataset=None), "'dataset' is None: 'vqa' or 'vg'"),
        ({"image": "val/1.png", "question": "a"}, r"has no 'question_id'; its keys are \['image', 'question'\]: add"),
        ({"dataset": "vg", "answer": "a"}, "has no 'image' and no 'question'; its keys"),
        (row(1, 1, image=5), "image is 5: a path relative to vqa_root is expected"),
        (vg(1, image=" "), "image is ' ': a path relative to vqa_root is expected"),
        (row(1, 1, question=["a"]), r"'question' is \['a'\]: a string is expected"),
        (row(1, 1, question=" ?"), r"question ' \?' holds no letter or digit: write one or leave the row out"),
        (row(1, 1, question="a \ud800"), "question .* holds half of a surrogate pair"),
        (row(1, "1"), r"'question_id' is '1': an integer from 0 to 2\*\*63 - 1 is expected"),
        (row(1, True), "'question_id' is True: an integer"),
        (row(1, 1.0), r"'question_id' is 1\.0: an integer"),
        (row(1, None), "'question_id' is None: an integer"),
        (row(1, -1), "'question_id' is -1: an integer from 0"),
        (vg(1, question_id=-2), "'question_id' is -2: an integer from -1"),
        (row(1, 100), r"'question_id' 100 is taken by .*a\.json, row 1: give every question its own"),
        (row(1, 1, 5), "answer is 5: a string or a list of strings is expected"),
        (row(1, 1, ["a", None]), "answer holds None: strings are expected"),
        (row(1, 1, ["a \ud800"]), "answer .* holds half of a surrogate pair"),
        (row(1, 1, None), "has no 'answer', which training needs: add it or leave the row out"),
        (row(1, 1, []), "answer is an empty list: give at least one or leave the row out"),
        (row(1, 1, ["a", " "]), "answer holds ' ', an empty answer: remove it or leave the row out"),
        (vg(1, answer=""), "answer holds '', an empty answer"),
        (row(1, 1, image="/etc/passwd"), "image '/etc/passwd' is an absolute path: write it relative to vqa_root"),
        (row(1, 1, image="../a.json"), "image '../a.json' leaves vqa_root: write .*, or set a higher vqa_root"),
        (row(1, 1, image="val/\0.png"), "cannot be a path: remove the stray character"),
        (row(1, 1, image="val"), "val' is not a file: check its name, or set vqa_root, the folder where names start"),
        (row(99, 1), r"99\.png' cannot be found .*: .*set vqa_root, the folder"),
        (row(1, 1, answer_weight="0.5"), r"'answer_weight' is '0\.5': a number from 0 to 1e\+06 is expected"),
        (row(1, 1, answer_weight=1e308), r"'answer_weight' is 1e\+308: a number"),
        (vg(1, answer_weight=-1), "'answer_weight' is -1: a number"),
        (row(1, 1, answer_type=["other"]), r"'answer_type' is \['other'\]: a string is expected"),
        (row(1, 1, question_type="\ud800"), "'question_type' is .*: a string is expected"),
        (row(1, 1, image="image_root/9.png"), r"image_root/9\.png' cannot be found .*: .*set vqa_root"),
    ],
)
def test_a_bad_row(root: Path, wrong: Any, message: str) -> None:
    fails(root, [row(0, 100), vg(1), wrong, row(2, 101)], f"a.json, row 3: .*{message}", need_answers=True)


def test_answers_of_another_layout(root: Path) -> None:
    questions = {"data_subtype": "val2014", "questions": []}
    for annotation in (5, {"question_id": [1], "answers": []}, {"answers": [{"answer": ["red"]}], "question_id": 1}):
        files = [questions, {"annotations": [{"question_id": 0, "answers": []}, annotation]}]
        paths = [write(root.parent / f"{number}.json", content) for number, content in enumerate(files)]
        with pytest.raises(AnnotationError, match=r"1\.json: is not VQA v2's: an annotation lacks 'question_id' or"):
            read_questions(paths, str(root))


def test_images_of_the_other_root(root: Path, tmp_path: Path) -> None:
    """Messages name the argument that sets the folder."""
    (tmp_path / "genome").mkdir()
    options = {"vg_root": str(tmp_path / "genome")}
    message = r"row 2: image '.*genome.*1\.png' cannot be found .*: .*set vg_root"
    fails(root, [row(0, 0), vg(1), vg(1)], message, **options)
    fails(root, [vg(1, image="../a.json")], r"leaves vg_root: .* higher vg_root", **options)


def test_empty_answers_pass_where_none_are_needed(root: Path) -> None:
    file = write(root.parent / "a.json", [row(0, 0, ["", "a"]), vg(1, answer="")])
    assert read_questions([file], str(root))["answers"][:] == [["", "a"], [""]]


def test_an_id_in_two_files(root: Path) -> None:
    first = write(root.parent / "1.json", [row(0, 3), row(0, 4)])
    second = write(root.parent / "2.json", [vg(0, question_id=4), row(1, 5), row(1, 4)])
    with pytest.raises(AnnotationError, match=r"2\.json, row 3: 'question_id' 4 is taken by .*1\.json, row 2: give"):
        read_questions([first, second], str(root))


def test_bad_arguments(root: Path) -> None:
    file = write(root.parent / "a.json", [row(0, 0)])
    with pytest.raises(AnnotationError, match=r"missing\.json: does not exist: check the path"):
        read_questions([str(root / "missing.json")], str(root))
    with pytest.raises(AnnotationError, match=r"vqa_root: '.*nowhere' is not a folder: name the folder"):
        read_questions([file], str(root / "nowhere"))
    with pytest.raises(AnnotationError, match=r"1 problem\.\n  vg_root: '.*nowhere' is not a folder"):
        read_questions([write(root.parent / "g.json", [vg(0), vg(1)])], str(root), str(root / "nowhere"))
    assert len(read_questions([file], str(root), str(root / "nowhere"))) == 1  # no row asks for that folder
    with pytest.raises(AnnotationError, match=r"a\.json: is listed twice: its questions would count double"):
        read_questions([file, file], str(root))
    for weight in (-0.5, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"vg_weight is {weight}, but must be a finite number >= 0"):
            read_questions([file], str(root), vg_weight=weight)


def test_problems_are_collected(root: Path) -> None:
    """Faults of several files come in one message, in order; an image is reported at its first row."""
    bad = write(root.parent / "bad.json", [row(0, 0), *[row(0, 0) for _ in range(12)], row(88, 1), row(88, 2)])
    with pytest.raises(AnnotationError) as caught:
        read_questions([str(root / "missing.json"), bad], str(root))
    lines = str(caught.value).splitlines()
    assert lines[0] == "Cannot load the annotations: 14 problems (rows are counted from 1)."
    assert "missing.json: does not exist" in lines[1]
    assert all(f"bad.json, row {number + 1}: 'question_id' 0 is taken" in lines[number + 1] for number in range(1, 10))
    assert lines[11] == "  ... and 4 further problems."


def test_answer_list(tmp_path: Path) -> None:
    answers = ["yes", "no", "2", "läuft", "Yes"]
    assert load_answer_list(write(tmp_path / "answers.json", answers)) == answers
    assert load_answer_list(tmp_path / "answers.json") == answers


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (["yes", "no", "yes"], r"answers\.json, entry 3: 'yes' repeats entry 1: remove one of them"),
        (["yes", ""], r"answers\.json, entry 2: is '', an empty answer: remove it"),
        (["yes", " "], "entry 2: is ' ', an empty answer: remove it"),
        (["yes", 2], "entry 2: is 2: a string is expected"),
        ([None], "entry 1: is None: a string is expected"),
        (["\ud800"], "entry 1: .* holds half of a surrogate pair"),
        ([], r"answers\.json: is empty"),
        ({"yes": 0}, r"answers\.json: holds a JSON object, not a list: one list of strings is expected"),
        (b"yes\nno\n", r"answers\.json: is not JSON \(line 1, .*: one list of strings is expected"),
    ],
)
def test_a_bad_answer_list(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(AnnotationError, match=message) as caught:
        load_answer_list(write(tmp_path / "answers.json", content))
    assert str(caught.value).startswith("Cannot load the answer list: 1 problem")


def test_a_missing_answer_list(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"answers\.json: does not exist: check the path"):
        load_answer_list(tmp_path / "answers.json")
