# Copyright 2026 The ALBEF for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Draws where a model looks in a picture for each word of a caption, or of a question, into one PNG file.

    python -m modeling_albef.visualize photo.png "a red circle" --model output/demo_retrieval
    python -m modeling_albef.visualize photo.png --question "what color is the star" --model output/demo_vqa

Grad-CAM on the cross-attention (see `gradcam_albef.py`). A command: no module of a package imports it.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoProcessor
from transformers.utils import logging

from processing import open_image

from ..configuration_albef import AlbefConfig
from ..hub_albef import check_model_name
from ..modeling_albef_question_answering import AlbefForQuestionAnswering
from ..modeling_albef_retrieval import AlbefForImageTextRetrieval
from .heat_maps import HeatMaps, draw_heat_maps, explain_answer, explain_match


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line.

    Args:
        argv: Its words; default: those of this process.

    Returns:
        The options.
    """
    parser = argparse.ArgumentParser("python -m modeling_albef.visualize", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("image", type=Path, help="file of a picture")
    parser.add_argument("caption", nargs="?", help="text that is matched with the picture")
    parser.add_argument("--question", help="in place of a caption; the model must answer questions")
    parser.add_argument("--answer", help="answer that is explained; default: the model's best")
    parser.add_argument("--model", required=True, help="folder of a model, or its name on the Hub")
    output_help = "PNG file to write; default: NAME_heat_maps.png, of a question NAME_question_heat_maps.png, here"
    parser.add_argument("--output", type=Path, help=output_help)
    parser.add_argument("--layer", type=int, help="fusion layer, counted among all text layers; default: see gradcam")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command; a refusal is one sentence and exit status 1."""
    args = parse(argv)
    logging.set_verbosity_error()  # a head that is not there is told in words of our own
    logging.disable_progress_bar()
    try:
        visualize(args)
    except (ValueError, OSError) as error:
        raise SystemExit(f"{error}") from error


def visualize(args: argparse.Namespace) -> None:
    """Draws what the options say.

    Args:
        args: See `parse`.

    Raises:
        ValueError: The options, the picture, the text or the model do not serve.
        OSError: The file cannot be written.
    """
    if (args.caption is None) == (args.question is None):
        raise ValueError("Give either a caption or --question.")
    if args.answer is not None and args.question is None:
        raise ValueError("--answer belongs to a --question: give that, too.")
    kind = "" if args.question is None else "_question"
    output = args.output or Path(f"{args.image.stem}{kind}_heat_maps.png")
    if output.suffix.lower() != ".png":
        raise ValueError(f"--output is {str(output)!r}, but must end in .png.")
    if not output.parent.is_dir():
        raise ValueError(f"There is no folder {str(output.parent)!r} for the output: make it first.")
    image = open_image(args.image)
    heat = explain(args, image)
    draw_heat_maps(image, heat).save(output)
    print(f"{heat.title()}: {output}")


def explain(args: argparse.Namespace, image: Any) -> HeatMaps:
    """The heat maps that the options ask for."""
    if args.question is None:
        model = load_model(AlbefForImageTextRetrieval, args.model)
        return explain_match(model, load_processor(args.model), image, args.caption, args.layer)
    model = load_model(AlbefForQuestionAnswering, args.model)
    return explain_answer(model, load_processor(args.model), image, args.question, args.answer, args.layer)


def load_model(model_class: Any, name: str) -> Any:
    """A model with its head, which the library would start at random where there is none.

    Args:
        model_class: A class with a head.
        name: Folder or Hub name.

    Returns:
        The model in evaluation mode.

    Raises:
        ValueError: There is no such model, or it is of another kind.
    """
    check_model_name(name)
    kind = AlbefConfig.get_config_dict(name)[0].get("model_type")
    if kind != "albef":
        raise ValueError(f"The model {name!r} is of the type {kind!r}, not 'albef': give another.")
    try:
        model = model_class.from_pretrained(name)
    except (SafetensorError, RuntimeError) as error:  # damaged weights, or of other shapes
        raise ValueError(f"The model in {name} cannot be used: {' '.join(str(error).split()):.500}") from error
    model.check_head()
    return model


def load_processor(name: str) -> Any:
    """The processor of a model.

    Raises:
        ValueError: There is none.
    """
    try:
        return AutoProcessor.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(f"There is no processor beside the model {name!r}: save it into the same folder.") from error


if __name__ == "__main__":
    main(sys.argv[1:])
