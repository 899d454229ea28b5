"""Clean-up equals the recorded one, and token ids have ALBEF's layout wherever the tokenizer is loaded from."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, BertTokenizer
from transformers.pipelines.pt_utils import KeyDataset

from processing import (
    AlbefImageProcessor,
    AlbefProcessor,
    ProcessingError,
    build_tokenizer,
    clean_caption,
    clean_question,
    load_tokenizer,
)

GOLDEN = Path(__file__).parents[1] / "golden"
WORDS = ["a", "man", "riding", "wave", "##s", "yes", "red", "ball", "person", "<", ">"]
VOCAB = {token: number for number, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
PAD, UNK, CLS, SEP = 0, 1, 2, 3
A, MAN, RIDING, WAVE, S = (VOCAB[word] for word in WORDS[:5])


@pytest.fixture
def processor() -> AlbefProcessor:
    return AlbefProcessor(AlbefImageProcessor(size=32), BertTokenizer(vocab=VOCAB))


def ids(processor: AlbefProcessor, text: str, **options: object) -> list[int]:
    return processor(text=text, **options)["input_ids"]


# ---- clean-up


def test_recorded_clean_up() -> None:
    cases = json.loads((GOLDEN / "text_preprocessing.json").read_text(encoding="utf-8"))
    assert len(cases) > 20
    for case in cases:
        assert clean_caption(case["text"]) == case["caption_30"]
        assert clean_question(case["text"]) == case["question_30"]
        assert clean_question(case["text"], max_words=50) == case["question_50"]


def test_clean_up_in_its_order() -> None:
    text = "A man, with Mr. O'Neil's dog-house/barn!  is   \"here\" (now) #1: ~ok;\n"
    assert clean_caption(text) == "a man with mr oneils dog house barn is here now 1 ok"
    assert clean_caption("<person> ridin' a-b/c <PERSON>.") == "person ridin a b c person"
    assert clean_caption("one two three", max_words=2) == "one two"
    assert clean_question("a  b c", max_words=3) == "a  b"  # the empty word counts


# ---- token ids


def test_captions_have_no_closing_token(processor: AlbefProcessor) -> None:
    batch = processor(text=["A man, riding waves!", "a man.", "..."], padding=True, return_tensors="pt")
    assert sorted(batch) == ["attention_mask", "input_ids"]
    assert batch["input_ids"].tolist() == [
        [CLS, A, MAN, RIDING, WAVE, S],
        [CLS, A, MAN, PAD, PAD, PAD],
        [CLS, PAD, PAD, PAD, PAD, PAD],
    ]
    assert batch["attention_mask"].tolist() == [[1] * 6, [1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0]]


def test_questions_are_cleaned_as_questions(processor: AlbefProcessor) -> None:
    brackets = [VOCAB["<"], VOCAB["person"], VOCAB[">"]]
    assert ids(processor, "<person>") == [CLS, VOCAB["person"]]
    assert ids(processor, "<person>?", text_type="question") == [CLS, *brackets]
    asking = AlbefProcessor(processor.image_processor, processor.tokenizer, text_type="question", max_words=2)
    assert ids(asking, "<person> a man") == [CLS, *brackets, A]
    assert ids(asking, "<person> a man", text_type="caption", max_words=3) == [CLS, VOCAB["person"], A, MAN]


def test_truncation_counts_the_first_token(processor: AlbefProcessor) -> None:
    found = ids(processor, "a man riding waves", truncation=True, max_length=4)
    assert found == [CLS, A, MAN, RIDING]
    long = ids(processor, "waves " * 30, truncation=True, max_length=30)
    assert long == [CLS] + [WAVE, S] * 14 + [WAVE]
    assert len(ids(processor, "waves " * 40)) == 61  # 30 words


def test_the_tokenizer_itself_has_the_layout(processor: AlbefProcessor) -> None:
    found = processor.tokenizer(["a man", "a"], padding=True, return_tensors="pt")
    assert sorted(found) == ["attention_mask", "input_ids"]
    assert found["input_ids"].tolist() == [[CLS, A, MAN], [CLS, A, PAD]]
    assert processor.tokenizer("a", "man")["input_ids"] == [CLS, A, SEP, MAN, SEP]
    assert processor.tokenizer.num_special_tokens_to_add() == 1


def test_the_given_tokenizer_is_left_alone() -> None:
    tokenizer = BertTokenizer(vocab=VOCAB)
    AlbefProcessor(AlbefImageProcessor(), tokenizer)
    assert tokenizer("a man")["input_ids"] == [CLS, A, MAN, SEP]


def test_answers_are_closed(processor: AlbefProcessor) -> None:
    batch = processor.encode_answers(["Yes", "Red ball", "a-b", ""])
    yes, red, ball = VOCAB["yes"], VOCAB["red"], VOCAB["ball"]
    assert batch["input_ids"].tolist() == [
        [CLS, yes, SEP, PAD, PAD],
        [CLS, red, ball, SEP, PAD],
        [CLS, A, UNK, UNK, SEP],  # no clean-up: the hyphen stays
        [CLS, SEP, PAD, PAD, PAD],
    ]
    assert batch["attention_mask"].sum(1).tolist() == [3, 4, 5, 2]
    assert processor.encode_answers(["yes"], padding=False, return_tensors=None)["input_ids"] == [[CLS, yes, SEP]]


# ---- calls


def test_images_and_text_together(processor: AlbefProcessor) -> None:
    batch = processor(images=GOLDEN / "image.png", text="a man", return_tensors="pt", images_kwargs={"size": 16})
    assert set(batch) == set(processor.model_input_names) == {"pixel_values", "input_ids", "attention_mask"}
    assert batch["pixel_values"].shape == (1, 3, 16, 16)
    same = processor(images=[str(GOLDEN / "image.png")], return_tensors="pt")["pixel_values"]
    assert same.shape == (1, 3, 32, 32)
    assert processor.batch_decode(batch["input_ids"], skip_special_tokens=True) == ["a man"]


def test_options_that_would_be_ignored_are_refused(processor: AlbefProcessor) -> None:
    with pytest.raises(TypeError, match="does not know the option max_word: check"):
        processor(text="a", max_word=3)
    with pytest.raises(TypeError, match="does not know the option pading"):
        processor(text="a", text_kwargs={"pading": True})
    with pytest.raises(ValueError, match="text_type is 'title', but must be one of caption, question"):
        processor(text="a", text_type="title")
    with pytest.raises(ValueError, match="max_words is 0, but must be at least 1"):
        AlbefProcessor(processor.image_processor, processor.tokenizer, max_words=0)
    with pytest.raises(ValueError, match="string or list of strings"):
        processor(text=[["a"]])
    with pytest.raises(ValueError, match="at least one input"):
        processor()


def test_parts_of_the_wrong_kind(processor: AlbefProcessor) -> None:
    with pytest.raises(TypeError):
        AlbefProcessor(processor.tokenizer, processor.image_processor)
    without = BertTokenizer(vocab=VOCAB)
    without.cls_token = None
    with pytest.raises(ValueError, match="lacks cls_token: use a BERT tokenizer"):
        AlbefProcessor(processor.image_processor, without)


# ---- files


def test_save_and_load(tmp_path: Path) -> None:
    saved = AlbefProcessor(AlbefImageProcessor(size=48), BertTokenizer(vocab=VOCAB), text_type="question", max_words=7)
    saved.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "processor_config.json").read_text())
    assert (config["text_type"], config["max_words"]) == ("question", 7)
    for loaded in (AlbefProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert type(loaded) is AlbefProcessor
        assert (loaded.text_type, loaded.max_words) == ("question", 7)
        assert dict(loaded.image_processor.size) == {"height": 48, "width": 48}
        assert ids(loaded, "<person> A man!") == ids(saved, "<person> A man!")
        assert loaded.tokenizer("a man")["input_ids"] == [CLS, A, MAN]
    assert AlbefProcessor.from_pretrained(tmp_path, max_words=1).max_words == 1


def test_the_layout_survives_without_this_package(processor: AlbefProcessor, tmp_path: Path) -> None:
    """A pipeline loads the tokenizer with AutoTokenizer alone."""
    processor.save_pretrained(tmp_path)
    code = (
        "import sys; from transformers import AutoTokenizer; t = AutoTokenizer.from_pretrained(sys.argv[1]); "
        "print(dict(t('A man'))); print('processing' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    expected = str({"input_ids": [CLS, A, MAN], "attention_mask": [1, 1, 1]})
    assert done.stdout.splitlines() == [expected, "False"]


def test_lengths_of_the_last_call_are_not_saved(processor: AlbefProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path / "before")
    processor(text=["a", "a man"], padding="max_length", truncation=True, max_length=2)
    processor.save_pretrained(tmp_path / "after")
    for name in os.listdir(tmp_path / "before"):
        assert (tmp_path / "before" / name).read_bytes() == (tmp_path / "after" / name).read_bytes()
    assert len(ids(AlbefProcessor.from_pretrained(tmp_path / "after"), "a man riding")) == 4


def test_code_travels_with_the_files(tmp_path: Path) -> None:
    """A folder with the code in it loads where this package is not imported; a folder without says nothing of code."""
    folder = tmp_path / "model"
    processor = AlbefProcessor(AlbefImageProcessor(size=16), BertTokenizer(vocab=VOCAB))
    processor.save_pretrained(folder, save_code=True)
    code = (
        "import sys; from transformers import AutoProcessor; "
        "p = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True); "
        "b = p(images=sys.argv[2], text='A man!', return_tensors='pt'); "
        "print(b['input_ids'].tolist(), tuple(b['pixel_values'].shape), 'processing' in sys.modules)"
    )
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(GOLDEN / "image.png")],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=environment,
    )
    assert done.stdout.strip() == f"{[[CLS, A, MAN]]} (1, 3, 16, 16) False"
    AlbefProcessor.from_pretrained(folder).save_pretrained(tmp_path / "lean")
    assert not list((tmp_path / "lean").glob("*.py"))
    assert "auto_map" not in (tmp_path / "lean" / "processor_config.json").read_text()


# ---- tokenizers


def test_build_tokenizer() -> None:
    texts = ["A red ball.", "A blue ball!", "the Café - one/two <person>", "zebra"]
    tokenizer = build_tokenizer(texts)
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert tokens[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert tokens[-9:] == ["ball", "blue", "cafe", "one", "person", "red", "the", "two", "zebra"]
    assert tokenizer("red ball", add_special_tokens=False)["input_ids"] == [tokens.index("red"), tokens.index("ball")]
    shuffled = random.Random(0).sample(texts, len(texts))
    assert build_tokenizer(shuffled).get_vocab() == tokenizer.get_vocab()
    assert "blue" not in build_tokenizer(texts, min_count=2).get_vocab()
    assert len(set(tokens)) == len(tokens)


def test_no_ascii_word_is_unknown() -> None:
    tokenizer = build_tokenizer([])
    words = ["".join(map(chr, range(33, 127))), "Zebra", "x" * 100, "10:30", "`[a]`"]
    for word in words:
        assert tokenizer.unk_token_id not in tokenizer(word)["input_ids"]
    assert tokenizer.unk_token_id in tokenizer("日")["input_ids"]
    assert build_tokenizer(["日本"]).unk_token_id not in build_tokenizer(["日本"])("本 日")["input_ids"]


def test_load_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    BertTokenizer(vocab=VOCAB).save_pretrained(tmp_path / "saved")
    for path in (tmp_path / "only", str(tmp_path / "only"), tmp_path / "only" / "vocab.txt", tmp_path / "saved"):
        tokenizer = load_tokenizer(path)
        assert tokenizer.get_vocab() == VOCAB
        assert tokenizer("A man")["input_ids"] == [CLS, A, MAN, SEP]


def test_load_tokenizer_from_nowhere(tmp_path: Path) -> None:
    with pytest.raises(ProcessingError, match=r"holds no tokenizer: put a vocab\.txt into it"):
        load_tokenizer(tmp_path)
    with pytest.raises(ProcessingError, match=r"There is no tokenizer at .*nowhere': give a folder or a name"):
        load_tokenizer(tmp_path / "nowhere")
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\na\n")
    with pytest.raises(ProcessingError, match=r"vocab\.txt' lacks \[CLS\], \[SEP\], \[MASK\]"):
        load_tokenizer(tmp_path)
    (tmp_path / "vocab.txt").write_bytes(b"[PAD]\xff")
    with pytest.raises(ProcessingError, match=r"vocab\.txt' cannot be read: .*\. Give the vocab\.txt of a BERT\."):
        load_tokenizer(tmp_path)
    with pytest.raises(
        ProcessingError, match="'user/none' is no folder here, and the Hub does not give it: We couldn't"
    ):
        load_tokenizer("user/none")
    (tmp_path / "tokenizer_config.json").write_text("{}")
    for damaged in ("{", '{"model": {"type": "nonsense"}}'):
        (tmp_path / "tokenizer.json").write_text(damaged)
        with pytest.raises(
            ProcessingError, match=r"cannot be loaded: .*\. Give a folder with the vocab\.txt of a BERT"
        ):
            load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["nowhere", "user/none", "empty"])
def test_a_missing_processor_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ProcessingError, match=rf"'{name}' gives no processor: .*with a processor_config\.json"):
        AlbefProcessor.from_pretrained(name)


def test_any_sequence_of_texts(processor: AlbefProcessor) -> None:
    texts = ["a man", "a dog runs"]
    wanted = processor(text=texts, padding=True, return_tensors="pt")["input_ids"]
    column = datasets.Dataset.from_dict({"text": texts})["text"]
    for same in (tuple(texts), column, np.array(texts), iter(texts), (text for text in texts)):
        assert torch.equal(processor(text=same, padding=True, return_tensors="pt")["input_ids"], wanted)
    for wrong in ({"text": "a"}, b"a man", [1, 2], 5, np.array([1]), ["a", None], pandas.Series(["a", np.nan])):
        with pytest.raises(ProcessingError, match="or another sequence of them, but has"):
            processor(text=wrong)


class Indexed(torch.utils.data.Dataset):
    """A data set of torch, which has a length and rows, and does not say where it ends."""

    def __init__(self, values: list[Any]) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, row: int) -> Any:
        return self.values[row % len(self.values)]


@pytest.mark.parametrize(
    "many",
    [
        list,
        tuple,
        np.array,
        iter,
        lambda texts: (text for text in texts),
        lambda texts: datasets.Dataset.from_dict({"text": texts})["text"],
        lambda texts: KeyDataset([{"text": text} for text in texts], "text"),
        lambda texts: pandas.Series(texts, index=range(7, 7 + len(texts))),
        lambda texts: dict.fromkeys(texts).keys(),
        Indexed,
    ],
)
def test_one_or_many(processor: AlbefProcessor, many: Any, tmp_path: Path) -> None:
    texts, paths = ["a man", "a dog runs"], [str(tmp_path / "0.png"), str(tmp_path / "1.png")]
    for number, path in enumerate(paths):
        Image.new("RGB", (9, 8), (90 * number, 8, 7)).save(path)
    wanted = processor(text=texts, images=paths, padding=True, return_tensors="pt")
    found = processor(text=many(texts), images=many(paths), padding=True, return_tensors="pt")
    assert wanted["pixel_values"].shape[0] == 2 and all(torch.equal(found[name], wanted[name]) for name in wanted)
    answers = processor.encode_answers(many(texts))
    assert answers["input_ids"].tolist() == processor.encode_answers(texts)["input_ids"].tolist()
    for option, what in (("text", "texts"), ("images", "images")):
        with pytest.raises(ProcessingError, match=f"There are no {what}: give one at least"):
            processor(**{option: many([])})


def test_one_answer_is_not_its_letters(processor: AlbefProcessor) -> None:
    assert processor.encode_answers("a man")["input_ids"].tolist() == [[CLS, A, MAN, SEP]]


def test_long_texts_do_not_keep_the_tokenizer_busy(processor: AlbefProcessor) -> None:
    """A million letters without a space, or of a script that is split letter by letter."""
    for text in ("a" * 10**6, "\u4e2d" * 10**6, "a." * 10**6):
        start = time.perf_counter()
        processor(text=[text], truncation=True, max_length=20, text_type="question")
        assert time.perf_counter() - start < 1


def test_a_text_of_a_batch_may_have_no_images(processor: AlbefProcessor) -> None:
    """Nested as the library's chat models take them: a list of images a text."""
    image = Image.new("RGB", (9, 8))
    found = processor(text=["a man", "a dog"], images=[[image, image], []], padding=True, return_tensors="pt")
    assert found["pixel_values"].shape == (2, 3, 32, 32)
