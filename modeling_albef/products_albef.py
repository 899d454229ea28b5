# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Matrix products of float32 by the library that is fastest on this processor. Shapes: M rows, K inputs, N outputs."""

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

SMALLEST_MAP = 1 << 16  # weights of a linear map below which one library is as fast as the other
LEAST = 1 << 24  # multiplications of a product; the first one of a shape costs about a millisecond


@cache
def leaves_half_unused() -> bool:
    """Return whether torch's own products use half of this processor: those of MKL on an AMD with AVX-512."""
    cpuinfo = Path("/proc/cpuinfo")
    vendor = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.is_file() else platform.processor()
    has_both = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    is_wide = has_both and torch.backends.cpu.get_cpu_capability() == "AVX512"
    return is_wide and "AuthenticAMD" in vendor and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class FastProducts(TorchFunctionMode):
    """While active, `torch.nn.functional.linear` is computed by oneDNN where it can be: float32, on a CPU, no gradient.

    oneDNN uses AVX-512 on all processors. The results differ by rounding alone.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is nn.functional.linear and self._can_take(*args, **kwargs):
            return _linear(*args, **kwargs)
        return func(*args, **kwargs)

    @staticmethod
    def _can_take(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> bool:
        given = [tensor for tensor in (input, weight, bias) if tensor is not None]
        return (
            not torch.is_grad_enabled()
            and all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in given)
            and all(type(tensor) in (torch.Tensor, nn.Parameter) for tensor in given)
            and input.numel() * weight.shape[0] >= LEAST
            and not (torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling() or torch.jit.is_tracing())
        )


def _linear(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], "")


@contextmanager
def inference(*_: Any) -> Iterator[None]:
    """Compute without gradients, and with products of `FastProducts` where they are faster."""
    if not leaves_half_unused():
        with torch.no_grad():
            yield
        return
    with torch.no_grad(), FastProducts():
        yield


class _LinearFunction(torch.autograd.Function):
    """A linear map of float32 by oneDNN, and its gradients."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(states, weight)
        return _linear(states, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        states, weight = ctx.saved_tensors
        rows = gradient.flatten(0, -2)  # (M, N)
        of_states = _linear(gradient, weight.t()) if ctx.needs_input_grad[0] else None
        of_weight = _linear(rows.t(), states.flatten(0, -2).t()) if ctx.needs_input_grad[1] else None
        return of_states, of_weight, rows.sum(0) if ctx.needs_input_grad[2] else None


class FastLinear(nn.Linear):
    """A linear map that oneDNN computes wherever it can."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return (.., N) of states (.., K)."""
        tensors = [input, self.weight] if self.bias is None else [input, self.weight, self.bias]
        is_plain = all(type(tensor) in (torch.Tensor, nn.Parameter) for tensor in tensors)  # sharded ones are others
        if (
            not is_plain
            or any(tensor.dtype != torch.float32 or tensor.device.type != "cpu" for tensor in tensors)
            or input.dim() < 2
            or input.numel() == 0
            or torch.is_autocast_enabled("cpu")
            or torch.compiler.is_compiling()
            or torch.jit.is_tracing()
        ):
            return super().forward(input)
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            return _LinearFunction.apply(input, self.weight, self.bias)
        return _linear(input, self.weight, self.bias)


@contextmanager
def fast_linear_maps(*models: nn.Module) -> Iterator[None]:
    """Let oneDNN compute the linear maps in models where it is faster; results differ by rounding alone."""
    parts = {part for model in models for part in model.modules() if type(part) is nn.Linear}
    maps = [part for part in parts if part.weight.numel() >= SMALLEST_MAP] if leaves_half_unused() else []
    for part in maps:
        part.__class__ = FastLinear
    try:
        yield
    finally:
        for part in maps:
            part.__class__ = nn.Linear
