"""Rows of one caption each are evaluated as rows of lists are: an image counts once, whatever its rows' order."""

from __future__ import annotations

import json
import random
import uuid
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from golden_cases import INDEX, build, load_case
from PIL import Image
from small_models import WORDS, save_retrieval, save_vqa
from torch.utils.data import ConcatDataset, Dataset, Subset

from modeling_albef import AlbefError
from modeling_albef.training import RetrievalEvaluator, RetrievalResult, VQAEvaluator
from modeling_albef.training.report.examples import hardest_galleries
from modeling_albef.training.report.queries import captions, images
from processing import AlbefProcessor

TRUTH = {int(image): texts for image, texts in INDEX["retrieval_evaluation"]["image_to_texts"].items()}
METRICS = INDEX["retrieval_evaluation"]["metrics"]
GROUPED = [{"image": image, "caption": [str(text) for text in texts]} for image, texts in TRUTH.items()]


class RecordedProcessor:
    """Hands out recorded token ids and pixels; a caption and an image are the numbers of theirs."""

    def __init__(self, case: dict[str, torch.Tensor]) -> None:
        self.case = case

    def __call__(self, text: list[str] | None = None, images: list[int] | None = None, **_: Any) -> dict[str, Any]:
        if text is not None:
            ids, mask = self.case["input_ids"], self.case["attention_mask"].bool()
            return {"input_ids": [ids[int(row)][mask[int(row)]].tolist() for row in text]}
        return {"pixel_values": self.case["pixel_values"][torch.tensor(images)]}


def evaluate(rows: Any, k_test: int | None = None) -> RetrievalResult:
    case, checkpoint = load_case("retrieval_evaluation")
    k_test = int(case["k_test"]) if k_test is None else k_test
    return RetrievalEvaluator(build(checkpoint)[0], RecordedProcessor(case), k_test=k_test, batch_size=5)(rows)


def flat(name: Callable[[int], Any] = str) -> list[dict[str, Any]]:
    return [{"image": i, "caption": str(t), "image_id": name(i)} for i, texts in TRUTH.items() for t in texts]


KINDS: dict[str, Callable[[int], Any]] = {
    "number": int,
    "text": lambda image: f"coco_{image}",
    "tuple": lambda image: ("set", image),
    "set": lambda image: frozenset({image, "x"}),
    "uuid": lambda image: uuid.UUID(int=image),
    "scalar of torch": lambda image: torch.tensor(image),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", ["as given", "reversed", "round robin", "shuffled"])
def test_the_recorded_metrics_whatever_the_order_and_the_ids(kind: str, order: str) -> None:
    rows = flat(KINDS[kind])
    rows = {"reversed": rows[::-1], "round robin": rows[::2] + rows[1::2]}.get(order, rows)
    if order == "shuffled":
        random.Random(3).shuffle(rows)
    result = evaluate(rows)
    assert result.metrics == pytest.approx(METRICS, abs=1e-9)
    assert result.image_rows is not None and len(result.image_rows) == len(TRUTH)
    for text, image in enumerate(
        result.caption_image.tolist()
    ):  # the rows that are named show the images that are meant
        assert int(result.captions[text]) in TRUTH[rows[result.row_of(image)]["image"]]
    scores = evaluate(GROUPED).image_to_text.scores
    by_image = [rows[row]["image"] for row in result.image_rows]
    torch.testing.assert_close(result.image_to_text.scores, scores[torch.tensor(by_image)], atol=1e-5, rtol=0)


def test_parts_of_the_lists_count_together() -> None:
    rows = [{"image": i, "caption": [str(texts[0])], "image_id": i} for i, texts in TRUTH.items()]
    rows += [{"image": i, "caption": [str(t) for t in texts[1:]], "image_id": i} for i, texts in TRUTH.items()]
    assert evaluate(rows).metrics == pytest.approx(METRICS, abs=1e-9)


def test_an_image_without_captions_is_a_candidate_and_no_query() -> None:
    """Against the whole table of scores, from which the captions of two images are taken out."""
    whole = evaluate(GROUPED, k_test=1000)
    by_image, by_text = whole.image_to_text, whole.text_to_image
    scores = torch.zeros(12, 24).scatter(1, by_image.ids, by_image.scores)
    backward = torch.zeros(24, 12).scatter(1, by_text.ids, by_text.scores)
    kept_texts = [t for t in range(24) if whole.caption_image[t] not in (3, 8)]
    queries = [i for i in range(12) if i not in (3, 8)]
    ranks = {"txt": [], "img": []}
    for i in queries:
        order = sorted(kept_texts, key=lambda t, i=i: -float(scores[i, t]))
        ranks["txt"].append(next(place for place, t in enumerate(order) if whole.caption_image[t] == i))
    for t in kept_texts:
        order = sorted(range(12), key=lambda i, t=t: -float(backward[t, i]))
        ranks["img"].append(order.index(int(whole.caption_image[t])))
    for empty in ([], None):
        rows = [{**row, "caption": empty} if row["image"] in (3, 8) else row for row in GROUPED]
        result = evaluate(rows, k_test=1000)
        for name, found in ranks.items():
            for depth in (1, 5, 10):
                expected = 100 * sum(rank < depth for rank in found) / len(found)
                assert result.metrics[f"{name}_r{depth}"] == pytest.approx(expected)
        assert result.text_to_image.ids.shape == (len(kept_texts), 12)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, AlbefProcessor, Path]:
    """A model, its processor, and a folder with pictures."""
    folder = tmp_path_factory.mktemp("model")
    model = save_retrieval(folder)
    for number in range(6):
        Image.new("RGB", (40, 30), (40 * number, 90, 255 - 40 * number)).save(folder / f"{number}.png")
    return model, AlbefProcessor.from_pretrained(folder), folder


def pictures(folder: Path, with_id: bool = False) -> list[dict[str, Any]]:
    return [
        {"image": str(folder / f"{n}.png"), "caption": WORDS[(n + k) % 4], **({"image_id": n} if with_id else {})}
        for k in range(2)
        for n in range(6)
    ]


def test_paths_that_repeat_without_an_id_count_once_and_are_told(model: Any, caplog: pytest.LogCaptureFixture) -> None:
    net, processor, folder = model
    evaluator = RetrievalEvaluator(net, processor, k_test=4)
    with_ids = evaluator(pictures(folder, with_id=True)).metrics
    assert not caplog.records
    rows = pictures(folder)
    kinds = {
        "list": rows,
        "columns": datasets.Dataset.from_list(rows).cast_column("image", datasets.Image()),
        "embedded": datasets.Dataset.from_list(
            [{**row, "image": {"bytes": Path(row["image"]).read_bytes(), "path": None}} for row in rows]
        ).cast_column("image", datasets.Image()),
        "opened": [{**row, "image": Image.open(row["image"])} for row in rows],
    }
    for name, kind in kinds.items():
        caplog.clear()
        result = evaluator(kind)
        assert result.metrics == pytest.approx(with_ids), name
        assert result.image_to_text.ids.shape[0] == 6
        (record,) = caplog.records
        assert record.message.startswith("6 images are in several rows that have no image_id, such as "), name
        assert "Add image_id" in record.message
    caplog.clear()
    evaluator(rows[:6])  # each image once
    assert not caplog.records


def test_files_of_predictions_and_examples_name_the_rows_of_the_data(model: Any, tmp_path: Path) -> None:
    net, processor, folder = model
    rows = pictures(folder, with_id=True)
    rows = rows[6:9] + rows[:6] + rows[9:]  # the first rows of the images are 0 1 2 6 7 8
    result = RetrievalEvaluator(net, processor, k_test=3)(rows)
    assert result.image_rows == [0, 1, 2, 6, 7, 8]
    written = json.loads(result.write(rows, tmp_path)["predictions"].read_text())
    owners = {(row["image"], row["caption"]) for row in rows}
    assert [query["image"] for query in written["image_to_text"]] == [rows[n]["image"] for n in (0, 1, 2, 6, 7, 8)]
    for query in written["image_to_text"]:
        assert all(((query["image"], text["caption"]) in owners) >= text["correct"] for text in query["texts"])
    assert [len(query["images"]) for query in written["text_to_image"]] == [3] * 12
    for query, text in zip(written["text_to_image"], range(12), strict=True):
        own = rows[result.row_of(int(result.caption_image[text]))]["image"]
        assert [image["image"] == own for image in query["images"]] == [image["correct"] for image in query["images"]]
    of_captions, of_images = hardest_galleries([captions(result), images(result)], 12)
    assert len(of_captions.examples) == len(of_images.examples) == 6  # each image once
    for example in of_captions.examples:
        right = [candidate.row for candidate in example.candidates if candidate.credit == 1]
        assert [(rows[row]["image"], example.text) in owners for row in right] == [True]
    assert {example.row for example in of_images.examples} == {0, 1, 2, 6, 7, 8}


class Own(Dataset):
    """A data set that knows nothing but its rows."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]


def test_whatever_has_rows_and_a_length(model: Any) -> None:
    net, processor, folder = model
    evaluator, rows = RetrievalEvaluator(net, processor, k_test=4), pictures(folder, with_id=True)
    table = datasets.Dataset.from_list(rows)
    expected = evaluator(rows[:9]).metrics
    for kind in (
        tuple(rows[:9]),
        Own(rows[:9]),
        Subset(Own(rows), range(9)),
        Subset(table, list(range(9))),
        ConcatDataset([Own(rows[:4]), Own(rows[4:9])]),
        table.select(range(9)),
        table.select(range(9)).with_format("torch", columns=["image_id"], output_all_columns=True),
    ):
        assert evaluator(kind).metrics == pytest.approx(expected), kind


def test_images_are_not_kept_to_tell_them_apart(model: Any) -> None:
    """Of a data set that opens an image when a row is read, one is alive at a time."""
    net, processor, folder = model
    rows = pictures(folder)
    alive: list[weakref.ref[Any]] = []
    most = 0

    class Opening(Own):
        def __getitem__(self, index: int) -> dict[str, Any]:
            nonlocal most
            row = super().__getitem__(index)
            image = Image.open(row["image"]).convert("RGB")  # which forgets the file's name
            alive.append(weakref.ref(image))
            most = max(most, sum(one() is not None for one in alive))
            return {**row, "image": image}

    result = RetrievalEvaluator(net, processor, k_test=4, batch_size=1)(Opening(rows))
    assert len(result.image_to_text.ids) == 6 and most <= 3


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"a": []}, "The data to evaluate is a dict: give a data set with a length, or a list of rows"),
        (iter([]), "give a data set with a length"),
        ("shapes", "The data to evaluate is a str"),
        ([("a.png", "a circle")], "Row 0 is a tuple: give mappings"),
        ([{"image": "a.png", "caption": "a", "image_id": 1}, {"image": "a.png", "image_id": 1}], "have 'caption'"),
        ([{"image": "a.png", "caption": "a", "image_id": [1]}], r"Row 0: image_id is \[1\], which is not hashable"),
        ([{"image": "a.png", "caption": []}], "The data set has no caption"),
        ([], "The data set has no caption"),
        ([{"image": "a.png", "caption": float("nan")}], "A row has the caption nan, but must have a text or a list"),
        (datasets.Dataset.from_dict({"image": ["a.png"], "text": ["a"]}), "no column 'caption'; it has image, text"),
        (datasets.Dataset.from_dict({"picture": ["a.png"], "caption": ["a"]}), "no column 'image'; it has picture"),
    ],
)
def test_other_data_get_a_sentence(model: Any, data: Any, message: str) -> None:
    with pytest.raises(AlbefError, match=message):
        RetrievalEvaluator(model[0], model[1])(data)


def test_questions_need_neither_ids_nor_columns(tmp_path: Path) -> None:
    net = save_vqa(tmp_path)
    processor = AlbefProcessor.from_pretrained(tmp_path)
    for number in range(3):
        Image.new("RGB", (40, 30), (80 * number, 90, 255 - 80 * number)).save(tmp_path / f"{number}.png")
    plain = [
        {"image": str(tmp_path / f"{n % 3}.png"), "question": WORDS[n % 2], "answers": ["red", "red", "blue"]}
        for n in range(8)
    ]
    evaluator = VQAEvaluator(net, processor, net.config.decoder_config.answer_list, batch_size=3)
    unlabeled = [{"image": row["image"], "question": row["question"]} for row in plain]
    for rows in (unlabeled, datasets.Dataset.from_list(unlabeled)):
        assert evaluator(rows).metrics == {} and evaluator(rows).answers == evaluator(plain).answers
    with_ids = [{**row, "image_id": n % 3, "question_id": n} for n, row in enumerate(plain)]
    expected = evaluator(datasets.Dataset.from_list(with_ids))
    for rows in (with_ids, plain, [{**row, "image_id": ("i", row["image"])} for row in plain]):
        found = evaluator(rows)
        assert found.answers == expected.answers and found.metrics == expected.metrics
        assert torch.equal(found.probabilities, expected.probabilities)
