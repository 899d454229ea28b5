# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Write a model as ONNX graphs, for inference without PyTorch; needs `pip install onnx onnxscript`.

    python -m modeling_albef.export_albef_to_onnx MODEL FOLDER

A retrieval model becomes three graphs, a classifier, of one image or of two, one.

Shapes: I images, N texts, K images a text, P image tokens, L text tokens, H width, E projection width, C labels.
"""

import argparse
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import nn
from transformers.utils import logging as transformers_logging

from ..configuration_albef import AlbefConfig, AlbefError, exit_with_message
from ..hub_albef import check_model_name, load_model, named_model_errors
from ..modeling_albef_classification import AlbefForImageTextClassification
from ..modeling_albef_retrieval import AlbefForImageTextRetrieval
from ..modeling_albef_visual_reasoning import AlbefForVisualReasoning

EXPORTABLE = (AlbefForImageTextRetrieval, AlbefForImageTextClassification, AlbefForVisualReasoning)
Exportable = AlbefForImageTextRetrieval | AlbefForImageTextClassification | AlbefForVisualReasoning


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


def export_parts(model: Exportable) -> dict[str, Part]:
    """Export both encoders and the matcher, or a classifier, by `torch.export`, for any number and length of texts.

    Args:
        model: In evaluation mode.

    Returns:
        Of a classifier `classifier`: pixel_values (N, 3, S, S), of several images a text (N, K, 3, S, S), input_ids,
        attention_mask (N, L) -> logits (N, C). Of a retrieval model
        `image_encoder`: pixel_values (I, 3, S, S) -> image_embeds (I, E), image_hidden_states (I, P, H);
        `text_encoder`: input_ids, attention_mask (N, L) -> text_embeds (N, E), text_hidden_states (N, L, H);
        `matcher`: text_hidden_states (N, L, H), attention_mask (N, L), image_hidden_states (N, P, H) -> itm_logits
        (N, 2), a pair a row.
    """
    retrieval = cast(AlbefForImageTextRetrieval, model)

    def encode_image(pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        outputs: Any = retrieval.get_image_features(pixel_values)
        return outputs.pooler_output, outputs.last_hidden_state

    def encode_text(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        outputs: Any = retrieval.get_text_features(input_ids, attention_mask)
        return outputs.pooler_output, outputs.last_hidden_state

    def classify(pixel_values: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return model(pixel_values=pixel_values, input_ids=input_ids, attention_mask=attention_mask).logits

    def export(method: Callable[..., Any], inputs: dict[str, torch.Tensor], outputs: list[str]) -> Part:
        rows = torch.export.Dim("rows")
        length = torch.export.Dim("length", max=model.config.text_config.max_position_embeddings)
        shapes = tuple({0: rows} if "image" in name or "pixel" in name else {0: rows, 1: length} for name in inputs)
        graph = _Graph(model, method)
        program = torch.export.export(graph, tuple(inputs.values()), dynamic_shapes=(shapes,))
        return Part(program, list(inputs), outputs)

    vision, count = model.config.vision_config, model.config.text_config.images_per_text
    text = {"input_ids": torch.full((2, 7), 5), "attention_mask": torch.tensor([[1] * 7, [1] * 4 + [0] * 3])}
    pixels = torch.zeros(2, vision.num_channels, vision.image_size, vision.image_size)
    if not isinstance(model, AlbefForImageTextRetrieval):
        pixels = pixels if count == 1 else pixels[:, None].expand(-1, count, -1, -1, -1)
        return {"classifier": export(classify, {"pixel_values": pixels, **text}, ["logits"])}
    with torch.no_grad():
        pair = {
            "text_hidden_states": encode_text(**text)[1],
            "attention_mask": text["attention_mask"],
            "image_hidden_states": encode_image(pixels)[1],
        }
    return {
        "image_encoder": export(encode_image, {"pixel_values": pixels}, ["image_embeds", "image_hidden_states"]),
        "text_encoder": export(encode_text, text, ["text_embeds", "text_hidden_states"]),
        "matcher": export(retrieval.match, pair, ["itm_logits"]),
    }


def export_onnx(model: Exportable, folder: str | Path) -> list[Path]:
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
    """Keep two notes of the exporter back: operators of torchvision, which no ALBEF has, and its own deprecated call."""
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
    parser.add_argument("model", help="Folder or Hub name of a retrieval model or a classifier.")
    parser.add_argument("folder", help="Where the graphs go.")
    arguments = parser.parse_args(argv)
    transformers_logging.disable_progress_bar()
    check_model_name(arguments.model)
    with named_model_errors(arguments.model, OSError):
        made_by = AlbefConfig.from_pretrained(arguments.model).architectures or ()
    model_class = next((one for one in EXPORTABLE if one.__name__ in made_by), EXPORTABLE[0])
    for path in export_onnx(load_model(model_class, arguments.model), arguments.folder):
        print(path)
