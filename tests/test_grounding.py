"""Where the heat maps of a trained model lie; and that the measure of it is right."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from run_cases import ONE_THREAD, ROOT

from benchmarks.grounding import coverage, measure, scene_shares, word_places
from dataset_scripts.shapes import Item, Scene
from modeling_albef import AlbefForImageTextRetrieval
from processing import AlbefProcessor


def test_coverage_of_patches() -> None:
    covered = coverage((0.25, 0.5, 0.625, 0.75), 4, 4)  # columns 1..2.5, row 2
    expected = np.zeros((4, 4))
    expected[2, 1], expected[2, 2] = 1, 0.5
    np.testing.assert_allclose(covered, expected)
    assert coverage((0.1, 0.2, 0.83, 0.97), 8, 8).mean() == pytest.approx(0.73 * 0.77)


def test_shares_of_maps() -> None:
    boxes = [(0.0, 0.0, 0.375, 0.25), (0.5, 0.5, 1.0, 1.0)]  # patches (0, 0), (0, 1); the lower right quarter
    heat = np.zeros((2, 2, 4, 4))
    heat[0, 0, 0, 1] = 3  # a half of this patch is covered
    heat[0, 1] = 1  # even
    heat[1, 0, 0, 0] = 2
    np.testing.assert_allclose(
        scene_shares(heat, boxes),
        [
            [[1, 2 / 16, 0.5, 1.5 / 16, 0], [2 / 16, 2 / 16, 1.5 / 16, 1.5 / 16, 4 / 16]],
            [[0, 4 / 16, 0, 4 / 16, 1], [0, 4 / 16, 0, 4 / 16, 0]],
        ],
    )


def test_places_of_words() -> None:
    scene = Scene("row", (Item("small", "red", "star"), Item("large", "red", "cross"), Item("small", "blue", "star")))
    tokens = ["[CLS]", *"a red star left of a red cross left of a blue star".split()]
    assert word_places(tokens, scene) == [[2, 3], [7, 8], [12, 13]]


@pytest.mark.slow
def test_words_look_at_their_objects(tmp_path: Path) -> None:
    """The demo model, trained here as `make demo` trains it, on scenes that it has not seen."""
    words = ["configs/demo_retrieval.yaml", "--use_cpu", "--output_dir", str(tmp_path), "--do_predict", "false"]
    command = [sys.executable, "run_retrieval.py", *words, "--disable_tqdm", "true"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **ONE_THREAD}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    model = AlbefForImageTextRetrieval.from_pretrained(tmp_path)
    found = measure(model, AlbefProcessor.from_pretrained(tmp_path), "test", 100)
    print(f"{found.on_box:.1%} of the mass on the object's patches, which are {found.chance:.1%} of all")
    assert found.on_box > 0.5
    assert found.chance < 0.2 and found.on_others < 0.2
    assert min(found.by_kind) > 0.4
