"""What `make` says before it installs anything."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from run_cases import ROOT


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Say where the photos and the table of captions are: make photos DATA=folder"),
        (["DATA=/nowhere/Meine Fotos"], "There is no folder /nowhere/Meine Fotos: check the name."),
    ],
)
def test_photos_that_are_not_there_install_nothing(tmp_path: Path, words: list[str], message: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "photos", f"VENV={tmp_path / 'venv'}", *words]  # also where `make test` runs this
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stdout == f"{message}\n"
    assert not (tmp_path / "venv").exists()
