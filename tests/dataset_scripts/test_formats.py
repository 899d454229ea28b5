"""Each form in which people have their data, in miniature, with the rows that come of it."""

from __future__ import annotations

import io
import json
import logging
import os
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_cases import rows_of, write_image, write_json
from PIL import Image

from dataset_scripts import AnnotationError, load_dataset_script, make_builder
from dataset_scripts.reading.problems import Problems
from dataset_scripts.reading.rows import BadRow
from dataset_scripts.reading.values import question_number, tidy_answers, tidy_captions

Rows = dict[str, Any]
QUESTION = {"image": "0.png", "question": "how many dogs?"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images 0.png .. 2.png, each of a shade of its own."""
    for number in range(3):
        write_image(tmp_path / "photos" / f"{number}.png", 40 * number)
    return tmp_path / "photos"


def load(folder: Path, task: str, files: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    """Write files, text as UTF-8 and what is no text as JSON, and read them."""
    for name, content in files.items():
        text = content if isinstance(content, str | bytes) else json.dumps(content)
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    fields = {"image_root": str(folder), "cache_dir": folder.parent / "cache"} | fields
    paths = [str(folder / name) for name in files]
    return rows_of(load_dataset_script("own_data", task, train_files=paths, split="train", **fields))


def captions(folder: Path, content: Any, name: str = "rows.csv", **fields: Any) -> dict[str, list[str]]:
    """Captions by the path of the image below the folder."""
    rows = load(folder, "retrieval", {name: content}, **fields)
    return {os.path.relpath(row["image"], folder): row["caption"] for row in rows}


def answers(folder: Path, content: Any, name: str = "rows.csv", **fields: Any) -> list[list[str]]:
    return [row["answers"] for row in load(folder, "vqa", {name: content}, **fields)]


def lines(*rows: Any) -> str:
    return "\n".join(map(json.dumps, rows))


def refused(folder: Path, content: Any, message: str, task: str = "retrieval", name: str = "rows.csv", **f: Any) -> str:
    with pytest.raises(AnnotationError, match=message) as caught:
        load(folder, task, {name: content}, **f)
    return str(caught.value)


# ---- answers, captions, ids


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([{"answer": "2", "answer_confidence": "yes"}] * 3, ["2"] * 3),  # the Hub's VQA v2 and VizWiz
        ({"answer": ["2", "two"], "answer_confidence": ["yes", "maybe"]}, ["2", "two"]),  # the same by columns
        ({"answer": 3}, "3"),
        (2, "2"),
        (2.0, "2"),
        (2.5, "2.5"),
        ([2, 2, 3], ["2", "2", "3"]),
        ("[2, 2, 3]", ["2", "2", "3"]),
        ("[2 2 3]", ["2", "2", "3"]),  # NumPy
        ("['red', 'dark red']", ["red", "dark red"]),  # Python
        ("['red' 'dark red']", ["red", "dark red"]),  # NumPy; Python reads one string
        ("[{'answer': 'a', 'n': 1}\n {'answer': 'b', 'n': 2}]", ["a", "b"]),
        (True, "yes"),
        ([False, True], ["no", "yes"]),
        ("True", "True"),  # a text stays a text
        ("2", "2"),
        ('"2"', '"2"'),
        ("[unreadable]", "[unreadable]"),
        ("", ""),
        ([None, "a"], [None, "a"]),  # the check refuses it
    ],
)
def test_forms_of_answers(value: Any, expected: Any) -> None:
    assert tidy_answers(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("[unreadable]", "[unreadable]"),
        ("[a dog] by [a tree]", "[a dog] by [a tree]"),
        ("[1 2]", "[1 2]"),
        ('["a dog", "a tree"]', ["a dog", "a tree"]),
        ("['a dog' \"a dog's tree\"]", ["a dog", "a dog's tree"]),
        ("2", "2"),
        ('"2"', '"2"'),
        ([{"raw": "a dog"}, "a tree"], ["a dog", "a tree"]),
    ],
)
def test_forms_of_captions(value: Any, expected: Any) -> None:
    assert tidy_captions(value) == expected


@pytest.mark.parametrize("value", ["[1, 2]", "['a dog', a]", '["a dog"', "[{'raw': }]"])
def test_broken_lists_are_no_captions(value: str) -> None:
    found = tidy_captions(value)
    assert isinstance(found, BadRow) == value.endswith("]")


@pytest.mark.parametrize("value", ["007", "7", 7, 7.0, "7.0"])
def test_numbers_of_questions(value: Any) -> None:
    assert question_number(value) == 7


def test_ids_with_letters(folder: Path) -> None:
    """They become numbers, the same everywhere; the same id twice is refused."""
    rows = [QUESTION | {"answer": "two", "question_id": name} for name in ("val-07a1", "b", 5)]
    found = [row["question_id"] for row in load(folder, "vqa", {"rows.jsonl": lines(*rows)})]
    assert found == [question_number("val-07a1"), question_number("b"), 5]
    assert found[0] == 671096117861712053 or found[0] > 2**32
    refused(folder, lines(*rows, rows[0]), r"line 4: 'question_id' \d+ is taken by .*, line 1", "vqa", "rows.jsonl")


def test_answers_in_several_columns(folder: Path) -> None:
    table = 'image,question,a1,a2,a3\n0.png,how many?,2,"[2, 3]",\n'
    assert answers(folder, table, answers_column=["a1", "A2", "a3"]) == [["2", "2", "3"]]


def test_vizwiz_and_the_hub(folder: Path) -> None:
    given = [{"answer": "2", "answer_confidence": "yes"}, {"answer": "two", "answer_confidence": "maybe"}]
    row = QUESTION | {"answers": given, "answer_type": "number", "answerable": 1}
    (found,) = load(folder, "vqa", {"val.json": [row]})
    assert (found["answers"], found["answer_type"], found["question_id"]) == (["2", "two"], "number", 0)
    assert answers(folder, lines(row), "val.jsonl") == [["2", "two"]]


def test_missing_values_of_pandas(folder: Path) -> None:
    refused(folder, '{"image": "0.png", "question": "a", "answer": NaN}', "line 1: has no 'answer'", "vqa", "a.jsonl")
    refused(folder, '{"image": "0.png", "caption": NaN}', "line 1: has nothing in caption: fill it", name="b.jsonl")


# ---- headers and delimiters

TWO = {"0.png": ["a dog"], "1.png": ["two, or three"]}


@pytest.mark.parametrize("image", ["filename", "file_path", "img", "Image Path", "FILE-NAME", "imageName", "photo"])
@pytest.mark.parametrize("text", ["Caption", "description", "text", "sentence", "COMMENT"])
def test_names_of_columns(folder: Path, image: str, text: str) -> None:
    assert captions(folder, f'{image},{text}\n0.png,a dog\n1.png,"two, or three"\n') == TWO


@pytest.mark.parametrize(
    "table",
    [
        'File_Name, Caption\n0.png, a dog\n1.png, "two, or three"\n',
        '"File Name" , "Caption"\n0.png,a dog\n1.png,"two, or three"\n',
        "\ufefffile_name;caption\r\n0.png;a dog\r\n1.png;two, or three\r\n",
        "file_name\tcaption\n0.png\ta dog\n1.png\ttwo, or three\n",
        "file_name|caption\n0.png|a dog\n1.png|two, or three\n",
        "image_name| comment_number| comment\n0.png| 0| a dog\n1.png| 0| two, or three\n",  # Kaggle's Flickr30k
        "sep=;\r\nfile_name;caption\r\n0.png;a dog\r\n1.png;two, or three\r\n",  # Excel
        "file_name;caption;;\r\n0.png;a dog;;\r\n;;;\r\n1.png;two, or three\r\n",  # empty columns and rows
        ',file_name,caption\n0,0.png,a dog\n1,1.png,"two, or three"\n',  # row numbers of pandas
        "\n\nfile_name;note;note;caption\n0.png;;;a dog\n1.png;;;two, or three",
        '\ufefffile_name\tcaption\r0.png\ta dog\r1.png\t"two, or three"\r',  # line ends of old Macintoshs
        "0.png#0\ta dog\n1.png#0\ttwo, or three\n",  # Flickr8k.token.txt
        '{"img": "0.png", "description": "a dog"}\n\n{"img": "1.png", "description": ["two, or three"]}',
        '[{"file_name": "0.png", "text": "a dog"}, {"file_name": "1.png", "text": "two, or three"}]',
    ],
)
@pytest.mark.parametrize("name", ["rows.csv", "rows.txt", "rows"])
def test_tables_are_told_by_their_content(folder: Path, table: str, name: str) -> None:
    assert captions(folder, table, name) == TWO


def test_quotation_marks_of_kaggle_and_flickr8k_are_text(folder: Path) -> None:
    table = 'image_name| comment_number| comment\n0.png| 0| "Stop" , says a man\n'
    assert captions(folder, table) == {"0.png": ['"Stop" , says a man']}
    assert captions(folder, '0.png#0\t"Stop , says a man\n0.png#1\ta | b\n') == {
        "0.png": ['"Stop , says a man', "a | b"]
    }
    message = r"line 3: has nothing in comment: fill it"  # as in line 19,999 of Kaggle's file
    refused(folder, table + "1.png| 4   A dog runs\n", message)
    refused(folder, table + "1.png| 0| a | b\n", "line 3: has 4 cells, the header 3: write texts without a '|'")


def test_a_folder_with_captions_txt(folder: Path) -> None:
    """Kaggle's Flickr8k, with its images in a folder of their own."""
    (folder / "Images").mkdir()
    (folder / "0.png").rename(folder / "Images" / "0.png")
    (folder / "captions.txt").write_text('image,caption\n0.png,A dog .\n0.png,"A dog , black ."\n')
    rows = rows_of(load_dataset_script("own_data", data_dir=folder, cache_dir=folder.parent / "cache", split="train"))
    assert [(row["image"], row["caption"]) for row in rows] == [
        (str(folder / "Images" / "0.png"), ["A dog .", "A dog , black ."])
    ]


@pytest.mark.parametrize(
    ("encoding", "delimiter", "ending"),
    [
        ("utf-8-sig", ",", "csv"),
        ("cp1252", ";", "csv"),
        ("mac_roman", ";", "csv"),
        ("cp850", ",", "csv"),
        ("utf-16", "\t", "txt"),
    ],
)
@pytest.mark.parametrize("name", ["train", "metadata", "Book1"])
def test_a_folder_of_photos_with_a_sheet_of_excel(
    folder: Path, encoding: str, delimiter: str, ending: str, name: str
) -> None:
    end = "\r" if encoding == "mac_roman" else "\r\n"
    rows = [("Photo", "Caption"), ("0.png", "Café à Köln"), ("1.png", '"ein Hund, der ""wau"" sagt"')]
    text = end.join(map(delimiter.join, rows)) + end
    (folder / f"{name}.{ending}").write_bytes(text.encode(encoding))
    found = load_dataset_script("own_data", data_dir=folder, cache_dir=folder.parent / "cache")
    assert found["train"]["caption"][:] == [["Café à Köln"], ['ein Hund, der "wau" sagt']]
    (folder / "other.csv").write_text("image,caption\n0.png,a\n")
    if name == "Book1":
        with pytest.raises(
            AnnotationError, match=rf"several tables for train: Book1\.{ending}, other\.csv\. Leave one"
        ):
            load_dataset_script("own_data", data_dir=folder, cache_dir=folder.parent / "cache")
    else:
        assert list(load_dataset_script("own_data", data_dir=folder, cache_dir=folder.parent / "cache")) == ["train"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file_name,caption,caption\n0.png,a,b\n", "line 2: has several columns called 'caption': give each a name"),
        ("file_name,Caption,caption\n0.png,a,b\n", "line 2: has a caption in 'Caption' and 'caption': say which by"),
        ("path,filename,text\n1,0.png,b\n", "has an image in 'path' and 'filename': say which by image_column"),
        ("file_name,text,description\n0.png,a,b\n", "has a caption in 'text' and 'description': say which by capt"),
        ("image;caption|text\n0.png;a|b\n", r"rows\.csv: has a semicolon or a '\|' between .*: set delimiter"),
        ("image,caption\n0.png,a;b,c\n", "line 2: has 3 cells, the header 2: put texts with a comma into double"),
        ("a.png,a dog\n", "has a header and no row: add rows"),
        (b"PK\x03\x04\x14\0", "is an Excel workbook or a zip file: save it as 'CSV UTF-8' in Excel"),
        (b"\x1f\x8b\x08\0", "is compressed: unpack it"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\r", "is no text: name a table"),
    ],
)
def test_what_is_ambiguous_or_no_table(folder: Path, table: str | bytes, message: str) -> None:
    refused(folder, table, message)


def test_quotes_that_do_not_close_are_located(folder: Path) -> None:
    table = 'file_name,caption\n0.png,"a\ndog"\n1.png,"Stop" says a man\n'
    refused(folder, table, r"is not CSV \(',' expected after '\"', in the row that begins on line 4\): check quotes")
    refused(folder, 'file_name,caption\n0.png,"a dog\n', "unexpected end of data, in the row that begins on line 2")
    refused(folder, "file_name::caption\n0.png::a\n", "the delimiter '::': set it to one sign", delimiter="::")
    assert captions(folder, "a\tfile_name\ttext\n;\t0.png\tb,c\n", delimiter="\\t") == {"0.png": ["b,c"]}


def test_what_is_ambiguous_can_be_said(folder: Path) -> None:
    table = "file_name,text,description\n0.png,a,b\n"
    assert captions(folder, table, caption_column="Description") == {"0.png": ["b"]}
    assert captions(folder, table, caption_column=["text", "description"]) == {"0.png": ["a", "b"]}
    assert captions(folder, "image;caption|text\n0.png;a|b\n", delimiter=";") == {"0.png": ["a|b"]}
    assert captions(folder, "file_name,text,description\n0.png,a,a\n") == {"0.png": ["a"]}  # they agree


# ---- encodings

SPOKEN = "Ein Mädchen im Café, schön"


@pytest.mark.parametrize(
    ("encoding", "delimiter", "end"),
    [
        ("utf-8", ",", "\n"),
        ("utf-8-sig", ",", "\r\n"),  # Excel: CSV UTF-8
        ("utf-8-sig", ";", "\r\n"),
        ("cp1252", ",", "\r\n"),  # Excel: CSV
        ("cp1252", ";", "\r\n"),
        ("utf-16", "\t", "\r\n"),  # Excel: Unicode Text
        ("utf-16-le", "\t", "\n"),  # without a mark
        ("utf-16-be", ",", "\n"),
        ("mac_roman", ",", "\r"),  # Excel: CSV (Macintosh)
        ("mac_roman", ";", "\r"),
        ("cp850", ";", "\r\n"),  # Excel: CSV (MS-DOS)
        ("cp437", ",", "\r\n"),
    ],
)
def test_encodings(folder: Path, encoding: str, delimiter: str, end: str) -> None:
    rows = [
        ("file_name", "caption"),
        ("0.png", f'"{SPOKEN}"'),
        ("1.png", "à Genève, ñ"[: 8 if delimiter == "," else 99]),
    ]
    text = "".join(delimiter.join(row if delimiter == "," else (row[0], row[1])) + end for row in rows)
    if delimiter == ",":
        text = text.replace("à Genève, ñ", '"à Genève, ñ"')
    expected = {"0.png": [SPOKEN], "1.png": [rows[2][1]]}
    assert captions(folder, text.encode(encoding)) == expected


def test_utf16_with_the_other_mark_and_json_lines(folder: Path) -> None:
    rows = json.dumps({"img": "0.png", "text": SPOKEN}, ensure_ascii=False)
    assert captions(folder, b"\xfe\xff" + rows.encode("utf-16-be"), "rows.jsonl") == {"0.png": [SPOKEN]}
    assert captions(folder, rows.encode("cp1252"), "latin.jsonl") == {"0.png": [SPOKEN]}


@pytest.mark.parametrize(
    "text",
    [
        "it\u2019s a dog",
        "a \u201cdog\u201d \u2013 or two…",
        "a dog\u2019s café",
        "20° in the sun",
        "wait … 5 €",
        "L'été, où ?",
        "rød bil på gaden",
    ],
)
@pytest.mark.parametrize("encoding", ["cp1252", "mac_roman"])
def test_typographic_signs(folder: Path, text: str, encoding: str) -> None:
    assert captions(folder, f'file_name,caption\n0.png,"{text}"\n'.encode(encoding)) == {"0.png": [text]}


@pytest.mark.parametrize("encoding", ["cp1252", "mac_roman", "cp850"])
@pytest.mark.parametrize(
    "text",
    ["um cão não é pão", "¿qué hay aquí? ¡un niño!", "ÜBER DEN DÄCHERN", "en rød bil på gaden", "à côté de la plage"],
)
def test_languages(folder: Path, text: str, encoding: str) -> None:
    assert captions(folder, f"file_name;caption\n0.png;{text}\n".encode(encoding)) == {"0.png": [text]}


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("mały pies biegnie przez łąkę", "cp1250"),
        ("一只狗在草地上", "gbk"),
        ("ένα σκυλί τρέχει", "cp1253"),
        ("küçük köpek koşuyor", "cp1254"),
    ],
)
def test_other_languages_are_not_guessed(folder: Path, text: str, encoding: str) -> None:
    table = f"file_name;caption\n0.png;{text}\n".encode(encoding)
    refused(folder, table, r"is not UTF-8 \(byte \d+\): save it as UTF-8")
    assert captions(folder, table, encoding=encoding) == {"0.png": [text]}


def test_the_encoding_that_was_taken_is_said_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = f"file_name;caption\n0.png;{SPOKEN}\n"
    with caplog.at_level(logging.WARNING):
        captions(folder, table.encode("mac_roman"))
        captions(folder, table.encode("mac_roman"))
    (said,) = caplog.messages
    assert "rows.csv is not UTF-8 and is read as mac_roman (with words such as" in said and "set encoding" in said
    caplog.clear()
    captions(folder, table.encode(), "plain.csv")
    assert not caplog.messages


def test_encodings_that_cannot_be_told(folder: Path) -> None:
    table = "file_name;caption\n0.png;большая собака бежит\n".encode("cp1251")
    refused(folder, table, r"is not UTF-8 \(byte 24\): save it as UTF-8 \(in Excel 'CSV UTF-8'\), or set encoding")
    assert captions(folder, table, encoding="cp1251") == {"0.png": ["большая собака бежит"]}
    refused(folder, "file_name;caption\n0.png;é ü ö\n".encode() + b"1.png;caf\xe9 x\n", "though other parts of it are")
    refused(folder, table, "cannot be read as 'cp9': set encoding to utf-8 or cp1252, say", encoding="cp9")
    refused(folder, table, "cannot be read as 'hex'", encoding="hex")
    refused(folder, table, r"is not utf-8 \(after line 0\): set another", encoding="UTF-8")


# ---- lines


def test_lines_are_counted_as_an_editor_does(folder: Path) -> None:
    table = 'file_name,caption\n0.png,"a\nb\nc"\n\n1.png,?\n2.png,!\n'
    message = refused(folder, table, "2 problems")
    assert "rows.csv, line 6: caption '?'" in message and "rows.csv, line 7: caption '!'" in message
    assert message.startswith("Cannot load the annotations: 2 problems.\n")
    assert "line 6: caption" in refused(folder, table.replace("\n", "\r\n"), "2 problems")
    refused(folder, "sep=,\n" + table, "line 7: caption '[?]'")
    refused(folder, lines(QUESTION) + "\n\n" + lines({"image": "0.png", "caption": "?"}), "line 3: caption '[?]'")
    refused(folder, "0.png#0\ta dog\n0.png#1\t.\n", r"line 2: caption '\.'")


def test_rows_of_parquet_and_json_are_counted_from_one(folder: Path) -> None:
    pq.write_table(pa.table({"image": ["0.png", "9.png"], "caption": ["a", "b"]}), folder / "a.parquet")
    message = refused(folder, (folder / "a.parquet").read_bytes(), r"a\.parquet, row 2: image ", name="a.parquet")
    assert "1 problem (rows are counted from 1)" in message
    refused(folder, [{"image": "0.png", "caption": "?"}], r"a\.json, row 1: caption '\?'", name="a.json")


# ---- layouts


def test_karpathys_flickr8k(folder: Path) -> None:
    """Its images lie where image_root says, or in the folder of Flickr30k."""
    item = {"filename": "0.png", "split": "train", "sentences": [{"raw": "a dog"}]}
    for name in ("dataset_flickr8k.json", "dataset_flickr30k.json"):
        assert captions(folder, {"dataset": "flickr8k", "images": [item]}, name) == {"0.png": ["a dog"]}
    (folder / "flickr30k-images").mkdir()
    (folder / "0.png").rename(folder / "flickr30k-images" / "0.png")
    assert captions(folder, {"images": [item]}, "d.json") == {"flickr30k-images/0.png": ["a dog"]}


def questions(**more: Any) -> dict[str, Any]:
    asked = {"image_id": 42, "question": "what?", "question_id": 1}
    given = {"question_id": 1, "image_id": 42, "answers": [{"answer": "a dog"}]}
    return {"q.json": {"questions": [asked], **more}, "a.json": {"annotations": [given]}}


@pytest.mark.parametrize(
    "path",
    [
        "val2014/COCO_val2014_000000000042.jpg",
        "val2017/000000000042.jpg",
        "train2017/000000000042.jpg",
        "images/val2017/000000000042.jpg",
        "images/COCO_val2014_000000000042.jpg",
        "000000000042.jpg",
    ],
)
@pytest.mark.parametrize("more", [{"data_subtype": "val2014"}, {}])
def test_images_of_coco_under_their_other_names(folder: Path, path: str, more: Rows) -> None:
    """Questions of VQA v2 name images of 2014; without `data_subtype` their ids find them."""
    write_image(folder / path)
    (row,) = load(folder, "vqa", questions(**more))
    assert (os.path.relpath(row["image"], folder), row["answers"]) == (path, ["a dog"])
    for name in ("000000000042.jpg", "COCO_train2014_000000000042.jpg"):
        assert captions(folder, f"image,caption\n{name},a\n") == {path: ["a"]}


def test_a_subset_that_is_set(folder: Path) -> None:
    for subset in ("train2014", "val2014"):
        write_image(folder / subset / f"COCO_{subset}_000000000042.jpg")
    names = r"'train2014/COCO_train2014_0.*42.jpg' or 'val2014/COCO_val2014_0.*42.jpg': write which"
    with pytest.raises(AnnotationError, match=names):
        load(folder, "vqa", questions())
    (row,) = load(folder, "vqa", questions(), data_subtype="val2014")
    assert row["image"] == str(folder / "val2014" / "COCO_val2014_000000000042.jpg")
    builder = make_builder(
        "vqa_v2", data_dir=folder, train_files=["q.json", "a.json"], image_name="{subset}/{image_id}"
    )
    with pytest.raises(AnnotationError, match="has no 'data_subtype' such as 'train2014': set data_subtype"):
        list(builder.rows("train", Problems()))


def test_gqa(folder: Path) -> None:
    """A dictionary of questions by id; images are named without their ending."""
    write_image(folder / "images" / "n161313.jpg")
    content = {
        "02930152": {"imageId": "n161313", "question": "is it red?", "answer": "yes", "types": {"semantic": "attr"}},
        "x1": {"imageId": 0, "question": "what is it?", "isBalanced": True, "answer": "dog"},
    }
    rows = load(folder, "vqa", {"testdev_balanced_questions.json": content})
    found = [(os.path.relpath(row["image"], folder), row["question_id"], row["answers"]) for row in rows]
    assert found == [("images/n161313.jpg", 2930152, ["yes"]), ("0.png", question_number("x1"), ["dog"])]
    content["x1"].pop("question")
    with pytest.raises(AnnotationError, match=r"q\.json, row 2: has no image in image or .*'imageId'"):
        load(folder, "vqa", {"q.json": content})


def test_names_without_an_ending(folder: Path) -> None:
    """Also where the id of the image is all that names it, as in tables of DAQUAR."""
    write_image(folder / "image399.png")
    assert captions(folder, "image,caption\nimage399,a dog\n") == {"image399.png": ["a dog"]}
    (row,) = load(folder, "vqa", {"t.csv": "question,answer,image_id\nwhat?,a table,image399\n"})
    assert (os.path.basename(row["image"]), row["answers"]) == ("image399.png", ["a table"])
    write_image(folder / "image399.jpg")
    message = "image 'image399' is no file, and may be 'image399.jpg' or 'image399.png': write which of them it is"
    refused(folder, "image,caption\nimage399,a cat\n", f"line 2: {message}")
    refused(folder, "image,caption\nimage400,a dog\n", r"line 2: image '.*image400' cannot be found")


# ---- images in tables


def png(shade: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
@pytest.mark.parametrize("name", ["image", "img", "image_bytes"])
def test_bytes_of_images_in_parquet(folder: Path, name: str, kind: pa.DataType) -> None:
    """Rows of an image need not be adjacent."""
    shades = {name: pa.array([png(10), png(20), png(10), png(20)], kind), "caption": ["a", "b", "c", "d"]}
    pq.write_table(pa.table(shades | {"image_id": ["x", "y", "x", "y"]}), folder / "a.parquet")
    fields = {"train_files": [str(folder / "a.parquet")], "cache_dir": folder.parent / "cache", "split": "train"}
    rows = load_dataset_script("own_data", **fields)
    assert (rows["caption"][:], rows["image_id"][:]) == ([["a", "c"], ["b", "d"]], [0, 1])
    assert [image.getpixel((0, 0))[0] for image in rows["image"]] == [10, 20]
    stream = load_dataset_script("own_data", streaming=True, **fields)
    assert [(row["image_id"], row["caption"]) for row in stream] == [
        (0, ["a"]), (1, ["b"]), (0, ["c"]), (1, ["d"])
    ]  # fmt: skip


def test_images_with_ids_in_questions(folder: Path) -> None:
    columns = {"img": [png(10), png(20)], "question": ["what?", "how many?"], "answer": [["a", "b"], ["2"]]}
    pq.write_table(pa.table(columns | {"question_id": ["q-1", "q-2"]}), folder / "a.parquet")
    rows = load_dataset_script("own_data", "vqa", train_files=[str(folder / "a.parquet")], split="train")
    assert rows["question_id"][:] == [question_number("q-1"), question_number("q-2")]
    assert rows["answers"][:] == [["a", "b"], ["2"]] and rows.features["image"] == datasets.Image()


def test_rows_in_an_object(folder: Path) -> None:
    """TextVQA's files, and many others."""
    assert captions(folder, {"v": 1, "data": [{"file_name": "0.png", "caption": "a"}]}, "a.json") == {"0.png": ["a"]}
    assert answers(folder, {"data": [QUESTION | {"answers": ["2", "two"]}]}, "b.json") == [["2", "two"]]


def test_vqa_v2_of_the_hub(folder: Path) -> None:
    """Saved by `datasets`, with answers as objects and ids of images and questions as numbers."""
    answer = {"answer": datasets.Value("string"), "answer_confidence": datasets.Value("string")}
    features = datasets.Features(
        {
            "question": datasets.Value("string"),
            "multiple_choice_answer": datasets.Value("string"),
            "answers": datasets.List(answer),
            "image_id": datasets.Value("int64"),
            "question_id": datasets.Value("int64"),
            "image": datasets.Image(),
        }
    )
    given = [{"answer": "2", "answer_confidence": "yes"}, {"answer": "two", "answer_confidence": "maybe"}]
    row = {"multiple_choice_answer": "2", "answers": given, "image": {"bytes": png(10), "path": None}, "image_id": 42}
    rows = [row | {"question": f"how many? {number}", "question_id": 42000 + number} for number in range(2)]
    datasets.Dataset.from_list(rows, features).save_to_disk(folder / "saved")
    found = load_dataset_script("own_data", "vqa", hub_dataset=str(folder / "saved"), split="train")
    assert found["answers"][:] == [["2", "two"]] * 2 and found["question_id"][:] == [42000, 42001]
    assert found["image_id"][:] == [0, 0]


def test_json_and_tables_in_one_split(folder: Path) -> None:
    write_json(folder / "a.json", {"images": [{"filename": "0.png", "split": "train", "sentences": [{"raw": "a"}]}]})
    rows = load(folder, "retrieval", {"b.csv": "image,caption\n0.png,b\n1.png,c\n"})
    assert [row["caption"] for row in rows] == [["b"], ["c"]]
    both = [str(folder / "a.json"), str(folder / "b.csv")]
    fields = {"image_root": str(folder), "cache_dir": folder.parent / "cache", "split": "train"}
    assert load_dataset_script("own_data", train_files=both, **fields)["caption"][:] == [["a", "b"], ["c"]]
