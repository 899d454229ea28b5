# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Matrix products of float32 by the library that is fastest on this processor."""

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

# weights of a map that is worth it, 256 by 256; not the rows, so that a row has one result whatever is beside it
LEAST = 1 << 16


@cache
def leaves_half_unused() -> bool:
    """Return whether torch's own products use half of this processor: those of MKL on an AMD with AVX-512."""
    cpuinfo = Path("/proc/cpuinfo")
    vendor = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.is_file() else platform.processor()
    has_both = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    is_wide = has_both and torch.backends.cpu.get_cpu_capability() == "AVX512"
    return is_wide and "AuthenticAMD" in vendor and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class FastProducts(TorchFunctionMode):
    """While active, `torch.nn.functional.linear` is computed by oneDNN where it can be: float32, on a CPU.

    So are its gradients. oneDNN uses AVX-512 on all processors. The results differ by rounding alone.
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
            input.dim() > 1
            and all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in given)
            and all(type(tensor) in (torch.Tensor, nn.Parameter) for tensor in given)
            and weight.numel() >= LEAST
            and not (torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling() or torch.jit.is_tracing())
        )


class _Linear(torch.autograd.Function):
    """The map of inputs (.., K) by a weight (N, K) and a bias (N) to (.., N); its gradients are such maps, too."""

    @staticmethod
    def forward(ctx: Any, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(input, weight)
        return _product(input, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,), (input, weight) = gradients, ctx.saved_tensors
        rows, needed = gradient.flatten(0, -2), ctx.needs_input_grad
        return (
            _linear(gradient, weight.t()) if needed[0] else None,
            _linear(rows.t(), input.flatten(0, -2).t()) if needed[1] else None,
            rows.sum(0) if needed[2] else None,
        )


def _linear(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    if torch.is_grad_enabled():  # also within a gradient of which another is to be taken
        return _Linear.apply(input, weight, bias)
    return _product(input, weight, bias)


def _product(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], "")


@contextmanager
def fast_products(model: nn.Module | None = None) -> Iterator[None]:
    """Compute float32 products by `FastProducts` where it is faster: not for a model of small maps alone."""
    maps = () if model is None else (part for part in model.modules() if isinstance(part, nn.Linear))
    is_small = model is not None and all(part.weight.numel() < LEAST for part in maps)
    with nullcontext() if is_small or not leaves_half_unused() else FastProducts():
        yield


@contextmanager
def inference(*_: Any) -> Iterator[None]:
    """Compute without gradients, and with `fast_products`."""
    with torch.no_grad(), fast_products():
        yield
