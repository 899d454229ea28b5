"""A saved folder in sentence-transformers: scores and embeddings are those of the pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_models import save_retrieval
from transformers import pipeline

from modeling_albef import AlbefError
from processing import AlbefProcessor

pytest.importorskip("sentence_transformers", reason="the extra `sentence_transformers` is not installed")
import sentence_transformers as library

from modeling_albef.serving.cross_encoder import AlbefPairScorer, add_cross_encoder_files

QUERIES = ["a blue circle", "what is left of a red square"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sentence")
    save_retrieval(folder / "model")
    noise = np.random.default_rng(0)
    for number in range(6):
        pixels = noise.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((50, 40)).save(folder / f"{number}.png")
    add_cross_encoder_files(folder / "model")
    return folder


@pytest.fixture(scope="module")
def paths(place: Path) -> list[str]:
    return sorted(map(str, place.glob("*.png")))


@pytest.fixture(scope="module")
def encoder(place: Path) -> Any:
    return library.CrossEncoder(str(place / "model"), trust_remote_code=True)


@pytest.mark.parametrize("weight", [None, 0.7])
def test_scores_are_those_of_the_pipeline(place: Path, paths: list[str], encoder: Any, weight: float | None) -> None:
    search = pipeline("image-text-retrieval", model=str(place / "model"))
    search.model.config.rerank_weight = encoder[0].model.config.rerank_weight = weight
    search.index_images(paths)
    for query in QUERIES:
        wanted = {one["image"]: one["score"] for one in search(query, top_k=6)}
        scores = encoder.predict([(query, path) for path in paths])
        assert dict(zip(paths, scores.tolist(), strict=True)) == pytest.approx(wanted, abs=1e-6)
        ranked = encoder.rank(query, [Image.open(path) for path in paths])
        assert [paths[one["corpus_id"]] for one in ranked] == list(wanted)
    encoder[0].model.config.rerank_weight = None


def test_pairs_in_either_order(paths: list[str], encoder: Any) -> None:
    image = Image.open(paths[0])
    pairs = [(QUERIES[0], paths[0]), (image, QUERIES[0]), [QUERIES[0], {"image": image}]]
    scores = encoder.predict(pairs)
    assert scores.tolist() == pytest.approx([scores[0]] * 3, abs=1e-6)
    assert encoder.predict(pairs[0]) == pytest.approx(scores[0], abs=1e-6)
    with pytest.raises(AlbefError, match="A pair is a text and an image, not"):
        encoder.predict([(image, image)])


def test_a_saved_cross_encoder_is_loaded_again(paths: list[str], encoder: Any, tmp_path: Path) -> None:
    pairs = [(QUERIES[0], path) for path in paths]
    encoder.save_pretrained(str(tmp_path))
    again = library.CrossEncoder(str(tmp_path), trust_remote_code=True)
    np.testing.assert_array_equal(again.predict(pairs), encoder.predict(pairs))
    made = library.CrossEncoder(modules=[AlbefPairScorer.load(str(tmp_path))], activation_fn=torch.nn.Identity())
    np.testing.assert_array_equal(made.predict(pairs), encoder.predict(pairs))


def test_towers_are_a_sentence_transformer(place: Path, paths: list[str]) -> None:
    towers = library.SentenceTransformer(str(place / "model"))
    search = pipeline("image-text-retrieval", model=str(place / "model"))
    search.index_images(paths)
    images = towers.encode([Image.open(path) for path in paths])
    np.testing.assert_allclose(images, search.index.embeds.numpy(), atol=1e-6)
    found = towers.similarity(towers.encode(QUERIES), images)
    for row, query in enumerate(QUERIES):
        wanted = {one["image"]: one["similarity"] for one in search(query, k=0, top_k=6)}
        assert dict(zip(paths, found[row].tolist(), strict=True)) == pytest.approx(wanted, abs=1e-6)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    assert AlbefProcessor is not None  # whose import lets the library find it
    with pytest.raises(AlbefError, match="has no model: save a retrieval model"):
        add_cross_encoder_files(tmp_path)
