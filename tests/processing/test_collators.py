"""Batches hold the right numbers, and the one warning comes once."""

from __future__ import annotations

import logging
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
