"""Archives in place of weights, and lists of files that lead elsewhere: a sentence, little memory, nothing unpacked."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from golden_cases import tiny_config
from run_cases import refused

from modeling_albef import AlbefModel
from modeling_albef.configuration_albef import AlbefError
from modeling_albef.conversion.convert_albef_to_hf import main as convert

SIZE = 200 * 2**20  # bytes, unpacked


def zip_bomb() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../evil", bytes(SIZE))
    return file.getvalue()


def tar_bomb() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        entry = tarfile.TarInfo("../../evil")
        entry.size = SIZE
        archive.addfile(entry, io.BytesIO(bytes(SIZE)))
    return file.getvalue()


def packed_checkpoint() -> bytes:
    """A file of `torch.save` whose records were packed afterwards: 200 kB that say they are 200 MB."""
    plain, packed = io.BytesIO(), io.BytesIO()
    torch.save({"model": {"visual_encoder.cls_token": torch.zeros(SIZE // 4)}}, plain)
    with zipfile.ZipFile(plain) as read, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as written:
        for entry in read.infolist():
            written.writestr(entry.filename, read.read(entry.filename))
    return packed.getvalue()


ARCHIVES = {"zip": zip_bomb, "tar": tar_bomb, "gzip": lambda: gzip.compress(bytes(SIZE)), "torch": packed_checkpoint}


def peak() -> int:
    """Megabytes that this process had at most since `reset_peak`."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1024


def reset_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("kind", ARCHIVES)
def test_weights(tmp_path: Path, kind: str, name: str) -> None:
    folder = tmp_path / "a/b/model"
    AlbefModel(tiny_config()).save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(ARCHIVES[kind]())
    before = reset_peak()
    with pytest.raises(AlbefError, match=f"The model in {folder} cannot be used"):
        AlbefModel.from_pretrained(folder)
    assert peak() - before < 50
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("kind", ARCHIVES)
def test_files_to_convert(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "albef.pth"
    path.write_bytes(ARCHIVES[kind]())
    before = reset_peak()
    message = refused(convert, [str(path), "--output_dir", str(tmp_path / "out")])
    assert f"{path} is damaged or cut short, or no checkpoint of PyTorch" in message
    assert peak() - before < 50
    assert sorted(one.name for one in tmp_path.iterdir()) == ["albef.pth"]


def test_an_index_that_leads_out_of_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    AlbefModel(tiny_config()).save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    (tmp_path / "secret").write_text("SECRET")
    index = {"metadata": {}, "weight_map": {"temperature": "../secret"}}
    for name in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        (folder / name).write_text(json.dumps(index))
        with pytest.raises(AlbefError, match=f"The model in {folder} cannot be used") as error:
            AlbefModel.from_pretrained(folder)
        assert "SECRET" not in str(error.value)
        (folder / name).unlink()
