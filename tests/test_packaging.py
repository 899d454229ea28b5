"""What is built: every folder of code is in it, nothing collides in site-packages, and it trains elsewhere."""

from __future__ import annotations

import ast
import configparser
import importlib
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import Any

import pytest
import setuptools
import yaml
from run_cases import ONE_THREAD, ROOT, write_config

import modeling_albef
from modeling_albef.training.application.parsing import find_recipe

TOP_LEVEL = {"modeling_albef", "albef"}  # all that the wheel puts into site-packages, beside its metadata


def setup_arguments(monkeypatch: pytest.MonkeyPatch, *words: str) -> dict[str, Any]:
    """What setup.py hands to setuptools."""
    given: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", given.update)
    monkeypatch.setattr(sys, "argv", ["setup.py", *words])
    runpy.run_path(str(ROOT / "setup.py"))
    return given


def test_every_folder_of_code_is_found() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert setup["options"]["packages"] == "find:"
    included = setup["options.packages.find"]["include"].split()
    found = setuptools.find_packages(str(ROOT), include=included)
    names = ("modeling_albef", "processing", "dataset_scripts")
    files = [path for name in names for path in (ROOT / name).rglob("*.py")]
    # modules of the library `evaluate` are read as files: package data
    folders = {path.parent.relative_to(ROOT) for path in files if "evaluate_modules" not in path.parts}
    assert {".".join(folder.parts) for folder in folders} == set(found)


def test_every_other_file_is_package_data() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for package, patterns in setup["options.package_data"].items():
        folder = ROOT / package
        found = {path for pattern in re.split(r"[\s,]+", patterns.strip()) for path in folder.glob(pattern)}
        others = {path for path in folder.rglob("*.*") if path.suffix not in (".py", ".pyc") and path.is_file()}
        modules = set(folder.glob("**/evaluate_modules/*/*.py"))
        assert found == others | modules


@pytest.mark.parametrize("words", [("bdist_wheel",), ("editable_wheel",)])
def test_every_script_has_a_command(words: tuple[str], monkeypatch: pytest.MonkeyPatch) -> None:
    given = setup_arguments(monkeypatch, *words)
    scripts = {path.stem for path in ROOT.glob("run_*.py")}
    commands = dict(one.split(" = ") for one in given["entry_points"]["console_scripts"])
    assert set(given["py_modules"]) == scripts
    assert set(commands) == {"albef-data", *(f"albef-{name.removeprefix('run_')}" for name in scripts)}
    for target in commands.values():
        assert target.startswith("albef.") == (words == ("bdist_wheel",))
        module, _, name = target.removeprefix("albef.").partition(":")
        assert callable(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize("name", ["demo_retrieval", "demo_retrieval.yaml", "configs/demo_retrieval.yaml"])
def test_recipes_are_found_by_name_anywhere(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Path(find_recipe(name)).samefile(ROOT / "configs/demo_retrieval.yaml")
    for other in ("nothing.yaml", "../demo_retrieval.yaml", "--use_cpu", "accelerate/../demo_retrieval"):
        assert find_recipe(other) == other
    own = tmp_path / name
    own.parent.mkdir(exist_ok=True)
    own.write_text("seed: 1")
    assert find_recipe(name) == name  # a file of one's own goes first


def test_one_version_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    headings = re.findall(r"^## \[(.+?)\](.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == ("Unreleased", "")
    assert citation["version"] == headings[1][0] == modeling_albef.__version__
    assert re.fullmatch(r" - \d{4}-\d\d-\d\d", headings[1][1])


def test_headings_of_the_changelog() -> None:
    known = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)) <= known


def test_forms_of_the_site_are_yaml() -> None:
    for path in (ROOT / ".github").rglob("*.yml"):
        form = yaml.safe_load(path.read_text())
        for part in form.get("body", ()):
            assert part["type"] == "textarea" and part["attributes"]["label"], path.name


# ---- the wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what git would have, so that no leftover of the checkout gets in."""
    source = tmp_path_factory.mktemp("source") / "albef"
    leave_out = shutil.ignore_patterns(".*", "build", "output", "*.egg-info", "__pycache__", "tests", "docs", "out*")
    shutil.copytree(ROOT, source, ignore=leave_out)
    folder = tmp_path_factory.mktemp("wheel")
    command = "from setuptools import build_meta as b; import sys; s = sys.argv[1]; b.build_sdist(s); b.build_wheel(s)"
    done = subprocess.run([sys.executable, "-c", command, str(folder)], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list(folder.glob("*.tar.gz"))) == 1
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_names_do_not_collide(wheel: Path) -> None:
    """Every import and every module that is named in the wheel leads to its own two packages, or out of the project."""
    own = {"processing", "dataset_scripts", "configs", *(path.stem for path in ROOT.glob("run_*.py"))}
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == TOP_LEVEL
        (listed,) = [name for name in names if name.endswith(".dist-info/top_level.txt")]
        assert set(archive.read(listed).decode().split()) == TOP_LEVEL
        shipped = {name.removeprefix("albef/") for name in names if name.startswith("albef/configs/")}
        assert shipped == {path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.yaml")}
        for name in names:
            tree = ast.parse(archive.read(name)) if name.endswith(".py") else ast.Module([], [])
            for node in ast.walk(tree):
                wanted = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                wanted += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
                is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
                wanted += [node.value] if is_text and re.fullmatch(r"\w+(\.\w+)+", node.value) else []
                assert not [one for one in wanted if one.split(".")[0] in own and one.split(".")[-1] != "py"], name


PYTHON = """
import sys
from pathlib import Path
import albef
from PIL import Image
from transformers import AutoModelForZeroShotImageClassification, AutoProcessor, pipeline
Image.new("RGB", (40, 40), "red").save("photo.png")
model = AutoModelForZeroShotImageClassification.from_pretrained("out")
processor = AutoProcessor.from_pretrained("out")
inputs = processor(images="photo.png", text=["a red circle", "a blue square"], padding=True, return_tensors="pt")
assert model(**inputs).itm_logits.shape == (1, 2, 2)
assert len(pipeline("albef-vqa", model="vqa")(image="photo.png", question="what color?", top_k=2)) == 2
print(Path(albef.__file__), sys.modules["albef.processing"].__file__, sys.modules["modeling_albef"].__file__)
"""
FEW = {"num_train": 16, "num_validation": 6, "num_test": 6}


@pytest.mark.slow
def test_the_wheel_trains_and_evaluates_elsewhere(wheel: Path, tmp_path: Path) -> None:
    """In an environment that sees the libraries and no checkout, from a folder that is not ours."""
    environment, folder = tmp_path / "environment", tmp_path / "elsewhere"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    install = ["-m", "pip", "--python", str(environment / "bin/python"), "install", "--no-deps", "--quiet", str(wheel)]
    subprocess.run([sys.executable, *install], check=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(environment), "platbase": str(environment)}))
    libraries = {str(Path(importlib.import_module(name).__file__).parents[1]) for name in ("torch", "transformers")}
    (site / "libraries.pth").write_text("\n".join(sorted(libraries)))
    folder.mkdir()
    for name in ("processing.py", "dataset_scripts.py"):  # of somebody else
        (site / name).write_text("raise RuntimeError('not ours')\n")
    variables = {**os.environ, **ONE_THREAD, "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    variables.pop("PYTHONPATH", None)

    def run(command: str, *words: str) -> str:
        line = [str(environment / "bin" / command), *words]
        done = subprocess.run(line, cwd=folder, env=variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = run("python", "-c", "import albef.processing, modeling_albef as m; print(m.__file__, albef.__file__)")
    assert all(Path(word).is_relative_to(site) for word in where.split())
    run("albef-retrieval", write_config(tmp_path, max_steps=2, output_dir="out"))
    results = json.loads((folder / "out/all_results.json").read_text())
    assert {"eval_r_mean", "test_r_mean", "train_loss"} <= results.keys()
    changes = "--model_name_or_path out --dataset_config.num_test 8 --do_train false --do_eval false --do_predict true"
    run("albef-retrieval", "demo_retrieval", *changes.split(), "--output_dir", "again", "--use_cpu")
    assert (folder / "again/all_results.json").is_file()
    (folder / "data.csv").write_text("image,caption\nphoto.png,a red square\n")

    sizes = [word for name, size in FEW.items() for word in (f"--dataset_config.{name}", str(size))]
    for task in ("vqa", "classification", "reasoning", "grounding", "pretraining"):  # the second and third start there
        start = ["--model_name_or_path", "vqa"] if task in ("classification", "reasoning") else []
        command = "albef-classification" if task == "reasoning" else f"albef-{task}"
        run(command, f"demo_{task}", "--output_dir", task, "--max_steps", "2", "--use_cpu", *sizes, *start)
        results = json.loads((folder / task / "all_results.json").read_text())
        assert "train_loss" in results and any(name.startswith("test_") for name in results), task
    assert all(Path(word).is_relative_to(site) for word in run("python", "-c", PYTHON).split())
    assert "train: 1 rows" in run("albef-data", "check", "own_data", "--train_files", "data.csv", "--decode")
    assert run("albef-data", "--help").startswith("usage: albef-data ")
