"""`pipeline("image-text-classification")` against the model itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from classification_cases import LABELS, labelled_rows, make_classifier, make_processor
from transformers import pipeline

from modeling_albef import AlbefError, AlbefForImageTextRetrieval, AlbefForVisualReasoning

make_pipeline: Any = pipeline  # whose overloads know the library's own tasks alone


@pytest.mark.parametrize(
    ("problem_type", "to_scores"),
    [(None, lambda x: x.softmax(0)), ("multi_label_classification", torch.sigmoid), ("regression", lambda x: x)],
)
def test_labels_are_those_of_the_model(problem_type: str | None, to_scores: Any, tmp_path: Path) -> None:
    model, rows, processor = (
        make_classifier(problem_type=problem_type).eval(),
        labelled_rows(tmp_path, 4),
        make_processor(),
    )
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    classify = make_pipeline("image-text-classification", model=str(tmp_path / "model"))
    expected = []
    for row in rows:
        with torch.no_grad():
            scores = to_scores(model(**processor(images=row["image"], text=row["text"], return_tensors="pt")).logits[0])
        expected.append(sorted(zip(scores.tolist(), LABELS, strict=True), reverse=True))
    pairs = [{"image": row["image"], "text": row["text"]} for row in rows]
    images, texts = [row["image"] for row in rows], [row["text"] for row in rows]
    for found in (
        classify(pairs),
        classify(images, texts),
        classify(images, texts, batch_size=3),
        map(classify, pairs),
    ):
        for labels, right in zip(found, expected, strict=True):
            assert [one["label"] for one in labels] == [name for _, name in right]
            assert [one["score"] for one in labels] == pytest.approx([score for score, _ in right], abs=1e-5)
    assert len(classify(image=images[0], text=texts[0], top_k=1)) == 1
    assert classify(image=images[0], text=texts)[1] == classify(image=images[0], text=texts[1])


def test_a_text_about_two_images(tmp_path: Path) -> None:
    """However the pairs are given, the labels are the model's; the order of the two counts."""
    torch.manual_seed(0)
    config = make_classifier().config
    model, processor = AlbefForVisualReasoning(config).eval(), make_processor()
    classify = make_pipeline("image-text-classification", model=model, processor=processor)
    rows = labelled_rows(tmp_path, 4)
    pairs = [[row["image"], rows[number - 1]["image"]] for number, row in enumerate(rows)]
    texts = [row["text"] for row in rows]
    expected = []
    for pair, text in zip(pairs, texts, strict=True):
        with torch.no_grad():
            logits = model(**processor(images=pair, text=text, return_tensors="pt")).logits[0]
        expected.append(dict(zip(LABELS, logits.softmax(0).tolist(), strict=True)))
    records = [{"image": one, "image_2": two, "text": text} for (one, two), text in zip(pairs, texts, strict=True)]
    listed = [{"image": pair, "text": text} for pair, text in zip(pairs, texts, strict=True)]
    single = [classify(image=tuple(pair), text=text) for pair, text in zip(pairs, texts, strict=True)]
    for found in (
        *(classify(pairs, texts, batch_size=size) for size in (1, 3)),
        *(classify(records), classify(listed, batch_size=2), single),
    ):
        for labels, right in zip(found, expected, strict=True):
            assert {one["label"]: one["score"] for one in labels} == pytest.approx(right, abs=1e-5)
    shared = classify(image=pairs[0], text=texts)
    assert len(shared) == 4 and shared[0] == single[0] != classify(image=pairs[0][::-1], text=texts[0])
    assert len(classify(image=pairs, text=texts[0])) == 4
    for images in (pairs[0][0], pairs[0][:1], [*pairs[0], pairs[1][0]]):
        with pytest.raises(AlbefError, match=r"A text comes with [13] images, but the model reads 2: give \[LEFT"):
            classify(image=images, text=texts[0])
    alone = make_pipeline("image-text-classification", model=make_classifier(), processor=processor)
    with pytest.raises(AlbefError, match="A text comes with 2 images, but the model reads 1: give one"):
        alone(records[0])


def test_what_cannot_be_classified_is_refused(tmp_path: Path) -> None:
    classify = make_pipeline("image-text-classification", model=make_classifier(), processor=make_processor())
    image = labelled_rows(tmp_path, 1)[0]["image"]
    for words, given in (
        ("There is no text", {"image": image}),
        ("2 images do not go with 1 texts", {"image": [image] * 2, "text": ["a"]}),
        ("top_k is 0", {"image": image, "text": "a circle", "top_k": 0}),
        ("The text 3 is no string", {"image": image, "text": 3}),
    ):
        with pytest.raises(AlbefError, match=words):
            classify(**given)
    other = AlbefForImageTextRetrieval(make_classifier().config)
    with pytest.raises(AlbefError, match="has no classifier"):
        make_pipeline("image-text-classification", model=other, processor=make_processor())(
            image=image, text="a circle"
        )
