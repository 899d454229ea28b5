"""Starting the run scripts in tests: tiny sizes, subprocesses, refused starts."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from benchmarks.soak import free_port

ROOT = Path(__file__).parent.parent
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
TINY: dict[str, Any] = {
    "dataset": "shapes",
    "dataset_config": {"num_train": 40, "num_validation": 12, "num_test": 14, "image_size": 32},
    "augmentation": True,
    "model_config": {
        "projection_dim": 16,
        "vision_config": {**SIZES, "image_size": 32, "patch_size": 8},
        "text_config": {**SIZES, "num_fusion_layers": 1, "max_position_embeddings": 64},
    },
    "do_train": True,
    "do_eval": True,
    "do_predict": True,
    "use_cpu": True,
    "num_train_epochs": 2,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 3,
    "learning_rate": "1e-3",
    "warmup_steps": 0,
    "k_test": 5,
    "disable_tqdm": True,
    "report_to": "none",
}
ONE_THREAD = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def write_config(folder: Path, **changes: Any) -> str:
    """A tiny configuration file; None takes a field out."""
    config = {**TINY, "output_dir": str(folder / "out"), **changes}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({name: value for name, value in config.items() if value is not None}))
    return str(path)


PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


def readme_block(mark: str) -> str:
    """The Python block of the README or of a page of docs/ that has certain words."""
    texts = [page.read_text() for page in PAGES]
    blocks = [block for text in texts for block in re.findall(r"```python\n(.*?) *```", text, re.DOTALL)]
    (found,) = [textwrap.dedent(code) for code in blocks if mark in code]
    return found


def two_processes() -> tuple[str, ...]:
    """Words that start a script in two processes."""
    return ("-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(free_port()))


def run(
    script: str, words: list[str], launcher: tuple[str, ...] = (), check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Runs a script in a process of its own."""
    command = [sys.executable, *launcher, script, *words]
    # a script in tests/ would else find the folder tests/modeling_albef, a namespace, before the installed package
    environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


def refused(main: Callable[[list[str]], None], words: list[str]) -> str:
    """The message of a start that is refused in this process."""
    with pytest.raises(SystemExit) as error:
        main(words)
    return str(error.value)


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """What a full disk is like: a write fails in the middle of a file."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def write_run(folder: Path, **changes: Any) -> str:
    return write_config(folder, **{"queue_size": 24, **changes})


def write_pictures(folder: Path) -> dict[str, str]:
    """ALBEF's files: training with a row a caption, validation with a list of captions a row."""
    rows = []
    for number in range(12):
        Image.new("RGB", (50 + number, 40), (20 * number, 255 - 20 * number, 90)).save(folder / f"{number}.png")
        rows += [
            {"image": f"{number}.png", "caption": f"Colour {number}, {word}!", "image_id": f"c_{number}"}
            for word in "ab"
        ]
    lists = [{"image": f"{number}.png", "caption": [f"colour {number}", f"{number} again"]} for number in range(6)]
    (folder / "train.json").write_text(json.dumps(rows))
    (folder / "val.json").write_text(json.dumps(lists))
    files = {"train_files": str(folder / "train.json"), "image_root": str(folder)}
    return {**files, "validation_files": str(folder / "val.json"), "test_files": str(folder / "val.json")}
