"""What the pipelines take, one or many, model objects, and what they say of scores that are not finite."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas
import pytest
import torch
from PIL import Image, features
from small_models import ANSWERS, save_retrieval, save_vqa
from transformers import pipeline
from transformers.pipelines.pt_utils import KeyDataset

from modeling_albef import AlbefError, AlbefForImageTextRetrieval, AlbefForQuestionAnswering, index_albef
from modeling_albef.index_albef import EmbeddingIndex
from processing import AlbefProcessor

QUESTIONS = ["what color is the circle?", "what is left of a red square", "what color is the circle?"]
CAPTIONS = ["a blue circle", "a green star above it", "what is left of a red square"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both models and three images."""
    folder = tmp_path_factory.mktemp("inputs")
    save_retrieval(folder / "retrieval")
    save_vqa(folder / "vqa")
    for number in range(3):
        values = np.random.default_rng(number).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def ask(place: Path) -> Any:
    return pipeline("albef-vqa", model=str(place / "vqa"))


@pytest.fixture(scope="module")
def search(place: Path) -> Any:
    return pipeline("image-text-retrieval", model=str(place / "retrieval"))


@pytest.fixture(scope="module")
def paths(place: Path) -> list[str]:
    return [str(place / f"{number}.png") for number in range(3)]


@pytest.fixture(scope="module")
def table(paths: list[str]) -> datasets.Dataset:
    columns = {"image": paths, "question": QUESTIONS, "caption": CAPTIONS}
    return datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())


class Indexed(torch.utils.data.Dataset):
    """A data set of torch, which has a length and rows, and does not say where it ends."""

    def __init__(self, values: list[Any]) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, row: int) -> Any:
        return self.values[row % len(self.values)]


class Counted(torch.utils.data.IterableDataset):
    """A stream that knows how many it has, and cannot be asked for one of them."""

    def __init__(self, values: list[Any]) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values)


KINDS = {
    "list": list,
    "tuple": tuple,
    "array": np.array,
    "iterator": iter,
    "generator": lambda values: (value for value in values),
    "column": lambda values: datasets.Dataset.from_dict({"x": values})["x"],
    "KeyDataset": lambda values: KeyDataset([{"x": value} for value in values], "x"),
    "series": lambda values: pandas.Series(values, index=range(5, 5 + len(values)), dtype=object),
    "torch": Indexed,
    "counted stream": Counted,
}
STREAMS = {"iterator", "generator", "KeyDataset", "torch", "counted stream"}  # read one by one


def same(found: Any, wanted: list[Any], is_stream: bool = False) -> bool:
    assert isinstance(found, list) != is_stream
    pairs = list(zip(list(found), wanted, strict=True))
    names = [[next(iter(one.values())) for one in answers] for answers, _ in pairs]
    assert names == [[next(iter(one.values())) for one in answers] for _, answers in pairs]
    return all(a["score"] == pytest.approx(b["score"], abs=1e-5) for x, y in pairs for a, b in zip(x, y, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_many_questions(ask: Any, paths: list[str], kind: str) -> None:
    many, is_stream = KINDS[kind], kind in STREAMS
    wanted = [ask(image=path, question=question) for path, question in zip(paths, QUESTIONS, strict=True)]
    assert len({str(one) for one in wanted}) == 3
    assert same(ask(image=many(paths), question=many(QUESTIONS)), wanted, is_stream)
    assert same(ask(image=many(paths), question=QUESTIONS), wanted, is_stream)
    assert same(ask(image=paths, question=many(QUESTIONS)), wanted, is_stream)
    one_question = [ask(image=path, question=QUESTIONS[0]) for path in paths]
    assert same(ask(image=many(paths), question=QUESTIONS[0]), one_question, is_stream)
    assert same(ask(many(paths), question=QUESTIONS[0]), one_question, is_stream)
    one_image = [ask(image=paths[0], question=question) for question in QUESTIONS]
    assert same(ask(image=paths[0], question=many(QUESTIONS)), one_image, is_stream)
    assert same(ask(image=many(paths), question=many(QUESTIONS), batch_size=2), wanted, is_stream)
    chosen = ask(image=paths[0], question=QUESTIONS[0], answer_list=ANSWERS[:3], top_k=1)
    assert same([ask(image=paths[0], question=QUESTIONS[0], answer_list=many(ANSWERS[:3]), top_k=1)], [chosen])
    with pytest.raises(AlbefError, match=r"There are no (images|questions): give one at least"):
        list(ask(image=many([]), question=QUESTIONS[0]))
    with pytest.raises(AlbefError, match="There are no questions: give one at least"):
        list(ask(image=paths[0], question=many([])))
    with pytest.raises(AlbefError, match=r"differ in number|2 images do not go with 3 questions"):
        list(ask(image=many(paths[:2]), question=many(QUESTIONS)))


@pytest.mark.parametrize("kind", ["list", "tuple", "iterator", "generator", "KeyDataset", "torch"])
def test_rows(ask: Any, paths: list[str], kind: str) -> None:
    rows = [{"image": path, "question": text, "id": 3} for path, text in zip(paths, QUESTIONS, strict=True)]
    wanted = [ask(row) for row in rows]
    assert same(ask(KINDS[kind](rows)), wanted, kind in STREAMS)
    with pytest.raises(AlbefError, match="There are no questions"):
        list(ask(KINDS[kind]([])))


def test_rows_of_a_data_set(ask: Any, table: datasets.Dataset, paths: list[str]) -> None:
    wanted = [ask(image=path, question=question) for path, question in zip(paths, QUESTIONS, strict=True)]
    assert same(ask(table), wanted)
    assert same([ask(table[1])], wanted[1:2])
    assert same(ask(table[1:]), wanted[1:])  # a dictionary of columns
    assert same(ask({"image": paths, "question": QUESTIONS[0]}), ask(image=paths, question=QUESTIONS[0]))
    assert same(ask({"image": paths[0], "question": QUESTIONS}), ask(image=paths[0], question=QUESTIONS))
    assert same([ask({"image": paths[0], "question": QUESTIONS[0], "answers": ANSWERS})], wanted[:1])
    assert same(ask(image=table["image"], question=table["question"]), wanted)
    assert same(ask(KeyDataset(table, "image"), question=table["question"]), wanted, is_stream=True)
    assert same(ask(table.to_iterable_dataset()), wanted, is_stream=True)
    assert same(ask(table.cast_column("image", datasets.Image(decode=False))), wanted)
    arrays = np.stack([np.asarray(Image.open(path)) for path in paths])
    assert same([ask(image=arrays[0], question=QUESTIONS[0])], wanted[:1])
    assert same(ask(image=arrays, question=QUESTIONS), wanted)
    assert same(ask(image=torch.from_numpy(arrays), question=QUESTIONS), wanted)


def test_images_are_read_when_their_turn_comes(ask: Any, paths: list[str]) -> None:
    read = []

    def images() -> Iterator[str]:
        for path in paths:
            read.append(path)
            yield path

    answers = iter(ask(images(), question=QUESTIONS[0]))
    next(answers)
    assert len(read) < 3


def test_rows_say_what_is_wrong(ask: Any, paths: list[str]) -> None:
    with pytest.raises(AlbefError, match="A row has no 'question', only image, text: it needs image and question"):
        ask([{"image": paths[0], "text": QUESTIONS[0]}])
    with pytest.raises(AlbefError, match="The question nan is no string"):
        ask(image=paths[:1], question=[float("nan")])
    with pytest.raises(AlbefError, match="There is no question"):
        ask(paths)
    with pytest.raises(AlbefError, match="There is no image: give one beside the question"):
        ask(question=QUESTIONS[0])
    with pytest.raises(AlbefError, match="The answer 3 of the list is no text"):
        ask(image=paths[0], question=QUESTIONS[0], answer_list=["a", 3])


@pytest.mark.parametrize("kind", KINDS)
def test_many_queries_and_entries(search: Any, paths: list[str], kind: str) -> None:
    many, is_stream = KINDS[kind], kind in STREAMS
    search.index_images(paths)
    embeds = search.index.embeds
    search.index_images(many(paths), batch_size=2)
    torch.testing.assert_close(search.index.embeds, embeds)
    assert [search.index.names[row] for row in range(3)] == paths
    wanted = [search(caption) for caption in CAPTIONS]
    assert same(search(many(CAPTIONS)), wanted, is_stream)
    with pytest.raises(AlbefError, match="There are no queries: give one at least"):
        list(search(many([])))
    with pytest.raises(AlbefError, match="There are no images to index: give one at least"):
        search.index_images(many([]))
    search.index_texts(many(CAPTIONS))
    assert [search.index.names[row] for row in range(3)] == CAPTIONS
    assert same(search(image=many(paths)), [search(image=path) for path in paths], is_stream)
    with pytest.raises(AlbefError, match="There are no texts to index: give one at least"):
        search.index_texts(many([]))


def test_images_of_a_column_are_found(search: Any, table: datasets.Dataset, paths: list[str], tmp_path: Path) -> None:
    search.index_images(paths)
    wanted = search(CAPTIONS[0])
    search.index_images(table["image"], batch_size=2)
    found = search(CAPTIONS[0])
    assert [one["score"] for one in found] == pytest.approx([one["score"] for one in wanted])
    assert all(isinstance(one["image"], Image.Image) for one in found)
    for one, other in zip(found, wanted, strict=True):
        assert np.array_equal(np.asarray(one["image"]), np.asarray(Image.open(other["image"])))
    search.index_images(paths[1])
    assert search.index.names == paths[1:2]
    search.index_images(Path(paths[1]))
    search.save_index(tmp_path)
    search.index_images(tuple(map(Path, paths)))
    search.save_index(tmp_path)
    assert search.index.names == paths
    data = base64.b64encode(Path(paths[1]).read_bytes()).decode()
    search.index_images(f"data:image/png;base64,{data}")  # longer than the name of a file can be
    assert len(search.index.names) == 1
    for size in (0, -1):
        with pytest.raises(AlbefError, match=f"batch_size is {size}, but must be at least 1"):
            search.index_images(paths, batch_size=size)
    with pytest.raises(AlbefError, match="The text None is no string"):
        search.index_texts(["a circle", None])


# ---- model objects


def test_model_objects(place: Path, paths: list[str], ask: Any) -> None:
    model = AlbefForQuestionAnswering.from_pretrained(place / "vqa")
    wanted = [ask(image=paths[0], question=QUESTIONS[0])]
    model.train()  # as after a training
    assert same([pipeline("albef-vqa", model=model)(image=paths[0], question=QUESTIONS[0])], wanted)
    processor = AlbefProcessor.from_pretrained(place / "vqa")
    model.config._name_or_path = ""
    assert same([pipeline("albef-vqa", model=model, processor=processor)(paths[0], QUESTIONS[0])], wanted)
    assert same([pipeline("albef-vqa", model=model, processor=str(place / "vqa"))(paths[0], QUESTIONS[0])], wanted)
    with pytest.raises(AlbefError, match="no processor beside it: give one as `processor=`"):
        pipeline("albef-vqa", model=model)
    retrieval = AlbefForImageTextRetrieval.from_pretrained(place / "retrieval")
    find = pipeline("image-text-retrieval", model=retrieval)
    find.index_images(paths)
    assert len(find(CAPTIONS[0])) == 3


def test_a_folder_without_a_processor_is_named(place: Path, tmp_path: Path) -> None:
    AlbefForQuestionAnswering.from_pretrained(place / "vqa").save_pretrained(tmp_path)
    for model in (str(tmp_path), AlbefForQuestionAnswering.from_pretrained(tmp_path)):
        with pytest.raises(AlbefError, match=f"There is no processor beside the model '{tmp_path}' .*`processor=`"):
            pipeline("albef-vqa", model=model)


@pytest.mark.parametrize("task", ["albef-vqa", "image-text-retrieval"])
def test_a_processor_that_is_none_of_albef_is_refused(task: str, place: Path) -> None:
    """Where the processor's package is not imported the library falls back to the tokenizer."""
    processor = AlbefProcessor.from_pretrained(place / "vqa")
    name = place / ("vqa" if task == "albef-vqa" else "retrieval")
    for part in (processor.tokenizer, processor.image_processor):
        with pytest.raises(AlbefError, match=f"is a {type(part).__name__}, but must be .*`import processing` first"):
            pipeline(task, model=str(name), processor=part)


def test_a_damaged_processor_is_not_called_missing(place: Path, tmp_path: Path) -> None:
    model = AlbefForQuestionAnswering.from_pretrained(place / "vqa")
    model.save_pretrained(tmp_path)
    AlbefProcessor.from_pretrained(place / "vqa").save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    model.config._name_or_path = str(tmp_path)
    with pytest.raises(AlbefError, match=r"The processor beside the model '.*' cannot be loaded \(.*`processor=`"):
        pipeline("albef-vqa", model=model)


@pytest.mark.parametrize("content", [b"5", b'"red"', b'{"red": 1}', b"null", b'["\xff"]', b"[" * 9000, b""])
def test_files_of_answers_that_hold_none(ask: Any, paths: list[str], tmp_path: Path, content: bytes) -> None:
    (tmp_path / "answers.json").write_bytes(content)
    for path in (str(tmp_path / "answers.json"), "red " * 2000):
        with pytest.raises(AlbefError, match=r"answer_list is '.*', but must be a list, or a JSON file of one"):
            ask(image=paths[0], question=QUESTIONS[0], answer_list=path)


@pytest.mark.parametrize("name", ["top_k", "k_test", "max_new_tokens"])
def test_numbers_below_one_are_named(ask: Any, paths: list[str], name: str) -> None:
    for number in (0, -1):
        with pytest.raises(AlbefError, match=f"{name} is {number}, but must be at least 1"):
            ask(image=paths[0], question=QUESTIONS[0], **{name: number})


# ---- what is not finite


def damage(pipe: Any, name: str) -> None:
    for found, weight in pipe.model.named_parameters():
        if name in found:
            weight.data.fill_(torch.nan)


@pytest.mark.parametrize("free_form", [False, True])
def test_answers_whose_scores_are_not_finite(place: Path, paths: list[str], free_form: bool) -> None:
    ask = pipeline("albef-vqa", model=str(place / "vqa"))
    damage(ask, "text_decoder")
    name = rf"The scores of the question '{QUESTIONS[0][:-1]}\?' about the image '{paths[0]}' are not finite: load the"
    for options in ({}, {"batch_size": 2}):
        with pytest.raises(AlbefError, match=name):
            ask(image=paths, question=QUESTIONS, free_form=free_form, **options)


def test_features_that_are_not_finite(place: Path, paths: list[str], search: Any, tmp_path: Path) -> None:
    broken = pipeline("image-text-retrieval", model=str(place / "retrieval"))
    search.index_images(paths)
    search.save_index(tmp_path)
    damage(broken, "text_proj")
    broken.load_index(tmp_path)
    with pytest.raises(AlbefError, match=f"The features of the text '{CAPTIONS[0]}' are not finite"):
        broken(CAPTIONS[0])
    with pytest.raises(AlbefError, match=f"The features of the text '{CAPTIONS[0]}' are not finite"):
        broken.index_texts(CAPTIONS)
    damage(broken, "vision_proj")
    with pytest.raises(AlbefError, match=rf"The features of the image '{paths[0]}' are not finite"):
        broken.index_images(paths)
    with pytest.raises(AlbefError, match="The features of an image are not finite"):
        broken.index_images([Image.open(paths[0]).copy()])
    embeds = torch.eye(3)
    embeds[1, 2] = torch.inf
    with pytest.raises(AlbefError, match="The features of the text 'b' are not finite"):
        EmbeddingIndex("text", ["a", "b", "c"], embeds)


def test_matches_that_are_not_finite(place: Path, paths: list[str]) -> None:
    broken = pipeline("image-text-retrieval", model=str(place / "retrieval"))
    damage(broken, "itm_head")
    broken.index_images(paths[:1])
    with pytest.raises(AlbefError, match=f"The scores with the text '{CAPTIONS[0]}' of the image '{paths[0]}' are not"):
        broken(CAPTIONS[0])
    assert len(broken(CAPTIONS[0], k=0)) == 1


def test_a_folder_is_indexed_with_all_that_is_read(
    search: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AVIF as in training; what is left out is counted."""
    said: list[str] = []
    monkeypatch.setattr(index_albef.logger, "warning", said.append)
    monkeypatch.setattr(index_albef, "IMAGE_SUFFIXES", index_albef.IMAGE_SUFFIXES - {".heic"})
    monkeypatch.setattr(index_albef, "OTHER_SUFFIXES", index_albef.OTHER_SUFFIXES | {".heic"})
    first = "a.avif" if features.check("avif") else "a.bmp"  # Pillow 11.3 is the first that reads AVIF
    for name in (first, "b.JPG", "c.jp2", "below/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (24, 24), (90, 0, 0)).save(tmp_path / name)
    search.index_images(tmp_path)
    assert [Path(found["image"]).name for found in search("a dog", top_k=9)] != [] and not said
    assert [path.name for path in index_albef.images_below(tmp_path)] == [first, "b.JPG", "d.png", "c.jp2"]
    for name in ("e.heic", "f.heic", "g.svg", "notes.txt"):
        (tmp_path / name).write_text("x")
    assert len(index_albef.images_below(tmp_path)) == 4
    (sentence,) = said
    assert "Left out are 3 files whose format is not read (2 .heic, 1 .svg): `pip install pillow-heif`" in sentence
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "h.heic").write_text("x")
    with pytest.raises(AlbefError, match=r"has no images \(.*\.png.*\)\. Left out are 1 files"):
        index_albef.images_below(tmp_path / "only")
