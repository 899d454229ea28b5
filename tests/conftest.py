"""What the libraries keep for a whole process does not pass from one file of tests to the next."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState


@pytest.fixture(scope="module", autouse=True)
def fresh_libraries() -> Iterator[None]:
    """Forgets accelerate's precision and devices, and the metrics that `evaluate` imported from its copies."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    for name in [name for name in sys.modules if name.partition(".")[0] == "evaluate_modules"]:
        del sys.modules[name]
    sys.path[:] = [folder for folder in sys.path if not Path(folder, "evaluate_modules").is_dir()]
