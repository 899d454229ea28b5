"""Models that were pushed to the stand-in for the Hub, as another process loads them with the code that they bring."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import TOKEN, HubServer
from huggingface_hub import snapshot_download

FORMS = ("name", "folder", "snapshot")
FORM_CASES = [pytest.param(form, marks=() if form == "folder" else pytest.mark.slow) for form in FORMS]
PACKAGES = ("blocked", "importable")
ROOT = Path(__file__).parents[1]

# No package of ours can be imported in such a process, however it is installed.
BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("modeling_albef", "processing", "dataset_scripts"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
"""
IMPORTED = "import modeling_albef, processing\n"


def address(hub: HubServer, task: str, form: str, folder: Path, revision: str = "main") -> str:
    """What a pushed model is loaded by; a folder holds its files as they are on the Hub."""
    if form == "name":
        return f"user/{task}"
    if form == "snapshot":
        return snapshot_download(f"user/{task}", revision=revision, cache_dir=folder / "snapshots", token=TOKEN)
    for name, data in hub.files(f"user/{task}", revision=revision).items():
        path = folder / task / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return str(folder / task)


def elsewhere(code: str, hub: HubServer, folder: Path, package: str, *words: str) -> str:
    """What code prints in a fresh process in another folder, in which our packages are "importable" or "blocked"."""
    environment = hub.environment(folder / "cache")
    environment.pop("PYTHONPATH", None)
    if package == "importable":
        environment["PYTHONPATH"] = str(ROOT)
    start = BLOCKED if package == "blocked" else IMPORTED
    command = [sys.executable, "-c", start + code, *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
