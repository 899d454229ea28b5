# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Writes a retrieval model as three ONNX graphs, for inference without PyTorch; needs `pip install onnx onnxscript`.

    python -m modeling_albef.export_albef_to_onnx MODEL FOLDER

Shapes: I images, N texts, P image tokens, L text tokens, H width, E projection width.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..hub_albef import check_model_name
from ..modeling_albef_retrieval import AlbefForImageTextRetrieval


class _Graph(nn.Module):
    """A method of the model as a module of its own."""

    def __init__(self, model: nn.Module, method: Callable[..., Any]) -> None:
        super().__init__()
        self.model, self.method = model, method

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.method(*inputs)


def export_parts(model: AlbefForImageTextRetrieval) -> dict[str, tuple[torch.export.ExportedProgram, list[str]]]:
    """Exports both encoders and the matcher by `torch.export`, for any number and length of texts.

    Args:
        model: In evaluation mode.

    Returns:
        By name the program and the names of its outputs:
        `image_encoder`: pixel_values (I, 3, S, S) -> image_embeds (I, E), image_hidden_states (I, P, H);
        `text_encoder`: input_ids, attention_mask (N, L) -> text_embeds (N, E), text_hidden_states (N, L, H);
        `matcher`: text_hidden_states (N, L, H), attention_mask (N, L), image_hidden_states (N, P, H) -> itm_logits
        (N, 2), a pair a row.
    """

    def encode_image(pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        outputs = model.get_image_features(pixel_values)
        return outputs.pooler_output, outputs.last_hidden_state

    def encode_text(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        outputs = model.get_text_features(input_ids, attention_mask)
        return outputs.pooler_output, outputs.last_hidden_state

    vision = model.config.vision_config
    ids, mask = torch.full((2, 7), 5), torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    pixels = torch.zeros(2, vision.num_channels, vision.image_size, vision.image_size)
    with torch.no_grad():
        images, texts = encode_image(pixels)[1], encode_text(ids, mask)[1]
    rows, length = (
        torch.export.Dim("rows"),
        torch.export.Dim("length", max=model.config.text_config.max_position_embeddings),
    )
    text_shape, row_shape = {0: rows, 1: length}, {0: rows}
    parts: dict[str, Any] = {
        "image_encoder": (encode_image, (pixels,), (row_shape,), ["image_embeds", "image_hidden_states"]),
        "text_encoder": (encode_text, (ids, mask), (text_shape, text_shape), ["text_embeds", "text_hidden_states"]),
        "matcher": (model.match, (texts, mask, images), (text_shape, text_shape, row_shape), ["itm_logits"]),
    }
    return {
        name: (torch.export.export(_Graph(model, method), inputs, dynamic_shapes=(shapes,)), outputs)
        for name, (method, inputs, shapes, outputs) in parts.items()
    }


def export_onnx(model: AlbefForImageTextRetrieval, folder: str | Path) -> list[Path]:
    """Writes the graphs of `export_parts`.

    Args:
        model: In evaluation mode.
        folder: Made where it does not exist.

    Returns:
        The files, `image_encoder.onnx`, `text_encoder.onnx`, `matcher.onnx`.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    inputs = {
        "image_encoder": ["pixel_values"],
        "text_encoder": ["input_ids", "attention_mask"],
        "matcher": ["text_hidden_states", "attention_mask", "image_hidden_states"],
    }
    written = []
    for name, (program, outputs) in export_parts(model).items():
        written.append(Path(folder) / f"{name}.onnx")
        torch.onnx.export(program, input_names=inputs[name], output_names=outputs, dynamo=True, f=str(written[-1]))
    return written


def main(argv: list[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="Folder or Hub name of a retrieval model.")
    parser.add_argument("folder", help="Where the graphs go.")
    arguments = parser.parse_args(argv)
    try:
        check_model_name(arguments.model)
        model = AlbefForImageTextRetrieval.from_pretrained(arguments.model)
        model.check_head()
    except (ValueError, OSError) as error:
        raise SystemExit(f"{error}") from error
    for path in export_onnx(model.eval(), arguments.folder):
        print(path)


if __name__ == "__main__":
    main()
