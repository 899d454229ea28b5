"""Texts of which the vocabulary knows nothing, or little, do not train or pass without a word."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast

from processing import (
    AlbefImageProcessor,
    AlbefProcessor,
    ProcessingError,
    RetrievalCollator,
    VQACollator,
    build_tokenizer,
)
from processing.processing_albef import count_unknown

CHINESE = ["红色的圆", "蓝色的方块", "绿色的星星"]
ENGLISH = ["a red circle", "a blue square"]


@pytest.fixture
def processor() -> AlbefProcessor:
    return AlbefProcessor(AlbefImageProcessor(size=8), build_tokenizer(ENGLISH))


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("processing"), "propagate", True)
    return lambda: [record.getMessage() for record in caplog.records if "vocabulary" in record.getMessage()]


@pytest.mark.parametrize("tensors", [None, "np", "pt"])
def test_unknown_tokens_are_counted(processor: AlbefProcessor, tensors: str | None) -> None:
    texts = ["a 红 circle", "", "圆 圆"]
    ids = processor(text=texts, padding=True, return_tensors=tensors)["input_ids"]
    assert count_unknown(processor.tokenizer, ids) == (3, 5)
    assert count_unknown(processor.tokenizer, processor(text=texts[0])["input_ids"]) == (1, 3)
    ended = processor.encode_answers(texts)["input_ids"]
    assert count_unknown(processor.tokenizer, ended) == (3, 5)
    assert isinstance(processor.tokenizer, PreTrainedTokenizerFast)


def test_the_processor_warns_once(processor: AlbefProcessor, warned: Callable[[], list[str]]) -> None:
    processor(text=CHINESE)
    (message,) = warned()
    assert "lacks 100% of the texts' tokens, such as '红色的圆': take a tokenizer" in message
    processor(text=CHINESE)
    assert len(warned()) == 1


def test_more_than_a_tenth_is_judged_by_fifty_tokens(
    processor: AlbefProcessor, warned: Callable[[], list[str]]
) -> None:
    processor(text=["a 红 circle"] * 16)  # 16 of 48
    assert not warned()
    processor(text="a red 圆")
    (message,) = warned()
    assert "lacks 33% of the texts' tokens" in message


def test_a_tenth_is_no_matter(processor: AlbefProcessor, warned: Callable[[], list[str]]) -> None:
    for _ in range(200):
        processor(text="a red circle a blue square a red circle 红")
    assert not warned() and not processor.judges_vocabulary  # after 1,000 tokens
    processor(text=CHINESE)
    assert not warned()


def rows(captions: list[str]) -> list[dict[str, object]]:
    image = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    return [{"image": image, "caption": text, "question": text, "answers": ["a"], "image_id": 1} for text in captions]


@pytest.mark.parametrize("collator", [RetrievalCollator, VQACollator])
def test_training_stops_where_no_word_is_known(processor: AlbefProcessor, collator: type) -> None:
    message = r"The vocabulary knows no word of the first 3 texts, such as '红色的圆': .*`--tokenizer`"
    with pytest.raises(ProcessingError, match=message):
        collator(processor)(rows(CHINESE))
    one_by_one = collator(processor)
    one_by_one(rows(CHINESE[:1]))
    one_by_one(rows(["!"]))  # no token at all
    with pytest.raises(ProcessingError, match="the first 2 texts, such as '蓝色的方块'"):
        one_by_one(rows(CHINESE[1:2]))
    knowing = collator(processor)
    knowing(rows([*CHINESE, ENGLISH[0]]))
    assert torch.equal(knowing(rows(CHINESE))["input_ids"], knowing(rows(CHINESE))["input_ids"])


def test_the_judgement_is_not_saved(processor: AlbefProcessor, tmp_path: object) -> None:
    processor(text=CHINESE)
    assert "judge" not in str(processor.to_dict()) and "_tokens" not in str(processor.to_dict())


def test_two_texts_are_enough_to_stop(processor: AlbefProcessor) -> None:
    with pytest.raises(ProcessingError, match="the first 2 texts"):
        RetrievalCollator(processor)(rows(CHINESE[:2]))
    collator = RetrievalCollator(processor)
    for _ in range(3):
        collator(rows(["!"]))  # texts without a token tell nothing
    collator(rows(CHINESE[:1]))
    with pytest.raises(ProcessingError, match="the first 2 texts"):
        collator(rows(CHINESE[1:2]))
    long = RetrievalCollator(processor)
    with pytest.raises(ProcessingError, match=f"such as '{'圆' * 60}':"):
        long(rows(["圆" * 90, "圆"]))


def test_one_known_word_settles_it(processor: AlbefProcessor) -> None:
    collator = RetrievalCollator(processor)
    collator(rows(ENGLISH[:1]))
    collator(rows(CHINESE))
    collator(rows(CHINESE[:1]))
