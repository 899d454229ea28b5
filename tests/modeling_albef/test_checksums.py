"""Checksums of a model's folder: one flipped bit is found, whatever it would do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hub_server import HubServer, serve
from small_models import save_retrieval
from transformers import AutoModel
from transformers.utils import cached_file

import modeling_albef  # noqa: F401  registers the Auto classes
from modeling_albef import AlbefError, AlbefForImageTextRetrieval
from modeling_albef.hub_albef import verify_checksums, write_checksums


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_retrieval(tmp_path / "plain").save_pretrained(tmp_path / "model", checksums=True)
    return tmp_path / "model"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def test_the_list_has_what_the_numbers_depend_on(folder: Path) -> None:
    listed = json.loads((folder / "checksums.json").read_text())
    assert set(listed) == {"config.json", "model.safetensors"}
    for name, digest in listed.items():
        assert digest == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    AlbefForImageTextRetrieval.from_pretrained(folder)


@pytest.mark.parametrize("load", [AlbefForImageTextRetrieval.from_pretrained, AutoModel.from_pretrained])
def test_a_flipped_bit_is_not_loaded(folder: Path, load: object) -> None:
    flip(folder / "model.safetensors")
    with pytest.raises(AlbefError, match=r"model\.safetensors has other content than was saved, by the list"):
        load(folder)  # type: ignore[operator]
    (folder / "checksums.json").unlink()
    load(folder)  # type: ignore[operator]  # without the list nothing says so


def test_other_damage_is_a_sentence(folder: Path) -> None:
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"gelu"', '"relu"', 1))
    with pytest.raises(AlbefError, match=r"config\.json has other content .* or, if you changed it yourself, remove"):
        AlbefForImageTextRetrieval.from_pretrained(folder)
    (folder / "config.json").write_text(config)
    for text in ("[]", "{", "3", "[" * 9000, "\0"):
        (folder / "checksums.json").write_text(text)
        with pytest.raises(AlbefError, match=r"checksums\.json is damaged: copy the folder again"):
            AlbefForImageTextRetrieval.from_pretrained(folder)
    write_checksums(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(AlbefError, match=r"model\.safetensors is missing, by the list"):
        verify_checksums(folder)


def test_a_list_of_an_earlier_model_does_not_stay(folder: Path) -> None:
    model = AlbefForImageTextRetrieval.from_pretrained(folder)
    with torch.no_grad():
        model.itm_head.bias.add_(1)
    model.save_pretrained(folder)
    assert not (folder / "checksums.json").exists()
    AlbefForImageTextRetrieval.from_pretrained(folder)


def test_parts_and_subfolders(folder: Path) -> None:
    model = AlbefForImageTextRetrieval.from_pretrained(folder)
    model.save_pretrained(folder / "parts", checksums=True, max_shard_size="20KB")
    listed = json.loads((folder / "parts/checksums.json").read_text())
    assert len(listed) > 3 and "model.safetensors.index.json" in listed
    flip(next((folder / "parts").glob("model-00002*.safetensors")))
    with pytest.raises(AlbefError, match=r"model-00002.* has other content"):
        AlbefForImageTextRetrieval.from_pretrained(folder, subfolder="parts")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with serve() as server:
        server.take_over(monkeypatch)
        yield server


def test_a_model_of_the_hub_is_verified_in_the_cache(folder: Path, hub: HubServer, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    model = AlbefForImageTextRetrieval.from_pretrained(folder)
    name = model.push_to_hub("me/checked", checksums=True).repo_url.repo_id
    again = AlbefForImageTextRetrieval.from_pretrained(name, cache_dir=cache)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())
    weights = Path(str(cached_file(name, "model.safetensors", cache_dir=cache))).resolve()
    flip(weights)
    with pytest.raises(AlbefError, match=r"model\.safetensors has other content than was saved"):
        AlbefForImageTextRetrieval.from_pretrained(name, cache_dir=cache)


def test_a_push_without_checksums_leaves_none_of_an_earlier_one(folder: Path, hub: HubServer, tmp_path: Path) -> None:
    model = AlbefForImageTextRetrieval.from_pretrained(folder)
    model.push_to_hub("me/twice", checksums=True)
    with torch.no_grad():
        model.itm_head.bias.add_(1)
    model.push_to_hub("me/twice")
    assert "checksums.json" not in hub.files("me/twice")
    again = AlbefForImageTextRetrieval.from_pretrained("me/twice", cache_dir=tmp_path / "cache")
    assert torch.equal(again.itm_head.bias, model.itm_head.bias)


@pytest.mark.slow
@pytest.mark.parametrize("on_hub", [False, True])
@pytest.mark.parametrize("sizes", [("50GB", "20KB"), ("20KB", "50GB"), ("20KB", "60KB")])
def test_weights_in_other_files_replace_the_earlier_ones(
    folder: Path, hub: HubServer, tmp_path: Path, sizes: tuple[str, str], on_hub: bool
) -> None:
    """The library would load an earlier `model.safetensors` rather than the shards beside it."""
    model, place = AlbefForImageTextRetrieval.from_pretrained(folder), tmp_path / "again"
    for size in sizes:
        with torch.no_grad():
            model.itm_head.bias.add_(1)
        if on_hub:
            model.push_to_hub("me/sizes", max_shard_size=size)
        else:
            model.save_pretrained(place, max_shard_size=size, checksums=True)
    names = set(hub.files("me/sizes")) if on_hub else {path.name for path in place.iterdir()}
    is_sharded = sizes[1] != "50GB"
    assert ("model.safetensors" in names) != is_sharded and ("model.safetensors.index.json" in names) == is_sharded
    loaded = AlbefForImageTextRetrieval.from_pretrained("me/sizes" if on_hub else place, cache_dir=tmp_path / "cache")
    assert torch.equal(loaded.itm_head.bias, model.itm_head.bias)
