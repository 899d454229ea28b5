"""`python -m dataset_scripts check` counts what is there, and finds what is wrong with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from pathlib import Path
from struct import pack

import datasets
import pytest
from data_cases import (
    coco_name,
    write_coco_albef,
    write_coco_images,
    write_image,
    write_json,
    write_vqa_albef,
    write_vqa_images,
    write_vqa_official,
)
from PIL import Image
from run_cases import ROOT

from dataset_scripts.__main__ import main

COCO_IMAGE = coco_name("train2014", 57870)


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    write_coco_images(tmp_path)
    write_coco_albef(tmp_path)
    return tmp_path


def checked(
    capsys: pytest.CaptureFixture[str], folder: Path, *words: str, name: str = "coco_retrieval"
) -> tuple[int, str]:
    status = main(["check", name, "--data_dir", str(folder), *words])
    captured = capsys.readouterr()
    return status, captured.out + captured.err


def test_good_data(coco: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert checked(capsys, coco, "--decode") == (
        0,
        "train: 4 rows, 3 images, 4 captions\n"
        "validation: 1 rows, 1 images, 1 captions\n"
        "test: 1 rows, 1 images, 2 captions\n"
        "No problems that stop a run.\n",
    )


@pytest.mark.parametrize("write", [write_vqa_albef, write_vqa_official])
def test_good_questions(tmp_path: Path, capsys: pytest.CaptureFixture[str], write: object) -> None:
    write_vqa_images(tmp_path)
    write(tmp_path)
    status, printed = checked(capsys, tmp_path, "--decode", name="vqa_v2")
    assert status == 0
    assert printed.startswith(
        "train: 2 questions, 1 images, 20 answers\n"
        "validation: 1 questions, 1 images, 10 answers\n"
        "test: 1 questions, 1 images, 0 answers\n"
    )


def test_answers_that_the_tokenizer_cannot_tell_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table with Yes, yes, No, no ended in an accuracy of 0.0, and nothing was found in it."""
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    rows = [f"a.png,is it {n}?,{answer}" for n, answer in enumerate(["Yes", "yes", "No", "no", "yes", "2"])]
    (tmp_path / "train.csv").write_text("\n".join(["file_name,question,answers", *rows]))
    status, printed = checked(capsys, tmp_path, "--config_name", "vqa", name="own_data")
    assert status == 0 and "train: 2 notes" in printed
    assert "answers: 'yes' (2) and 'Yes' (1) are one candidate, 'yes': the tokenizer cannot tell them apart" in printed
    assert "answers: 'No' (1) and 'no' (1) are one candidate, 'No'" in printed


def test_what_does_not_stop_a_run(coco: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Images of two splits, texts that are too long, and a train split that is not there."""
    rows = json.loads((coco / "coco_val.json").read_text())
    train = json.loads((coco / "coco_train.json").read_text())
    rows.append({"image": train[3]["image"], "caption": ["word " * 31]})
    write_json(coco / "coco_val.json", rows)
    status, printed = checked(capsys, coco)
    assert status == 0 and "validation: 2 notes" in printed
    assert (
        f"coco_val.json, row 2: image '{coco / train[3]['image']}' is in train ({coco / 'coco_train.json'}, row 4)"
        in printed
    )
    assert "row 2: 'word word" in printed and "has 31 words, of which 30 are read" in printed
    assert "31 words" not in checked(capsys, coco, "--max_words", "40")[1]
    status, printed = checked(capsys, coco, "--validation_files", "coco_val.json")
    assert status == 0 and "There is no train split" in printed and "train:" not in printed


@pytest.mark.parametrize("task", ["retrieval", "vqa"])
def test_long_texts_are_one_note(tmp_path: Path, capsys: pytest.CaptureFixture[str], task: str) -> None:
    """With their count, and the longest as an example."""
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    texts = ["word " * (31 + n % 9) for n in range(17)] + ["short"] * 3
    if task == "vqa":
        rows, name = [f"a.png,{n} {text},yes" for n, text in enumerate(texts)], "questions"
        (tmp_path / "train.csv").write_text("\n".join(["file_name,question,answers", *rows]))
    else:
        rows, name = [f"a.png,{n} {text}" for n, text in enumerate(texts)], "captions"
        (tmp_path / "train.csv").write_text("\n".join(["file_name,caption", *rows]))
    status, printed = checked(capsys, tmp_path, "--config_name", task, name="own_data")
    assert status == 0 and "train: 1 note." in printed
    assert sum("word word" in line for line in printed.splitlines()) == 1
    assert f"{name}: 17 {name} have more than 30 words, of which no more are read; " in printed
    assert "train.csv, line 10 has the most, 40: '8 word word" in printed


def test_a_question_id_in_two_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_vqa_images(tmp_path)
    write_vqa_albef(tmp_path)
    rows = json.loads((tmp_path / "vqa_val.json").read_text())
    write_json(tmp_path / "vqa_val.json", [rows[0] | {"question_id": 57870002}])
    status, printed = checked(capsys, tmp_path, name="vqa_v2")
    assert (
        status == 0 and "'question_id' 57870002 is in train (" in printed and "vqa_train.json, row 2), too" in printed
    )


def test_questions_without_an_id_are_not_compared_between_splits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_vqa_images(tmp_path)
    image = coco_name("train2014", 57870)
    for split in ("train", "validation"):
        (tmp_path / f"{split}.csv").write_text(f"image,question,answer\n{image},how many?,2\n")
    status, printed = checked(capsys, tmp_path, "--config_name", "vqa", name="own_data")
    assert status == 0 and "is in train" in printed and "question_id" not in printed
    for split in ("train", "validation"):
        (tmp_path / f"{split}.csv").write_text(f"image,question,answer,question_id\n{image},how many?,2,0\n")
    assert "'question_id' 0 is in train (" in checked(capsys, tmp_path, "--config_name", "vqa", name="own_data")[1]


def bomb(path: Path, side: int) -> None:
    """A PNG file of a few bytes whose header promises a huge image."""

    def part(kind: bytes, data: bytes) -> bytes:
        return pack(">I", len(data)) + kind + data + pack(">I", zlib.crc32(kind + data))

    header = part(b"IHDR", pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + part(b"IDAT", zlib.compress(b"\0")) + part(b"IEND", b""))


def test_all_bad_input_in_one_report(coco: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Everything is found at once, with file and row; `--max_problems` says how much of it is shown."""
    Image.effect_noise((64, 48), 90).save(coco / "cut.png")
    (coco / "cut.png").write_bytes((coco / "cut.png").read_bytes()[:900])
    (coco / "page.png").write_text("<html>403</html>")
    (coco / "empty.png").write_bytes(b"")
    bomb(coco / "bomb.png", 60_000)
    bomb(coco / "big.png", 1_000)
    good = json.loads((coco / "coco_train.json").read_text())[0]["image"]
    rows = [
        {"image": image, "caption": "a dog"}
        for image in ("cut.png", "page.png", "bomb.png", "big.png", "empty.png", "gone.png", "/etc/passwd", "../x.png")
    ]
    rows += [{"image": "http://x.org/a.png", "caption": "a"}, {"image": good.replace("/", "\\"), "caption": "windows"}]
    rows += [{"image": good, "caption": " .,! "}]
    write_json(coco / "coco_train.json", rows)
    (coco / "coco_val.json").write_bytes(b'[{"image": "\xff"}]')
    (coco / "coco_test.json").write_bytes(b"")
    words = ("--max_problems", "20", "--max_image_pixels", "500000")
    status, printed = checked(capsys, coco, "--decode", *words)
    assert status == 1 and "Training cannot start: 12 problems." in printed
    expected = [
        (0, "cut.png' is damaged or cut short"),
        (1, "page.png' is no image"),
        (2, "bomb.png' has more than 178,956,970 pixels, Pillow's limit"),
        (3, "big.png' has 1,000,000 pixels, more than the limit of 500,000"),
        (4, "empty.png' is an empty file"),
        (5, "gone.png' cannot be found"),
        (6, "is an absolute path"),
        (7, "'../x.png' leaves image_root"),
        (8, "is a URL"),
        (10, "holds no letter or digit"),
    ]
    for row, text in expected:
        assert any(f"coco_train.json, row {row + 1}: " in line and text in line for line in printed.splitlines()), text
    assert "coco_val.json: is not UTF-8 (byte 12)" in printed and "coco_test.json: is empty" in printed
    _, few = checked(capsys, coco, "--decode", "--max_problems", "2")
    assert "... and 8 further problems." in few


def test_dropped_rows_do_not_stop_a_run(coco: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads((coco / "coco_train.json").read_text())
    write_json(coco / "coco_train.json", [*rows, {"image": "gone.png", "caption": "a"}])
    assert checked(capsys, coco)[0] == 1
    for config in ('{"drop_bad_rows": true}', "{drop_bad_rows: true}", "drop_bad_rows: true"):  # JSON or YAML
        status, printed = checked(capsys, coco, "--dataset_config", config)
        assert status == 0 and "gone.png" in printed and "1 row" in printed
    for config in ("[1]", "drop", "{a: ", '{"a": 1'):
        status, printed = checked(capsys, coco, "--dataset_config", config)
        assert status == 1 and printed.startswith("python -m dataset_scripts: --dataset_config is ")


def test_wrong_roots_and_half_unzipped_folders(coco: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, printed = checked(capsys, coco, "--image_root", str(coco / "nowhere"))
    assert status == 1 and printed.count("nowhere' is not a folder: name the folder that holds the images") == 3
    for path in (coco / "val2014").glob("*.png"):
        path.unlink()
    for path in (coco / "val2014").glob("*.jpg"):
        path.unlink()
    status, printed = checked(capsys, coco)
    assert status == 1 and "Training cannot start: 3 problems." in printed
    assert checked(capsys, coco / "train2014")[0] == 1


def test_data_that_a_builder_makes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    few = json.dumps({"num_train": 3, "num_validation": 1, "num_test": 1, "cache_dir": str(tmp_path)})
    assert main(["check", "shapes", "--config_name", "vqa", "--dataset_config", few, "--decode"]) == 0
    assert "train: 12 rows, 3 images, 120 answers" in capsys.readouterr().out


def test_images_within_a_data_set(coco: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not files, but their bytes are decoded; the row of a bad one is named."""
    images = [{"bytes": (coco / COCO_IMAGE).read_bytes(), "path": None}, {"bytes": b"<html>", "path": None}]
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    datasets.Dataset.from_dict({"image": images, "caption": ["a", "b"]}, features).save_to_disk(str(coco / "saved"))
    words = ("--dataset_config", json.dumps({"hub_dataset": str(coco / "saved")}))
    status, printed = checked(capsys, coco, *words, name="own_data")
    assert status == 0 and printed.startswith("train: 2 rows, 2 images, 2 captions\n")
    status, printed = checked(capsys, coco, "--decode", *words, name="own_data")
    assert (
        status == 1 and "1 problem (" in printed and "saved (train), row 2: Image given as bytes is no image" in printed
    )


@pytest.mark.slow
def test_the_command(coco: Path) -> None:
    command = [sys.executable, "-m", "dataset_scripts", "check"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([*command, "coco_retriever"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "No data set is called 'coco_retriever'" in done.stderr
    assert "Traceback" not in done.stderr
    done = subprocess.run([*command, "--help"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "--train_files" in done.stdout and "Exit status 0" not in done.stderr


def test_rows_that_a_run_can_leave_out_are_said_to_be_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "a.png", 10)
    (tmp_path / "t.csv").write_text("Datei;Beschreibung\na.png;ein Hund\nweg.png;nichts\na.png;\n")
    words = ["check", "own_data", "--data_dir", str(tmp_path)]
    remedy = "leave these rows out with drop_bad_rows: true"
    for more, status, is_said in (([], 1, True), (["--dataset_config", "{drop_bad_rows: true}"], 0, False)):
        assert main([*words, *more]) == status
        assert (remedy in capsys.readouterr().out) == is_said
    (tmp_path / "t.csv").write_text("Datei;Beschreibung\nweg.png;nichts\n")  # nothing would be left
    assert main(words) == 1 and remedy not in capsys.readouterr().out
