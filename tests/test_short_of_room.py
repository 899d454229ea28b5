"""Folders that cannot be written, and processes that get little memory: a sentence, and nothing half-written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from run_cases import ONE_THREAD, ROOT, run, write_run
from small_models import save_retrieval

READ_ONLY = Path("/sys/albef")  # where the system lets nobody write, root included
pytestmark = pytest.mark.skipif(not READ_ONLY.parent.is_dir(), reason="only Linux has /sys")


def message(*words: str) -> str:
    """The standard error of a command that fails."""
    done = run(words[0], list(words[1:]), check=False)
    assert done.returncode not in (0, -6, -11) and "Traceback" not in done.stderr
    assert not READ_ONLY.exists()
    return done.stderr[-1000:]


@pytest.mark.slow
def test_an_output_folder_that_cannot_be_written(tmp_path: Path) -> None:
    assert str(READ_ONLY) in message("run_retrieval.py", write_run(tmp_path), "--output_dir", str(READ_ONLY))
    save_retrieval(tmp_path / "model")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    sizes = json.dumps({"num_train": 5, "num_validation": 2, "num_test": 3})
    show = ["dataset_scripts", "show", "shapes", "--dataset_config", sizes, "--split", "test"]
    picture, model = str(tmp_path / "a.png"), str(tmp_path / "model")
    for words in (
        [*show, "--out", f"{READ_ONLY}.html"],
        ["modeling_albef.visualize", picture, "a red circle", "--model", model, "--out", f"{READ_ONLY}.png"],
        ["modeling_albef.convert_albef_to_hf", model, "--to", "salesforce", "--output_dir", str(READ_ONLY)],
    ):
        assert f"{READ_ONLY}" in (text := message("-m", *words)) and "cannot be written" in text


@pytest.mark.slow
@pytest.mark.parametrize("gigabytes", [0.4, 1.2, 4.0])
def test_an_address_space_that_is_too_small_ends_the_run(tmp_path: Path, gigabytes: float) -> None:
    """The start ends, mostly where libraries are imported; what is there is whole."""
    limited = ["bash", "-c", f'ulimit -v {int(gigabytes * 1e6)}; exec "$@"', "limited", sys.executable]
    command = [*limited, "run_retrieval.py", write_run(tmp_path, num_train_epochs=1)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **ONE_THREAD}, capture_output=True, text=True, timeout=280
    )
    finished = (tmp_path / "out/all_results.json").is_file()
    assert finished == (done.returncode == 0)
    assert finished or gigabytes < 4
    assert not list(tmp_path.glob("out/*.incomplete*")) and not list(tmp_path.glob("out/.*incomplete*"))


@pytest.mark.slow
def test_an_image_that_memory_does_not_suffice_for_is_not_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    Image.new("RGB", (9000, 9000)).save(path)
    code = f"""
import resource
from processing import ProcessingError, UnreadableImageError, open_image
with open("/proc/self/status") as file:
    size = next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmSize"))
resource.setrlimit(resource.RLIMIT_AS, (size + 100_000_000, size + 100_000_000))
try:
    open_image({str(path)!r})
except ProcessingError as error:
    print(isinstance(error, UnreadableImageError), error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    sentence = f"There is not enough memory to open image '{path}': give more, or make it smaller."
    assert done.stdout.strip() == f"False {sentence}", done.stderr
