"""People's own files and data sets, by configuration alone."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
from data_cases import rows_of, write_coco_images, write_coco_karpathy, write_image
from datasets.table import embed_table_storage

from dataset_scripts import AnnotationError, DataError, load_dataset_script
from modeling_albef.training.application.settings import DataArguments

TEXTS = {"a.png": ["a dog", "dog, asleep"], "b.png": ["a cat"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of photos: a.png .. c.png."""
    for shade, name in enumerate("abc"):
        write_image(tmp_path / "own" / f"{name}.png", 40 * shade)
    return tmp_path / "own"


def load(folder: Path, *names: Any, **fields: Any) -> Any:
    return load_dataset_script("own_data", *names, cache_dir=folder.parent / "cache", **fields)


def captions(dataset: datasets.Dataset) -> dict[str, list[str]]:
    return {Path(row["image"]).name: row["caption"] for row in rows_of(dataset)}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.csv", 'file_name,caption\na.png,a dog\nb.png,a cat\na.png,"dog, asleep"\n'),
        ("metadata.csv", "\ufefffile_name;caption\r\na.png;a dog\r\nb.png;a cat\r\na.png;dog, asleep\r\n"),
        ("train.tsv", "image\ttext\na.png\ta dog\nb.png\ta cat\n.\\a.png\tdog, asleep\n"),
        ("train.csv", 'path,captions\na.png,"[""a dog"", ""dog, asleep""]"\nb.png,a cat\n'),
        (
            "metadata.jsonl",
            '{"file_name": "a.png", "caption": ["a dog", "dog, asleep"]}\n\n{"file_name": "b.png", "caption": "a cat"}',
        ),
        ("train.json", json.dumps([{"image": name, "caption": text} for name, text in TEXTS.items()])),
    ],
)
def test_a_folder_of_photos_and_a_table(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content, encoding="utf-8", newline="")
    splits = load(folder, data_dir=folder)
    assert list(splits) == ["train"]
    assert captions(splits["train"]) == TEXTS
    assert splits["train"][1]["image"].getpixel((0, 0)) == (40, 0, 0)


def test_a_folder_a_split(folder: Path) -> None:
    """Names in a metadata file start from its own folder."""
    for split, names in {"train": "ab", "val": "c"}.items():
        (folder / split).mkdir()
        for name in names:
            (folder / f"{name}.png").rename(folder / split / f"{name}.png")
        rows = [{"file_name": f"{name}.png", "caption": f"this is {name}"} for name in names]
        (folder / split / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    splits = load(folder, data_dir=folder)
    assert [row["image"] for row in rows_of(splits["validation"])] == [str(folder / "val" / "c.png")]
    assert captions(splits["train"]) == {"a.png": ["this is a"], "b.png": ["this is b"]}


def test_named_columns_of_questions(folder: Path) -> None:
    (folder / "q.csv").write_text("photo,q,first,second,id\na.png,what is it,dog,dogs,7\nb.png,is it red,no,,9\n")
    columns = {"image_column": "photo", "question_column": "q", "answers_column": ["first", "second"]}
    file = str(folder / "q.csv")
    rows = load(folder, "vqa", data_dir=folder, train_files=[file], split="train", question_id_column="id", **columns)
    assert rows["answers"][:] == [["dog", "dogs"], ["no"]]
    assert (rows["question_id"][:], rows["image_id"][:], rows["question"][1]) == ([7, 9], [0, 1], "is it red")
    numbered = load(folder, "vqa", data_dir=folder, test_files="q.csv", image_column="photo", question_column="q")
    assert numbered["test"]["question_id"][:] == [0, 1] and numbered["test"]["answers"][:] == [[], []]


def test_several_columns_of_captions_and_an_id(folder: Path) -> None:
    """Rows with the same id are one image; an id for two images is a fault."""
    (folder / "t.csv").write_text("image,id,c1,c2\na.png,x,a dog,\nb.png,y,a cat,cat\na.png,x,asleep,\n")
    fields = {"data_dir": folder, "train_files": "t.csv", "caption_column": ["c1", "c2"], "image_id_column": "id"}
    assert captions(load(folder, split="train", **fields)) == {"a.png": ["a dog", "asleep"], "b.png": ["a cat", "cat"]}
    (folder / "t.csv").write_text("image,id,c1,c2\na.png,x,a dog,\nb.png,x,a cat,cat\n")
    with pytest.raises(AnnotationError, match="'image_id' 'x' names 'b"):
        load(folder, split="train", **fields)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"", "t.csv: is empty"),
        ("t.csv", b"file_name,caption\na.png,\xff\xfe\n", r"t.csv: is not UTF-8 \(byte"),
        ("t.csv", b'file_name,caption\na.png,"a dog\n', "t.csv: is not CSV"),
        (
            "t.csv",
            b"file_name,words\na.png,a dog\n",
            r"line 2: has no caption in .*; its columns are \['file_name', 'words'\]: set",
        ),
        (
            "t.csv",
            b"file_name,caption\nhttps://x.org/a.png,a dog\n",
            "line 2: image 'https://x.org/a.png' is a URL: fetch",
        ),
        ("t.jsonl", b'{"file_name": "a.png"}\n{"file\n', "t.jsonl: is not JSON lines .line 2"),
        ("t.jsonl", b'"a.png"\n', "line 1: is a JSON string, not an object"),
        ("t.parquet", b"PAR1 not", "t.parquet: is not Parquet"),
        ("t.jsonl", b'{"image": ' + b"1" * 5000 + b"}", "t.jsonl: is not JSON lines .line 1: Exceeds the limit"),
        ("t.csv", b"file_name,caption\na.png," + b"[" * 90_000, "line 2: caption .* holds no letter or digit"),
        ("t.parquet", b"PAR1" + bytes(20) + b"PAR1", "t.parquet: "),
        ("t.json", b'{"images": [{"sentences": [], "split": "val"}]}', "no row of train is left of .*t.json"),
        (
            "t.txt",
            b"a.png a dog\nb.png a cat\n",
            r"line 2: has no image in image or .*; its columns are \['a.png a dog'\]",
        ),
    ],
)
def test_bad_tables(folder: Path, name: str, content: bytes, message: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(AnnotationError, match=message):
        load(folder, data_dir=folder, train_files=name, split="train")


def test_a_wrong_column_is_one_problem(folder: Path) -> None:
    (folder / "t.csv").write_text("file_name,words\na.png,a dog\nb.png,a cat\n")
    with pytest.raises(AnnotationError, match=r"1 problem\.\n.*line 2: has no caption .*_column in dataset_config"):
        load(folder, data_dir=folder, train_files="t.csv", split="train")


def test_several_tables_of_a_split_are_refused(folder: Path) -> None:
    for name in ("train.csv", "train.jsonl"):
        (folder / name).write_text("file_name,caption\na.png,a dog\n")
    with pytest.raises(AnnotationError, match=r"several tables for train: train.csv, train.jsonl.* with train_files"):
        load(folder, data_dir=folder)
    (folder / "train.jsonl").rename(folder / "metadata.csv")
    with pytest.raises(AnnotationError, match=r"several tables for train: train\.csv, metadata\.csv"):
        load(folder, data_dir=folder)
    (folder / "metadata.csv").unlink()
    assert captions(load(folder, data_dir=folder, split="train")) == {"a.png": ["a dog"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "file_name,caption\na.png,a cat, a mouse\n",
            r"line 2: has 3 cells, the header 2: put texts with a comma into",
        ),
        ('file_name,caption\na.png,"[1, 2]"\n', r"line 2: has '\[1, 2\]', which is no list of texts: write it as JSON"),
        ("file_name,caption\na.png,['a]\n", "line 2: has .*, which is no list of texts"),
        ("file_name,caption\n", "t.csv: has a header and no row: add rows"),
        (
            "a.png,a dog\nb.png,a cat\n",
            "line 2: has no image in .*, if these are no names, put a first line with names",
        ),
        ("file_name,question\na.png,what?\n", "line 2: has no caption in .*, or, for questions, config_name vqa"),
        ("file_name,caption\na.png\n", "line 2: has nothing in caption: fill it, or leave the row out"),
    ],
)
def test_tables_that_were_misread(folder: Path, content: str, message: str) -> None:
    (folder / "t.csv").write_text(content)
    with pytest.raises(AnnotationError, match=message):
        load(folder, data_dir=folder, train_files="t.csv", split="train")


def test_lists_as_pandas_writes_them_and_tabs(folder: Path) -> None:
    (folder / "t.csv").write_text("file_name\tcaption\na.png\t['a dog', 'a nose']\nb.png\t[blurred] a cat\n")
    found = captions(load(folder, data_dir=folder, train_files="t.csv", split="train"))
    assert found == {"a.png": ["a dog", "a nose"], "b.png": ["[blurred] a cat"]}


def test_what_is_not_there(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"own_data has no field 'image_colum'; did you mean 'image_column'\?"):
        load(folder, data_dir=folder, image_colum="file")
    with pytest.raises(AnnotationError, match="since there is no folder '/nowhere': give data_dir"):
        load(folder, data_dir="/nowhere")
    (tmp_path / "new").mkdir()
    (tmp_path / "new/captions.csv").write_text("")
    with pytest.raises(AnnotationError, match=r"no validation files below .* has captions\.csv: .*--do_eval false"):
        load(folder, data_dir=tmp_path / "new", split="validation")
    with pytest.raises(AnnotationError, match=r"hub_dataset 'photos_parqet' is no folder here .*: check the name"):
        load(folder, hub_dataset="photos_parqet")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hub_dataset": 3}, "hub_dataset is 3, but must be text"),
        ({"image_root": {"a": 1}}, "image_root is .*, but must be text"),
        ({"train_files": [1]}, "train_files is .*, but must be text"),
        ({"cache_dir": "dataset_dict.json"}, "cannot be prepared in .*dataset_dict.json .*File exists"),
        ({"hub_dataset": "."}, r"hub_dataset '\.' is no folder here that can be read"),
    ],
)
@pytest.mark.parametrize("content", ["{", "{}", "[]"])
def test_fields_and_folders_that_cannot_be_used(
    content: str, fields: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dataset_dict.json").write_text(content)
    with pytest.raises(DataError, match=message):
        load_dataset_script("own_data", **{"data_dir": tmp_path, "cache_dir": tmp_path / "cache", **fields})


def test_numbers_in_cells_of_questions(folder: Path) -> None:
    fields = {"data_dir": folder, "train_files": "q.csv", "split": "train"}
    table = "image,question,answer,question_id,answer_weight,answer_type\n"
    (folder / "q.csv").write_text(table + "a.png,what?,a dog,7,0.25,other\nb.png,where?,here,8,,\n")
    rows = load(folder, "vqa", **fields)
    assert (rows["question_id"][:], rows["answer_weight"][:]) == ([7, 8], [0.25, 1.0])
    assert rows["answer_type"][:] == ["other", None]
    (folder / "q.csv").write_text(table + f"a.png,what?,a dog,{'7' * 5000},much,\n")
    with pytest.raises(AnnotationError, match=r"line 2: 'question_id' is '777.*: an integer from 0"):
        load(folder, "vqa", **fields)


def test_an_image_in_a_row_that_is_none(folder: Path) -> None:
    images = [{"bytes": 5, "path": None}, {"bytes": 6, "path": None}]
    datasets.Dataset.from_dict({"image": images, "caption": ["a", "b"]}).to_parquet(folder / "t.parquet")
    with pytest.raises(AnnotationError, match=r"t\.parquet, row 1: image is .*: an image is expected"):
        load(folder, data_dir=folder, train_files="t.parquet", split="train")


def test_official_layouts_pass_too(tmp_path: Path) -> None:
    """What the run scripts name by --train_files may have any layout."""
    write_coco_images(tmp_path)
    write_coco_karpathy(tmp_path)
    rows = load(tmp_path, train_files=str(tmp_path / "dataset_coco.json"), image_root=str(tmp_path), split="train")
    assert len(rows) == 3 and rows["caption"][1] == ["A woman cuts a cake."]


def test_data_sets_with_images_in_them(folder: Path) -> None:
    """Parquet with images, a saved folder, and a folder that `load_dataset` reads; prepared and streamed."""
    (folder / "train.csv").write_text('file_name,caption\na.png,a dog\nb.png,a cat\na.png,"dog, asleep"\n')
    original = load(folder, data_dir=folder, split="train")
    embedded = original.with_format("arrow").map(embed_table_storage, batched=True).with_format(None)
    (folder / "hub" / "data").mkdir(parents=True)
    embedded.to_parquet(str(folder / "hub" / "data" / "train-00000-of-00001.parquet"))
    datasets.DatasetDict({"train": embedded, "validation": embedded}).save_to_disk(str(folder / "saved"))
    for path in folder.glob("*.png"):
        path.unlink()
    sources = [
        {"train_files": str(folder / "hub" / "data" / "train-00000-of-00001.parquet")},
        {"hub_dataset": str(folder / "saved")},
        {"hub_dataset": str(folder / "hub")},
    ]
    for fields in sources:
        rows, stream = load(folder, split="train", **fields), load(folder, split="train", streaming=True, **fields)
        for found in (list(rows), list(stream)):
            assert [row["caption"] for row in found] == list(TEXTS.values())
            assert [row["image"].getpixel((0, 0)) for row in found] == [(0, 0, 0), (40, 0, 0)]
            assert [row["image_id"] for row in found] == [0, 1]
    assert list(load(folder, hub_dataset=str(folder / "saved"))) == ["train", "validation"]


def test_rows_of_an_embedded_image_are_one_image(folder: Path) -> None:
    images = [{"bytes": (folder / f"{name}.png").read_bytes(), "path": None} for name in "aab"]
    features = {"photo": datasets.Image(), "says": datasets.Value("string"), "of": datasets.Value("string")}
    columns = {"photo": images, "says": ["a dog", "asleep", "a cat"], "of": ["a", "a", "b"]}
    table = datasets.Dataset.from_dict(columns, datasets.Features(features))
    fields = {"image_column": "photo", "caption_column": "says", "image_id_column": "of", "split": "train"}
    table.save_to_disk(str(folder / "saved"))
    assert load(folder, hub_dataset=str(folder / "saved"), **fields)["caption"][:] == [["a dog", "asleep"], ["a cat"]]
    table.select([0, 2, 1]).save_to_disk(str(folder / "mixed"))
    for _ in range(2):  # the second time from the cache
        mixed = load(folder, hub_dataset=str(folder / "mixed"), **fields)
        assert (mixed["caption"][:], mixed["image_id"][:]) == ([["a dog", "asleep"], ["a cat"]], [0, 1])
    stream = load(folder, hub_dataset=str(folder / "mixed"), streaming=True, **fields)
    assert [(row["image_id"], row["caption"]) for row in stream] == [(0, ["a dog"]), (1, ["a cat"]), (0, ["asleep"])]
    questions = table.rename_columns({"says": "question"}).add_column("answers", [["yes", "no"], ["1"], ["2"]])
    questions.save_to_disk(str(folder / "questions"))
    rows = load(folder, "vqa", hub_dataset=str(folder / "questions"), image_column="photo", image_id_column="of")[
        "train"
    ]
    assert (rows["image_id"][:], rows["question_id"][:], rows["answers"][0]) == ([0, 0, 1], [0, 1, 2], ["yes", "no"])
    assert rows[2]["image"].getpixel((0, 0)) == (40, 0, 0)


@pytest.mark.parametrize("path", ["0.png", "/etc/hostname", "../0.png", "http://127.0.0.1:9/x.png", "/dev/null"])
def test_a_row_with_images_opens_no_path(folder: Path, path: str) -> None:
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    rows = datasets.Dataset.from_dict({"image": [{"path": path, "bytes": None}], "caption": ["a"]}, features=features)
    pq.write_table(rows.data.table, folder / "train.parquet")
    with pytest.raises(AnnotationError, match="a path or an address is not opened"):
        load_dataset_script("own_data", train_files=[str(folder / "train.parquet")], split="train")


@pytest.mark.parametrize(
    ("encoding", "header", "caption"),
    [
        ("cp1252", "Datei;Beschreibung", "Ein Bär läuft über die Straße"),
        ("cp1252", "Dateiname;Bildunterschrift", "Jürgen und die Küche"),
        ("utf-8-sig", "Nom de fichier;Légende", "Une fenêtre à côté de l'arbre"),
        ("utf-8", unicodedata.normalize("NFD", "FICHIER,LÉGENDE"), "un chien"),
        ("utf-8", "Fichier,Legende", "un chien"),
        ("utf-8", "Archivo;Descripción;Fecha", "un niño en España;2023"),
        ("utf-8", "immagine,didascalia", "un cane"),
        ("utf-8", "Plik;Opis", "żółw na łące"),
        ("utf-16", "Файл\tОписание", "собака на лугу"),  # noqa: RUF001
        ("utf-8", "ファイル名,説明", "草の上の犬"),
        ("utf-8", "Datei,Beschreibung,Image,Caption", ",,a.png,a dog"),  # English names come first
    ],
)
def test_headers_in_other_languages(folder: Path, encoding: str, header: str, caption: str) -> None:
    mark = next(one for one in ";\t," if one in header)
    row = caption if caption.startswith(",") else f"a.png{mark}{caption}"
    (folder / "Fotos.csv").write_bytes(f"{header}\r\n{row}\r\n".encode(encoding))
    found = captions(load(folder, data_dir=folder, split="train"))
    assert found == {"a.png": ["a dog" if caption.startswith(",") else caption.partition(";")[0]]}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("Notizen.txt", "Nur eine Notiz über Fotos".encode("cp1252")),
        ("notes.txt", b"Milk, bread\nand, maybe, a dog\n"),
        ("Ausgaben.csv", b"Datum;Betrag\n1.1.2023;12,50\n"),
        ("empty.csv", b""),
        ("old.csv", b"PK\x03\x04 a workbook"),
        ("._captions.csv", b"image,caption\n\x00\x05\x16\x07,what a Mac leaves beside a file\n"),
    ],
)
def test_what_is_no_table_of_images_beside_one_that_is(folder: Path, name: str, content: bytes) -> None:
    (folder / "captions.CSV").write_text("Datei;Beschreibung\na.png;a dog\n")
    (folder / name).write_bytes(content)
    assert captions(load(folder, data_dir=folder, split="train")) == {"a.png": ["a dog"]}
    named = {"image_column": "Ort", "caption_column": "Was"}
    (folder / "captions.CSV").write_text("Ort;Was\na.png;a dog\n")
    assert captions(load(folder, data_dir=folder, split="train", **named)) == {"a.png": ["a dog"]}


def test_images_of_several_spellings_and_in_folders(folder: Path) -> None:
    """Cameras write upper case, a Mac whole letters in parts, people the name without its folder."""
    (folder / "Köln/Bär").mkdir(parents=True)
    for name in ("IMG_1.PNG", unicodedata.normalize("NFD", "Köln/Größe ä.png"), "Köln/Bär/Straße.png", "b/twice.png"):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        shutil.copy(folder / "a.png", folder / name)
    written = ["img_1.png", "Köln/Größe ä.png", "STRASSE.PNG", r"köln\bär\straße.png"]
    (folder / "t.csv").write_text("image;caption\n" + "".join(f"{name};a dog\n" for name in written))
    found = [row["image"] for row in rows_of(load(folder, data_dir=folder, split="train"))]
    assert [unicodedata.normalize("NFC", os.path.relpath(path, folder)) for path in found] == [
        "IMG_1.PNG",
        "Köln/Größe ä.png",
        "Köln/Bär/Straße.png",
    ]
    (folder / "c").mkdir()
    shutil.copy(folder / "a.png", folder / "c/twice.png")
    (folder / "t.csv").write_text("image;caption\ntwice.png;a dog\n")
    with pytest.raises(AnnotationError, match=r"'twice.png' is no file, and may be 'b/twice.png' or 'c/twice.png'"):
        load(folder, data_dir=folder)
    (folder / "t.csv").write_text("image;caption\nd/twice.png;a dog\n")
    with pytest.raises(AnnotationError, match=r"cannot be found .*check its name"):
        load(folder, data_dir=folder)


def test_splits_of_upper_case_names(folder: Path) -> None:
    (folder / "TRAIN.CSV").write_text("image,caption\na.png,a dog\n")
    (folder / "Validation.csv").write_text("image,caption\nb.png,a cat\n")
    splits = load(folder, data_dir=folder)
    assert {split: captions(rows) for split, rows in splits.items()} == {
        "train": {"a.png": ["a dog"]},
        "validation": {"b.png": ["a cat"]},
    }


def test_the_remedy_for_several_tables_is_one(folder: Path) -> None:
    for name in ("one.csv", "two.csv"):
        (folder / name).write_text("image,caption\na.png,a dog\n")
    with pytest.raises(AnnotationError, match=r"several tables .* --dataset_config\.train_files NAME\)"):
        load(folder, data_dir=folder)
    fields = DataArguments(dataset="own_data", data_dir=str(folder), dataset_config={"train_files": "one.csv"})
    named = fields.builder_fields()
    assert captions(load(folder, split="train", **named)) == {"a.png": ["a dog"]}
    for wrong in ({"data_dir": str(folder)}, {"dataset": "own_data"}):  # --train_files takes the place of a dataset
        with pytest.raises(ValueError, match=r"dataset_config\.train_files"):
            DataArguments(train_files=["one.csv"], **wrong)
