# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""A limit on the time that a model computes for one request."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from ..configuration_albef import AlbefError


class Deadline:
    """Stops a model's work after some seconds; a thread cannot be stopped from outside, so each module looks itself."""

    def __init__(self, seconds: float) -> None:
        """Take the seconds that the work of one request may take."""
        self.seconds = seconds
        self._ends = threading.local()

    def watch(self, model: nn.Module) -> None:
        """Let the modules of a model, with their own modules, look at the time before they compute."""
        for module in model.modules():
            module.register_forward_pre_hook(self._check)

    @contextmanager
    def set(self) -> Iterator[None]:
        """Give what this thread does inside the block its seconds; raises AlbefError where they are over."""
        self._ends.time = time.monotonic() + self.seconds
        try:
            yield
        finally:
            self._ends.time = None

    def _check(self, *_: Any) -> None:
        ends = getattr(self._ends, "time", None)
        if ends is not None and time.monotonic() > ends:
            raise AlbefError(f"The work took longer than {self.seconds:g} seconds and was stopped: ask for less.")
