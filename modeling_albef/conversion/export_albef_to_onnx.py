# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Write a retrieval model as three ONNX graphs, for inference without PyTorch; needs `pip install onnx onnxscript`.

    python -m modeling_albef.export_albef_to_onnx MODEL FOLDER

Shapes: I images, N texts, P image tokens, L text tokens, H width, E projection width.
"""

import argparse
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers.utils import logging as transformers_logging

from ..configuration_albef import AlbefError, exit_with_message
from ..hub_albef import load_model
from ..modeling_albef_retrieval import AlbefForImageTextRetrieval


class _Graph(nn.Module):
    """A method of the model as a module of its own."""

    def __init__(self, model: nn.Module, method: Callable[..., Any]) -> None:
        super().__init__()
        self.model, self.method = model, method

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.method(*inputs)


class Part(NamedTuple):
    """A part of the model as a graph: its program, and the names of its inputs and outputs."""

    program: torch.export.ExportedProgram
    inputs: list[str]
    outputs: list[str]


def export_parts(model: AlbefForImageTextRetrieval) -> dict[str, Part]:
    """Export both encoders and the matcher by `torch.export`, for any number and length of texts.

    Args:
        model: In evaluation mode.

    Returns:
        `image_encoder`: pixel_values (I, 3, S, S) -> image_embeds (I, E), image_hidden_states (I, P, H);
        `text_encoder`: input_ids, attention_mask (N, L) -> text_embeds (N, E), text_hidden_states (N, L, H);
        `matcher`: text_hidden_states (N, L, H), attention_mask (N, L), image_hidden_states (N, P, H) -> itm_logits
        (N, 2), a pair a row.
    """

    def encode_image(pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        outputs: Any = model.get_image_features(pixel_values)
        return outputs.pooler_output, outputs.last_hidden_state

    def encode_text(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        outputs: Any = model.get_text_features(input_ids, attention_mask)
        return outputs.pooler_output, outputs.last_hidden_state

    def export(method: Callable[..., Any], inputs: dict[str, torch.Tensor], outputs: list[str]) -> Part:
        rows = torch.export.Dim("rows")
        length = torch.export.Dim("length", max=model.config.text_config.max_position_embeddings)
        shapes = tuple({0: rows} if "image" in name or "pixel" in name else {0: rows, 1: length} for name in inputs)
        graph = _Graph(model, method)
        program = torch.export.export(graph, tuple(inputs.values()), dynamic_shapes=(shapes,))
        return Part(program, list(inputs), outputs)

    vision = model.config.vision_config
    text = {"input_ids": torch.full((2, 7), 5), "attention_mask": torch.tensor([[1] * 7, [1] * 4 + [0] * 3])}
    pixels = torch.zeros(2, vision.num_channels, vision.image_size, vision.image_size)
    with torch.no_grad():
        pair = {
            "text_hidden_states": encode_text(**text)[1],
            "attention_mask": text["attention_mask"],
            "image_hidden_states": encode_image(pixels)[1],
        }
    return {
        "image_encoder": export(encode_image, {"pixel_values": pixels}, ["image_embeds", "image_hidden_states"]),
        "text_encoder": export(encode_text, text, ["text_embeds", "text_hidden_states"]),
        "matcher": export(model.match, pair, ["itm_logits"]),
    }


def export_onnx(model: AlbefForImageTextRetrieval, folder: str | Path) -> list[Path]:
    """Write the graphs of `export_parts` into a folder, made where it does not exist, and return their files."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    written = []
    for name, part in export_parts(model).items():
        written.append(Path(folder) / f"{name}.onnx")
        names = {"input_names": part.inputs, "output_names": part.outputs}
        with _quiet_exporter():
            torch.onnx.export(part.program, f=str(written[-1]), dynamo=True, verbose=False, **names)
    return written


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Hold two notes of the exporter back: operators of torchvision, which ALBEF has not, and a deprecated call of its."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
            yield
    finally:
        registration.setLevel(level)


@exit_with_message(AlbefError)
def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="Folder or Hub name of a retrieval model.")
    parser.add_argument("folder", help="Where the graphs go.")
    arguments = parser.parse_args(argv)
    transformers_logging.disable_progress_bar()
    for path in export_onnx(load_model(AlbefForImageTextRetrieval, arguments.model), arguments.folder):
        print(path)
