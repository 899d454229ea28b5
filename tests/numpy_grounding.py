"""The maps and the ranking of grounding in numpy alone, float64: forward passes, and central differences as gradients.

Names of weights are those of the package's models; formulas are written out from the description of the published
script, not from the package. Shapes: B pairs, L tokens, P image tokens, h heads.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
STEP = 1e-5


def softmax(x: Array) -> Array:
    shifted = np.exp(x - x.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def gelu(x: Array) -> Array:
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


@dataclass
class NumpyAlbef:
    """The retrieval model; `moved` is added to the attention of the one layer that is called by `watched`."""

    weights: dict[str, Array]
    vision_heads: int
    text_heads: int
    text_layers: int  # before the fusion layers
    patch: int
    watched: str = ""
    moved: Array | float = 0.0
    seen: Array | None = field(default=None, repr=False)  # the attention of that layer, unmoved

    def linear(self, x: Array, name: str) -> Array:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def norm(self, x: Array, name: str, eps: float) -> Array:
        centered = x - x.mean(axis=-1, keepdims=True)
        scaled = centered / np.sqrt((centered**2).mean(axis=-1, keepdims=True) + eps)
        return scaled * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def attend(self, q: Array, k: Array, v: Array, heads: int, name: str, mask: Array | None = None) -> Array:
        q, k, v = (x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3) for x in (q, k, v))
        scores = q @ k.transpose(0, 1, 3, 2) / math.sqrt(q.shape[-1])
        if mask is not None:
            scores = scores - 1e30 * (1 - mask[:, None, None, :])
        attention = softmax(scores)
        if name == self.watched:
            self.seen = attention
            attention = attention + self.moved
        context = attention @ v
        return context.transpose(0, 2, 1, 3).reshape(context.shape[0], context.shape[2], -1)

    def image(self, pixels: Array) -> Array:
        """(B, 3, S, S) to (B, P, width)."""
        name, size = "albef.vision_model", self.patch
        batch, channels, side, _ = pixels.shape
        grid = side // size
        patches = pixels.reshape(batch, channels, grid, size, grid, size).transpose(0, 2, 4, 1, 3, 5)
        kernel = self.weights[f"{name}.patch_embed.proj.weight"]
        x = patches.reshape(batch, grid * grid, -1) @ kernel.reshape(len(kernel), -1).T
        x = x + self.weights[f"{name}.patch_embed.proj.bias"]
        first = np.broadcast_to(self.weights[f"{name}.cls_token"], (batch, 1, x.shape[-1]))
        x = np.concatenate([first, x], axis=1) + self.weights[f"{name}.pos_embed"]
        for layer in range(sum(key.endswith("norm1.weight") for key in self.weights)):
            block = f"{name}.blocks.{layer}"
            q, k, v = np.split(self.linear(self.norm(x, f"{block}.norm1", 1e-6), f"{block}.attn.qkv"), 3, axis=-1)
            x = x + self.linear(self.attend(q, k, v, self.vision_heads, f"{block}.attn"), f"{block}.attn.proj")
            inner = gelu(self.linear(self.norm(x, f"{block}.norm2", 1e-6), f"{block}.mlp.fc1"))
            x = x + self.linear(inner, f"{block}.mlp.fc2")
        return self.norm(x, f"{name}.norm", 1e-6)

    def block(self, x: Array, name: str, mask: Array, image: Array | None) -> Array:
        for kind, states, seen in (("attention", x, mask), ("crossattention", image, None)):
            if states is not None:
                states = x if kind == "attention" else states
                q = self.linear(x, f"{name}.{kind}.self.query")
                k, v = (self.linear(states, f"{name}.{kind}.self.{one}") for one in ("key", "value"))
                context = self.attend(q, k, v, self.text_heads, f"{name}.{kind}", seen)
                x = self.norm(
                    x + self.linear(context, f"{name}.{kind}.output.dense"), f"{name}.{kind}.output.LayerNorm", 1e-12
                )
        inner = gelu(self.linear(x, f"{name}.intermediate.dense"))
        return self.norm(x + self.linear(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm", 1e-12)

    def text(self, ids: np.ndarray[Any, Any], mask: Array, image: Array | None = None) -> Array:
        """The text layers and, with an image (B, P, width), the fusion layers: (B, L, width)."""
        name = "albef.text_model"
        x = self.weights[f"{name}.embeddings.word_embeddings.weight"][ids]
        x = x + self.weights[f"{name}.embeddings.position_embeddings.weight"][: ids.shape[1]]
        x = x + self.weights[f"{name}.embeddings.token_type_embeddings.weight"][0]
        x = self.norm(x, f"{name}.embeddings.LayerNorm", 1e-12)
        count = sum(key.endswith("intermediate.dense.weight") for key in self.weights)
        for layer in range(count if image is not None else self.text_layers):
            is_fusion = layer >= self.text_layers
            x = self.block(x, f"{name}.encoder.layer.{layer}", mask, image if is_fusion else None)
        return x

    def match(self, pixels: Array, ids: np.ndarray[Any, Any], mask: Array) -> Array:
        """(B,) the logit of a match."""
        return self.linear(self.text(ids, mask, self.image(pixels))[:, 0], "itm_head")[:, 1]

    def similarity(self, pixels: Array, ids: np.ndarray[Any, Any], mask: Array) -> Array:
        """(B,) the similarity of each text with its image by the temperature."""
        image = self.linear(self.image(pixels)[:, 0], "albef.vision_proj")
        text = self.linear(self.text(ids, mask)[:, 0], "albef.text_proj")
        image, text = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (image, text))
        return (image * text).sum(axis=-1) / self.weights["albef.temperature"]

    def attention_heat(self, name: str, score: Callable[[], Array], queries: range) -> Array:
        """Attention of a layer times its clamped gradient, the mean over the heads: (B, queries, patches)."""
        self.watched, self.moved = name, 0.0
        score()
        assert self.seen is not None
        attention = self.seen
        gradient = np.zeros_like(attention)
        heads, _, keys = attention.shape[1:]
        for head, query, key in product(range(heads), queries, range(keys)):
            shift = np.zeros_like(attention)
            shift[:, head, query, key] = STEP  # a pair's score depends on its own attention alone
            values = []
            for sign in (1, -1):
                self.moved = sign * shift
                values.append(score())
            gradient[:, head, query, key] = (values[0] - values[1]) / (2 * STEP)
        self.watched = ""
        return (attention * gradient.clip(min=0)).mean(axis=1)[:, queries.start : queries.stop, 1:]


def cubic(distance: float) -> float:
    """The kernel of bicubic interpolation with a = -0.75."""
    x, a = abs(distance), -0.75
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def resize_matrix(before: int, after: int) -> Array:
    """(after, before): corners not aligned, the borders repeated."""
    matrix = np.zeros((after, before))
    for row in range(after):
        center = (row + 0.5) * before / after - 0.5
        for tap in range(math.floor(center) - 1, math.floor(center) + 3):
            matrix[row, min(max(tap, 0), before - 1)] += cubic(center - tap)
    return matrix


def choose(heat: Array, size: tuple[int, int], boxes: list[list[float]]) -> tuple[list[float], int | None]:
    """Score boxes x, y, width, height by a map, and take the first best above 0."""
    large = resize_matrix(heat.shape[0], size[0]) @ heat @ resize_matrix(heat.shape[1], size[1]).T
    scores, best = [], None
    for x, y, width, height in boxes:
        total = 0.0
        for row in range(int(y), min(int(y + height), size[0])):
            for column in range(int(x), min(int(x + width), size[1])):
                total += large[row, column]
        scores.append(total / math.sqrt(width * height))
        if scores[-1] > (0 if best is None else scores[best]):
            best = len(scores) - 1
    return scores, best


def overlap(first: list[float], second: list[float]) -> float:
    """Intersection by union, with the last pixel counted to the intersection."""
    left, top = max(first[0], second[0]), max(first[1], second[1])
    right = min(first[0] + first[2] - 1, second[0] + second[2] - 1)
    bottom = min(first[1] + first[3] - 1, second[1] + second[3] - 1)
    shared = (right - left + 1) * (bottom - top + 1) if left < right and top < bottom else 0
    return shared / (first[2] * first[3] + second[2] * second[3] - shared)
