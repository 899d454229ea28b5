"""`check --statistics` against plain scripts, which count in another way, and against cases whose answer is known."""

from __future__ import annotations

import csv
import io
import json
import random
import re
import shutil
import statistics as plain
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import BertTokenizer

from dataset_scripts import load_dataset_script
from dataset_scripts.__main__ import main
from dataset_scripts.commands.statistics_page import statistics_page
from dataset_scripts.commands.statistics_tables import as_lines, example_lines, tables
from dataset_scripts.contents.statistics import Statistics, collect
from dataset_scripts.contents.text_counts import quartiles
from dataset_scripts.reading.answer_lists import spelling_key

WORDS = "a dog cat bird runs sits on the red blue sofa beach near tree café x-ray".split()


def scene(path: Path, seed: int, size: tuple[int, int] = (320, 240), **options: Any) -> Image.Image:
    """A smooth image with edges, different for each seed; written as JPEG or by the name's ending."""
    colors = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    image = Image.fromarray(colors).resize(size, Image.Resampling.BICUBIC)
    image.save(path, **options)
    return image


def table(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def statistics_of(folder: Path, task: str = "retrieval", **options: Any) -> Statistics:
    fields = options.pop("fields", {})
    splits = load_dataset_script("own_data", task, data_dir=folder, cache_dir=folder / "cache", **fields)
    return collect(splits, **options)


def cells(found: Statistics, title: str) -> dict[str, list[str]]:
    """The rows of a table by their names."""
    return {row[0]: row[1:] for one in tables(found) if one.title == title for row in one.rows}


def plain_words(text: str) -> list[str]:
    """What is left of a made text, by other means than the processor's."""
    return re.findall(r"[a-zé]+", text.lower())


def random_captions(folder: Path, split: str, count: int, draw: random.Random) -> list[tuple[str, str]]:
    rows = []
    for number in range(count):
        name = f"{split}{number % (count // 2)}.jpg"
        scene(folder / name, hash((split, number % (count // 2))) % 1000, (64, 64))
        text = " ".join(draw.choices(WORDS, k=draw.randint(1, 9)))
        rows.append((name, draw.choice([text, text.capitalize() + ".", f"{text} !"])))
    table(folder / f"{split}.csv", [{"file_name": name, "caption": text} for name, text in rows])
    return rows


def test_captions_against_a_plain_script(tmp_path: Path) -> None:
    draw = random.Random(0)
    rows = {split: random_captions(tmp_path, split, count, draw) for split, count in (("train", 60), ("test", 30))}
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS[:11], "ca", "##fe"]
    tokenizer = BertTokenizer(vocab={token: index for index, token in enumerate(vocabulary)})
    found = statistics_of(tmp_path, tokenizer=tokenizer, max_words=6)
    train_words = Counter(word for _, text in rows["train"] for word in plain_words(text))
    for split, pairs in rows.items():
        texts, one = [text for _, text in pairs], found.splits[split]
        lengths = sorted(len(plain_words(text)) for text in texts)
        middle = plain.quantiles(lengths, n=4, method="inclusive")
        assert quartiles(one.texts.words) == pytest.approx([lengths[0], *middle, lengths[-1]])
        assert one.texts.longer == sum(length > 6 for length in lengths)
        words = Counter(word for text in texts for word in plain_words(text))
        assert one.texts.vocabulary == words
        assert one.texts.seen_once == len([word for word in words if words[word] == 1])
        # "café" is ca ##fe, "x" and "ray" are unknown, as are "beach" .. "tree" behind the eleventh word
        pieces = {word: 2 if word == "café" else 1 for word in words}
        tokens = sorted(sum(pieces[word] for word in plain_words(text)) for text in texts)
        assert sorted(one.texts.tokens.elements()) == tokens
        unknown = sum(count for word, count in words.items() if word not in [*WORDS[:11], "café"])
        assert one.texts.unknown == unknown > 0
        names = Counter(name for name, _ in pairs)
        assert one.texts_of_image == Counter(names.values())
        same = [" ".join(text.lower().split()).rstrip(" .!?") for text in texts]
        assert one.texts.repeated == len(same) - len(set(same))
        new = [word for word in words if word not in train_words]
        if split == "test":
            share = 100 * len(new) / len(words)
            assert cells(found, "Vocabulary")["distinct, not in train"] == ["", f"{len(new)} ({share:.1f} %)"]
            earlier = {" ".join(text.lower().split()).rstrip(" .!?") for _, text in rows["train"]}
            assert one.texts.repeated_in(found.splits["train"].texts) == sum(text in earlier for text in same)
    assert cells(found, "Size") == {"images": ["30", "15"], "captions": ["60", "30"]}


def test_answers_against_a_plain_script(tmp_path: Path) -> None:
    draw, given = random.Random(1), {}
    scene(tmp_path / "a.jpg", 0)
    possible = [*"abcdefgh", *(f"rare {number}" for number in range(40))]
    for split, count in (("train", 30), ("test", 20)):
        given[split] = [[draw.choice(possible) for _ in range(draw.randint(1, 4))] for _ in range(count)]
        rows = [
            {"file_name": "a.jpg", "question": f"what is {n}?", "answers": json.dumps([text.title() for text in some])}
            for n, some in enumerate(given[split])
        ]
        table(tmp_path / f"{split}.csv", rows)
    listed = ["a", "b", "rare 3"]
    found = statistics_of(tmp_path, "vqa", answer_list=set(map(spelling_key, listed)))
    for split, questions in given.items():
        answers = [answer for some in questions for answer in some]
        counted = found.splits[split].answers
        assert counted is not None and counted.questions == len(questions)
        assert sorted(counted.given.values()) == sorted(answers.count(answer) for answer in set(answers))
        assert counted.given_once == len([answer for answer in set(answers) if answers.count(answer) == 1]) > 0
    flat, known = [answer for some in given["test"] for answer in some], {a for some in given["train"] for a in some}
    rows_of = cells(found, "Answers")
    for name, members in (("the training data", known), ("the answer list", set(listed))):
        unseen = sum(answer not in members for answer in flat)
        none = sum(not members & set(some) for some in given["test"])
        assert rows_of[f"given, not in {name}"][1] == f"{unseen} ({100 * unseen / len(flat):.1f} %)"
        assert rows_of[f"questions with none in {name}"][1] == f"{none} ({100 * none / 20:.1f} %)"
    assert rows_of["given, not in the training data"][0] == ""
    top = Counter(flat).most_common(1)[0]
    assert cells(found, "Most frequent answers")["1."][1].endswith(f"{top[1]} ({100 * top[1] / len(flat):.1f} %)")


def test_spellings_that_the_tokenizer_cannot_tell_apart_are_one_answer(tmp_path: Path) -> None:
    scene(tmp_path / "a.jpg", 0)
    rows = [{"file_name": "a.jpg", "question": f"{n}?", "answers": a} for n, a in enumerate(["Yes", "yes ", "no", "2"])]
    table(tmp_path / "train.csv", rows)
    table(tmp_path / "test.csv", [rows[0] | {"answers": "YES"}, rows[0] | {"question": "b?", "answers": "three"}])
    found = statistics_of(tmp_path, "vqa")
    answers = found.splits["train"].answers
    assert answers is not None and answers.given == {"Yes": 2, "no": 1, "2": 1}
    assert cells(found, "Answers")["distinct, given once"] == ["2 (66.7 %)", "2 (100.0 %)"]
    assert cells(found, "Answers")["given, not in the training data"] == ["", "1 (50.0 %)"]


@pytest.fixture
def doubled(tmp_path: Path) -> Path:
    """Scene 0 is in train twice, 1 is saved again in train and test, 2 is copied to test; 51 captions are in both."""
    names = {"train": [f"{n}.jpg" for n in range(10)], "test": ["10.jpg", "11.jpg"]}
    for number in range(12):
        scene(tmp_path / f"{number}.jpg", number, quality=92)
    shutil.copy(tmp_path / "0.jpg", tmp_path / "again.jpg")
    shutil.copy(tmp_path / "2.jpg", tmp_path / "two.jpg")
    with Image.open(tmp_path / "1.jpg") as image:
        image.save(tmp_path / "worse.jpg", quality=40)
        image.resize((200, 150)).save(tmp_path / "smaller.png")
    names["train"] += ["again.jpg", "worse.jpg"]
    names["test"] += ["two.jpg", "smaller.png"]
    rows = {
        split: [{"file_name": name, "caption": f"{split} shows {name}"} for name in some]
        for split, some in names.items()
    }
    rows["train"] += [{"file_name": "3.jpg", "caption": f"A caption  number {n}."} for n in range(60)]
    rows["test"] += [{"file_name": "10.jpg", "caption": f"a caption number {n}"} for n in range(51)]
    for split, some in rows.items():
        table(tmp_path / f"{split}.csv", some)
    return tmp_path


def test_duplicates_that_are_known(doubled: Path) -> None:
    found = statistics_of(doubled)
    assert cells(found, "Duplicate images") == {
        "within train": ["1 (8.3 %)", "1 (8.3 %)"],
        "within test": ["0 (0.0 %)", "0 (0.0 %)"],
        "test, also in train": ["1 (25.0 %)", "1 (25.0 %)"],
    }
    assert cells(found, "Repeated captions") == {
        "within train": ["0 (0.0 %)"],
        "within test": ["0 (0.0 %)"],
        "test, also in train": ["51 (92.7 %)"],
    }

    def names(groups: list[list[tuple[str, int]]]) -> list[list[str]]:
        paths = {split: [Path(row["path"]).name for row in one.dataset["image"]] for split, one in found.splits.items()}
        return [[paths[split][index] for split, index in group] for group in groups]

    assert names(found.groups.identical()) == [["0.jpg", "again.jpg"], ["2.jpg", "two.jpg"]]
    assert names(found.groups.alike()) == [["1.jpg", "worse.jpg", "smaller.png"]]
    assert "  test, also in train: 'a caption number 0', 'a caption number 1', 'a caption number 2'" in example_lines(
        found
    )
    merged = statistics_of(doubled, fields={"merge_duplicates": True})
    assert cells(merged, "Duplicate images")["within train"] == ["0 (0.0 %)", "1 (9.1 %)"]


def test_questions_are_repeats_with_the_same_image(tmp_path: Path) -> None:
    """By its bytes: that many images are asked what color something is says nothing."""
    for number in range(3):
        scene(tmp_path / f"{number}.jpg", number)
    shutil.copy(tmp_path / "0.jpg", tmp_path / "copy.jpg")
    for split, images in (("train", ["0.jpg", "1.jpg", "copy.jpg"]), ("test", ["2.jpg", "copy.jpg"])):
        rows = [{"file_name": name, "question": "What  color is it?", "answers": "red"} for name in images]
        table(tmp_path / f"{split}.csv", rows)
    assert cells(statistics_of(tmp_path, "vqa"), "Repeated questions") == {
        "within train": ["1 (33.3 %)"],
        "within test": ["0 (0.0 %)"],
        "test, also in train": ["1 (50.0 %)"],
    }


def test_unusual_images(tmp_path: Path) -> None:
    scene(tmp_path / "tiny.png", 0, (100, 63))
    scene(tmp_path / "no longer tiny.png", 1, (100, 64))
    scene(tmp_path / "strip.png", 2, (100, 301))
    scene(tmp_path / "no strip.png", 3, (300, 100))
    scene(tmp_path / "color.jpg", 4).convert("L").save(tmp_path / "grey.jpg")
    Image.new("RGB", (5000, 3201), "red").save(tmp_path / "huge.png")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "color.jpg").read_bytes()[:2000])
    names = sorted(path.name for path in tmp_path.iterdir())
    table(tmp_path / "train.csv", [{"file_name": name, "caption": name} for name in names])
    found = statistics_of(tmp_path)
    odd = found.splits["train"].odd_images()
    assert {kind.split(":")[0]: [names[index] for index in some] for kind, some in odd.items()} == {
        "cannot be read": ["cut.jpg"],
        "tiny": ["tiny.png"],
        "huge": ["huge.png"],
        "odd shape": ["strip.png"],
        "of one color": ["huge.png"],
        "grey": ["grey.jpg"],
    }
    page = statistics_page(found, "mine")
    assert page.count("<img") == 5 and "cut.jpg&#39; is damaged or cut short" in page


def test_one_split_and_rows_without_texts(tmp_path: Path) -> None:
    """Nothing is divided by zero, and what has no counterpart has an empty cell."""
    scene(tmp_path / "a.jpg", 0)
    (tmp_path / "test.json").write_text(
        json.dumps([{"image": "a.jpg", "question": "why?", "question_id": 1, "dataset": "vqa"}])
    )
    found = statistics_of(tmp_path, "vqa")
    text = "\n".join(line for one in tables(found) for line in as_lines(one))
    assert "tokenizer: one made of the words of test" in text and "nan" not in text
    assert cells(found, "Answers")["distinct, given once"] == ["0"]
    assert cells(found, "Length")["test: words a question"] == ["1", "1", "1", "1", "1", "0 (0.0 %)"]
    assert statistics_page(found, "mine")


HOSTILE = "</figure><script>alert(1)</script> \u202e {{ 7 * 7 }}"


def test_the_page_escapes_what_it_shows_and_needs_no_other_file(doubled: Path) -> None:
    shutil.copy(doubled / "2.jpg", doubled / "<b onload=x>.jpg")
    rows = [{"file_name": "<b onload=x>.jpg", "caption": HOSTILE}, {"file_name": "3.jpg", "caption": HOSTILE}]
    table(doubled / "validation.csv", rows)
    page = statistics_page(statistics_of(doubled), "<i>mine</i>")
    assert not any(text in page for text in ("<script", "<b onload", "<i>", " 49"))
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 2 and "&lt;b onload=x&gt;.jpg" in page
    assert not re.search(r'(?:src|href)="(?!data:image/(?:png|jpeg);base64,)', page) and "url(" not in page
    assert "prefers-color-scheme: dark" in page


def test_the_command(doubled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vocabulary = doubled / "vocab.txt"
    vocabulary.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\ncaption\n")
    page, words = doubled / "pages" / "page.html", ("check", "own_data", "--data_dir", str(doubled), "--statistics")
    assert main([*words, "--out", str(page), "--tokenizer", str(vocabulary)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"test, also in train +51 \(92.7 %\)", printed)
    assert re.search(r"\[UNK\] +\d+ \(\d+\.\d %\)", printed) and f"Wrote {page}: open it in a browser." in printed
    assert "<h2>Images that look the same</h2>" in page.read_text()
    for option in ("--out", "--tokenizer", "--answer_list"):
        assert main([*words[:-1], option, "x"]) == 1
        assert f"{option} is for the statistics: add --statistics" in capsys.readouterr().err
    assert main([*words, "--tokenizer", str(doubled / "nowhere")]) == 1
    assert "There is no tokenizer at" in capsys.readouterr().err


def test_bad_rows_are_left_out_of_the_statistics(doubled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (doubled / "test.csv").open("a") as stream:
        stream.write("gone.jpg,nobody sees this\n")
    assert main(["check", "own_data", "--data_dir", str(doubled), "--statistics"]) == 1
    printed = capsys.readouterr().out
    assert re.search(r"captions +72 +55", printed) and "Training cannot start: 1 problem." in printed
    (doubled / "test.csv").write_text("file_name,caption\ngone.jpg,nobody sees this\n")
    assert main(["check", "own_data", "--data_dir", str(doubled), "--statistics"]) == 1
    printed = capsys.readouterr().out
    assert "There are no statistics: " in printed and "Training cannot start: 1 problem." in printed


def test_data_that_a_builder_makes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = json.dumps({"num_train": 6, "num_validation": 2, "num_test": 2, "cache_dir": str(tmp_path)})
    words = ["check", "shapes", "--config_name", "vqa", "--dataset_config", few, "--statistics"]
    assert main([*words, "--out", str(tmp_path / "page.html")]) == 0
    assert re.search(r"answers +240 +80 +80", capsys.readouterr().out)


def test_images_that_rows_hold_themselves(doubled: Path) -> None:
    splits = load_dataset_script("own_data", data_dir=doubled, cache_dir=doubled / "cache")

    def with_bytes(row: dict[str, Any]) -> dict[str, Any]:
        data = io.BytesIO()
        row["image"].save(data, "png")
        return row | {"image": {"bytes": data.getvalue(), "path": None}}

    embedded = splits.map(with_bytes, features=splits["train"].features)
    found = collect(embedded)
    assert cells(found, "Duplicate images")["within train"] == ["1 (8.3 %)", "1 (8.3 %)"]
    assert "row 0" in statistics_page(found, "mine")


@pytest.mark.parametrize("counts", [{}, {3: 1}, {1: 1, 2: 1}, {1: 5, 9: 1, 4: 7}])
def test_quartiles(counts: dict[int, int]) -> None:
    values = sorted(Counter(counts).elements())
    if len(values) > 1:
        expected = [values[0], *plain.quantiles(values, n=4, method="inclusive"), values[-1]]
    else:
        expected = values * 5
    assert quartiles(Counter(counts)) == pytest.approx(expected)


def test_unreadable_answer_lists_are_named(doubled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (doubled / "answers.json").write_text("[1]")
    words = ["check", "own_data", "--data_dir", str(doubled), "--statistics"]
    assert main([*words, "--answer_list", str(doubled / "answers.json")]) == 1
    assert "answers.json, entry 1: is 1: a string is expected" in capsys.readouterr().err
