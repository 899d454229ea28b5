"""An index in LanceDB finds what the one in memory finds, and is brought up to date file by file."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_models import save_retrieval
from transformers import pipeline

from modeling_albef import AlbefError

pytest.importorskip("lancedb", reason="the extra `lancedb` is not installed")
from modeling_albef.serving.lance_index import LanceIndex

QUERIES = ["a blue circle", "what is left of a red square"]


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("lance")
    save_retrieval(folder)
    return pipeline("image-text-retrieval", model=str(folder))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    noise = np.random.default_rng(0)
    for number in range(30):
        pixels = noise.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((50, 40)).save(folder / f"it's {number:02}.png")
    return folder


def same(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    assert [one["image"] for one in found] == [one["image"] for one in wanted]
    for name in found[0].keys() - {"image"}:
        assert [one[name] for one in found] == pytest.approx([one[name] for one in wanted], abs=1e-4)


def test_it_finds_what_the_index_in_memory_finds(search: Any, photos: Path, tmp_path: Path) -> None:
    search.index_images(photos)
    wanted = {k: search(QUERIES, k=k, top_k=4) for k in (0, 8)}
    like = search(image=search.index.names[3], top_k=3)
    LanceIndex(tmp_path / "database").update(search, photos)
    search.index = LanceIndex(tmp_path / "database")  # after a restart
    for k, lists in wanted.items():
        for found, one in zip(search(QUERIES, k=k, top_k=4), lists, strict=True):
            same(found, one)
    same(search(image=like[0]["image"], top_k=3), like)


def test_only_what_changed_is_encoded(search: Any, photos: Path, tmp_path: Path) -> None:
    count: list[int] = []
    tower = search.model.albef.vision_model
    handle = tower.register_forward_hook(lambda module, inputs, output: count.append(len(output.last_hidden_state)))
    index = LanceIndex(tmp_path / "database")
    index.update(search, photos)
    assert sum(count) == len(index) == 30
    index.update(search, photos)
    assert sum(count) == 30
    (photos / "it's 00.png").unlink()
    shutil.copy(photos / "it's 02.png", photos / "it's 01.png")
    Image.new("RGB", (30, 20), (0, 200, 0)).save(photos / "new.png")
    (photos / "broken.png").write_bytes(b"no image")
    index.update(search, photos)
    assert sum(count) == 32 and len(index) == 30
    assert [Path(one.name).name for one in index.skipped] == ["broken.png"]
    assert index.skipped[0].reason.startswith("is no image that Pillow knows")
    handle.remove()
    search.index = index
    names = {Path(one["image"]).name for one in search(QUERIES[0], k=0, top_k=40)}
    assert names == {path.name for path in photos.iterdir()} - {"broken.png"}


def test_what_is_wrong_is_said(search: Any, tmp_path: Path) -> None:
    search.index = LanceIndex(tmp_path / "database")
    with pytest.raises(AlbefError, match="The database holds no images: call `update` first"):
        search(QUERIES[0])
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(AlbefError, match="None of 1 images can be read: is no image"):
        search.index.update(search, [tmp_path / "broken.png"])
