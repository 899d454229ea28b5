"""What the machine can do."""

from __future__ import annotations

import platform

import torch


def has_bfloat16_instructions() -> bool:
    """Tell whether this processor multiplies bfloat16 numbers itself; taken as given where it is not of the x86 family.

    Where it does not, the library's bfloat16 arithmetic on the CPU is many times slower than its float32.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
