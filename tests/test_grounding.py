"""Where the heat maps of a trained model lie; and that the measure of it is right."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from run_cases import ONE_THREAD, ROOT
from small_models import save_retrieval, save_vqa

from benchmarks.grounding import coverage, measure, word_shares, words_of_caption, words_of_questions
from dataset_scripts.drawn.scenes import Item, Scene
from modeling_albef import AlbefForQuestionAnswering
from modeling_albef.explain.gradcam import gradcam
from processing import AlbefProcessor


def test_coverage_of_patches() -> None:
    covered = coverage((0.25, 0.5, 0.625, 0.75), 4, 4)  # columns 1..2.5, row 2
    expected = np.zeros((4, 4))
    expected[2, 1], expected[2, 2] = 1, 0.5
    np.testing.assert_allclose(covered, expected)
    assert coverage((0.1, 0.2, 0.83, 0.97), 8, 8).mean() == pytest.approx(0.73 * 0.77)


def test_shares_of_maps() -> None:
    boxes = [(0.0, 0.0, 0.375, 0.25), (0.5, 0.5, 1.0, 1.0)]  # patches (0, 0), (0, 1); the lower right quarter
    heat = np.zeros((4, 4))
    heat[0, 1] = 3  # a half of this patch is covered
    assert word_shares(heat, boxes, 0) == pytest.approx((1, 2 / 16, 0.5, 1.5 / 16, 0))
    assert word_shares(heat, boxes, 1) == pytest.approx((0, 4 / 16, 0, 4 / 16, 1))
    assert word_shares(np.ones((4, 4)), boxes, 0) == pytest.approx((2 / 16, 2 / 16, 1.5 / 16, 1.5 / 16, 4 / 16))
    assert word_shares(np.zeros((4, 4)), boxes, 0) == pytest.approx((0, 2 / 16, 0, 1.5 / 16, 0))


@pytest.mark.parametrize("save", [save_retrieval, save_vqa])
def test_words_have_their_own_maps(save: Any, tmp_path: Path) -> None:
    """Each word's map is that of its own token, also where a word comes twice."""
    model = save(tmp_path)
    processor = AlbefProcessor.from_pretrained(tmp_path)
    names = [("green", "star"), ("green", "square"), ("blue", "star")]
    scene = Scene("row", tuple(Item("small", *name) for name in names))
    image = Image.new("RGB", (32, 32), (200, 30, 90))
    if save is save_retrieval:
        words = words_of_caption(model, processor, image, scene, None)
        text = "a green star left of a green square left of a blue star"
        inputs = processor(images=image, text=text, return_tensors="pt")
        maps = gradcam(model, **inputs)[0]
        tokens = processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist())
        places = [place for place, token in enumerate(tokens) if token in ("green", "blue", "star", "square")]
        assert [(number, kind) for number, kind, _ in words] == [(n, k) for n in range(3) for k in ("color", "shape")]
        for (_, _, heat), place in zip(words, places, strict=True):
            np.testing.assert_array_equal(heat, maps[place])
        return
    words = words_of_questions(model, processor, image, scene, None)
    assert [(number, kind) for number, kind, _ in words] == [(1, "shape"), (2, "color")]  # the others come twice
    answer = processor.encode_answers(["yes"])["input_ids"]
    for text, word, (_, _, heat) in zip(
        ("is there a green square", "is there a blue star"), ("square", "blue"), words, strict=True
    ):
        inputs = processor(images=image, text=text, return_tensors="pt")
        token = processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist()).index(word)
        np.testing.assert_array_equal(heat, gradcam(model, **inputs, answer_input_ids=answer)[0, token])


@pytest.mark.slow
def test_a_word_looks_at_its_object(tmp_path: Path) -> None:
    """The model of `make demo-vqa`, trained here, on scenes that it has not seen."""
    words = ["configs/demo_vqa.yaml", "--use_cpu", "--output_dir", str(tmp_path), "--do_predict", "false"]
    command = [sys.executable, "run_vqa.py", *words, "--disable_tqdm", "true"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **ONE_THREAD}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    model = AlbefForQuestionAnswering.from_pretrained(tmp_path)
    found = measure(model, AlbefProcessor.from_pretrained(tmp_path), "test", 100)
    print(f"{found.on_box:.1%} of a word's mass on its object; chance {found.chance:.1%}; all of it: {found}")
    assert found.on_box > 0.5 > 2 * found.chance
