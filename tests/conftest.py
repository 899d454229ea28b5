"""The suite is offline by its own means, and libraries keep nothing from one file of tests to the next."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

# Before the libraries are imported, which read this once. Subprocesses inherit it; `hub_server` overrides it with the
# address of its stand-in. TOKENIZERS_PARALLELISM keeps tokenizers from warning of forks.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
from accelerate.state import AcceleratorState


@pytest.fixture(scope="module", autouse=True)
def fresh_libraries() -> Iterator[None]:
    """Forget accelerate's precision and devices, and the metrics that `evaluate` imported from its copies."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    for name in [name for name in sys.modules if name.partition(".")[0] == "evaluate_modules"]:
        del sys.modules[name]
    sys.path[:] = [folder for folder in sys.path if not Path(folder, "evaluate_modules").is_dir()]
