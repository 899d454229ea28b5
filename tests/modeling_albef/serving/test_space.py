"""A Space that is made of a model starts from its folder alone."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from app_cases import Server, place, wait_for
from run_cases import ONE_THREAD, ROOT

from benchmarks.soak import free_port
from modeling_albef.configuration_albef import AlbefError
from modeling_albef.serving.space import PACKAGES, main, make_space

__all__ = ["place"]  # a fixture


def made(place: Path, folder: Path, *words: str) -> Path:
    models = ["--retrieval_model", str(place / "retrieval"), "--vqa_model", "user/some-vqa"]
    main([str(folder / "space"), *models, "--images", str(place / "photos"), *words])
    return folder / "space"


def test_a_space_has_what_the_hub_reads(place: Path, tmp_path: Path) -> None:
    (place / "retrieval/checkpoint-3").mkdir(exist_ok=True)
    (place / "retrieval/all_results.json").write_text("{}")
    space = made(place, tmp_path, "--title", "Photos: mine")
    front = yaml.safe_load((space / "README.md").read_text().split("---")[1])
    assert front["title"] == "Photos: mine" and front["sdk"] == "gradio" and front["app_file"] == "start.py"
    said = (space / "README.md").read_text()
    assert "Here you can find images by text and captions by image and ask questions about an image" in said
    assert ": `retrieval` and `user/some-vqa`." in said
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    wanted = setup["options"]["install_requires"].split()
    assert (space / "requirements.txt").read_text().split() == wanted
    for package in PACKAGES:
        files = {path.relative_to(ROOT) for path in (ROOT / package).rglob("*") if path.suffix not in ("", ".pyc")}
        assert files == {path.relative_to(space) for path in (space / package).rglob("*") if path.suffix}
    kept = {path.name for path in (space / "models/retrieval").iterdir()}
    assert {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json"} <= kept
    assert not kept & {"checkpoint-3", "all_results.json"} and not (space / "models/vqa").exists()
    assert 'setdefault("ALBEF_VQA_MODEL", "user/some-vqa")' in (space / "start.py").read_text()
    assert len(list((space / "images").iterdir())) == len(list((place / "photos").iterdir()))


def test_what_makes_no_space_is_said(place: Path, tmp_path: Path) -> None:
    model, out = str(place / "retrieval"), tmp_path / "space"
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    for message, folder, name, images in (
        ("There is no model: give --retrieval_model", out, None, None),
        ("has files: name a new one", tmp_path / "full", model, None),
        ("has no config.json: name the folder of a model", out, str(place / "photos"), None),
        ("There is no folder 'nowhere', and it is no name", out, "nowhere", None),
        ("has no images: name another as --images", out, model, tmp_path / "full"),
    ):
        with pytest.raises(AlbefError, match=message):
            make_space(folder, {"retrieval": name}, images)
        assert not out.exists()


@pytest.mark.slow
def test_a_space_starts_from_its_folder_alone(place: Path, tmp_path: Path) -> None:
    space = made(place, tmp_path, "--vqa_model", str(place / "vqa"))
    variables = {**os.environ, **ONE_THREAD, "PYTHONUNBUFFERED": "1", "GRADIO_SERVER_PORT": str(port := free_port())}
    variables.pop("PYTHONPATH", None)
    names = ", ".join(("app", *PACKAGES))
    where = [sys.executable, "-c", f"import {names}; print(*(one.__file__ for one in ({names})))"]
    found = subprocess.run(where, cwd=space, env=variables, capture_output=True, text=True, check=True).stdout
    assert all(Path(path).is_relative_to(space) for path in found.split())
    log = tmp_path / "log.txt"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "space/start.py"], cwd=tmp_path, env=variables, stdout=output, stderr=output
        )
    try:
        wait_for(Server(f"http://127.0.0.1:{port}", log, process.pid), process)
    finally:
        process.terminate()
        process.wait(30)
    assert "9 of 10 images" in log.read_text()
