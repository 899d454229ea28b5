"""Properties of the machine."""

from __future__ import annotations

import platform

import torch


def has_bfloat16_instructions() -> bool:
    """Return whether this processor has bfloat16 instructions; True for all that are not of the x86 family.

    Without them the library's bfloat16 arithmetic on the CPU is many times slower than its float32.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
