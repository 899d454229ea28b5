"""A data set that is pushed to a stand-in of the Hub loads from there by name, with its card."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import serve

from dataset_scripts import load_dataset_script

ROOT = Path(__file__).parents[2]
SIZES = {"num_train": 6, "num_validation": 2, "num_test": 3}
READ = """
import datasets, hashlib
splits = datasets.load_dataset("user/shapes")
for split, rows in splits.items():
    for row in rows:
        print(split, hashlib.sha256(row["image"].tobytes()).hexdigest(), row["caption"], row["image_id"])
"""


@pytest.mark.slow
def test_push_and_load(tmp_path: Path) -> None:
    config = str(SIZES).replace("'", '"')
    command = [sys.executable, "-m", "dataset_scripts", "export", "shapes", "--config_name", "retrieval"]
    command += ["--dataset_config", config, "--to", "hub", "--repo_id", "user/shapes", "--private"]
    read = [sys.executable, "-c", READ]
    pipes = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 240}
    with serve() as server:
        pushed = subprocess.run(command, env=server.environment(tmp_path / "here"), **pipes)
        assert pushed.returncode == 0, pushed.stderr
        assert "load_dataset('user/shapes')" in pushed.stdout
        loaded = subprocess.run(read, env=server.environment(tmp_path / "elsewhere"), **pipes)
        files = server.files("user/shapes", "datasets")
        assert server.repositories["datasets", "user/shapes"].private
    assert loaded.returncode == 0, loaded.stderr
    before = load_dataset_script("shapes", "retrieval", cache_dir=tmp_path / "before", **SIZES)
    assert loaded.stdout.splitlines() == [
        f"{split} {hashlib.sha256(row['image'].tobytes()).hexdigest()} {row['caption']} {row['image_id']}"
        for split, rows in before.items()
        for row in rows
    ]
    card = files["README.md"].decode()
    assert "| train | 6 |" in card and "image-to-text" in card and "num_examples: 6" in card
    assert sum(name.endswith(".parquet") for name in files) == 3
