"""The machine: its instructions, the precision of arithmetic on it, its memory.

Shapes: n images, P image tokens, H width.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def has_bfloat16_instructions() -> bool:
    """Return whether this processor has bfloat16 instructions; True for all that are not of the x86 family.

    Without them the library's bfloat16 arithmetic on the CPU is many times slower than its float32.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def autocast(accelerator: Any) -> AbstractContextManager[Any]:
    """Return the context of the run's precision for networks that no engine wraps, the teacher's for example.

    The accelerator's own does nothing under DeepSpeed, which turns the student's weights alone into half precision.
    """
    precision = accelerator.mixed_precision
    if accelerator.native_amp or precision not in HALVES:
        return accelerator.autocast()
    return torch.autocast(accelerator.device.type, HALVES[precision])


@contextmanager
def exact_products(device: torch.device) -> Iterator[None]:
    """Compute matrix products of float32 in float32: without autocast, and without the rounding of TF32."""
    matmul: Any = torch.backends.cuda.matmul
    name, exact = ("fp32_precision", "ieee") if hasattr(matmul, "fp32_precision") else ("allow_tf32", False)
    before = getattr(matmul, name)
    setattr(matmul, name, exact)
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        setattr(matmul, name, before)


@dataclass
class ImageRoom:
    """Memory for the states of images until they are matched: half of what a GPU has left, then main memory."""

    main: float  # bytes
    _device: float | None = None  # bytes of the GPU; unknown before the first images

    def keep(self, states: torch.Tensor) -> torch.Tensor | None:
        """Return what is kept of states (n, P, H), None where there is no room.

        Under autocast they are kept in its type, in which the maps to keys and values read them anyway.
        """
        kind = states.device.type
        if torch.is_autocast_enabled(kind) and states.dtype == torch.float32:
            states = states.to(torch.get_autocast_dtype(kind))
        if kind == "cuda" and self._device is None:
            unused = torch.cuda.memory_reserved(states.device) - torch.cuda.memory_allocated(states.device)
            self._device = (torch.cuda.mem_get_info(states.device)[0] + unused) / 2
        if self._device is not None and states.nbytes <= self._device:
            self._device -= states.nbytes
            return states.clone() if states.untyped_storage().nbytes() > states.nbytes else states
        self.main -= states.nbytes
        if self.main < 0:
            return None
        if kind == "cpu":
            return states
        pinned = torch.empty(states.shape, dtype=states.dtype, pin_memory=kind == "cuda")
        return pinned.copy_(states, non_blocking=True)


def keep_freed_memory() -> bool:
    """Have the process keep the memory of tensors that are freed, for those of the next step; False where it cannot.

    The allocator of Linux gives large pieces back at once, and the system clears each page before it is used again:
    every step would pay for all its gradients and states, a tenth of its time on a CPU. The peak stays what it is.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    trim_threshold, mmap_max = -1, -4  # of malloc.h
    return bool(library.mallopt(mmap_max, 0) and library.mallopt(trim_threshold, 2**31 - 1))


@contextmanager
def padding_left_out(*models: nn.Module) -> Iterator[None]:
    """Let the text towers in models compute tokens alone, on a CPU: only the states of padding change, to 0."""
    towers: list[Any] = [part for model in models for part in model.modules() if hasattr(part, "leaves_out_padding")]
    before = [tower.leaves_out_padding for tower in towers]
    for tower in towers:
        tower.leaves_out_padding = True
    try:
        yield
    finally:
        for tower, was in zip(towers, before, strict=True):
            tower.leaves_out_padding = was
