"""Products of float32 by oneDNN: that they are right, and which ones they are."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from small_models import save_retrieval
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from trainer_cases import make_trainer
from transformers import pipeline

from modeling_albef import products_albef
from modeling_albef.products_albef import FastProducts, leaves_half_unused
from modeling_albef.training.evaluation.retrieval import RetrievalEvaluator

pytestmark = pytest.mark.skipif(not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="torch without oneDNN")


class Products(TorchDispatchMode):
    """Counts products by their library."""

    def __init__(self) -> None:
        super().__init__()
        self.fast = self.plain = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        self.fast += "_linear_pointwise" in name
        self.plain += any(one in name for one in ("addmm", "aten.mm", "aten.linear"))
        return func(*args, **(kwargs or {}))


def large(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return states, a weight and a bias whose product is a large one."""
    random = torch.Generator().manual_seed(0)
    return tuple(torch.randn(*shape, generator=random).to(dtype) for shape in ((3, 70, 300), (400, 300), (400,)))


@pytest.mark.parametrize("is_turned", [False, True], ids=["rows", "columns"])
@pytest.mark.parametrize("has_bias", [False, True])
def test_products_are_those_of_exact_arithmetic(is_turned: bool, has_bias: bool) -> None:
    states, weight, bias = large()
    weight = weight.t().contiguous().t() if is_turned else weight
    given = bias if has_bias else None
    with torch.no_grad(), Products() as count, FastProducts():
        found = nn.functional.linear(states, weight, given)
    assert (count.fast, count.plain) == (1, 0)
    exact = states.double() @ weight.double().T + (bias.double() if has_bias else 0)
    torch.testing.assert_close(found.double(), exact, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("has_bias", [False, True])
def test_gradients_are_those_of_exact_arithmetic(has_bias: bool) -> None:
    """The first and the second ones, as a penalty on a gradient takes them; all of them are products by oneDNN."""

    def gradients(*given: torch.Tensor) -> list[torch.Tensor]:
        states, weight, bias = (one.clone().requires_grad_() for one in given)
        inputs = [states, weight, bias] if has_bias else [states, weight]
        out = nn.functional.linear(*inputs)
        first = torch.autograd.grad(out.sin().sum(), inputs, create_graph=True)
        return [*first, *torch.autograd.grad(sum(one.square().mean() for one in first), inputs)]

    exact = gradients(*large(torch.float64))
    with Products() as count, FastProducts():
        found = gradients(*large())
    assert count.fast >= 7 and count.plain == 0
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one.double(), other, atol=1e-4 * other.abs().max().item(), rtol=0)


def test_states_and_gradients_in_any_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turned, expanded, empty, and a single row, which stays as it is."""
    monkeypatch.setattr(products_albef, "LEAST", 0)
    states = torch.linspace(-1, 1, 5 * 7 * 96).view(7, 5, 96)
    layer = nn.Linear(96, 160)
    found = []
    for context in (nullcontext(), FastProducts()):
        with context:
            turned = layer(states.transpose(0, 1).requires_grad_())
            of_turned = torch.autograd.grad(turned.square().sum(), layer.parameters())
            of_ones = torch.autograd.grad(layer(states).sum(), layer.parameters())  # one number, expanded
            found.append([turned, *of_turned, *of_ones, layer(states[:0]), layer(states[0, 0])])
    for plain, fast in zip(*found, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)


def test_a_row_has_the_same_result_whatever_rows_are_beside_it() -> None:
    """As an evaluation by several processes needs, whose last batches differ."""
    states, weight, bias = large()
    with torch.no_grad(), FastProducts():
        rows = nn.functional.linear(states.flatten(0, 1), weight, bias)
        for count in (2, 3, 5, 28, 100):
            assert torch.equal(nn.functional.linear(states.flatten(0, 1)[:count], weight, bias), rows[:count])


def test_frozen_weights_have_no_gradient() -> None:
    states, weight, bias = large()
    states.requires_grad_()
    with Products() as count, FastProducts():
        nn.functional.linear(states, weight, bias).sum().backward()
    assert count.fast == 2 and weight.grad is None
    torch.testing.assert_close(states.grad, weight.sum(0).expand_as(states), atol=1e-4, rtol=1e-5)


def test_what_the_library_cannot_do_or_does_no_faster_stays() -> None:
    states, weight, bias = large()
    cases = {
        "autocast": (torch.autocast("cpu", torch.bfloat16), (states, weight, bias)),
        "float64": (nullcontext(), large(torch.float64)),
        "bfloat16": (nullcontext(), large(torch.bfloat16)),
        "a small map": (nullcontext(), (states, weight[:200], bias[:200])),
        "another device": (nullcontext(), tuple(tensor.to("meta") for tensor in (states, weight, bias))),
    }
    for name, (context, given) in cases.items():
        with torch.no_grad(), Products() as count, FastProducts(), context:
            nn.functional.linear(*given)
        assert count.fast == 0, name


def test_pipelines_and_evaluations_use_it_where_it_is_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products_albef, "LEAST", 1)
    save_retrieval(tmp_path)
    search = pipeline("image-text-retrieval", model=str(tmp_path))
    images = [Image.new("RGB", (40, 30), color) for color in ("red", "green", "blue")]
    rows = [{"image": image, "caption": ["a red circle", "a green star"]} for image in images]
    search.index_images(images)
    evaluator = RetrievalEvaluator(search.model, search.processor, k_test=2)
    calls = (
        lambda: search.index_images(images),
        lambda: search("a red circle", k=3),
        lambda: evaluator(rows),
    )
    for call in calls:
        with Products() as count:
            call()
        assert (count.fast > 0) == leaves_half_unused() and count.fast + count.plain > 8


def test_a_training_uses_it_where_maps_are_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for least in (products_albef.LEAST, 1):
        monkeypatch.setattr(products_albef, "LEAST", least)
        trainer = make_trainer(tmp_path / str(least), max_steps=1, save_strategy="no")
        with Products() as count:
            trainer.train()
        assert (count.fast > 20) == (least == 1 and leaves_half_unused()) and count.fast + count.plain > 20
