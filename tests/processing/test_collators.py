"""Batches hold the right numbers, and the one warning comes once."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertTokenizer

from processing import (
    AlbefImageProcessor,
    AlbefProcessor,
    ProcessingError,
    RetrievalCollator,
    UnreadableImageError,
    VQACollator,
)

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "ball", "##s"]
MEAN, STD = AlbefImageProcessor.image_mean, AlbefImageProcessor.image_std
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def processor() -> AlbefProcessor:
    tokenizer = BertTokenizer(vocab={token: number for number, token in enumerate(TOKENS)})
    return AlbefProcessor(AlbefImageProcessor(size=8), tokenizer, text_type="question", max_words=2)


def rows(*ids: int) -> list[dict[str, object]]:
    captions = ["A red ball!", "balls", "..."]
    return [
        {"image": Image.fromarray(IMAGES[number]), "caption": captions[number], "image_id": image_id}
        for number, image_id in enumerate(ids)
    ]


def test_retrieval_batch(processor: AlbefProcessor) -> None:
    batch = RetrievalCollator(processor)(rows(7, 2**40, 7))
    assert type(batch) is dict
    assert sorted(batch) == ["attention_mask", "image_ids", "input_ids", "pixel_values"]
    assert batch["input_ids"].tolist() == [[2, 5, 6, 7], [2, 7, 8, 0], [2, 0, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0]]
    assert batch["image_ids"].tolist() == [7, 2**40, 7] and batch["image_ids"].dtype == torch.int64
    assert batch["pixel_values"].dtype == torch.float32
    expected = ((IMAGES / 255 - MEAN) / STD).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(batch["pixel_values"].numpy(), expected, atol=1e-6)


def test_limits(processor: AlbefProcessor) -> None:
    assert RetrievalCollator(processor, max_words=2)(rows(1, 2))["input_ids"].tolist() == [[2, 5, 6], [2, 7, 8]]
    assert RetrievalCollator(processor, max_length=2)(rows(1, 2))["input_ids"].tolist() == [[2, 5], [2, 7]]
    again = RetrievalCollator(processor)(rows(1, 2))["input_ids"]  # a limit of one call does not stay
    assert again.tolist() == [[2, 5, 6, 7], [2, 7, 8, 0]]


def test_only_images_of_another_size_are_resized(processor: AlbefProcessor, monkeypatch: pytest.MonkeyPatch) -> None:
    given, resized, original = rows(1, 2, 3), [], Image.Image.resize
    given[1]["image"] = given[1]["image"].resize((9, 8))
    monkeypatch.setattr(
        Image.Image,
        "resize",
        lambda image, size, *args: resized.append((image.size, size)) or original(image, size, *args),
    )
    assert RetrievalCollator(processor)(given)["pixel_values"].shape == (3, 3, 8, 8)
    assert resized == [((9, 8), (8, 8))]


def test_warns_once_without_negatives(processor: AlbefProcessor, caplog: pytest.LogCaptureFixture) -> None:
    collator = RetrievalCollator(processor)
    with caplog.at_level(logging.WARNING, logger="processing.collators"):
        collator(rows(4))
        collator(rows(4, 5))
        assert not caplog.records
        collator(rows(4, 4, 4))
        collator(rows(4, 4))
    assert [record.getMessage() for record in caplog.records] == [
        "All 3 rows of a batch show image 4, so the matching loss has no negatives: shuffle the data, or check that "
        "image_id differs from image to image. This warning is not repeated."
    ]


def test_bad_rows(processor: AlbefProcessor, tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="lacks 'caption'; it has image, image_id"):
        RetrievalCollator(processor)([{"image": IMAGES[0], "image_id": 1}])
    with pytest.raises(UnreadableImageError, match=r"no\.png' does not exist"):
        RetrievalCollator(processor)([{**rows(1)[0], "image": tmp_path / "no.png"}])
    without = {**rows(1)[0], "question": "what?", "answers": []}
    with pytest.raises(ProcessingError, match=r"The question 'what\?' has no answer: training needs"):
        VQACollator(processor)([without])


def test_questions_share_their_image(processor: AlbefProcessor) -> None:
    given = [
        {**row, "question": row["caption"], "answers": ["red"]} for row in [*rows(7, 9), *rows(7)]
    ]  # the third is about the first's image
    given[2]["question"] = "balls"
    apart, shared = VQACollator(processor)(given), VQACollator(processor, share_images=True)(given)
    assert "image_index" not in apart
    assert shared["image_index"].tolist() == [0, 1, 0]
    assert torch.equal(shared.pop("pixel_values")[shared.pop("image_index")], apart.pop("pixel_values"))
    assert apart.keys() == shared.keys() and all(torch.equal(apart[name], shared[name]) for name in apart)
    for row in given:
        del row["image_id"]
    assert VQACollator(processor, share_images=True)(given)["image_index"].tolist() == [0, 1, 0]  # by content


def test_answers_weigh_what_their_annotators_share(processor: AlbefProcessor) -> None:
    """Of ten annotators each counts 0.1; the one answer of a Visual Genome row 0.5."""
    image = Image.fromarray(IMAGES[0])
    given = [
        {"image": image, "question": "a", "answers": ["red"] * 7 + ["ball"] * 3},
        {"image": image, "question": "a", "answers": ["ball"], "answer_weight": 0.5},
        {"image": image, "question": "a", "answers": ["a", "red", "ball", "red"], "answer_weight": 2.0},
    ]
    batch = VQACollator(processor)(given)
    torch.testing.assert_close(batch["answer_weights"], torch.tensor([0.7, 0.3, 0.5, 0.5, 1.0, 0.5]))
    assert batch["answers_per_question"].tolist() == [2, 1, 3]


def test_questions_are_cut_to_the_published_25_tokens(processor: AlbefProcessor) -> None:
    question = {"image": Image.fromarray(IMAGES[0]), "question": "red " * 40, "answers": ["a"]}
    assert VQACollator(processor)([question])["input_ids"].tolist() == [[2] + [6] * 24]


def test_captions_and_questions_are_cleaned_each_in_its_way(processor: AlbefProcessor) -> None:
    """The empty words between leading spaces count in a question alone; the processor's own kind does not matter."""
    given = {**rows(1)[0], "caption": "  red ball", "question": "  red ball", "answers": ["a"]}
    for text_type in ("caption", "question"):
        processor.text_type = text_type
        assert RetrievalCollator(processor, max_words=2)([given])["input_ids"].tolist() == [[2, 6, 7]]
        assert VQACollator(processor, max_words=2)([given])["input_ids"].tolist() == [[2]]


def test_without_a_limit_nothing_is_cut(processor: AlbefProcessor) -> None:
    """Nor does the library warn of a length that it does not use."""
    given = [{**rows(1)[0], "caption": "red " * 30}]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert RetrievalCollator(processor)(given)["input_ids"].shape == (1, 31)
    processor.tokenizer.model_max_length = 7
    assert RetrievalCollator(processor)(given)["input_ids"].shape == (1, 7)
    assert RetrievalCollator(processor, max_length=5)(given)["input_ids"].shape == (1, 5)


def test_names_of_images(processor: AlbefProcessor, tmp_path: Path) -> None:
    """What a message calls a batch's images: each once, in their order, replaced ones apart."""
    path = tmp_path / "a.png"
    image = Image.fromarray(IMAGES[0])
    image.save(path)
    bare = {"caption": "a ball", "question": "a ball", "answers": ["a"]}
    given = [
        {**bare, "image": str(path), "image_name": "row 3", "image_id": 1, "replaced_image": "row 2"},
        {**bare, "image": str(path), "image_id": 2},
        {**bare, "image": image, "image_id": 7},
        {**bare, "image": image},
        {**bare, "image": str(path), "image_id": 3},
    ]
    expected = ["row 3", repr(str(path)), "7", "?"]
    for collator in (RetrievalCollator, VQACollator):
        batch = collator(processor, with_names=True)(given)
        assert batch["image_names"] == expected and batch["replaced_images"] == ["row 2"]
        assert "replaced_images" not in collator(processor, with_names=True)(given[1:])
        assert not {"image_names", "replaced_images"} & set(collator(processor)(given))


def test_a_batch_of_two_without_negatives(processor: AlbefProcessor, caplog: pytest.LogCaptureFixture) -> None:
    collator = RetrievalCollator(processor)
    with caplog.at_level(logging.WARNING, logger="processing.collators"):
        collator(rows(4, 5, 5))
        assert not caplog.records
        collator(rows(4, 4))
        (record,) = caplog.records
        assert "All 2 rows of a batch show image 4, so" in record.getMessage()


def test_rows_that_cannot_be_trained_on_are_quoted(processor: AlbefProcessor) -> None:
    with pytest.raises(ProcessingError, match=r"A row has the caption \['a', 'b'\], but training takes one a row"):
        RetrievalCollator(processor)([{**rows(1)[0], "caption": ["a", "b"]}])
    with pytest.raises(ProcessingError, match=r"An image of type int cannot be compared: add image_id"):
        RetrievalCollator(processor)([{"image": 3, "caption": "a"}])


def test_question_batch(processor: AlbefProcessor) -> None:
    """Every field of a batch of two questions, of which the second has two answers; labels hide the padding."""
    image = Image.fromarray(IMAGES[0])
    given = [
        {"image": image, "question": "A red ball?", "answers": ["a"]},
        {"image": image, "question": "balls", "answers": ["red ball", "red ball", "a"]},
    ]
    batch = VQACollator(processor)(given)
    assert type(batch) is dict
    assert {name: value.tolist() for name, value in batch.items() if name != "pixel_values"} == {
        "input_ids": [[2, 5, 6, 7], [2, 7, 8, 0]],
        "attention_mask": [[1, 1, 1, 1], [1, 1, 1, 0]],
        "answer_input_ids": [[2, 5, 3, 0], [2, 6, 7, 3], [2, 5, 3, 0]],
        "answer_attention_mask": [[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 0]],
        "labels": [[2, 5, 3, -100], [2, 6, 7, 3], [2, 5, 3, -100]],
        "answer_weights": [1.0, pytest.approx(2 / 3), pytest.approx(1 / 3)],
        "answers_per_question": [1, 2],
    }
    assert (batch["answer_weights"].dtype, batch["answers_per_question"].dtype) == (torch.float32, torch.int64)
    assert VQACollator(processor, max_answer_length=4)(given).keys() == batch.keys()
    given[0]["answers"] = ["a " * 60]
    with pytest.raises(ProcessingError, match=f"The answer '{'a ' * 30}' .. has 62 tokens"):
        VQACollator(processor, max_answer_length=3)(given)
    given[0]["answers"] = ["a"]
    with pytest.raises(ProcessingError, match=r"The answer 'red ball' \.\. has 4 tokens, .* at most 3: shorten it"):
        VQACollator(processor, max_answer_length=3)(given)


def test_weights_are_float32_whatever_the_default(processor: AlbefProcessor) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        given = [{"image": Image.fromarray(IMAGES[0]), "question": "a", "answers": ["a"]}]
        assert VQACollator(processor)(given)["answer_weights"].dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_rows_with_stored_states_need_no_image(processor: AlbefProcessor) -> None:
    """States (P, H) of three images are stacked in the order of the rows; no pixels are made."""
    states = torch.arange(24.0).view(3, 4, 2)
    bare = {"caption": "a", "question": "a", "answers": ["a"]}
    given = [{**bare, "image_id": number, "image_hidden_states": states[number]} for number in (2, 0, 1)]
    for collator in (RetrievalCollator, VQACollator):
        batch = collator(processor)(given)
        assert torch.equal(batch["image_hidden_states"], states[[2, 0, 1]]) and "pixel_values" not in batch
