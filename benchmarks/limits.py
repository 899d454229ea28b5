"""How close a computation is to what the machine can do: its matrix products alone, of the same shapes, in one run.

The limit of a case is the time of its products one after the other, attention's among them, each measured by itself on
new tensors of the same shapes and layouts. What is left is everything between them: element-wise arithmetic, copies,
launches.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.flop_counter import flop_registry, register_flop_formula

LONG = 0.02  # seconds of a product that two measurements are enough for


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Of queries (B, heads, L, d) against keys and values (B, heads, P, d), given by their shapes."""
    return 2 * math.prod(query[:3]) * int(key[2]) * int(query[3] + value[3])


def _attention_backward_flops(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Scores again, and two products for each of the two of the way there."""
    return 2 * math.prod(query[:3]) * int(key[2]) * int(3 * query[3] + 2 * value[3])


def _linear_flops(states: Any, weight: Any, *_: Any, **__: Any) -> int:
    """Of states (.., K) by a weight (N, K), given by their shapes."""
    return 2 * math.prod(states) * int(weight[0])


_COUNTS: dict[tuple[Any, str], Any] = {  # of products on a CPU, beside those that the library counts
    (torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu"): _attention_flops,
    (torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu_backward"): _attention_backward_flops,
    (torch.ops.mkldnn, "_linear_pointwise"): _linear_flops,
}
for (_group, _name), _count in _COUNTS.items():
    _product = getattr(_group, _name, None)
    if _product is not None and _product not in flop_registry:
        register_flop_formula(_product)(_count)


class Products(TorchDispatchMode):
    """Counts the products that are computed within, and the bytes that all operations read and write.

    Attributes:
        flops: Floating-point operations of the products, a multiplication and an addition counted as two.
        bytes: Read and written by all operations but views, as if nothing stayed in a cache.
        counts: How often a product of certain shapes, layouts and types was computed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.bytes = 0
        self.counts: Counter[tuple[Any, ...]] = Counter()
        self._arguments: dict[tuple[Any, ...], tuple[Any, Any, Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute an operation, and count it."""
        kwargs = kwargs or {}
        if func.overloadpacket not in flop_registry:  # in inference mode a linear map comes whole
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **kwargs)
        tensors = [part for part in tree_flatten((args, kwargs, out))[0] if isinstance(part, torch.Tensor)]
        if not func.is_view:
            self.bytes += sum(tensor.nbytes for tensor in tensors)
        if (count := flop_registry.get(func.overloadpacket)) is not None:
            self.flops += count(*args, **kwargs, out_val=out)
            key = (str(func), *(repr(_form(part)) for part in tree_flatten((args, kwargs))[0]))
            self.counts[key] += 1
            self._arguments.setdefault(key, (func, *tree_map(_form, (args, kwargs))))
        return out

    def seconds(self, repetitions: int = 5) -> float:
        """Return the time of the products alone."""
        total = 0.0
        for key, count in self.counts.items():
            func, args, kwargs = self._arguments[key]
            made, named = tree_map(_make, (args, kwargs))
            total += count * least_seconds(partial(func, *made, **named), repetitions)
        return total


class _Form:
    """Shape, layout, type and device of a tensor."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.parts = tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device

    def __repr__(self) -> str:
        return repr(self.parts)

    def make(self) -> torch.Tensor:
        """A tensor of this form; of numbers about 1, whose products neither overflow nor vanish."""
        shape, stride, dtype, device = self.parts
        sides = [1 if step == 0 else side for side, step in zip(shape, stride, strict=True)]  # others are expanded
        made = torch.empty_strided(sides, stride, dtype=dtype, device=device)
        return (made.normal_() if dtype.is_floating_point else made.zero_()).expand(shape)


def _form(part: Any) -> Any:
    return _Form(part) if isinstance(part, torch.Tensor) else part


def _make(part: Any) -> Any:
    return part.make() if isinstance(part, _Form) else part


def synchronise(device: torch.device | str | None = None) -> None:
    """Wait for a GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize(device)


def least_seconds(function: Callable[[], Any], repetitions: int) -> float:
    """The shortest of several runs, in seconds; of long ones the shortest of two, after none to warm up."""
    least, done = float("inf"), 0
    while done < repetitions:
        synchronise()
        start = time.perf_counter()
        function()
        synchronise()
        least, done = min(least, time.perf_counter() - start), done + 1
        if least > LONG and done >= 2:
            break
    return least


def share_of_limit(function: Callable[[], Any], runs: int = 3) -> dict[str, float]:
    """Measure a computation, and its limit before and after it.

    Returns:
        `seconds`, the shortest of the runs; `limit_seconds`; `time_over_limit`; `gflop` and `gbyte`; `gflop_per_second`
        of the products alone.
    """
    with Products() as products:
        function()
    before = products.seconds()
    seconds = least_seconds(function, max(2, runs))
    limit = min(before, products.seconds())
    return {
        "seconds": seconds,
        "limit_seconds": limit,
        "time_over_limit": seconds / limit,
        "gflop": products.flops / 1e9,
        "gbyte": products.bytes / 1e9,
        "gflop_per_second": products.flops / limit / 1e9,
    }
