# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Make a folder that is a Gradio Space: the page of `app.py` with a model of one's own.

    python -m modeling_albef.serving.space space --retrieval_model output/photos --images photos
    hf upload USER/NAME space --repo-type space

It needs a checkout, whose `app.py` and packages it copies. A model that is a folder is copied, too, without its
checkpoints; one on the Hub is loaded by its name when the Space starts.
"""

import argparse
import configparser
import json
import re
import shutil
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from ..configuration_albef import AlbefError, exit_with_message
from ..index_albef import IMAGE_SUFFIXES
from ..model_card_albef import code, one_line, plain

ROOT = Path(__file__).parents[2]
PACKAGES = ("modeling_albef", "processing", "dataset_scripts")
MODEL_FILES = ("*.json", "*.safetensors", "vocab.txt")
RUN_FILES = ("*_results.json", "predictions*.json", "trainer_state.json", "vqa_result.json", "question_types.json")

_README = """\
---
title: {quoted}
sdk: gradio
sdk_version: {gradio}
python_version: "{python}"
app_file: start.py
license: apache-2.0
---

# {title}

Here you can {uses}, and see where the model looks. Made with [ALBEF](https://arxiv.org/abs/2107.07651): {models}.

| file | content |
|---|---|
| `start.py` | the models and the folder of images; it starts the page |
| `requirements.txt` | what the page needs; the Hub installs Gradio itself |
| `app.py` and the packages beside it | the code |

To start the page on your machine, run `pip install -r requirements.txt gradio=={gradio}` and then `python start.py`.
"""
_USES = {"retrieval": "find images by text and captions by image", "vqa": "ask questions about an image"}
_START = '''\
"""Start the page with these models and images; a variable of the same name, set for the Space, goes first."""

import os
from pathlib import Path

os.chdir(Path(__file__).parent)
{lines}
from app import main

if __name__ == "__main__":
    main([])
'''


@exit_with_message(AlbefError)
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser("python -m modeling_albef.serving.space", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("output", type=Path, help="folder to make; it must not be there yet")
    parser.add_argument("--retrieval_model", help="folder of a model that searches, or its name on the Hub")
    parser.add_argument("--vqa_model", help="folder of a model that answers questions, or its name on the Hub")
    parser.add_argument("--images", type=Path, help="folder of the images to search; default: drawn shapes")
    parser.add_argument("--title", help="default: the name of the output folder")
    options = parser.parse_args(argv)
    models = {"retrieval": options.retrieval_model, "vqa": options.vqa_model}
    make_space(options.output, models, options.images, options.title)
    print(f"space: {options.output}")
    print(f"try it: {Path(sys.executable).name} {options.output / 'start.py'}")
    print(f"upload it: hf upload USER/NAME {options.output} --repo-type space")


def make_space(
    output: Path, models: dict[str, str | None], images: Path | None = None, title: str | None = None
) -> None:
    """Make the folder of a Space.

    Args:
        output: The folder.
        models: Folder or name on the Hub of the models of "retrieval" and "vqa"; None for one that is left out.
        images: Folder of the images that are searched; None for drawn shapes.
        title: Of the page on the Hub.

    Raises:
        AlbefError: There is no model, no checkout or no image, or the output folder has files.
    """
    given = {task: name for task, name in models.items() if name}
    if not given:
        raise AlbefError("There is no model: give --retrieval_model or --vqa_model.")
    if not (ROOT / "app.py").is_file():
        raise AlbefError(f"{ROOT} has no app.py: run this in a checkout of the project.")
    if output.exists() and any(output.iterdir()):
        raise AlbefError(f"The folder {str(output)!r} has files: name a new one.")
    for name in given.values():
        if Path(name).is_dir() and not Path(name, "config.json").is_file():
            raise AlbefError(f"The folder {name!r} has no config.json: name the folder of a model.")
        if not Path(name).is_dir() and not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
            raise AlbefError(f"There is no folder {name!r}, and it is no name of a model on the Hub: correct it.")
    shown = [] if images is None else sorted(p for p in images.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if images is not None and not shown:
        raise AlbefError(f"The folder {str(images)!r} has no images: name another as --images.")

    for package in PACKAGES:
        shutil.copytree(ROOT / package, output / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "app.py", output)
    variables = {f"ALBEF_{task.upper()}_MODEL": _add_model(output, task, name) for task, name in given.items()}
    for path in shown:
        target = output / "images" / path.relative_to(images or path)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    variables |= {"ALBEF_IMAGES": "images"} if shown else {}
    lines = "".join(f'os.environ.setdefault("{name}", {json.dumps(value)})\n' for name, value in variables.items())
    (output / "start.py").write_text(_START.format(lines=lines), encoding="utf-8")
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    (output / "requirements.txt").write_text(setup["options"]["install_requires"].strip() + "\n", encoding="utf-8")
    title = one_line(title or output.absolute().name)
    text = _README.format(
        title=plain(title),
        quoted=json.dumps(title, ensure_ascii=False),
        gradio=metadata.version("gradio"),
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        uses=" and ".join(_USES[task] for task in given),
        models=" and ".join(code(Path(name).name if Path(name).is_dir() else name) for name in given.values()),
    )
    (output / "README.md").write_text(text, encoding="utf-8")


def _add_model(output: Path, task: str, name: str) -> str:
    """Copy a model that is a folder, and return what the Space calls it."""
    if not Path(name).is_dir():
        return name
    target = output / "models" / task
    target.mkdir(parents=True)
    left_out = {path for pattern in RUN_FILES for path in Path(name).glob(pattern)}
    for path in {path for pattern in MODEL_FILES for path in Path(name).glob(pattern)} - left_out:
        shutil.copy(path, target)
    return f"models/{task}"


if __name__ == "__main__":
    main()
