"""Images with texts and labels: SNLI-VE, people's own tables, and claims about drawn shapes."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dataset_scripts import AnnotationError, DataError, load_dataset_script
from dataset_scripts.drawn.scenes import draw_scenes


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (9, 90, 200)).save(path)


def lines(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def entailment(image: Any, gold: str, key: str = "Flickr30K_ID") -> dict[str, Any]:
    return {key: image, "gold_label": gold, "sentence1": "A premise.", "sentence2": f"It is {gold}.", "pairID": "1"}


def test_snli_ve_in_its_own_lines_and_in_the_originals(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("11", "12"):
        picture(tmp_path / "flickr30k-images" / f"{name}.jpg")
    rows = [entailment("11", "neutral"), entailment(12, "-"), entailment("12.jpg", "entailment", "Flikr30kID")]
    for split in ("train", "dev", "test"):
        lines(tmp_path / f"snli_ve_{split}.jsonl", [*rows, entailment("11", "-")])
    with caplog.at_level(logging.WARNING):
        data = load_dataset_script("snli_ve", data_dir=tmp_path, cache_dir=tmp_path / "cache")
    assert "2 rows of train have no gold label ('-'): they are skipped." in caplog.text
    for split in ("train", "validation", "test"):
        assert data[split]["text"] == ["It is neutral.", "It is entailment."]
        assert data[split]["label"] == ["neutral", "entailment"] and data[split]["image_id"] == [0, 1]
    caplog.clear()
    with caplog.at_level(logging.WARNING):  # from the cache, too
        load_dataset_script("snli_ve", data_dir=tmp_path, split="test", cache_dir=tmp_path / "cache")
    assert "2 rows of test" in caplog.text

    again = tmp_path / "albef"
    for name in ("11", "12"):
        picture(again / "images" / f"{name}.jpg")
    theirs = [{"image": "11", "sentence": "One.", "label": "neutral"}]
    theirs += [{"image": "12", "sentence": "Two.", "label": "contradiction"}]
    for split in ("train", "dev", "test"):
        (again / f"ve_{split}.json").write_text(json.dumps(theirs))
    data = load_dataset_script("snli_ve", data_dir=again, split="train", cache_dir=tmp_path / "cache")
    assert data["text"] == ["One.", "Two."] and data["label"] == ["neutral", "contradiction"]
    parts = load_dataset_script(
        "snli_ve", data_dir=tmp_path, split="train", cache_dir=tmp_path / "two", num_proc=2, image_root=str(tmp_path)
    )
    assert parts["label"] == ["neutral", "entailment"] and parts["image_id"] == [0, 1]
    stream = load_dataset_script("snli_ve", data_dir=again, split="train", streaming=True)
    assert [row["label"] for row in stream] == ["neutral", "contradiction"]


def test_rows_of_snli_ve_that_cannot_be_used(tmp_path: Path) -> None:
    picture(tmp_path / "11.jpg")
    rows: list[Any] = [entailment("11", "neutral"), {"gold_label": "neutral"}, entailment("13", "neutral"), ["row"]]
    lines(tmp_path / "snli_ve_train.jsonl", [*rows, {**entailment("11", "neutral"), "sentence2": "--"}])
    with pytest.raises(AnnotationError) as error:
        load_dataset_script("snli_ve", data_dir=tmp_path, split="train", cache_dir=tmp_path / "cache")
    for part in (
        "line 2: has no 'image' and no 'text'",
        "line 3: image",
        "line 4: is a JSON list",
        "line 5: text '--'",
    ):
        assert part in str(error.value)


def test_own_tables_and_hateful_memes_lines(tmp_path: Path) -> None:
    for name in ("a", "b"):
        picture(tmp_path / "img" / f"{name}.png")
    memes = [{"id": 1, "img": "img/a.png", "label": 0, "text": "[nice], really"}]
    memes += [{"id": 2, "img": "img/b.png", "label": 1, "text": "worse"}]
    lines(tmp_path / "train.jsonl", memes)
    lines(tmp_path / "test.jsonl", [{"id": 3, "img": "img/a.png", "text": "who knows"}])
    data = load_dataset_script("own_data", "classification", data_dir=tmp_path, cache_dir=tmp_path / "cache")
    assert data["train"]["label"] == ["0", "1"] and data["train"]["text"] == ["[nice], really", "worse"]
    assert data["test"]["label"] == [None] and data["test"]["image_id"] == [0]

    (tmp_path / "table.csv").write_text('file,words,tags\nimg/a.png,one,"[""x"", ""y""]"\nimg/b.png,two,x\n')
    columns = {"text_column": "words", "label_column": "tags", "problem_type": "multi_label_classification"}
    options = {"train_files": [str(tmp_path / "table.csv")], "data_dir": tmp_path, "cache_dir": tmp_path / "cache"}
    data = load_dataset_script("own_data", "classification", split="train", **options, **columns)
    assert data["label"] == [["x", "y"], ["x"]]
    (tmp_path / "marks.csv").write_text("image,text,label\nimg/a.png,one,0.5\nimg/b.png,two,-2\n")
    options["train_files"] = [str(tmp_path / "marks.csv")]
    data = load_dataset_script("own_data", "classification", split="train", problem_type="regression", **options)
    assert data["label"] == [0.5, -2.0]
    with pytest.raises(DataError, match="problem_type is 'other', but must be one of"):
        load_dataset_script("own_data", "classification", split="train", problem_type="other", **options)
    (tmp_path / "wrong.csv").write_text("image,text,label\nimg/a.png,one,high\nimg/b.png,two,\n")
    options["train_files"] = [str(tmp_path / "wrong.csv")]
    with pytest.raises(AnnotationError) as error:
        load_dataset_script("own_data", "classification", split="train", problem_type="regression", **options)
    assert "line 2: label is 'high'" in str(error.value) and "line 3: has no 'label'" in str(error.value)


def test_whole_numbers_are_one_label_however_a_table_writes_them(tmp_path: Path) -> None:
    """A column of whole numbers with a gap becomes 1.0 in pandas: the labels are those of the table without the gap."""
    picture(tmp_path / "a.png")
    (tmp_path / "train.csv").write_text(
        "image,text,label\na.png,one,1\na.png,two,0.0\na.png,three, 1.0\na.png,four,v1.0\n"
    )
    lines(
        tmp_path / "validation.jsonl", [{"image": "a.png", "text": "one", "label": label} for label in (1, 0.0, "1.00")]
    )
    data = load_dataset_script("own_data", "classification", data_dir=tmp_path, cache_dir=tmp_path / "cache")
    assert data["train"]["label"] == ["1", "0", "1", "v1.0"] and data["validation"]["label"] == ["1", "0", "1"]


def test_images_in_the_rows_themselves(tmp_path: Path) -> None:
    shapes = load_dataset_script("shapes", "classification", split="test", num_test=2, cache_dir=tmp_path / "cache")
    shapes.to_parquet(tmp_path / "test.parquet")
    options = {"data_dir": tmp_path, "split": "test", "cache_dir": tmp_path / "cache"}
    data = load_dataset_script("own_data", "classification", **options)
    for name in ("text", "label", "image_id"):
        assert data[name] == shapes[name]
    assert data[0]["image"].tobytes() == shapes[0]["image"].tobytes()


def test_claims_are_what_their_labels_say_and_words_alone_give_no_label_away(tmp_path: Path) -> None:
    sizes = {"num_train": 1500, "num_validation": 4, "num_test": 4, "image_size": 16, "claims_per_image": 4}
    data = load_dataset_script("shapes", "classification", split="train", cache_dir=tmp_path, **sizes)
    assert len(data) == 6000
    scenes = list(draw_scenes(0, "train", 1500))
    by_text: dict[str, Counter[str]] = {}
    for text, label, image in zip(data["text"], data["label"], data["image_id"], strict=True):
        words, items = text.split(), scenes[image].items
        by_shape = len(words) == 4  # "the star is red", "the red shape is a star"
        named, said = (words[1], words[3]) if by_shape else (words[1], words[5])
        found = [item for item in items if (item.shape if by_shape else item.color) == named]
        expected = "cannot be told" if not found else None
        if found:
            assert len(found) == 1
            expected = "true" if (found[0].color if by_shape else found[0].shape) == said else "false"
        assert label == expected
        by_text.setdefault(text, Counter())[label] += 1
    assert len(by_text) == 80
    best = sum(max(counts.values()) for counts in by_text.values())
    assert best / 6000 < 0.47  # on the data that it learned from
    shares = Counter(data["label"])
    assert all(abs(count / 6000 - 1 / 3) < 0.03 for count in shares.values())
