"""Where a run takes place: versions, device, precision, and the revision of the code."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

LIBRARIES = ("torch", "transformers", "datasets", "accelerate", "tokenizers", "numpy", "pillow")
ROOT = Path(__file__).parents[3]
GIT_SECONDS = 10
PRECISIONS = {"no": "float32", "bf16": "bfloat16", "fp16": "float16", "fp8": "float8"}


def versions() -> dict[str, str]:
    """Return the versions of Python, of this package and of the libraries that numbers depend on.

    torch's own version names its build, such as `2.13.0+cu130`; the metadata of its wheel may not.
    """
    from ... import __version__

    found = {"python": platform.python_version(), "albef": __version__}
    found |= {name: metadata.version(name) for name in LIBRARIES if _is_installed(name)}
    return found | {"torch": str(torch.__version__)}


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def git_revision(folder: Path = ROOT) -> str | None:
    """Return the commit of this code, and whether files differ from it; None where it is no repository of its own."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=GIT_SECONDS)
        return done.stdout.strip()

    try:
        top, revision = git("rev-parse", "--show-toplevel", "HEAD").splitlines()
        if Path(top).resolve() != folder.resolve():  # an installed package in somebody else's repository
            return None
        return revision + (" with changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def device_name(device: torch.device) -> str:
    """Return the name of a device as its maker writes it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = next(filter(None, names), platform.processor() or platform.machine())
    return f"CPU ({name})" if name else "CPU"


def machine(trainer: Any) -> dict[str, Any]:
    """Return the device, the precision, and the numbers of processes and of threads of a trainer's run."""
    args = trainer.args
    return {
        "device": device_name(args.device),
        "precision": PRECISIONS.get(trainer.accelerator.mixed_precision, trainer.accelerator.mixed_precision),
        "processes": args.world_size,
        "threads": torch.get_num_threads(),
    }
