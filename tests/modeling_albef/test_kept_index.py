"""An index of images that is kept on disk: what is encoded again, what is left out, and that scores stay."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_models import save_retrieval
from transformers import pipeline
from transformers.utils import logging

from modeling_albef import AlbefConfig, AlbefError, AlbefForImageTextRetrieval, index_albef, kept_images_albef
from modeling_albef.packed_fusion_albef import match_images
from processing.image_processing_albef import FORMATS

COUNT = 150  # three blocks
QUERIES = ["a blue circle", "what is left of a red square", "a green star above it", "red"]
FLOAT16_ERROR = 3e-3  # of a score, with these weights


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    save_retrieval(folder / "model")
    (folder / "photos").mkdir()
    noise = np.random.default_rng(0)
    for number in range(COUNT):
        pixels = noise.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((50, 40)).save(folder / f"photos/{number:03}.png")
    return folder


@pytest.fixture
def place(source: Path, tmp_path: Path) -> Path:
    shutil.copytree(source / "photos", tmp_path / "photos")
    return tmp_path


@pytest.fixture
def search(source: Path) -> Any:
    return pipeline("image-text-retrieval", model=str(source / "model"))


class Count:
    """Counts the images that go through the vision tower of a pipeline."""

    def __init__(self, pipe: Any) -> None:
        self.images = 0
        pipe.model.albef.vision_model.register_forward_hook(self._add)

    def _add(self, module: Any, inputs: Any, output: Any) -> None:
        self.images += len(output.last_hidden_state)

    def since(self) -> int:
        found, self.images = self.images, 0
        return found


def names(search: Any) -> list[str]:
    return [Path(name).name for name in search.index.names]


def test_ranking_by_kept_states_encodes_no_image(search: Any, source: Path, place: Path) -> None:
    search.index_images(place / "photos")
    wanted = search(QUERIES, k=20, top_k=20)
    count = Count(search)
    search.index_images(place / "photos", keep_in=place / "index")
    assert count.since() == COUNT
    again = pipeline("image-text-retrieval", model=str(source / "model"))
    again.load_index(place / "index")  # after a restart
    for pipe in (search, again):
        count = Count(pipe)
        found = pipe(QUERIES, k=20, top_k=20)
        assert count.since() == 0
        for one, other in zip(found, wanted, strict=True):
            scores = {entry["image"]: entry["score"] for entry in other}
            assert [entry["image"] for entry in one] == [entry["image"] for entry in other]
            assert {entry["image"]: entry["score"] for entry in one} == pytest.approx(scores, abs=FLOAT16_ERROR)
    shutil.rmtree(place / "photos")  # nothing opens it
    assert len(again(QUERIES[0], k=20)) == 5


def test_only_what_changed_is_encoded(search: Any, place: Path) -> None:
    photos, count = place / "photos", Count(search)
    search.index_images(photos, keep_in=place / "index")
    assert count.since() == COUNT
    search.index_images(photos, keep_in=place / "index")
    assert count.since() == 0
    (photos / "000.png").unlink()
    shutil.copy(photos / "001.png", photos / "copy.png")  # the same content
    Image.new("RGB", (30, 20), (200, 0, 0)).save(photos / "002.png")
    Image.new("RGB", (30, 20), (0, 200, 0)).save(photos / "new.png")
    (photos / "003.png").rename(photos / "moved.png")
    os.utime(photos / "004.png")  # touched
    search.index_images(photos, keep_in=place / "index")
    assert count.since() == 2
    assert names(search) == sorted(path.name for path in photos.iterdir())
    search.index_images(photos)
    fresh = search.index
    search.load_index(place / "index")
    torch.testing.assert_close(search.index.embeds, fresh.embeds)


def test_images_are_added_and_removed(search: Any, place: Path) -> None:
    paths = sorted(map(str, (place / "photos").iterdir()))
    for options in ({}, {"keep_in": place / "index"}):
        search.index_images(paths[:10], **options)
        count = Count(search)
        search.add_images([Path(paths[10]), paths[11]])
        assert count.since() == 2 and search.index.names == paths[:12]
        search.remove_images(paths[:2])
        search.remove_images(Path(paths[2]))
        assert count.since() == 0 and search.index.names == paths[3:12]
        embeds = search.index.embeds
        search.index_images(paths[3:12])
        torch.testing.assert_close(embeds, search.index.embeds)
        with pytest.raises(AlbefError, match=r"000\.png' is not indexed: give paths as"):
            search.remove_images(paths[:1])
        with pytest.raises(AlbefError, match="No image would be left: keep one at least"):
            search.remove_images(search.index.names)


def test_an_interrupted_indexing_goes_on(search: Any, place: Path) -> None:
    def interrupt(module: Any, inputs: Any, output: Any) -> None:
        counted.append(len(output.last_hidden_state))
        if sum(counted) > 100:
            raise KeyboardInterrupt

    counted: list[int] = []
    handle = search.model.albef.vision_model.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        search.index_images(place / "photos", keep_in=place / "index")
    handle.remove()
    count = Count(search)
    search.index_images(place / "photos", keep_in=place / "index")
    assert count.since() == COUNT - 64  # the first block was written


def test_a_damaged_block_is_encoded_again(search: Any, place: Path) -> None:
    search.index_images(place / "photos", keep_in=place / "index")
    block = sorted((place / "index").rglob("blocks/*/*.safetensors"))[0]
    block.write_bytes(block.read_bytes()[:99])
    count = Count(search)
    search.index_images(place / "photos", keep_in=place / "index")
    assert count.since() in (64, COUNT - 128)


def test_what_is_removed_leaves_the_disk(search: Any, place: Path) -> None:
    search.index_images(place / "photos", keep_in=place / "index")
    size = sum(path.stat().st_size for path in (place / "index/blocks").rglob("*.safetensors"))
    for path in sorted((place / "photos").iterdir())[10:]:
        path.unlink()
    count = Count(search)
    search.index_images(place / "photos", keep_in=place / "index")
    left = sum(path.stat().st_size for path in (place / "index/blocks").rglob("*.safetensors"))
    assert count.since() == 0 and left < size / 10
    assert len(search(QUERIES[0], k=10, top_k=10)) == 10


def test_what_cannot_be_read_is_listed(search: Any, place: Path) -> None:
    photos = place / "photos"
    for path in sorted(photos.iterdir())[5:]:
        path.unlink()
    (photos / "broken.png").write_bytes(b"no image")
    (photos / "drawing.svg").write_text("<svg/>")
    for options in ({}, {"keep_in": place / "index"}):
        search.index_images(photos, **options)
        assert len(search.index.names) == 5
        assert {Path(name).name: reason for name, reason in search.index.skipped} == {
            "broken.png": "is no image that Pillow knows: convert it, fetch it again or leave it out",
            "drawing.svg": "is of a format that is not read here",
        }
        with pytest.raises((AlbefError, ValueError), match=r"broken\.png' is no image that Pillow knows"):
            search.index_images([photos / "broken.png", photos / "000.png"], **options)
    search.index_images([photos / "gone.png", photos / "000.png"], keep_in=place / "index", skip_unreadable=True)
    assert [tuple(one) for one in search.index.skipped] == [
        (str(photos / "gone.png"), "cannot be read (No such file or directory)")
    ]
    with pytest.raises(AlbefError, match=r"None of 1 images can be read \(.*broken\.png' is no image"):
        search.index_images([photos / "broken.png"], skip_unreadable=True)


def test_an_index_of_another_model_is_refused(search: Any, source: Path, place: Path) -> None:
    search.index_images(place / "photos", keep_in=place / "index")
    torch.manual_seed(1)
    weight = search.model.albef.vision_proj.weight
    weight.data += torch.randn_like(weight)
    with pytest.raises(AlbefError, match="was made by another model: index again with this one"):
        search.load_index(place / "index")
    count = Count(search)
    search.index_images(place / "photos", keep_in=place / "index", keep_states=False)
    assert count.since() == COUNT and len(list((place / "index/blocks").iterdir())) == 1
    search(QUERIES[0], k=3, top_k=3)
    assert count.since() == 3  # states were not kept
    with pytest.raises(AlbefError, match="An index that is kept is one of files"):
        search.index_images([Image.new("RGB", (9, 9))], keep_in=place / "index")


def test_states_in_memory_are_few(search: Any, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search.index_images(place / "photos", keep_in=place / "index")
    kept = search.index.kept
    wanted = kept.states_of(search.index.names)
    monkeypatch.setattr(kept_images_albef, "MEMORY", 10 * wanted[0].nbytes)
    kept._memory.clear()
    assert torch.equal(kept.states_of(search.index.names), wanted)
    assert list(kept._memory) == [kept.files[name][2] for name in search.index.names[-10:]]  # those used last


def test_images_like_an_image(search: Any, place: Path) -> None:
    search.index_images(place / "photos")
    path = search.index.names[7]
    found = search(image=path, top_k=3)
    assert set(found[0]) == {"image", "similarity"} and found[0]["image"] == path
    assert found[0]["similarity"] == pytest.approx(1.0, abs=1e-5)
    wanted = (search.index.embeds @ search.index.embeds[7]).topk(3)
    assert [one["image"] for one in found] == [search.index.names[row] for row in wanted.indices]
    assert [one[0]["image"] for one in search(image=[path, path], top_k=1)] == [path] * 2


def test_queries_of_a_list_run_together(search: Any, place: Path) -> None:
    search.index_images(place / "photos", keep_in=place / "index")
    one_by_one = [search(query, top_k=4) for query in QUERIES]
    calls: list[int] = []
    tower = search.model.albef.text_model
    tower.register_forward_hook(lambda module, inputs, output: calls.append(len(output.last_hidden_state)))
    together = search(QUERIES, top_k=4)
    assert calls[:1] == [len(QUERIES)]
    for one, other in zip(together, one_by_one, strict=True):
        assert [entry["image"] for entry in one] == [entry["image"] for entry in other]
        assert [entry["score"] for entry in one] == pytest.approx([entry["score"] for entry in other], abs=1e-4)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_folded_attention_equals_the_plain_one(source: Path, implementation: str, side: str) -> None:
    model = AlbefForImageTextRetrieval.from_pretrained(source / "model", attn_implementation=implementation)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            weight.data.normal_()  # that of the keys cancels, that of the values does not
    torch.manual_seed(0)
    lengths, config = torch.tensor([2, 5, 3]), model.config
    mask = (torch.arange(5) < lengths[:, None]).long()
    mask = mask if side == "right" else mask.flip(1)
    states = torch.randn(3, 5, config.text_config.hidden_size)
    images = torch.randn(3, 17, config.vision_config.hidden_size)
    pairs = torch.tensor([[0, 2], [1, 2], [1, 0], [2, 1], [0, 1]])
    for text, image in ((None, None), tuple(pairs.T), (pairs[:, 0], torch.arange(5) % 3)):
        texts, shown = (slice(None) if index is None else index for index in (text, image))
        with torch.no_grad():
            found = match_images(model, states, mask, images, text, image)
            wanted = model.match(states[texts], mask[texts], images[shown])
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("fusion_layers", [1, 2])
def test_one_text_is_read_once_for_all_images(tmp_path: Path, fusion_layers: int) -> None:
    save_retrieval(tmp_path)
    config = AlbefConfig.from_pretrained(tmp_path)
    config.text_config.num_fusion_layers = fusion_layers
    torch.manual_seed(0)
    model = AlbefForImageTextRetrieval(config).eval()
    states = torch.randn(1, 5, config.text_config.hidden_size)
    images, mask = torch.randn(7, 17, config.vision_config.hidden_size).half(), torch.ones(1, 5).long()
    rows: list[int] = []
    layers = model.albef.text_model.encoder.fusion_layers
    layers[0].attention.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    with torch.no_grad():
        found = match_images(model, states, mask, images, torch.zeros(7).long())
        wanted = model.match(states.expand(7, -1, -1), mask.expand(7, -1), images.float())
    assert rows == [1, 7]  # the second call is that of `match`
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-5)


def test_formats_are_those_that_are_opened() -> None:
    assert index_albef.FORMATS == set(FORMATS)
    assert {".png", ".jpeg", ".jpe", ".jp2", ".tga", ".webp"} <= index_albef.IMAGE_SUFFIXES
    assert not index_albef.IMAGE_SUFFIXES & {".eps", ".pdf", ".mpg", ".h5", ".txt"}


def test_a_bar_counts_the_images(search: Any, place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    logging.enable_progress_bar()
    search.index_images(place / "photos", keep_in=place / "index")
    assert f"{COUNT}/{COUNT}" in capfd.readouterr().err
    search.index_images(place / "photos", keep_in=place / "index")
    assert "Indexing" not in capfd.readouterr().err
